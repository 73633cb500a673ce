//! Detect: what protocol a connection speaks, by its first bytes, without a fixed wait.
//!
//! In: a stream of which nothing is declared, and a way to dial where it goes. Out: HTTP/1, HTTP/2 or opaque, with the
//! trial connection where one was made and is of use. Design: the client's bytes always win; a server that greets with
//! something that is not HTTP makes a port *server first*, for a while; a server that greets as gRPC servers do proves
//! nothing; and HTTP from a slow client is still HTTP.
//!
//! What is opaque reaches the app untouched, forged headers included. So whatever some app's parser might take for a request
//! is HTTP here, and our own codec, which is strict, says what is wrong with it. Where a first line that begins as requests do
//! is too long or does not end in time, that is HTTP as well: nobody gets round the codec by being odd or slow.
//!
//! One pause does mean something. A client that stops within a first line whose first word is not (the beginning of) a
//! registered method, as one of ZooKeeper's `ruok` does, waits for an answer, and is opaque as soon as it has been silent for
//! as long as a client may be that says nothing at all. Its first line is watched from then on ([`FirstLine`]): should it
//! become that of a request after all, the stream is broken before the line ends, so the app has never been given a request
//! that the codec has not seen. `G`, `E`, `T` may come as slowly as they like. A line that is too long and does not begin as
//! requests do, a method and a target, is opaque and watched likewise.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use weft_model::reason::Reason;

use crate::http::HttpVersion;
use crate::io::Io;
use crate::observe::verdicts::Found;

/// What is looked at of a client before it is decided: a first line this long that may be HTTP is, and the codec refuses it.
const LINE_MAX: usize = 16 * 1024;
/// How long a client may take from its first byte to a decision. What may be HTTP by then is, and the codec refuses it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a destination is remembered as server first.
const REMEMBER: Duration = Duration::from_secs(600);
/// How many destinations are remembered.
const REMEMBERED: usize = 1024;

/// The client's side of HTTP/2 begins with this (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The methods of IANA's registry (<https://www.iana.org/assignments/http-methods>), WebDAV's among them.
const METHODS: &str = "* ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE GET HEAD LABEL LINK LOCK MERGE \
    MKACTIVITY MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE OPTIONS ORDERPATCH PATCH POST PRI PROPFIND PROPPATCH PUT \
    QUERY REBIND REPORT SEARCH TRACE UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF VERSION-CONTROL";

/// What the bytes so far say. Once decided, more bytes never change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too few bytes.
    Undecided,
    /// HTTP.
    Http(HttpVersion),
    /// Anything else.
    Opaque,
}

/// How the destination answers to a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Too few bytes.
    Undecided,
    /// HTTP/2's SETTINGS, or `HTTP/1.`: no evidence of an opaque protocol.
    Http,
    /// The server speaks first, and not HTTP.
    Opaque,
}

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Detected {
    /// HTTP. A trial connection was closed.
    Http(HttpVersion),
    /// Opaque, and not dialled yet.
    Opaque,
    /// Opaque, and this is the connection to the destination; what it has said is read ahead.
    Dialled(Io),
}

impl Detected {
    /// The version of HTTP. `None`: bytes.
    pub fn version(&self) -> Option<HttpVersion> {
        match self {
            Self::Http(version) => Some(*version),
            Self::Opaque | Self::Dialled(_) => None,
        }
    }

    /// How it was found out, where nothing was declared. `client`: what it came from.
    pub fn found(&self, client: &Io) -> Found {
        match self {
            Self::Dialled(server) if client.ahead().is_empty() => match server.ahead().is_empty() {
                true => Found::NobodySpoke,
                false => Found::ServerFirst,
            },
            _ => Found::ClientBytes,
        }
    }
}

/// How long is waited for a client.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// Until it says anything, before the destination is dialled as well.
    pub silence: Duration,
    /// Until it goes on, where the beginning of its first line is unlikely to become a request's.
    pub pause: Duration,
}

/// The first line of a stream that was taken for opaque because its client paused in it, or because it is very long.
#[derive(Debug, Default)]
pub struct FirstLine {
    /// At most [`LINE_MAX`] bytes.
    begin: Vec<u8>,
    /// Where it is longer.
    long: Option<LongLine>,
}

/// A line of which only the last word's beginning is kept.
#[derive(Debug, Default)]
struct LongLine {
    word: Vec<u8>,
    word_ended: bool,
}

/// A first line became that of an HTTP request after a pause. Its end was not passed on.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("an HTTP request, in a first line in which the client had paused")]
pub struct LateRequest;

/// Why nothing was found out.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The client failed.
    #[error("reading the first bytes")]
    Read(#[from] io::Error),
    /// The trial connection could not be made.
    #[error("the trial connection: {0}")]
    Dial(Reason),
}

/// Destinations whose servers speak first, as far as this worker has seen.
#[derive(Debug, Default)]
pub struct ServerFirst {
    until: RefCell<HashMap<SocketAddr, Instant>>,
}

