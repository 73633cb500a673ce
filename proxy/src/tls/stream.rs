//! A stream of TLS 1.3 after its handshake: bytes in and out of a socket, sealed and opened in the thread's one buffer.
//!
//! What it keeps of its own is little, and nothing when it is idle: the part of a record that has not come whole, opened
//! bytes that nobody took yet, and sealed ones that the socket did not take. A peer whose records are refused is told why
//! (RFC 8446 section 6.2) if the socket takes the alert at once; it is never waited for.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::record::{
    CLOSE_NOTIFY, Content, HEADER, KEY_UPDATE, Opened, Opener, PLAIN_MAX, RECORD_MAX, ROOM, Sealer, TlsError,
};

/// How many full records the buffer holds. More were measured to gain nothing.
const FULL: usize = 4;

thread_local! {
    /// The thread's buffer. Borrowed only while one stream is polled.
    pub static RECORDS: RefCell<Records> = RefCell::new(Records(vec![0; FULL * RECORD_MAX].into_boxed_slice()));
}

/// A buffer of records, full ones but the last.
pub struct Records(Box<[u8]>);

/// Which side of the handshake this was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We dialled.
    Client,
    /// We were dialled.
    Server,
}

/// The key schedule, from which the next keys come.
pub(super) enum Renewal {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

/// A stream whose handshake is done.
pub struct TlsStream {
    socket: TcpStream,
    side: Side,
    sealer: Sealer,
    opener: Opener,
    renewal: Renewal,
    /// The part of a record that has been read.
    held: BytesMut,
    /// Opened, and not taken.
    plain: BytesMut,
    /// Sealed, and not taken by the socket.
    unsent: BytesMut,
    /// The peer wants our next record to be sealed with our next key.
    renew: bool,
    /// The peer has said that it sends no more.
    ended: bool,
    /// We have.
    closed: bool,
}

impl Records {
    /// Reads from a socket to where plaintext lies in records, as much as is there. 0: the end.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, socket: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let mut slots = [const { None }; FULL];
            for (slot, record) in slots.iter_mut().zip(self.0.chunks_mut(RECORD_MAX)) {
                *slot = Some(IoSliceMut::new(&mut record[HEADER..HEADER + PLAIN_MAX]));
            }
            let mut slots = slots.map(|slot| slot.unwrap_or_else(|| IoSliceMut::new(&mut [])));
            match socket.try_read_vectored(&mut slots) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Copies slices to where plaintext lies in records, as much as has room.
    fn fill(&mut self, slices: &[IoSlice<'_>]) -> usize {
        let mut filled = 0;
        for mut slice in slices.iter().map(|slice| &**slice) {
            while !slice.is_empty() && filled < FULL * PLAIN_MAX {
                let within = filled % PLAIN_MAX;
                let at = filled / PLAIN_MAX * RECORD_MAX + HEADER + within;
                let n = slice.len().min(PLAIN_MAX - within);
                self.0[at..at + n].copy_from_slice(&slice[..n]);
                slice = &slice[n..];
                filled += n;
            }
        }
        filled
    }

    /// Seals this much plaintext, which lies in its place. Gives the records.
    fn seal(&mut self, sealer: &mut Sealer, plain: usize) -> Result<&[u8], TlsError> {
        let mut end = 0;
        for at in (0..plain).step_by(PLAIN_MAX) {
            let size = HEADER + (plain - at).min(PLAIN_MAX) + ROOM;
            sealer.seal(Content::Data, &mut self.0[end..end + size])?;
            end += size;
        }
        Ok(&self.0[..end])
    }
}

impl Renewal {
    fn next_sealer(&mut self) -> Result<Sealer, TlsError> {
        let next: Result<(u64, ConnectionTrafficSecrets), Error> = match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        };
        Sealer::new(next.map_err(|_| TlsError::Keys)?)
    }

    fn renew(&mut self, opener: &mut Opener) -> Result<(), TlsError> {
        let next = match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        };
        opener.renew(next.map_err(|_| TlsError::Keys)?)
    }
}

