//! Load on a Service that several clusters have: HTTP/1.1, gRPC streams and opaque TCP at once, so that what fails over is more
//! than requests that anybody would send again.
//!
//! It runs inside pods, as `weft-load-peer`. The server says who it is in every answer; the client counts the answers by that,
//! and all that is not one.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, timeout};

mod echo;

/// Where the server listens for each protocol, and the Service's port that leads there.
pub const PORTS: [(Protocol, u16, u16); 3] = [
    (Protocol::Http, 8080, 80),
    (Protocol::Grpc, 8081, 7000),
    (Protocol::Tcp, 8082, 9000),
];
/// The file that ends a load, in the client's own `/tmp`.
pub const ENOUGH: &str = "/tmp/enough";
/// A load that nobody ends.
const LONGEST: Duration = Duration::from_secs(300);
/// An exchange that takes so long has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// A stream says so many things, so far apart: it is under way while endpoints go.
const MESSAGES: usize = 4;
const PAUSE: Duration = Duration::from_millis(25);
/// What shares a load. None waits for another.
const WORKERS: u32 = 24;
/// Kinds of failures that are told apart.
const FAILURES: usize = 20;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Requests on connections that are kept.
    Http,
    /// A stream of messages each way, on one channel.
    Grpc,
    /// A connection for each conversation, of lines.
    Tcp,
}

impl std::str::FromStr for Protocol {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = [Self::Http, Self::Grpc, Self::Tcp];
        let found = found.into_iter().find(|one| one.as_str() == text);
        found.with_context(|| format!("{text:?} is none of http, grpc, tcp"))
    }
}

impl Protocol {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    fn port(self) -> (u16, u16) {
        let found = PORTS.into_iter().find(|(protocol, ..)| *protocol == self);
        let (_, pods, services) = found.expect("every protocol has its ports");
        (pods, services)
    }
}

/// Serves all protocols until told to end, and what is under way to its end: as a well-behaved app does.
///
/// # Errors
/// A port is taken.
pub async fn serve(name: &str) -> Result<()> {
    let (end, ending) = watch::channel(false);
    let mut told = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut all = JoinSet::new();
    for (protocol, port, _) in PORTS {
        let listener = TcpListener::bind(("::", port)).await;
        let listener = listener.with_context(|| format!("port {port}"))?;
        let (name, ending) = (Arc::from(name), ending.clone());
        match protocol {
            Protocol::Grpc => all.spawn(echo::serve(listener, name, ending)),
            Protocol::Http | Protocol::Tcp => all.spawn(accept(listener, protocol, name, ending)),
        };
    }
    told.recv().await;
    end.send_replace(true);
    while all.join_next().await.is_some() {}
    Ok(())
}

