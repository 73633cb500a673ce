//! Watches whether the transport beneath an HTTP/2 connection takes what it is given.
//!
//! The `h2` crate has no notion of a peer that reads nothing. In: an [`Io`]. Out: the same, and since when it has been
//! blocked.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::io::Io;

/// A transport that is watched.
#[derive(Debug)]
pub(crate) struct Guard {
    io: Io,
    state: Rc<State>,
}

/// What the watch has seen.
#[derive(Debug, Default)]
pub(crate) struct State {
    blocked_since: Cell<Option<Instant>>,
    bytes_read: Cell<u64>,
    /// How long the first frame is, as far as that was read.
    first: Cell<u32>,
    /// Nothing more will come.
    ended: Cell<bool>,
    /// Told once the first frame is whole, or will never be.
    heard: Notify,
}

/// A frame's header: of that the first bytes are the length of what is behind it (RFC 9113 section 4.1).
const HEADER: u64 = 9;
const LENGTH: u64 = 3;
/// No first frame is longer.
const FRAME_MAX: u32 = 16 * 1024;

impl Guard {
    pub(crate) fn new(io: Io) -> (Self, Rc<State>) {
        let state = Rc::new(State::default());
        (
            Self {
                io,
                state: state.clone(),
            },
            state,
        )
    }

    fn note<T>(&self, written: &Poll<io::Result<T>>) {
        match written {
            Poll::Ready(_) => self.state.blocked_since.set(None),
            Poll::Pending if self.state.blocked_since.get().is_none() => {
                self.state.blocked_since.set(Some(Instant::now()));
            }
            Poll::Pending => {}
        }
    }
}

impl State {
    /// Since when the transport has taken nothing of what it was given.
    pub(crate) fn blocked_since(&self) -> Option<Instant> {
        self.blocked_since.get()
    }

    /// Returns once the first frame has come, or none will: what is at the other end of an HTTP/2 connection begins with its
    /// settings. Cancel safe.
    pub(crate) async fn heard(&self) {
        while !self.has_heard() {
            self.heard.notified().await;
        }
    }

    fn has_heard(&self) -> bool {
        let (read, length) = (self.bytes_read(), self.first.get());
        // What is no frame makes the connection end.
        let whole = read >= LENGTH && (length > FRAME_MAX || read >= HEADER + u64::from(length));
        whole || self.ended.get()
    }

    fn note_read(&self, bytes: &[u8]) {
        let so_far = self.bytes_read.get();
        self.bytes_read.set(so_far + bytes.len() as u64);
        for byte in bytes.iter().take(LENGTH.saturating_sub(so_far) as usize) {
            self.first.set(self.first.get() << 8 | u32::from(*byte));
        }
        if so_far <= HEADER + u64::from(FRAME_MAX) && self.has_heard() {
            self.heard.notify_waiters();
        }
    }

    fn end(&self) {
        self.ended.set(true);
        self.heard.notify_waiters();
    }

    /// Bytes that have come so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.get()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.state.end();
    }
}

impl AsyncRead for Guard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        let came = buffer.filled().get(before..).unwrap_or_default();
        match &read {
            Poll::Ready(Ok(())) if !came.is_empty() => self.state.note_read(came),
            Poll::Ready(_) => self.state.end(),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for Guard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.note(&flushed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