impl TlsStream {
    /// `held`: read of the socket behind the handshake, and not opened. The buffer it is in, which may be much larger, is not
    /// kept: nobody may read for long.
    pub(super) fn new(
        socket: TcpStream,
        side: Side,
        (sealer, opener, renewal): (Sealer, Opener, Renewal),
        held: BytesMut,
    ) -> Self {
        Self {
            socket,
            side,
            sealer,
            opener,
            renewal,
            held: BytesMut::from(&held[..]),
            plain: BytesMut::new(),
            unsent: BytesMut::new(),
            renew: false,
            ended: false,
            closed: false,
        }
    }

    /// Which side of the handshake this was.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The socket beneath.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether opened bytes wait that nobody took.
    pub fn has_plain(&self) -> bool {
        !self.plain.is_empty()
    }

    /// Whether the peer has said that it sends no more, and all that it sent was opened.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Bytes kept of whatever kind.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.held.capacity() + self.plain.capacity() + self.unsent.capacity()
    }

    /// Sealed bytes that the socket has not taken.
    #[cfg(test)]
    pub(super) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// As if its key had sealed all that it may.
    #[cfg(test)]
    pub(super) fn wear_out(&mut self) {
        self.sealer.wear_out();
    }

    // --- Sealing

    /// Seals this much plaintext, which lies in its place in `records`, and sends it as far as the socket takes it. What it
    /// does not take is kept: call after [`Self::poll_sent`] only, so that it stays within what `records` holds.
    pub fn send(&mut self, cx: &mut Context<'_>, records: &mut Records, plain: usize) -> io::Result<()> {
        if self.renew || self.sealer.is_worn() {
            self.seal_short(Content::Handshake, &KEY_UPDATE)?;
            self.sealer = self.renewal.next_sealer().map_err(invalid)?;
            self.renew = false;
        }
        let mut sealed = records.seal(&mut self.sealer, plain).map_err(invalid)?;
        if self.unsent.is_empty() {
            while !sealed.is_empty() {
                match Pin::new(&mut self.socket).poll_write(cx, sealed) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(n)) => sealed = &sealed[n..],
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => break,
                }
            }
        }
        self.unsent.extend_from_slice(sealed);
        if let Poll::Ready(Err(error)) = self.poll_sent(cx) {
            return Err(error);
        }
        Ok(())
    }

    /// Tells the peer why it is given up, if that can be said at once: not in the middle of a record, and not after the end.
    #[cold]
    fn give_up(&mut self, error: TlsError) -> io::Error {
        const FATAL: u8 = 2;
        if let Some(why) = error.alert()
            && !self.closed
            && self.unsent.is_empty()
        {
            self.closed = true;
            if self.seal_short(Content::Alert, &[FATAL, why]).is_ok() {
                let _ = self.socket.try_write(&self.unsent);
                self.unsent = BytesMut::new();
            }
        }
        invalid(error)
    }

    /// Waits until the socket has taken what was sealed.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.unsent.advance(n),
            }
            if self.unsent.is_empty() {
                self.unsent = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Seals a message of a few bytes behind what waits to be sent.
    fn seal_short(&mut self, content: Content, message: &[u8]) -> io::Result<()> {
        let mut record = [0; HEADER + 8 + ROOM];
        let record = &mut record[..HEADER + message.len() + ROOM];
        record[HEADER..HEADER + message.len()].copy_from_slice(message);
        self.sealer.seal(content, record).map_err(invalid)?;
        self.unsent.extend_from_slice(record);
        Ok(())
    }

    // --- Opening

    /// Reads what is there, behind the part of a record that is held, and gives all of it, sealed. `most`: how much
    /// plaintext is wanted; more may come. Nothing: the peer has ended.
    pub fn poll_receive<'r>(
        &mut self,
        cx: &mut Context<'_>,
        records: &'r mut Records,
        most: usize,
    ) -> Poll<io::Result<&'r mut [u8]>> {
        if self.ended {
            return Poll::Ready(Ok(&mut []));
        }
        let held = self.held.len();
        // What was read behind the handshake may hold whole records, more than the buffer has room for.
        if held >= HEADER && self.holds_whole() {
            let n = held.min(records.0.len());
            let taken = &mut records.0[..n];
            taken.copy_from_slice(&self.held[..n]);
            self.held.advance(n);
            return Poll::Ready(Ok(taken));
        }
        let room = records
            .0
            .len()
            .min(held + RECORD_MAX.max(most.saturating_add(HEADER + ROOM)));
        let mut buffer = ReadBuf::new(&mut records.0[held..room]);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        if read == 0 {
            // An end that the peer did not announce may have been made by somebody else.
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        records.0[..held].copy_from_slice(&self.held);
        self.held.clear();
        Poll::Ready(Ok(&mut records.0[..held + read]))
    }

    /// Whether what is held begins with a whole record.
    fn holds_whole(&self) -> bool {
        match self.held.first_chunk::<HEADER>() {
            Some([.., high, low]) => self.held.len() >= HEADER + usize::from(u16::from_be_bytes([*high, *low])),
            None => false,
        }
    }

    /// Opens the next record of data, and gives its plaintext, which may be empty, and what follows. `None`: there is no
    /// whole record any more, and the rest is held. After an error the stream is of no use any more.
    pub fn open<'r>(&mut self, bytes: &'r mut [u8]) -> io::Result<Option<(&'r mut [u8], &'r mut [u8])>> {
        if self.ended || bytes.is_empty() {
            self.hold(&[]);
            return Ok(None);
        }
        match self.opener.open(bytes).map_err(|error| self.give_up(error))? {
            Opened::Part => {
                self.hold(bytes);
                Ok(None)
            }
            Opened::Data(plain, end) => {
                let (record, rest) = bytes.split_at_mut(end);
                Ok(Some((&mut record[plain], rest)))
            }
            Opened::Ended => {
                // What follows is not read (section 6.1).
                self.ended = true;
                self.held = BytesMut::new();
                Ok(None)
            }
            Opened::KeyUpdate(asks, end) => {
                let renewed = self.renewal.renew(&mut self.opener);
                renewed.map_err(|error| self.give_up(error))?;
                self.renew |= asks;
                Ok(Some((&mut [], bytes.split_at_mut(end).1)))
            }
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        if bytes.is_empty() && self.held.is_empty() {
            self.held = BytesMut::new();
            return;
        }
        // Only after the handshake there may be something held: these bytes lay before it.
        if self.held.is_empty() {
            self.held.extend_from_slice(bytes);
        } else {
            let mut joined = BytesMut::with_capacity(bytes.len() + self.held.len());
            joined.extend_from_slice(bytes);
            joined.extend_from_slice(&self.held);
            self.held = joined;
        }
    }

    /// Opens all of these records: to the reader as far as it has room, the rest is kept.
    fn open_all(&mut self, mut bytes: &mut [u8], buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        while let Some((plain, rest)) = self.open(bytes)? {
            let n = match self.plain.is_empty() {
                true => plain.len().min(buffer.remaining()),
                false => 0,
            };
            buffer.put_slice(&plain[..n]);
            self.plain.extend_from_slice(&plain[n..]);
            bytes = rest;
        }
        Ok(())
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        loop {
            if !this.plain.is_empty() {
                let n = this.plain.len().min(buffer.remaining());
                buffer.put_slice(&this.plain[..n]);
                this.plain.advance(n);
                if this.plain.is_empty() {
                    this.plain = BytesMut::new();
                }
            }
            if buffer.filled().len() > before || this.ended {
                return Poll::Ready(Ok(()));
            }
            let received = RECORDS.with_borrow_mut(|records| {
                let bytes = ready!(this.poll_receive(cx, records, buffer.remaining()))?;
                Poll::Ready(this.open_all(bytes, buffer))
            });
            ready!(received)?;
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_sent(cx))?;
        RECORDS.with_borrow_mut(|records| {
            let n = records.fill(slices);
            if n > 0 {
                this.send(cx, records, n)?;
            }
            Poll::Ready(Ok(n))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_sent(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed {
            this.closed = true;
            this.seal_short(Content::Alert, &CLOSE_NOTIFY)?;
        }
        ready!(this.poll_sent(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .field("side", &self.side)
            .finish_non_exhaustive()
    }
}

fn invalid(error: TlsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