/// Classifies a client's first bytes.
pub fn classify(bytes: &[u8]) -> Verdict {
    if bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes) {
        return Verdict::Undecided;
    }
    if bytes.starts_with(PREFACE) {
        return Verdict::Http(HttpVersion::H2);
    }
    classify_line(bytes)
}

/// A request line: a method, a target, and `HTTP/` as the beginning of the last word (RFC 9112 section 3). The whole line is
/// waited for, because `GET a` is Redis as well. Empty lines before it count for nothing (RFC 9112 section 2.2).
fn classify_line(bytes: &[u8]) -> Verdict {
    let line = without_empty_lines(&bytes[..bytes.len().min(LINE_MAX)]);
    let end = line.iter().position(|b| *b == b'\n');
    let line = &line[..end.unwrap_or(line.len())];
    if !may_be_request(line) {
        return Verdict::Opaque;
    }
    match end {
        Some(_)
            if last_word(line)
                .get(..5)
                .is_some_and(|w| w.eq_ignore_ascii_case(b"HTTP/")) =>
        {
            H1
        }
        Some(_) => Verdict::Opaque,
        None if bytes.len() < LINE_MAX => Verdict::Undecided,
        None if begins_as_request(line) => H1,
        None => Verdict::Opaque,
    }
}

/// Whether a line that is too long begins with a registered method and what may be a target (RFC 9112 section 3.2), so that
/// its client is to hear from the codec that it is too long.
fn begins_as_request(line: &[u8]) -> bool {
    let method = line.iter().take_while(|b| is_token(**b)).count();
    let target = without_empty_lines(&line[method..]);
    let target = target.split(|b| is_space(*b)).next().unwrap_or_default();
    is_likely_request(line) && (target.is_empty() || target.iter().any(|b| matches!(b, b'/' | b'*' | b':' | b'?')))
}

/// Whether a stream that is opaque was decided so only because its first line is so long, and may be a request's even so.
fn is_long_line(bytes: &[u8]) -> bool {
    let line = without_empty_lines(&bytes[..bytes.len().min(LINE_MAX)]);
    bytes.len() >= LINE_MAX && !line.contains(&b'\n') && may_be_request(line)
}

const H1: Verdict = Verdict::Http(HttpVersion::H1);

fn without_empty_lines(bytes: &[u8]) -> &[u8] {
    let is_empty = |b: &u8| matches!(b, b'\r' | b'\n' | b' ' | b'\t');
    let begin = bytes.iter().position(|b| !is_empty(b)).unwrap_or(bytes.len());
    &bytes[begin..]
}

/// Whether the beginning of a first line, in which a client pauses, may well become a request's: its first word is a
/// registered method as far as it goes. In either case of letters, as some servers read them.
fn is_likely_request(bytes: &[u8]) -> bool {
    let line = without_empty_lines(bytes);
    let length = line.iter().take_while(|b| is_token(**b)).count();
    let word = &line[..length];
    let is_whole = length < line.len();
    METHODS.split(' ').any(|method| {
        let begin = method.as_bytes().get(..length);
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(word)) && (!is_whole || method.len() == length)
    })
}

/// Whether a line, or the beginning of one, is what some parser may take for (the beginning of) a request line. Any token may
/// be a method (RFC 9110 section 9.1). After letters, as all methods in use are, much is forgiven, since some servers part a
/// line at any white space and take any byte in a target; after anything else nothing is, since there the bytes of binary
/// protocols look like methods (an LDAP message begins with `0`).
fn may_be_request(line: &[u8]) -> bool {
    const METHOD_MIN: usize = 3;
    let method = line.iter().take_while(|b| is_token(**b)).count();
    let rest = &line[method..];
    let Some(first) = rest.first() else {
        return method > 0 || line.is_empty();
    };
    let likely = method >= METHOD_MIN && line[..method].iter().all(u8::is_ascii_alphabetic);
    if likely {
        return is_space(*first);
    }
    let in_target = |b: &&u8| !matches!(b, b' ' | b'\t' | b'\r');
    let target = rest.iter().find(in_target);
    method > 0
        && matches!(first, b' ' | b'\t' | b'\r')
        && target.is_none_or(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'*' | b'['))
        && !rest.iter().any(|b| b.is_ascii_control() && !matches!(b, b'\r' | b'\t'))
}

fn last_word(line: &[u8]) -> &[u8] {
    let mut words = line.split(|b| is_space(*b)).filter(|word| !word.is_empty());
    words.next_back().unwrap_or_default()
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What parsers take for white space: RFC 9112 section 3, and what Latin-1 has beyond.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r' | 0x1c..=0x1f | 0x85 | 0xa0)
}

