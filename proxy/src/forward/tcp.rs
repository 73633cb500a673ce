//! Moves bytes both ways until both sides have ended.
//!
//! In: two streams. Out: how they ended, and how much went each way. What is read goes through a buffer of the thread and
//! straight on; only what the other side does not take at once is kept, so that an idle pair holds no buffer.

use std::cell::RefCell;
use std::future::pending;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::io::{Io, Way};
use crate::tls::{RECORDS, TlsStream};

/// What one read takes. Smaller ones cost system calls and TLS records; larger ones were measured to gain nothing.
const STEP: usize = 64 * 1024;
/// How many records are written at once: full ones are fewer.
const PIECES: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; STEP].into_boxed_slice());
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flow {
    /// From the side that dialled to the side that was dialled.
    Up,
    /// Back.
    Down,
}

/// What became of a pair of streams.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes from the downstream to the upstream.
    pub up: u64,
    /// Bytes from the upstream to the downstream.
    pub down: u64,
    /// How it ended.
    pub ended: Ended,
}

/// How a pair of streams ended.
#[derive(Debug)]
pub enum Ended {
    /// Both directions said so.
    Cleanly,
    /// The downstream failed.
    Downstream(io::Error),
    /// The upstream failed.
    Upstream(io::Error),
}

/// Moves bytes both ways until both directions have ended; the end of one is passed on as a half-close, and the other goes
/// on. A side that fails breaks the other, so that what was cut short never looks whole. `moved` hears of every piece. Not
/// cancel safe: dropping it breaks both, also before it was polled.
pub fn pump(downstream: Io, upstream: Io, moved: impl Fn(Flow, u64)) -> impl Future<Output = Outcome> {
    pump_until(pending(), |_, _, _| Poll::Pending, downstream, upstream, moved)
}

