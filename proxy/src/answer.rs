//! Answer: whether the app on the other side took an opaque stream, said before its first byte.
//!
//! In, on the called side: a stream of `weft-tcp/1`, and how it went with the app. Out: one byte. In, on the calling side: a
//! stream to an endpoint, and what the client says meanwhile. Out: the same stream, of which the app's own bytes are next;
//! or that not a byte reached the app, so that another endpoint can be tried with the same bytes.
//!
//! # `weft-tcp/1` on the wire
//!
//! Within mutual TLS of TLS 1.3, once both sides are verified:
//!
//! - From the calling side: the client's bytes as they are, from the first one on. Nothing is waited for.
//! - From the called side: one byte, the answer, and behind 0 the app's bytes as they are. The answer comes as soon as the
//!   called side has admitted the caller and connected to its app, however long the client is silent.
//! - The end of a direction is the end of TLS (`close_notify`) and of TCP in that direction; the other goes on.
//!
//! | answer | meaning | what the calling side does |
//! |---|---|---|
//! | 0 | the app has taken it | passes bytes on |
//! | 1 | `app-unreachable`: nobody listens | tries another endpoint, and leaves this one alone for a while |
//! | 2, 3, 4 | `overloaded`, `draining`, `no-certificate` | tries another endpoint |
//! | 5..=127 | some other reason of this endpoint | tries another endpoint |
//! | 129, 130, 131 | `foreign-trust-domain`, `policy-unsupported`, `plaintext-refused` | refuses the client |
//! | 128, 132..=255 | some other reason, which holds at every endpoint | refuses the client |
//!
//! With every answer but 0 not a byte has reached the app, and the stream ends behind it. A stream that ends without an
//! answer says nothing: it is tried elsewhere only where no byte of the client's had been written to it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use weft_model::reason::Reason;

use crate::detect;
use crate::http::refuse::is_unsent;
use crate::io::Io;
use crate::tls::TlsError;

/// What is sent to an endpoint before its answer, and kept for another one. More than that waits in the kernel.
const KEEP: usize = 16 * 1024;
/// How long a caller may take to end a stream that was refused. It has nothing to wait for.
const LINGER: Duration = Duration::from_secs(1);

/// The answer of an app that has taken the stream.
const TAKEN: u8 = 0;
/// Some other reason of the endpoint's own, and some other reason that holds at every endpoint.
const OTHER_HERE: u8 = 127;
const OTHER_EVERYWHERE: u8 = 128;
/// What stands for a reason.
const CODES: [(u8, Reason); 7] = [
    (1, Reason::AppUnreachable),
    (2, Reason::Overloaded),
    (3, Reason::Draining),
    (4, Reason::NoCertificate),
    (129, Reason::ForeignTrustDomain),
    (130, Reason::PolicyUnsupported),
    (131, Reason::PlaintextRefused),
];

/// Why an endpoint did not take a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// It says so: not a byte has reached its app.
    Refused {
        /// Why. `UpstreamClosed`: a reason that this build does not know.
        reason: Reason,
        /// Another endpoint may say otherwise.
        again: bool,
    },
    /// It ended, or broke, or said nothing for too long.
    Lost {
        /// Why.
        reason: Reason,
        /// Something of the client's may have reached the app.
        written: bool,
    },
    /// The client broke, for this reason.
    Client(Reason),
}

/// What a client says before it is known whether anybody hears it. It stays read ahead in the client's stream until an
/// endpoint has taken it, so every endpoint that is tried gets the same bytes.
#[derive(Debug)]
pub struct Early<'a> {
    client: Option<&'a mut Io>,
    ended: bool,
}

/// One endpoint's turn.
#[derive(Debug)]
struct Turn<'a, 'c> {
    early: &'a mut Early<'c>,
    endpoint: &'a mut Io,
    /// How much of what is read ahead was sent.
    sent: usize,
    /// Whether anything was given to the transport, which may have sent it even where it failed.
    written: bool,
    unflushed: bool,
    /// It takes nothing any more. What it has said before is still read.
    broken: bool,
}

/// Says that the app has taken the stream. Not cancel safe.
pub async fn taken(io: &mut Io) -> io::Result<()> {
    io.write_all(&[TAKEN]).await?;
    io.flush().await
}

