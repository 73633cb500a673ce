//! Detect: what protocol a connection speaks, by its first bytes, without a fixed wait.
//!
//! In: a stream of which nothing is declared, and a way to dial where it goes. Out: HTTP/1, HTTP/2 or opaque, with the
//! trial connection where one was made and is of use. Design: the client's bytes always win; a server that greets with
//! something that is not HTTP makes a port *server first*, for a while; a server that greets as gRPC servers do proves
//! nothing; and HTTP from a slow client is still HTTP.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use weft_model::reason::Reason;

use crate::http::HttpVersion;
use crate::io::Io;

/// What is looked at of a client before it is decided that a first line this long is not HTTP. Above what servers accept.
const LINE_MAX: usize = 16 * 1024;
/// How long a client may take from its first byte to a decision. Then it is opaque.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a destination is remembered as server first.
const REMEMBER: Duration = Duration::from_secs(600);
/// How many destinations are remembered.
const REMEMBERED: usize = 1024;

/// The client's side of HTTP/2 begins with this (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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

/// A request line: a method of capitals, a target, and `HTTP/1.x` before the end of the line. The whole line is waited for,
/// because `GET a` is Redis as well.
fn classify_line(bytes: &[u8]) -> Verdict {
    const METHOD_MAX: usize = 32;
    let in_method = |b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let method = bytes.iter().take_while(|b| in_method(b)).count();
    if method == 0 || method > METHOD_MAX {
        return Verdict::Opaque;
    }
    match bytes.get(method) {
        None => return Verdict::Undecided,
        Some(b' ') => {}
        Some(_) => return Verdict::Opaque,
    }
    let rest = &bytes[method + 1..];
    let Some(end) = rest.iter().take(LINE_MAX).position(|b| *b == b'\n' || is_control(*b)) else {
        return if rest.len() < LINE_MAX {
            Verdict::Undecided
        } else {
            Verdict::Opaque
        };
    };
    if rest[end] != b'\n' {
        return Verdict::Opaque;
    }
    let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
    let version = line.len().checked_sub(b" HTTP/1.1".len()).map(|at| &line[at..]);
    match version {
        Some(version) if version.starts_with(b" HTTP/1.") && version[8].is_ascii_digit() => {
            Verdict::Http(HttpVersion::H1)
        }
        _ => Verdict::Opaque,
    }
}

/// Control characters that no request line has. `\r` may come before `\n`; tabs are left to the parser to refuse.
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && !matches!(byte, b'\r' | b'\n' | b'\t')
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

/// Reads the client's first bytes. `silence`: how long it may say nothing before `None`. Cancel safe: what was read stays
/// read ahead.
async fn client_says(client: &mut Io, silence: Option<Duration>) -> io::Result<Option<Verdict>> {
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
            decided => return Ok(Some(decided)),
        }
        let read = timeout_at(deadline, client.read_ahead(LINE_MAX))
            .await
            .unwrap_or(Ok(0))?;
        if read == 0 {
            // It ended, or stopped, in the middle of what might have become HTTP.
            return Ok(Some(Verdict::Opaque));
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
            // The parser says what is wrong with a request line.
            Some(first) => return Ok(first.is_ascii_alphabetic().then_some(HttpVersion::H1)),
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
    match client_says(client, Some(silence)).await {
        Ok(Some(Verdict::Http(version))) => Some(version),
        _ => None,
    }
}

/// Finds out what an undeclared connection speaks. `dial` opens the trial connection, at most once; its error ends the
/// connection, as a refusal of the destination itself would. Not cancel safe.
pub async fn protocol(
    client: &mut Io,
    destination: SocketAddr,
    silence: Duration,
    known: &ServerFirst,
    dial: impl AsyncFnOnce() -> Result<Io, ProtocolError>,
) -> Result<Detected, ProtocolError> {
    let silence = if known.contains(destination) {
        Duration::ZERO
    } else {
        silence
    };
    if let Some(verdict) = client_says(client, Some(silence)).await? {
        return Ok(known.learn(destination, verdict, None));
    }
    // Boxed: the trial is rare, and its future is large.
    let mut server = {
        let dial = Box::pin(dial());
        tokio::select! {
            biased; // the client's bytes win
            said = client_says(client, None) => {
                // The client spoke first after all. A trial that has not been answered yet is simply dropped.
                return Ok(known.learn(destination, said?.unwrap_or(Verdict::Opaque), None));
            }
            server = dial => server?,
        }
    };
    loop {
        tokio::select! {
            biased; // the client's bytes win
            said = client_says(client, None) => {
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
                        let said = client_says(client, None).await?.unwrap_or(Verdict::Opaque);
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
            Self::Read(_) => Reason::ClientClosed,
            Self::Dial(reason) => *reason,
        }
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
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    const H1: Verdict = Verdict::Http(HttpVersion::H1);
    const H2: Verdict = Verdict::Http(HttpVersion::H2);
    const DESTINATION: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5432);
    const SILENCE: Duration = Duration::from_millis(50);

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
    fn what_only_looks_a_little_like_http_is_opaque() {
        check(b"*1\r\n$4\r\nPING\r\n", Verdict::Opaque);
        check(b"PING\r\n", Verdict::Opaque);
        check(b"GET key\r\n", Verdict::Opaque);
        check(b"get key\r\n", Verdict::Opaque);
        check(b"CONNECT {\"verbose\":false}\r\n", Verdict::Opaque);
        check(b"SSH-2.0-OpenSSH_9.2\r\n", Verdict::Opaque);
        check(b"EHLO mail\r\n", Verdict::Opaque);
        check(&[0x16, 3, 1, 2, 0], Verdict::Opaque);
        check(&[0, 0, 0, 8, 4, 210, 22, 47], Verdict::Opaque);
        check(b"GET /\0 HTTP/1.1\r\n", Verdict::Opaque);
        check(b"PRI * HTTP/2.0\r\n\r\nXX", Verdict::Opaque);
        check(&[b'A'; 40], Verdict::Opaque);
    }

    #[test]
    fn a_line_without_end_is_opaque() {
        let mut line = b"GET /".to_vec();
        line.resize(LINE_MAX + 10, b'a');
        check(&line, Verdict::Opaque);
        check(&line[..1000], Verdict::Undecided);
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
            detected = protocol(&mut near, DESTINATION, SILENCE, known, dial) => detected.unwrap(),
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
            let detected = protocol(&mut near, DESTINATION, SILENCE, &known, never_dialled)
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
        let error = protocol(&mut near, DESTINATION, SILENCE, &known, refused)
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