/// Accepts until it ends, then waits for what is under way.
async fn accept(listener: TcpListener, protocol: Protocol, name: Arc<str>, mut ending: watch::Receiver<bool>) {
    let mut open = JoinSet::new();
    loop {
        let socket = tokio::select! {
            _ = ending.wait_for(|ending| *ending) => break,
            accepted = listener.accept() => accepted,
        };
        if let Ok((socket, _)) = socket {
            let (name, ending) = (name.clone(), ending.clone());
            open.spawn(async move {
                // A client that went away is its own business.
                let _ = match protocol {
                    Protocol::Http => answer_requests(socket, &name, ending).await,
                    Protocol::Tcp | Protocol::Grpc => answer_lines(socket, &name).await,
                };
            });
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

async fn answer_requests(socket: TcpStream, name: &str, mut ending: watch::Receiver<bool>) -> io::Result<()> {
    let mut socket = BufReader::new(socket);
    loop {
        let head = tokio::select! {
            // Biased: a request that is there is answered.
            biased;
            head = head(&mut socket) => head?,
            _ = ending.wait_for(|ending| *ending) => return Ok(()),
        };
        if head.is_empty() {
            return Ok(());
        }
        let caller = field(&head, "x-forwarded-client-cert").unwrap_or("nobody");
        let body = format!("{name} {caller}");
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        socket.get_mut().write_all(answer.as_bytes()).await?;
    }
}

async fn answer_lines(socket: TcpStream, name: &str) -> io::Result<()> {
    let (reader, mut writer) = socket.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        writer.write_all(format!("{name} {line}\n").as_bytes()).await?;
    }
    Ok(())
}

/// A head, up to its empty line. Empty at the end of the stream.
async fn head(socket: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut head = String::new();
    loop {
        let read = socket.read_line(&mut head).await?;
        if read == 0 || head.ends_with("\r\n\r\n") {
            return Ok(head);
        }
    }
}

/// A field of a head.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut found = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.trim())
}

/// One that makes exchanges, one after the other.
struct Client {
    host: Arc<str>,
    protocol: Protocol,
    kept: Option<BufReader<TcpStream>>,
    channel: Option<tonic::transport::Channel>,
}

/// Calls a host so often a second, until so many were made or [`ENOUGH`] is there: how many were answered by whom.
///
/// # Errors
/// The protocol can't be spoken at all.
pub async fn drive(host: &str, protocol: Protocol, rate: u32, count: u32) -> Result<BTreeMap<String, u64>> {
    ensure!(rate > 0, "the rate must be above 0");
    let tally: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let workers = WORKERS.min(rate).min(count.max(1));
    let channel = echo::channel(host, protocol.port().1)?;
    let began = Instant::now();
    let mut all = JoinSet::new();
    for worker in 0..workers {
        let mut client = Client {
            host: Arc::from(host),
            protocol,
            kept: None,
            channel: Some(channel.clone()),
        };
        let tally = tally.clone();
        let apart = Duration::from_secs(1) / rate;
        // The first of them have one more.
        let own = count / workers + u32::from(worker < count % workers);
        let mut turns = interval_at(began + apart * worker, apart * workers);
        all.spawn(async move {
            for _ in 0..own {
                turns.tick().await;
                if began.elapsed() > LONGEST || std::fs::exists(ENOUGH).unwrap_or(true) {
                    return;
                }
                note(&tally, client.exchange().await);
            }
        });
    }
    while all.join_next().await.is_some() {}
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(tally.clone())
}

fn note(tally: &Mutex<BTreeMap<String, u64>>, came: Result<String>) {
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let who = match came {
        Ok(who) => who,
        Err(_) if tally.len() >= FAILURES => "failed otherwise".to_owned(),
        Err(error) => format!("failed: {error:#}").replace('\n', " "),
    };
    *tally.entry(who).or_default() += 1;
}

impl Client {
    /// One exchange: who has answered it.
    async fn exchange(&mut self) -> Result<String> {
        let exchange = async {
            match self.protocol {
                Protocol::Http => self.request().await,
                Protocol::Grpc => {
                    let channel = self.channel.clone().context("no channel")?;
                    echo::stream(channel, MESSAGES, PAUSE).await
                }
                Protocol::Tcp => self.lines().await,
            }
        };
        let came = timeout(PATIENCE, exchange).await;
        let came = came.unwrap_or_else(|_| bail!("not within {PATIENCE:?}"));
        if came.is_err() {
            self.kept = None;
        }
        came
    }

    async fn connect(&self) -> Result<TcpStream> {
        let socket = TcpStream::connect((&*self.host, self.protocol.port().1)).await;
        let socket = socket.context("connecting")?;
        socket.set_nodelay(true).context("connecting")?;
        Ok(socket)
    }

    async fn request(&mut self) -> Result<String> {
        let mut socket = match self.kept.take() {
            Some(kept) => kept,
            None => BufReader::new(self.connect().await?),
        };
        let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", self.host);
        socket.get_mut().write_all(request.as_bytes()).await.context("asking")?;
        let head = head(&mut socket).await.context("the answer's head")?;
        let length = field(&head, "content-length").and_then(|length| length.parse().ok());
        let length: usize = length.with_context(|| format!("an answer without a length: {head:?}"))?;
        let mut body = vec![0; length.min(1 << 16)];
        socket.read_exact(&mut body).await.context("the answer's body")?;
        let body = String::from_utf8_lossy(&body).into_owned();
        ensure!(head.starts_with("HTTP/1.1 200"), "{head} {body}");
        self.kept = Some(socket);
        first(&body)
    }

    /// A conversation, all of it with one server.
    async fn lines(&self) -> Result<String> {
        let (reader, mut writer) = self.connect().await?.into_split();
        let mut lines = BufReader::new(reader).lines();
        let mut who = None;
        for at in 0..MESSAGES {
            writer
                .write_all(format!("line {at}\n").as_bytes())
                .await
                .with_context(|| format!("saying line {at}"))?;
            let heard = lines.next_line().await.with_context(|| format!("hearing line {at}"))?;
            answered(&mut who, at, heard.as_deref())?;
            sleep(PAUSE).await;
        }
        writer.shutdown().await.context("ending")?;
        ensure!(
            lines.next_line().await.context("its end")?.is_none(),
            "more than was said"
        );
        who.context("nothing was said")
    }
}

/// That what was heard is the answer to what was said, by the one who has answered before.
fn answered(who: &mut Option<String>, at: usize, heard: Option<&str>) -> Result<()> {
    let heard = heard.with_context(|| format!("the end in the place of line {at}"))?;
    ensure!(
        heard.ends_with(&format!(" line {at}")),
        "{heard:?} in the place of line {at}"
    );
    let name = first(heard)?;
    ensure!(
        who.as_ref().is_none_or(|before| *before == name),
        "{name} goes on for {who:?}"
    );
    *who = Some(name);
    Ok(())
}

fn first(text: &str) -> Result<String> {
    let word = text.split_whitespace().next();
    word.map(str::to_owned).context("an answer of nobody")
}