/// Classifies a server's first bytes.
pub fn classify_greeting(bytes: &[u8]) -> Greeting {
    const STATUS_LINE: &[u8] = b"HTTP/1.";
    const FRAME_HEADER: usize = 9;
    /// A first SETTINGS frame is small: there are a few dozen settings at most, of 6 bytes each.
    const SETTINGS_MAX: usize = 1024;
    if bytes.starts_with(STATUS_LINE) {
        return Greeting::Http;
    }
    if STATUS_LINE.starts_with(bytes) {
        return Greeting::Undecided;
    }
    // Length (3 bytes), type SETTINGS, no flags, stream 0 (RFC 9113 sections 4.1 and 6.5).
    let length = bytes.iter().take(3).fold(0, |length, b| length << 8 | usize::from(*b));
    let so_far = bytes.len().min(FRAME_HEADER);
    let fixed = [4, 0, 0, 0, 0, 0];
    let matches_fixed = bytes[..so_far].iter().skip(3).zip(fixed).all(|(b, want)| *b == want);
    let plausible = match so_far {
        0..=2 => {
            bytes.first().is_none_or(|b| *b == 0) && bytes.get(1).is_none_or(|b| usize::from(*b) << 8 <= SETTINGS_MAX)
        }
        _ => length <= SETTINGS_MAX && length % 6 == 0 && matches_fixed,
    };
    match plausible {
        false => Greeting::Opaque,
        true if so_far < FRAME_HEADER => Greeting::Undecided,
        true => Greeting::Http,
    }
}

/// Reads the client's first bytes. `silence`: how long it may say nothing before `None`; `pause`: see [`Waits`]. Cancel
/// safe: what was read stays read ahead.
async fn client_says(client: &mut Io, silence: Option<Duration>, pause: Duration) -> io::Result<Option<Verdict>> {
    client.watch_first_line(false);
    if client.ahead().is_empty() {
        let first = client.read_ahead(LINE_MAX);
        let read = match silence {
            Some(silence) => match timeout(silence, first).await {
                Ok(read) => read?,
                Err(_) => return Ok(None),
            },
            None => first.await?,
        };
        if read == 0 {
            return Ok(Some(Verdict::Opaque));
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match classify(client.ahead()) {
            Verdict::Undecided => {}
            Verdict::Opaque if is_long_line(client.ahead()) => {
                // More may have come than was needed to decide.
                return Ok(Some(match FirstLine::default().goes_on(client.ahead()) {
                    Err(_) => H1,
                    Ok(over) => {
                        client.watch_first_line(!over);
                        Verdict::Opaque
                    }
                }));
            }
            decided => return Ok(Some(decided)),
        }
        let likely = is_likely_request(client.ahead());
        let until = if likely {
            deadline
        } else {
            deadline.min(Instant::now() + pause)
        };
        match timeout_at(until, client.read_ahead(LINE_MAX)).await {
            Ok(read) => {
                // It ended in the middle of what might have become HTTP, and now never will.
                if read? == 0 {
                    return Ok(Some(Verdict::Opaque));
                }
            }
            // It waits for an answer.
            Err(_) if !likely => {
                client.watch_first_line(true);
                return Ok(Some(Verdict::Opaque));
            }
            // Whoever stops in the middle is not let past the codec.
            Err(_) => return Ok(Some(H1)),
        }
    }
}

/// The version of a connection that is declared to be HTTP, by the preface. `None`: the bytes are not HTTP. An error where
/// none came. Cancel safe.
pub async fn version(client: &mut Io, silence: Duration) -> io::Result<Option<HttpVersion>> {
    let mut deadline = Instant::now() + silence;
    loop {
        let ahead = client.ahead();
        match ahead.first() {
            Some(_) if ahead.starts_with(PREFACE) => return Ok(Some(HttpVersion::H2)),
            Some(_) if PREFACE.starts_with(ahead) => deadline = deadline.min(Instant::now() + PATIENCE),
            // The parser says what is wrong with a request line, and skips empty ones before it.
            Some(first) => return Ok((is_token(*first) || matches!(first, b'\r' | b'\n')).then_some(HttpVersion::H1)),
            None => {}
        }
        let read = timeout_at(deadline, client.read_ahead(LINE_MAX)).await;
        match read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))? {
            0 if client.ahead().is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => return Ok(None),
            _ => {}
        }
    }
}

/// Whether a connection that is about to be refused speaks HTTP, and so can be told why. Cancel safe.
pub async fn could_be_told(client: &mut Io, silence: Duration) -> Option<HttpVersion> {
    match client_says(client, Some(silence), silence).await {
        Ok(Some(Verdict::Http(version))) => Some(version),
        _ => None,
    }
}

