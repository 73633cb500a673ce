//! Messages with descriptors over a unix socket: four bytes of length, with which the descriptors travel, then JSON.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// One end of a conversation.
#[derive(Debug)]
pub struct Wire(UnixStream);

/// Descriptors of one message: standard input, output and error.
const FDS: usize = 3;
/// The state of a large mesh takes a few megabytes.
const MOST_BYTES: u32 = 64 << 20;

impl Wire {
    /// Takes a connection.
    pub fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Sends a message, and copies of descriptors with it. Not cancel safe.
    ///
    /// # Errors
    /// The other end is gone.
    pub async fn send(&mut self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).ok().filter(|length| *length <= MOST_BYTES);
        let length = length
            .ok_or_else(|| io::Error::other("the message is too long"))?
            .to_be_bytes();
        let sent = self
            .0
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
                let mut rights = SendAncillaryBuffer::new(&mut space);
                if !fds.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(fds)) {
                    return Err(io::Error::other("too many descriptors for one message"));
                }
                Ok(sendmsg(
                    self.0.as_fd(),
                    &[IoSlice::new(&length)],
                    &mut rights,
                    SendFlags::NOSIGNAL,
                )?)
            })
            .await?;
        self.0.write_all(&length[sent..]).await?;
        self.0.write_all(&body).await
    }

    /// The next message and the descriptors that came with it. None: the other end has closed. Not cancel safe, but for
    /// waiting for the first byte.
    ///
    /// # Errors
    /// What came is no message.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut length = [0; 4];
        let (received, fds) = self
            .0
            .async_io(Interest::READABLE, || first(self.0.as_fd(), &mut length))
            .await?;
        if received == 0 {
            return Ok(None);
        }
        self.0.read_exact(&mut length[received..]).await?;
        let length = u32::from_be_bytes(length);
        if length > MOST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
        }
        let mut body = vec![0; length as usize];
        self.0.read_exact(&mut body).await?;
        Ok(Some((serde_json::from_slice(&body)?, fds)))
    }

    /// Waits until the other end has closed, or says something. Cancel safe.
    pub async fn closed(&self) {
        // Looks, because readiness alone may be left over from what was read before. Whatever it is, there is nobody to
        // wait for any more.
        let mut byte = [0; 1];
        let look = || Ok(recv(self.0.as_fd(), &mut byte, RecvFlags::PEEK).map(|_| ())?);
        let _ = self.0.async_io(Interest::READABLE, look).await;
    }
}

fn first(socket: BorrowedFd<'_>, length: &mut [u8; 4]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(length)],
        &mut rights,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let fds = rights.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    Ok((received.bytes, fds.collect()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[tokio::test]
    async fn messages_arrive_whole_and_in_order_with_their_descriptors() {
        let (one, two) = UnixStream::pair().unwrap();
        let (mut one, mut two) = (Wire::new(one), Wire::new(two));
        let (mut reader, writer) = io::pipe().unwrap();
        let long = "x".repeat(1 << 20);
        let send = async {
            one.send(&"first", &[writer.as_fd()]).await.unwrap();
            one.send(&long, &[]).await.unwrap();
            one
        };
        let receive = async {
            let (first, fds): (String, _) = two.receive().await.unwrap().unwrap();
            let (second, none): (String, Vec<OwnedFd>) = two.receive().await.unwrap().unwrap();
            (first, fds, second, none)
        };
        let (one, (first, fds, second, none)) = tokio::join!(send, receive);
        assert_eq!((first.as_str(), second.len(), none.len()), ("first", 1 << 20, 0));
        let [fd] = <[OwnedFd; 1]>::try_from(fds).unwrap();
        std::fs::File::from(fd).write_all(b"through").unwrap();
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(said, "through");
        drop(one);
        assert!(two.receive::<String>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_end_that_is_still_open_is_not_taken_for_closed() {
        let (one, two) = UnixStream::pair().unwrap();
        let (mut one, mut two) = (Wire::new(one), Wire::new(two));
        one.send(&"hello", &[]).await.unwrap();
        two.receive::<String>().await.unwrap().unwrap();
        let early = tokio::time::timeout(std::time::Duration::from_millis(20), two.closed()).await;
        assert!(early.is_err());
        drop(one);
        two.closed().await;
    }

    #[tokio::test]
    async fn a_length_that_nobody_means_is_refused() {
        let (mut one, two) = UnixStream::pair().unwrap();
        one.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        assert!(Wire::new(two).receive::<String>().await.is_err());
    }
}