/// Says that not a byte has reached the app, and why; then ends the stream in order. Takes a second at most.
pub async fn refuse(mut io: Io, reason: Reason) {
    let told = async {
        io.write_all(&[code(reason)]).await?;
        io.shutdown().await?;
        // Until the other side has gone. If something were left unread, the kernel would send a reset behind the answer.
        let mut scratch = [0; 2048];
        let mut left = 2 * KEEP;
        while left > 0 {
            match io.read(&mut scratch).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        io::Result::Ok(())
    };
    // Whoever cannot be told finds the stream ended.
    let _ = timeout(LINGER, told).await;
}

fn code(reason: Reason) -> u8 {
    let known = CODES.iter().find(|(_, known)| *known == reason).map(|(code, _)| *code);
    let other = if is_unsent(reason) {
        OTHER_HERE
    } else {
        OTHER_EVERYWHERE
    };
    known.unwrap_or(other)
}

fn meaning(code: u8) -> Result<(), NotTaken> {
    if code == TAKEN {
        return Ok(());
    }
    let known = CODES
        .iter()
        .find(|(known, _)| *known == code)
        .map(|(_, reason)| *reason);
    Err(NotTaken::Refused {
        reason: known.unwrap_or(Reason::UpstreamClosed),
        again: code < OTHER_EVERYWHERE,
    })
}

impl NotTaken {
    /// In the mesh's words.
    pub fn reason(self) -> Reason {
        match self {
            Self::Refused { reason, .. } | Self::Lost { reason, .. } | Self::Client(reason) => reason,
        }
    }

    /// Whether another endpoint may be tried.
    pub fn again(self) -> bool {
        match self {
            Self::Refused { again, .. } => again,
            Self::Lost { written, .. } => !written,
            Self::Client(_) => false,
        }
    }
}

impl<'a> Early<'a> {
    /// A client that may be read.
    pub fn of(client: &'a mut Io) -> Self {
        Self {
            client: Some(client),
            ended: false,
        }
    }

    /// Nothing: somebody else reads the client.
    pub fn nothing() -> Self {
        Self {
            client: None,
            ended: false,
        }
    }

    /// Waits for an endpoint's answer, and sends it what the client says meanwhile. Returns how many bytes were sent, which
    /// are not read ahead any more then. Not cancel safe where there is a client.
    pub async fn answer(&mut self, endpoint: &mut Io, within: Duration) -> Result<u64, NotTaken> {
        let mut turn = Turn {
            early: self,
            endpoint,
            sent: 0,
            written: false,
            unflushed: false,
            broken: false,
        };
        let answer = timeout(within, std::future::poll_fn(|cx| turn.poll(cx))).await;
        let written = turn.written;
        let sent = turn.sent;
        answer.unwrap_or(Err(NotTaken::Lost {
            reason: Reason::ConnectTimeout,
            written,
        }))?;
        if let Some(client) = &mut self.client {
            client.discard_ahead(sent);
        }
        Ok(sent as u64)
    }
}

impl Turn<'_, '_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotTaken>> {
        // The answer first: once it is there, nothing else is of this room's concern.
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        if let Poll::Ready(read) = Pin::new(&mut *self.endpoint).poll_read(cx, &mut buffer) {
            return Poll::Ready(match (read, buffer.filled()) {
                (Ok(()), [code]) => meaning(*code),
                (Ok(()), _) => Err(self.lost(Reason::UpstreamClosed)),
                (Err(error), _) => Err(self.lost(broke(&error))),
            });
        }
        match self.poll_early(cx) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(NotTaken::Client(detect::why_read_failed(&error)))),
        }
    }

    /// Sends what the client says, as far as it can be kept. An error is the client's.
    fn poll_early(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(client) = &mut self.early.client else {
            return Ok(());
        };
        loop {
            let unsent = client.ahead().get(self.sent..).unwrap_or_default();
            if !unsent.is_empty() && !self.broken {
                self.written = true;
                match Pin::new(&mut *self.endpoint).poll_write(cx, unsent) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        self.sent += n;
                        self.unflushed = true;
                        continue;
                    }
                    Poll::Ready(_) => self.broken = true,
                    Poll::Pending => return Ok(()),
                }
            }
            if self.unflushed && !self.broken {
                match Pin::new(&mut *self.endpoint).poll_flush(cx) {
                    Poll::Ready(flushed) => {
                        self.unflushed = false;
                        self.broken |= flushed.is_err();
                    }
                    Poll::Pending => return Ok(()),
                }
            }
            let room = KEEP.saturating_sub(client.ahead().len());
            if self.early.ended || room == 0 {
                return Ok(());
            }
            match client.poll_read_ahead(cx, room) {
                Poll::Ready(read) => self.early.ended = read? == 0,
                Poll::Pending => return Ok(()),
            }
        }
    }

    fn lost(&self, reason: Reason) -> NotTaken {
        let written = self.written;
        NotTaken::Lost { reason, written }
    }
}

/// Why a stream broke before its answer. With TLS 1.3 that our certificate is refused comes behind the handshake, so the
/// record layer says it.
fn broke(error: &io::Error) -> Reason {
    match error.get_ref().is_some_and(|source| source.is::<TlsError>()) {
        true => Reason::TlsFailed,
        false => Reason::UpstreamClosed,
    }
}

#[cfg(test)]
mod tests;
