//! Currency: the one byte stream that rooms hand to each other.
//!
//! In: an accepted or dialled socket. Out: [`Io`], which knows how it is protected, and which keeps the bytes that a room
//! has looked at without taking them (detection, the ClientHello), so that the next reader sees them first.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

use crate::detect::FirstLine;
use crate::tls::{Side, TlsStream};

/// A byte stream between this proxy and an app or a peer.
#[derive(Debug)]
pub struct Io {
    /// Read from the transport, not yet taken. Holds no memory when empty.
    ahead: BytesMut,
    transport: Transport,
    /// A first line that is not whole, on which something rests: see [`FirstLine`].
    watched: Option<Box<FirstLine>>,
}

/// How a stream is carried and protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    /// TCP, bytes as they are.
    Plain,
    /// Mutual TLS that a peer opened to us.
    Server,
    /// Mutual TLS that we opened to a peer.
    Client,
    /// A pipe within the process: outbound hands over to inbound, and tests.
    Memory,
}

/// What lies between two streams.
#[derive(Debug)]
pub enum Way<'a> {
    /// From a socket into TLS.
    Seal(&'a mut TcpStream, &'a mut TlsStream),
    /// From TLS to a socket.
    Open(&'a mut TlsStream, &'a mut TcpStream),
    /// Anything else.
    Other,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    // Boxed: its keys take a kilobyte, and many streams of an idle proxy are plain.
    Tls(Box<TlsStream>),
    Memory(Pipe),
}

/// One end of a pipe within the process.
#[derive(Debug)]
struct Pipe {
    stream: DuplexStream,
    /// Shared by both ends: it ends because something broke, and not because all was said.
    broken: Arc<AtomicBool>,
}

impl Io {
    /// A socket as it is.
    pub fn plain(socket: TcpStream) -> Self {
        Self::new(Transport::Plain(socket))
    }

    /// A stream of TLS.
    pub fn tls(stream: TlsStream) -> Self {
        Self::new(Transport::Tls(Box::new(stream)))
    }

    /// Two ends of a pipe that holds `capacity` bytes in each direction.
    pub fn pipe(capacity: usize) -> (Self, Self) {
        let (near, far) = tokio::io::duplex(capacity);
        let broken = Arc::<AtomicBool>::default();
        let end = |stream, broken| Self::new(Transport::Memory(Pipe { stream, broken }));
        (end(near, broken.clone()), end(far, broken))
    }

    fn new(transport: Transport) -> Self {
        Self {
            ahead: BytesMut::new(),
            transport,
            watched: None,
        }
    }

    /// How it is carried and protected.
    pub fn kind(&self) -> IoKind {
        match &self.transport {
            Transport::Plain(_) => IoKind::Plain,
            Transport::Tls(stream) => match stream.side() {
                Side::Server => IoKind::Server,
                Side::Client => IoKind::Client,
            },
            Transport::Memory(_) => IoKind::Memory,
        }
    }

    /// The socket beneath, if there is one.
    pub fn socket(&self) -> Option<&TcpStream> {
        match &self.transport {
            Transport::Plain(socket) => Some(socket),
            Transport::Tls(stream) => Some(stream.socket()),
            Transport::Memory(_) => None,
        }
    }

