//! The one wire between the outside of a sandbox and its supervisor: a socket pair whose end says that the other side
//! is gone, whatever happened to it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Longest text of a failure that travels.
const TEXT_LIMIT: usize = 4096;

/// What travels.
#[derive(Debug)]
pub(crate) enum Message {
    /// Inside to outside: the supervisor runs.
    Ready,
    /// Inside to outside: the sandbox could not be made; text for people.
    Failed(String),
    /// Inside to outside: a listener to relay from.
    Relay(OwnedFd),
    /// Inside to outside: the room is in a new user namespace, which has no maps yet.
    Unmapped,
    /// Outside to inside: the maps are written.
    Mapped,
    /// Inside to outside: the room has its network namespace, in which there is nothing yet.
    Unwired,
    /// Outside to inside: it is joined to what it is to be joined to.
    Wired,
    /// Outside to inside: end in good order.
    Stop,
}

/// One end of the wire.
#[derive(Debug)]
pub(crate) struct Control(OwnedFd);

impl Control {
    /// Both ends. Messages keep their bounds (`SOCK_SEQPACKET`).
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// The end that this process was started with as its standard input, which becomes `/dev/null`.
    pub(crate) fn from_stdin() -> io::Result<Self> {
        let end = io::stdin().as_fd().try_clone_to_owned()?;
        nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        Ok(Self(end))
    }

    /// Sends a message; blocks only while the other side has not read what was sent before.
    pub(crate) fn send(&self, message: &Message) -> io::Result<()> {
        let (tag, text, fd) = match message {
            Message::Ready => (b'R', "", None),
            Message::Failed(text) => (b'E', truncated(text), None),
            Message::Relay(fd) => (b'L', "", Some([fd.as_fd()])),
            Message::Unmapped => (b'U', "", None),
            Message::Mapped => (b'M', "", None),
            Message::Unwired => (b'N', "", None),
            Message::Wired => (b'W', "", None),
            Message::Stop => (b'S', "", None),
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if let Some(fds) = &fd {
            rights.push(SendAncillaryMessage::ScmRights(fds));
        }
        sendmsg(
            &self.0,
            &[IoSlice::new(&[tag]), IoSlice::new(text.as_bytes())],
            &mut rights,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// The next message; `None` when the other side is gone.
    pub(crate) fn receive(&self) -> io::Result<Option<Message>> {
        let mut bytes = [0; TEXT_LIMIT + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut rights,
            RecvFlags::CMSG_CLOEXEC,
        )?
        .bytes;
        let fd = rights.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let Some((tag, text)) = bytes[..received].split_first() else {
            return Ok(None);
        };
        match (tag, fd) {
            (b'R', _) => Ok(Some(Message::Ready)),
            (b'E', _) => Ok(Some(Message::Failed(String::from_utf8_lossy(text).into_owned()))),
            (b'L', Some(fd)) => Ok(Some(Message::Relay(fd))),
            (b'U', _) => Ok(Some(Message::Unmapped)),
            (b'M', _) => Ok(Some(Message::Mapped)),
            (b'N', _) => Ok(Some(Message::Unwired)),
            (b'W', _) => Ok(Some(Message::Wired)),
            (b'S', _) => Ok(Some(Message::Stop)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "unknown message between sandbox and outside",
            )),
        }
    }

    /// Whether the other side is gone (a hang-up is reported unasked, and no message is lost by asking).
    pub(crate) fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Waits until the other side is gone, or `patience` is over; what it still says is dropped.
    pub(crate) fn wait_gone(&self, patience: Duration) {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        // Nothing else could be done about a failure here: the caller ends anyway.
        let _ = poll(&mut fds, timeout);
    }

    /// The same end, for use on a tokio runtime; this one doesn't block any more either.
    pub(crate) fn to_async(&self) -> io::Result<AsyncControl> {
        let control = Self(self.0.try_clone()?);
        nix::fcntl::fcntl(&control.0, nix::fcntl::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        // The type says stream, but the socket keeps its messages' bounds: it is used for waiting only.
        let stream = UnixStream::from_std(self.0.try_clone()?.into())?;
        Ok(AsyncControl { control, stream })
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Control> for std::process::Stdio {
    fn from(control: Control) -> Self {
        control.0.into()
    }
}

/// [`Control`], without blocking.
#[derive(Debug)]
pub(crate) struct AsyncControl {
    control: Control,
    stream: UnixStream,
}

impl AsyncControl {
    /// The next message; `None` when the other side is gone. Cancel safe.
    pub(crate) async fn receive(&self) -> io::Result<Option<Message>> {
        self.stream
            .async_io(Interest::READABLE, || self.control.receive())
            .await
    }

    /// The wire itself.
    pub(crate) fn get(&self) -> &Control {
        &self.control
    }
}

fn truncated(text: &str) -> &str {
    let mut end = text.len().min(TEXT_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_one_by_one_and_the_end_is_seen() {
        let (outside, inside) = Control::pair().unwrap();
        assert!(!outside.is_gone());
        inside.send(&Message::Ready).unwrap();
        inside.send(&Message::Failed("x".repeat(10_000))).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        inside.send(&Message::Relay(file.into())).unwrap();
        drop(inside);
        assert!(matches!(outside.receive().unwrap(), Some(Message::Ready)));
        let Some(Message::Failed(text)) = outside.receive().unwrap() else {
            panic!("a failure")
        };
        assert_eq!(text.len(), TEXT_LIMIT);
        assert!(matches!(outside.receive().unwrap(), Some(Message::Relay(_))));
        assert!(outside.is_gone());
        assert!(outside.receive().unwrap().is_none());
    }
}