/// The same. Once `over`, nothing more is passed on to the downstream than what was read for it, and then that direction ends,
/// as if the upstream had ended it: a downstream that waits for nothing ends the other one. `gone` is polled with both after
/// they were, and says that one has failed of which nothing is heard.
pub fn pump_until(
    over: impl Future<Output = ()>,
    gone: impl FnMut(&mut Context<'_>, &Io, &Io) -> Poll<Ended>,
    downstream: Io,
    upstream: Io,
    moved: impl Fn(Flow, u64),
) -> impl Future<Output = Outcome> {
    let pair = Pair {
        downstream,
        upstream,
        ended: false,
    };
    run(pair, moved, over, gone)
}

async fn run(
    mut pair: Pair,
    moved: impl Fn(Flow, u64),
    over: impl Future<Output = ()>,
    mut gone: impl FnMut(&mut Context<'_>, &Io, &Io) -> Poll<Ended>,
) -> Outcome {
    let (mut over, mut is_over) = (pin!(over), false);
    // What was sent before this may not have left yet.
    let mut up = Direction {
        unflushed: true,
        ..Direction::default()
    };
    let mut down = Direction::default();
    let ended = std::future::poll_fn(|cx| {
        let Pair {
            downstream, upstream, ..
        } = &mut pair;
        if !is_over && over.as_mut().poll(cx).is_ready() {
            is_over = true;
            down.end();
        }
        let went_up = up.poll(cx, downstream, upstream, |n| moved(Flow::Up, n));
        let went_down = down.poll(cx, upstream, downstream, |n| moved(Flow::Down, n));
        match (went_up, went_down) {
            (Poll::Ready(Err(Fault::From(error))), _) | (_, Poll::Ready(Err(Fault::To(error)))) => {
                Poll::Ready(Ended::Downstream(error))
            }
            (Poll::Ready(Err(Fault::To(error))), _) | (_, Poll::Ready(Err(Fault::From(error)))) => {
                Poll::Ready(Ended::Upstream(error))
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ended::Cleanly),
            _ => gone(cx, downstream, upstream),
        }
    })
    .await;
    pair.ended = true;
    match &ended {
        Ended::Downstream(_) if up.state != State::Shut => pair.upstream.break_off(),
        Ended::Upstream(_) if down.state != State::Shut => pair.downstream.break_off(),
        // What was said to the end is not taken back: the kernel may still have some of it to deliver.
        _ => {}
    }
    Outcome {
        up: up.bytes,
        down: down.bytes,
        ended,
    }
}

/// Two streams that bytes are moved between.
struct Pair {
    downstream: Io,
    upstream: Io,
    /// They have said themselves how.
    ended: bool,
}

impl Drop for Pair {
    fn drop(&mut self) {
        if !self.ended {
            self.upstream.break_off();
            self.downstream.break_off();
        }
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Direction {
    /// Read, and not yet taken by the other side. At most what one read takes; holds no memory when empty.
    left: BytesMut,
    state: State,
    /// The transport has taken bytes that it may not have sent.
    unflushed: bool,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Ended,
    Shut,
}

/// Which side failed.
#[derive(Debug)]
enum Fault {
    From(io::Error),
    To(io::Error),
}

impl Direction {
    /// Reads no more.
    fn end(&mut self) {
        if self.state == State::Open {
            self.state = State::Ended;
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
        moved: impl Fn(u64),
    ) -> Poll<Result<(), Fault>> {
        loop {
            while !self.left.is_empty() {
                let n = ready!(write(cx, to, &self.left))?;
                self.left.advance(n);
                self.count(n, &moved);
                if self.left.is_empty() {
                    self.left = BytesMut::new();
                }
            }
            match self.state {
                State::Open => match self.poll_through(cx, from, to, &moved) {
                    Poll::Ready(Ok(0)) => self.state = State::Ended,
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                    Poll::Pending => {
                        ready!(self.poll_flush(cx, to))?;
                        return Poll::Pending;
                    }
                },
                State::Ended => {
                    ready!(self.poll_flush(cx, to))?;
                    match ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                        // A peer that has gone already cannot be told.
                        Ok(()) => self.state = State::Shut,
                        Err(error) if error.kind() == io::ErrorKind::NotConnected => self.state = State::Shut,
                        Err(error) => return Poll::Ready(Err(Fault::To(error))),
                    }
                }
                State::Shut => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads once, and writes what was read as far as it is taken at once. 0: the end.
    fn poll_through(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
        moved: &impl Fn(u64),
    ) -> Poll<Result<usize, Fault>> {
        match Io::ways(from, to) {
            Way::Seal(from, to) => self.poll_seal(cx, from, to, moved),
            Way::Open(from, to) => self.poll_open(cx, from, to, moved),
            Way::Other => self.poll_copy(cx, from, to, moved),
        }
    }

    /// From a socket into TLS: read to where it is sealed, and sent from there. What the socket does not take stays with the
    /// stream, which is waited for first.
    fn poll_seal(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &mut TlsStream,
        moved: &impl Fn(u64),
    ) -> Poll<Result<usize, Fault>> {
        ready!(to.poll_sent(cx)).map_err(Fault::To)?;
        RECORDS.with_borrow_mut(|records| {
            let n = ready!(records.poll_fill(cx, from)).map_err(Fault::From)?;
            if n > 0 {
                to.send(cx, records, n).map_err(Fault::To)?;
                self.count(n, moved);
            }
            Poll::Ready(Ok(n))
        })
    }

    /// From TLS to a socket: opened where it was read to, and written from there.
    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TlsStream,
        to: &mut TcpStream,
        moved: &impl Fn(u64),
    ) -> Poll<Result<usize, Fault>> {
        RECORDS.with_borrow_mut(|records| {
            loop {
                let sealed = ready!(from.poll_receive(cx, records, STEP)).map_err(Fault::From)?;
                if sealed.is_empty() {
                    return Poll::Ready(Ok(0));
                }
                let n = self.open_all(cx, from, sealed, to, moved)?;
                // A record that is not whole, or one that carries nothing, is not the end.
                if n > 0 || from.has_ended() {
                    return Poll::Ready(Ok(n));
                }
            }
        })
    }

    /// Opens all records, and writes them, a few at a time, as far as the socket takes them; the rest is kept.
    fn open_all(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TlsStream,
        mut sealed: &mut [u8],
        to: &mut TcpStream,
        moved: &impl Fn(u64),
    ) -> Result<usize, Fault> {
        let mut total = 0;
        loop {
            let mut opened = [IoSlice::new(&[]); PIECES];
            let mut pieces = 0;
            for place in &mut opened {
                let Some((plain, rest)) = from.open(sealed).map_err(Fault::From)? else {
                    sealed = &mut [];
                    break;
                };
                *place = IoSlice::new(plain);
                sealed = rest;
                pieces += 1;
            }
            let n = opened.iter().map(|piece| piece.len()).sum::<usize>();
            total += n;
            self.write_all(cx, to, &mut opened, n, moved)?;
            if pieces < PIECES {
                return Ok(total);
            }
        }
    }

    /// Writes pieces of `n` bytes as far as they are taken, unless others wait already, and keeps the rest.
    fn write_all(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut TcpStream,
        mut pieces: &mut [IoSlice<'_>],
        mut n: usize,
        moved: &impl Fn(u64),
    ) -> Result<(), Fault> {
        while n > 0 && self.left.is_empty() {
            match Pin::new(&mut *to).poll_write_vectored(cx, pieces) {
                Poll::Ready(Ok(0)) => return Err(Fault::To(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.count(written, moved);
                    n -= written;
                    IoSlice::advance_slices(&mut pieces, written);
                }
                Poll::Ready(Err(error)) => return Err(Fault::To(error)),
                Poll::Pending => break,
            }
        }
        for piece in pieces.iter() {
            self.left.extend_from_slice(piece);
        }
        Ok(())
    }

    /// Between any two streams, through a buffer of the thread.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
        moved: &impl Fn(u64),
    ) -> Poll<Result<usize, Fault>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut buffer)).map_err(Fault::From)?;
            let read = buffer.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(0));
            }
            let n = match write(cx, to, read) {
                Poll::Ready(n) => n?,
                Poll::Pending => 0,
            };
            if n > 0 {
                self.count(n, moved);
            }
            self.left.extend_from_slice(read.get(n..).unwrap_or_default());
            Poll::Ready(Ok(read.len()))
        })
    }

    fn count(&mut self, n: usize, moved: &impl Fn(u64)) {
        self.unflushed = true;
        self.bytes += n as u64;
        moved(n as u64);
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut Io) -> Poll<Result<(), Fault>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx)).map_err(Fault::To)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