    /// Has the other side see a broken stream once this one is dropped, instead of one that ends because all was said.
    pub fn break_off(&self) {
        if let Transport::Memory(pipe) = &self.transport {
            pipe.broken.store(true, Ordering::Relaxed);
        }
        if let Some(socket) = self.socket() {
            // The kernel resets it. Fails only for a socket that is gone already.
            let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// The address of the other side, where it has one.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.socket().and_then(|socket| socket.peer_addr().ok())
    }

    /// The bytes read ahead and not yet taken.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Reads once from the transport, at most `most` bytes, behind those read ahead already. 0: the other side has ended.
    /// Cancel safe: a byte that was read is in [`Io::ahead`].
    pub async fn read_ahead(&mut self, most: usize) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_read_ahead(cx, most)).await
    }

    /// [`Io::read_ahead`], polled.
    pub fn poll_read_ahead(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        const STEP: usize = 4096;
        let mut step = [0_u8; STEP];
        self.poll_read_step(cx, &mut step[..most.min(STEP)])
    }

    fn poll_read_step(&mut self, cx: &mut Context<'_>, step: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(step);
        ready!(self.transport.poll_read(cx, &mut buffer))?;
        self.ahead.extend_from_slice(buffer.filled());
        self.watch(buffer.filled())?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Takes the bytes read ahead.
    pub fn take_ahead(&mut self) -> BytesMut {
        std::mem::take(&mut self.ahead)
    }

    /// Takes bytes read ahead, and drops them.
    pub fn discard_ahead(&mut self, bytes: usize) {
        self.ahead.advance(bytes.min(self.ahead.len()));
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
    }

    /// Has reading fail if the first line, of which the beginning is read ahead, becomes that of an HTTP request. `false`:
    /// not any more.
    pub fn watch_first_line(&mut self, watch: bool) {
        self.watched = watch.then(|| Box::new(FirstLine::new(&self.ahead)));
    }

    fn watch(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(line) = &mut self.watched else {
            return Ok(());
        };
        let over = line.goes_on(bytes);
        if !matches!(over, Ok(false)) {
            self.watched = None;
        }
        over.map(|_| ())
    }

    /// Whether a connection that should be silent is: neither ended, nor failed, nor spoken to out of turn. Makes no
    /// system call unless the socket has become readable. What is found ends the usefulness of the stream.
    pub fn is_quiet(&mut self) -> bool {
        if !self.ahead.is_empty() {
            return false;
        }
        let mut cx = Context::from_waker(Waker::noop());
        // Asked twice for each request: no more than the one byte is made ready.
        self.poll_read_step(&mut cx, &mut [0]).is_pending()
    }

    /// The two transports, where bytes can go from one to the other without being looked at, and in place.
    pub fn ways<'a>(from: &'a mut Self, to: &'a mut Self) -> Way<'a> {
        if !from.ahead.is_empty() || from.watched.is_some() {
            return Way::Other;
        }
        match (&mut from.transport, &mut to.transport) {
            (Transport::Plain(from), Transport::Tls(to)) => Way::Seal(from, to),
            (Transport::Tls(from), Transport::Plain(to)) if !from.has_plain() => Way::Open(from, to),
            _ => Way::Other,
        }
    }

    /// The socket of a plain stream with nothing read ahead, or the stream as it was.
    pub fn into_socket(self) -> Result<TcpStream, Self> {
        match self.transport {
            Transport::Plain(socket) if self.ahead.is_empty() => Ok(socket),
            transport => Err(Self {
                ahead: self.ahead,
                transport,
                watched: self.watched,
            }),
        }
    }
}

impl Transport {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Memory(pipe) => pipe.poll_read(cx, buffer),
        }
    }
}

impl Pipe {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.remaining();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let ended = before > 0 && buffer.remaining() == before;
        if ended && self.broken.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            let before = buffer.filled().len();
            ready!(this.transport.poll_read(cx, buffer))?;
            if this.watched.is_some()
                && let Err(error) = this.watch(&buffer.filled()[before..])
            {
                buffer.set_filled(before);
                return Poll::Ready(Err(error));
            }
            return Poll::Ready(Ok(()));
        }
        let taken = this.ahead.len().min(buffer.remaining());
        buffer.put_slice(&this.ahead[..taken]);
        this.discard_ahead(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Memory(pipe) => Pin::new(&mut pipe.stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Transport::Memory(pipe) => Pin::new(&mut pipe.stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(socket) => socket.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
            Transport::Memory(pipe) => pipe.stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Memory(pipe) => Pin::new(&mut pipe.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Memory(pipe) => Pin::new(&mut pipe.stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_looked_at_are_read_again_in_order() {
        let (mut near, mut far) = Io::pipe(64);
        far.write_all(b"one").await.unwrap();
        assert_eq!(near.read_ahead(64).await.unwrap(), 3);
        far.write_all(b"two").await.unwrap();
        assert_eq!(near.read_ahead(64).await.unwrap(), 3);
        assert_eq!(near.ahead(), b"onetwo");
        far.write_all(b"three").await.unwrap();
        drop(far);
        let mut all = String::new();
        near.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "onetwothree");
    }

    #[tokio::test]
    async fn a_pipe_that_breaks_does_not_look_ended() {
        for breaks in [false, true] {
            let (mut near, mut far) = Io::pipe(64);
            far.write_all(b"half").await.unwrap();
            if breaks {
                far.break_off();
            }
            drop(far);
            let mut half = [0; 4];
            near.read_exact(&mut half).await.unwrap();
            assert_eq!(&half, b"half");
            assert_eq!(near.read(&mut half).await.is_err(), breaks);
        }
    }

    #[tokio::test]
    async fn a_silent_stream_is_quiet_and_an_ended_one_is_not() {
        let (mut near, mut far) = Io::pipe(64);
        assert!(near.is_quiet());
        far.write_all(b"x").await.unwrap();
        assert!(!near.is_quiet());
        let (mut near, far) = Io::pipe(64);
        drop(far);
        assert!(!near.is_quiet());
    }
}