/// Finds out what an undeclared connection speaks. `dial` opens the trial connection, at most once; its error ends the
/// connection, as a refusal of the destination itself would. Not cancel safe.
pub async fn protocol(
    client: &mut Io,
    destination: SocketAddr,
    Waits { silence, pause }: Waits,
    known: &ServerFirst,
    dial: impl AsyncFnOnce() -> Result<Io, ProtocolError>,
) -> Result<Detected, ProtocolError> {
    let silence = if known.contains(destination) {
        Duration::ZERO
    } else {
        silence
    };
    if let Some(verdict) = client_says(client, Some(silence), pause).await? {
        return Ok(known.learn(destination, verdict, None));
    }
    // Boxed: the trial is rare, and its future is large.
    let mut server = {
        let dial = Box::pin(dial());
        tokio::select! {
            biased; // the client's bytes win
            said = client_says(client, None, pause) => {
                // The client spoke first after all. A trial that has not been answered yet is simply dropped.
                return Ok(known.learn(destination, said?.unwrap_or(Verdict::Opaque), None));
            }
            server = dial => server?,
        }
    };
    loop {
        tokio::select! {
            biased; // the client's bytes win
            said = client_says(client, None, pause) => {
                return Ok(known.learn(destination, said?.unwrap_or(Verdict::Opaque), Some(server)));
            }
            read = server.read_ahead(LINE_MAX) => {
                // A destination that resets is as one that refuses.
                let ended = read.map_err(|_| ProtocolError::Dial(Reason::UpstreamClosed))? == 0;
                match classify_greeting(server.ahead()) {
                    Greeting::Opaque => {
                        known.remember(destination);
                        return Ok(Detected::Dialled(server));
                    }
                    _ if ended => return Ok(Detected::Dialled(server)),
                    Greeting::Undecided => {}
                    // It may be a gRPC server: whether this is HTTP, only the client says. What more the server says can
                    // wait in the kernel.
                    Greeting::Http => {
                        let said = client_says(client, None, pause).await?.unwrap_or(Verdict::Opaque);
                        return Ok(known.learn(destination, said, Some(server)));
                    }
                }
            }
        }
    }
}

impl ProtocolError {
    /// In the mesh's words.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Read(error) => why_read_failed(error),
            Self::Dial(reason) => *reason,
        }
    }
}

/// Why a client cannot be read, in the mesh's words.
pub fn why_read_failed(error: &io::Error) -> Reason {
    match error.get_ref().is_some_and(|source| source.is::<LateRequest>()) {
        true => Reason::BadRequest,
        false => Reason::ClientClosed,
    }
}

impl FirstLine {
    /// As far as it has come.
    pub fn new(so_far: &[u8]) -> Self {
        let mut line = Self::default();
        // It is not decided yet, or nothing would be watched.
        let _ = line.goes_on(so_far);
        line
    }

    /// More bytes of the stream have come. Returns whether the line is decided now, and was not a request's; if it was,
    /// [`LateRequest`].
    pub fn goes_on(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let late = || Err(io::Error::new(io::ErrorKind::InvalidData, LateRequest));
        let room = LINE_MAX - self.begin.len();
        let (begin, rest) = bytes.split_at(bytes.len().min(room));
        self.begin.extend_from_slice(begin);
        if self.long.is_none() {
            match classify(&self.begin) {
                Verdict::Undecided => return Ok(false),
                Verdict::Http(_) => return late(),
                Verdict::Opaque if !is_long_line(&self.begin) => return Ok(true),
                Verdict::Opaque => {}
            }
        }
        let long = self.long.get_or_insert_with(|| {
            let mut long = LongLine::default();
            long.goes_on(without_empty_lines(&self.begin));
            long
        });
        match long.goes_on(rest) {
            Some(true) => late(),
            over => Ok(over.is_some()),
        }
    }
}

impl LongLine {
    /// More of the line. Returns, once that is known, whether it was a request's.
    fn goes_on(&mut self, bytes: &[u8]) -> Option<bool> {
        const VERSION: &[u8] = b"HTTP/";
        for byte in bytes {
            match byte {
                b'\n' => return Some(self.word.eq_ignore_ascii_case(VERSION)),
                _ if is_space(*byte) => self.word_ended = true,
                _ => {
                    if std::mem::take(&mut self.word_ended) {
                        self.word.clear();
                    }
                    if self.word.len() < VERSION.len() {
                        self.word.push(*byte);
                    }
                }
            }
        }
        None
    }
}

impl ServerFirst {
    /// Whether the server at a destination is known to speak first.
    pub fn contains(&self, destination: SocketAddr) -> bool {
        self.until
            .borrow()
            .get(&destination)
            .is_some_and(|until| *until > Instant::now())
    }

    fn remember(&self, destination: SocketAddr) {
        let mut until = self.until.borrow_mut();
        let now = Instant::now();
        if until.len() >= REMEMBERED && !until.contains_key(&destination) {
            until.retain(|_, until| *until > now);
            if until.len() >= REMEMBERED {
                return;
            }
        }
        until.insert(destination, now + REMEMBER);
    }