fn write(cx: &mut Context<'_>, to: &mut Io, bytes: &[u8]) -> Poll<Result<usize, Fault>> {
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(Fault::To(io::ErrorKind::WriteZero.into()))),
        Ok(n) => Poll::Ready(Ok(n)),
        Err(error) => Poll::Ready(Err(Fault::To(error))),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A pumped pair: what the client holds, what the server holds, and the pump.
    fn pair(capacity: usize) -> (Io, Io, impl Future<Output = Outcome>) {
        let (client, near) = Io::pipe(capacity);
        let (far, server) = Io::pipe(capacity);
        (client, server, pump(near, far, |_, _| ()))
    }

    #[tokio::test]
    async fn the_end_of_one_direction_is_passed_on_and_the_other_goes_on() {
        let (mut client, mut server, pump) = pair(2048);
        let talk = async move {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = String::new();
            server.read_to_string(&mut asked).await.unwrap();
            assert_eq!(asked, "question");
            server.write_all(&[b'a'; 1000]).await.unwrap();
            drop(server);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, [b'a'; 1000]);
        };
        let answer = async {
            let (outcome, ()) = tokio::join!(pump, talk);
            outcome
        };
        let outcome = answer.await;
        assert!(matches!(outcome.ended, Ended::Cleanly));
        assert_eq!((outcome.up, outcome.down), (8, 1000));
    }

    #[tokio::test]
    async fn a_reader_that_reads_nothing_stops_the_writer() {
        let (mut client, server, pump) = pair(1024);
        let sent = Rc::new(Cell::new(0_usize));
        let writer = async {
            loop {
                sent.set(sent.get() + client.write(&[0; 4096]).await.unwrap());
            }
        };
        tokio::select! {
            biased;
            _ = pump => unreachable!("neither side has ended"),
            () = writer => unreachable!("it writes for ever"),
            () = async { for _ in 0..10_000 { tokio::task::yield_now().await } } => {}
        }
        assert!(
            sent.get() <= 2 * 1024 + STEP,
            "{} bytes were taken of a stream that nobody reads",
            sent.get()
        );
        drop(server);
    }

    #[tokio::test]
    async fn every_piece_is_heard_of() {
        let (mut client, near) = Io::pipe(64);
        let (far, mut server) = Io::pipe(64);
        let heard = Rc::new(Cell::new((0, 0)));
        let hearing = heard.clone();
        let pump = pump(near, far, move |flow, n| {
            let (up, down) = hearing.get();
            hearing.set(if flow == Flow::Up {
                (up + n, down)
            } else {
                (up, down + n)
            });
        });
        let talk = async move {
            client.write_all(&[1; 500]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
        };
        let echo = async move {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.unwrap();
            server.write_all(&all[..300]).await.unwrap();
            server.shutdown().await.unwrap();
        };
        tokio::join!(pump, talk, echo);
        assert_eq!(heard.get(), (500, 300));
    }

    #[tokio::test]
    async fn a_side_that_breaks_ends_both() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        let (client, near) = (dialled.unwrap(), accepted.unwrap().0);
        let (far, mut server) = Io::pipe(64);
        socket2::SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(client);
        let outcome = pump(Io::plain(near), far, |_, _| ()).await;
        assert!(matches!(outcome.ended, Ended::Downstream(_)), "{outcome:?}");
        let broken = server.read_to_end(&mut Vec::new()).await;
        assert!(broken.is_err(), "it must not look ended: {broken:?}");
    }

    #[tokio::test]
    async fn what_was_said_to_the_end_stays_so_when_the_other_direction_breaks() {
        let (mut client, mut server, pump) = pair(64);
        server.write_all(b"whole").await.unwrap();
        drop(server);
        let talk = async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, b"whole");
            client.write_all(b"more").await.unwrap();
            client
        };
        let (outcome, mut client) = tokio::join!(pump, talk);
        assert!(matches!(outcome.ended, Ended::Upstream(_)), "{outcome:?}");
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_pair_that_was_never_polled_breaks_too() {
        let (mut client, near) = Io::pipe(64);
        let (far, mut server) = Io::pipe(64);
        drop(pump(near, far, |_, _| ()));
        for side in [&mut client, &mut server] {
            let broken = side.read(&mut [0]).await;
            assert!(broken.is_err(), "it must not look ended: {broken:?}");
        }
    }
}