    /// Turns what the client said into the outcome, and forgets a destination where it said HTTP.
    fn learn(&self, destination: SocketAddr, verdict: Verdict, trial: Option<Io>) -> Detected {
        match (verdict, trial) {
            (Verdict::Http(version), _) => {
                self.until.borrow_mut().remove(&destination);
                Detected::Http(version)
            }
            (_, Some(server)) => Detected::Dialled(server),
            (_, None) => Detected::Opaque,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const H2: Verdict = Verdict::Http(HttpVersion::H2);
    const DESTINATION: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5432);
    const SILENCE: Duration = Duration::from_millis(50);
    const WAITS: Waits = Waits {
        silence: SILENCE,
        pause: SILENCE,
    };

    #[track_caller]
    fn check(bytes: &[u8], want: Verdict) {
        assert_eq!(classify(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn http_is_known_by_its_first_line() {
        check(b"GET / HTTP/1.1\r\n", H1);
        check(b"GET / HTTP/1.0\n", H1);
        check(b"PROPFIND /a%20b?c=d HTTP/1.1\r\nHost: x\r\n", H1);
        check(b"M-SEARCH * HTTP/1.1\r\n", H1);
        check(b"CONNECT a.example:443 HTTP/1.1\r\n", H1);
        check(PREFACE, H2);
        check(b"GET / HTTP/1.1", Verdict::Undecided);
        check(b"G", Verdict::Undecided);
        check(b"", Verdict::Undecided);
        check(b"PRI * HTTP/2.0\r\n\r\n", Verdict::Undecided);
    }

    #[test]
    fn what_some_app_may_take_for_a_request_is_http() {
        for line in [
            &b"\r\nGET / HTTP/1.1\r\n"[..],
            b"\r\n\n\r\nGET / HTTP/1.1\r\n",
            b" GET / HTTP/1.1\r\n",
            b"get / HTTP/1.1\r\n",
            b"gEt /a HTTP/1.1\r\n",
            b"GET / http/1.1\r\n",
            b"GET / HTTP/1.1 \r\n",
            b"GET  /  HTTP/1.1\r\n",
            b"GET\t/ HTTP/1.1\r\n",
            b"GET\x0b/\xa0HTTP/1.1\n",
            b"GET /\r HTTP/1.1\n",
            b"GET /\0 HTTP/1.1\r\n",
            b"GET /a b c HTTP/1.1\r\n",
            b"GET / HTTP/2.0\r\n",
            b"GET / HTTP/1.15\r\n",
            b"X / HTTP/1.1\r\n",
            b"v1.get!#$%&'*+-.^_`|~ / HTTP/1.1\r\n",
            b"PRI * HTTP/2.0\r\n\r\nXX",
            b"\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            check(line, H1);
        }
    }

    #[test]
    fn what_only_looks_a_little_like_http_is_opaque() {
        for bytes in [
            &b"*1\r\n$4\r\nPING\r\n"[..],
            b"PING\r\n",
            b"QUIT\n",
            b"GET key\r\n",
            b"get key\r\n",
            b"set k 0 0 5\r\nhello\r\n",
            b"CONNECT {\"verbose\":false}\r\n",
            b"PUB a.b 5\r\nhello\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"SSH-2.0-OpenSSH_9.6p1 Ubuntu-3ubuntu13\r\n",
            b"EHLO mail\r\n",
            b"\r\nEHLO mail\r\n",
            b"MAIL FROM:<a@b>\r\n",
            b"NICK me\r\n",
            b"STOMP\naccept-version:1.2\n",
            b"INVITE sip:a@b SIP/2.0\r\n",
            b"OPTIONS rtsp://a RTSP/1.0\r\n",
            b"127.0.0.1 - - [x] \"GET / HTTP/1.1\" 200 5\n",
            b"<34>1 2003-10-11T22:14:15.003Z host app",
            b"83 <34>1 2003-10-11T22:14:15.003Z host app",
            b"{\"a\":1}",
            b"0032git-upload-pack /a\0host=b\0",
            b"AMQP\0\0\x09\x01",
            // PostgreSQL: SSLRequest, and a startup message.
            &[0, 0, 0, 8, 4, 210, 22, 47],
            b"\0\0\0\x1f\0\x03\0\0user\0",
            // LDAP: binds whose lengths are white space.
            b"0\x0c\x02\x01\x01`\x07\x02\x01\x03\x04\0\x80\0",
            b"0 \x02\x01\x01`\x1b\x02\x01\x03",
            // MongoDB, MQTT, Cassandra, TLS.
            b"A\0\0\0\x01\0\0\0",
            &[0x10, 12, 0, 4],
            &[4, 0, 0, 0, 5],
            &[0x16, 3, 1, 2, 0],
        ] {
            check(bytes, Verdict::Opaque);
        }
    }

    #[test]
    fn what_may_still_become_http_is_waited_for() {
        for bytes in [
            &b"GE"[..],
            b"\r\n",
            b"\r\nG",
            b"GET key\r",
            b"EHLO mail",
            b"PING\r",
            b"CONNECT {\"a\":1}",
            &[b'A'; 40],
        ] {
            check(bytes, Verdict::Undecided);
        }
    }

    #[test]
    fn a_line_without_end_is_for_the_codec_to_refuse() {
        let mut line = b"GET /".to_vec();
        line.resize(LINE_MAX + 10, b'a');
        check(&line, H1);
        check(&line[..LINE_MAX], H1);
        check(&line[..LINE_MAX - 1], Verdict::Undecided);
        check(&vec![b'\n'; LINE_MAX], H1);
    }

    #[test]
    fn a_long_run_of_letters_or_words_is_no_request_line() {
        for word in ["a", "deadbeef", "GET it while it is hot ", "one two "] {
            let line = word.repeat(LINE_MAX);
            check(&line.as_bytes()[..LINE_MAX - 1], Verdict::Undecided);
            check(line.as_bytes(), Verdict::Opaque);
        }
        for begin in ["GET /", "get http://a/", "CONNECT a:", "OPTIONS *"] {
            check(format!("{begin}{}", "a".repeat(LINE_MAX)).as_bytes(), H1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_line_that_ends_as_a_request_is_broken_before_it_ends() {
        for length in [
            LINE_MAX - 6,
            LINE_MAX - 1,
            LINE_MAX,
            LINE_MAX + 4000,
            100_000,
            3_000_000,
        ] {
            let (mut near, mut far) = Io::pipe(length + LINE_MAX);
            let line = "a".repeat(length) + " / HTTP/1.1\r\nx-forwarded-client-cert: URI=spiffe://a/ns/b/sa/c\r\n\r\n";
            far.write_all(line.as_bytes()).await.unwrap();
            let known = ServerFirst::default();
            let detected = protocol(&mut near, DESTINATION, WAITS, &known, never_dialled).await;
            if matches!(detected.unwrap(), Detected::Http(HttpVersion::H1)) {
                assert!(length < LINE_MAX + 4096, "{length}");
                continue;
            }
            let mut seen = Vec::new();
            let error = near.read_to_end(&mut seen).await.unwrap_err();
            assert_eq!(why_read_failed(&error), Reason::BadRequest, "{length}");
            assert!(!seen.contains(&b'\n'), "{length}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_line_of_bytes_goes_through_whole() {
        for end in ["", "\nGET / HTTP/1.1\r\n", " and no more\n"] {
            let sent = "deadbeef".repeat(400_000) + end;
            let (mut near, mut far) = Io::pipe(sent.len());
            far.write_all(sent.as_bytes()).await.unwrap();
            drop(far);
            let known = ServerFirst::default();
            let detected = protocol(&mut near, DESTINATION, WAITS, &known, never_dialled).await;
            assert!(matches!(detected.unwrap(), Detected::Opaque));
            let mut seen = Vec::new();
            near.read_to_end(&mut seen).await.unwrap();
            assert!(seen == sent.as_bytes(), "{end:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stops_in_a_request_line_is_left_to_the_codec_and_whoever_ends_is_not() {
        for start in [&b"GE"[..], b"\r\n", b"GET / HTT", b"PRI * HTTP/2"] {
            let script: &[(u64, &[u8])] = &[(0, start), (6_000, b"T / HTTP/1.1\r\n")];
            let detected = detect(&ServerFirst::default(), script, None).await;
            assert!(matches!(detected, Detected::Http(HttpVersion::H1)), "{detected:?}");
        }
        let (mut near, mut far) = Io::pipe(64);
        far.write_all(b"hello").await.unwrap();
        drop(far);
        let detected = protocol(&mut near, DESTINATION, WAITS, &ServerFirst::default(), never_dialled).await;
        assert!(matches!(detected.unwrap(), Detected::Opaque));
    }

    #[tokio::test]
    async fn a_declared_port_leaves_odd_request_lines_to_the_codec() {
        for (bytes, want) in [
            (&b"\r\nGET / HTTP/1.1\r\n"[..], Some(HttpVersion::H1)),
            (b"get / HTTP/1.1\r\n", Some(HttpVersion::H1)),
            (b"1 / HTTP/1.1\r\n", Some(HttpVersion::H1)),
            (PREFACE, Some(HttpVersion::H2)),
            (b"\x16\x03\x01", None),
            (b"\0", None),
        ] {
            let (mut near, mut far) = Io::pipe(1024);
            far.write_all(bytes).await.unwrap();
            assert_eq!(version(&mut near, SILENCE).await.unwrap(), want, "{bytes:?}");
        }
    }

    #[test]
    fn greetings_of_http_servers_are_no_evidence() {
        let settings = [0, 0, 18, 4, 0, 0, 0, 0, 0, 0, 3];
        assert_eq!(classify_greeting(&settings), Greeting::Http);
        assert_eq!(classify_greeting(b"HTTP/1.1 408 "), Greeting::Http);
        assert_eq!(classify_greeting(b"HTT"), Greeting::Undecided);
        let mysql = [0x4a, 0, 0, 0, 10, b'8', b'.', b'0'];
        assert_eq!(classify_greeting(&mysql), Greeting::Opaque);
        assert_eq!(classify_greeting(b"220 mail ESMTP\r\n"), Greeting::Opaque);
        assert_eq!(classify_greeting(b"SSH-2.0-x\r\n"), Greeting::Opaque);
        assert_eq!(classify_greeting(b"INFO {}\r\n"), Greeting::Opaque);
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_a_verdict(bytes in starts(), cut in 0_usize..200) {
            let cut = cut.min(bytes.len());
            let early = classify(&bytes[..cut]);
            if early != Verdict::Undecided {
                prop_assert_eq!(early, classify(&bytes));
            }
            let early = classify_greeting(&bytes[..cut]);
            if early != Greeting::Undecided {
                prop_assert_eq!(early, classify_greeting(&bytes));
            }
        }
    }

    /// Bytes that begin like something, so that the interesting branches are met.
    fn starts() -> impl Strategy<Value = Vec<u8>> {
        let begin = prop_oneof![
            Just(b"GET /index HTTP/1.1\r\n".to_vec()),
            Just(PREFACE.to_vec()),
            Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
            Just(vec![0, 0, 18, 4, 0, 0, 0, 0, 0]),
            "[A-Z]{0,5} [a-z/]{0,5} HTTP/1.[019]\r?\n?".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..40),
        ];
        (begin, 0_usize..30, proptest::collection::vec(any::<u8>(), 0..60)).prop_map(|(mut begin, keep, rest)| {
            begin.truncate(keep);
            begin.extend(rest);
            begin
        })
    }

    /// The client's end, and what detection made of the other, with a destination that answers `greeting`.
    async fn detect(known: &ServerFirst, script: &[(u64, &[u8])], greeting: Option<&[u8]>) -> Detected {
        let (mut near, mut far) = Io::pipe(64 * 1024);
        let talk = async {
            for (after, bytes) in script {
                tokio::time::sleep(Duration::from_millis(*after)).await;
                far.write_all(bytes).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let dial = async || -> Result<Io, ProtocolError> {
            let (mut server, ours) = Io::pipe(1024);
            server.write_all(greeting.unwrap_or_default()).await?;
            // The server stays: its end is kept by a task that waits for the connection to end.
            tokio::spawn(async move {
                let _ = server.read_ahead(1).await;
                server
            });
            Ok(ours)
        };
        tokio::select! {
            () = talk => unreachable!(),
            detected = protocol(&mut near, DESTINATION, WAITS, known, dial) => detected.unwrap(),
        }
    }

    async fn never_dialled() -> Result<Io, ProtocolError> {
        panic!("a client that speaks needs no trial")
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_speaks_at_once_costs_no_trial() {
        for (bytes, want_http) in [(&b"GET / HTTP/1.1\r\n"[..], true), (&b"\x00\x01"[..], false)] {
            let (mut near, mut far) = Io::pipe(1024);
            far.write_all(bytes).await.unwrap();
            let known = ServerFirst::default();
            let detected = protocol(&mut near, DESTINATION, WAITS, &known, never_dialled)
                .await
                .unwrap();
            assert_eq!(matches!(detected, Detected::Http(HttpVersion::H1)), want_http);
            assert_eq!(matches!(detected, Detected::Opaque), !want_http);
            assert_eq!(near.ahead(), bytes, "nothing is taken");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_line_one_byte_at_a_time_is_http() {
        let line = b"GET / HTTP/1.1\r\n";
        let script: Vec<(u64, &[u8])> = line.chunks(1).map(|byte| (100, byte)).collect();
        assert!(matches!(
            detect(&ServerFirst::default(), &script, None).await,
            Detected::Http(HttpVersion::H1)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_word_that_is_no_method_and_a_pause_are_opaque_and_a_methods_beginning_is_not() {
        for word in [
            &b"ruok"[..],
            b"\r\nruok",
            b"stat",
            b"PING",
            b"EHLO mail",
            b"GETX",
            b"FOO /",
            b"F",
        ] {
            let begun = Instant::now();
            let detected = detect(&ServerFirst::default(), &[(0, word)], None).await;
            assert!(matches!(detected, Detected::Opaque), "{word:?}: {detected:?}");
            assert_eq!(begun.elapsed(), SILENCE, "{word:?}");
        }
        for word in [
            &b"GE"[..],
            b"get",
            b"Report",
            b"M",
            b"baseline-con",
            b"GET key",
            b"\r\n",
            b"*",
            b"PRI *",
        ] {
            let begun = Instant::now();
            let detected = detect(&ServerFirst::default(), &[(0, word)], None).await;
            assert!(
                matches!(detected, Detected::Http(HttpVersion::H1)),
                "{word:?}: {detected:?}"
            );
            assert_eq!(begun.elapsed(), PATIENCE, "{word:?}");
        }
        // No pause: whatever its method is.
        let script: &[(u64, &[u8])] = &[(0, b"FOO"), (40, b" / HTTP"), (40, b"/1.1\r\n")];
        let detected = detect(&ServerFirst::default(), script, None).await;
        assert!(matches!(detected, Detected::Http(HttpVersion::H1)), "{detected:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_behind_a_pause_is_broken_before_its_line_ends() {
        let forged = b" / HTTP/1.1\r\nx-forwarded-client-cert: URI=spiffe://a/ns/b/sa/c\r\n\r\n";
        for cut in 0..forged.len() {
            let (mut near, mut far) = Io::pipe(1024);
            far.write_all(b"FOO").await.unwrap();
            let known = ServerFirst::default();
            let detected = protocol(&mut near, DESTINATION, WAITS, &known, never_dialled).await;
            assert!(matches!(detected.unwrap(), Detected::Opaque));
            let mut seen = Vec::new();
            // Whichever way it is read.
            let mut error = None;
            for piece in [&forged[..cut], &forged[cut..]]
                .into_iter()
                .filter(|piece| !piece.is_empty())
            {
                far.write_all(piece).await.unwrap();
                let read = match cut % 2 {
                    0 => near.read_ahead(1024).await.map(|_| ()),
                    _ => near.read_buf(&mut seen).await.map(|_| ()),
                };
                let read = match read {
                    Ok(()) => near.read_buf(&mut seen).now_or_never().unwrap_or(Ok(0)).map(|_| ()),
                    failed => failed,
                };
                if let Err(failed) = read {
                    error = Some(failed);
                    break;
                }
            }
            assert_eq!(
                error.map(|error| why_read_failed(&error)),
                Some(Reason::BadRequest),
                "{cut}"
            );
            assert!(!seen.contains(&b'\n'), "{:?}", String::from_utf8_lossy(&seen));
        }
        let (mut near, mut far) = Io::pipe(1024);
        for piece in [&b"ruok"[..], b"stat\nGET / HTTP/1.1\r\n"] {
            far.write_all(piece).await.unwrap();
            if near.ahead().is_empty() {
                let known = ServerFirst::default();
                let detected = protocol(&mut near, DESTINATION, WAITS, &known, never_dialled).await;
                assert!(matches!(detected.unwrap(), Detected::Opaque));
            }
        }
        assert_eq!(
            near.read_ahead(1024).await.unwrap(),
            21,
            "another line of the same stream is its own affair"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_greets_makes_the_port_opaque_and_remembered() {
        let known = ServerFirst::default();
        let begun = Instant::now();
        assert!(
            matches!(detect(&known, &[], Some(b"220 mail\r\n")).await, Detected::Dialled(io) if io.ahead() == b"220 mail\r\n")
        );
        assert_eq!(begun.elapsed(), SILENCE);
        let again = Instant::now();
        assert!(matches!(
            detect(&known, &[], Some(b"220 mail\r\n")).await,
            Detected::Dialled(_)
        ));
        assert!(
            again.elapsed() <= Duration::from_millis(1),
            "the second time nothing is waited for"
        );
        tokio::time::advance(REMEMBER).await;
        assert!(!known.contains(DESTINATION));
    }

    #[tokio::test(start_paused = true)]
    async fn http_from_a_slow_client_is_still_http_and_unlearns() {
        let known = ServerFirst::default();
        known.remember(DESTINATION);
        let script: &[(u64, &[u8])] = &[(15_000, b"GET / HTTP/1.1\r\n")];
        assert!(matches!(
            detect(&known, script, None).await,
            Detected::Http(HttpVersion::H1)
        ));
        assert!(!known.contains(DESTINATION));
    }

    #[tokio::test(start_paused = true)]
    async fn a_grpc_server_that_sends_settings_first_is_still_http() {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let known = ServerFirst::default();
        let script: &[(u64, &[u8])] = &[(3_000, PREFACE)];
        assert!(matches!(
            detect(&known, script, Some(&settings)).await,
            Detected::Http(HttpVersion::H2)
        ));
        assert!(!known.contains(DESTINATION));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_of_an_opaque_protocol_gets_the_trial_connection() {
        let script: &[(u64, &[u8])] = &[(500, &[1, 2, 3])];
        assert!(matches!(
            detect(&ServerFirst::default(), script, None).await,
            Detected::Dialled(_)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_fails_ends_the_connection() {
        let (mut near, _far) = Io::pipe(64);
        let known = ServerFirst::default();
        let refused = async || Err::<Io, _>(ProtocolError::Dial(Reason::ConnectFailed));
        let error = protocol(&mut near, DESTINATION, WAITS, &known, refused)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), Reason::ConnectFailed);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let _guard = runtime.enter();
        let known = ServerFirst::default();
        for n in 0..2_000_u32 {
            known.remember(SocketAddr::new(std::net::IpAddr::from(n.to_be_bytes()), 1));
        }
        assert_eq!(known.until.borrow().len(), REMEMBERED);
    }
}
