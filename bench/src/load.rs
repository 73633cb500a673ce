//! The load that wrk and h2load don't make: a fixed rate without coordinated omission, new connections, streams, idle
//! connections; and the server for what is not HTTP. Plain threads and blocking sockets.
//!
//! All of it runs inside pods, as `weft-bench load …`, and prints one JSON object.

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use serde_json::{Value, json};

pub mod http;
mod rate;

/// What a stream is written and read in.
const BLOCK: usize = 64 * 1024;
/// A peer that is silent for so long is broken.
const PATIENCE: Duration = Duration::from_secs(20);

const READY: &[u8] = b"GET /ready HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n";

/// What a client sends first to the server for bytes.
const ECHO: u8 = b'e';
const SINK: u8 = b's';

/// Which part of the idle connections is opened first, to be left out of the account.
pub const IDLE_FIRST: u32 = 10;

/// A kind of load.
#[derive(Debug, Subcommand)]
pub enum Load {
    /// HTTP/1.1 requests at a fixed rate; a late one counts from when it was to be sent
    Rate {
        /// HOST:PORT
        server: String,
        /// Requests per second
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        /// Connections that share them
        #[arg(long, default_value_t = 32)]
        connections: u32,
        /// For how long
        #[arg(long, default_value_t = 10)]
        seconds: u32,
    },
    /// A new connection for one byte and its echo, over and over
    Connect {
        /// HOST:PORT
        server: String,
        /// At the same time
        #[arg(long, default_value_t = 16)]
        workers: u32,
        /// For how long
        #[arg(long, default_value_t = 5)]
        seconds: u32,
    },
    /// One stream of bytes
    Stream {
        /// HOST:PORT
        server: String,
        /// How much
        #[arg(long, default_value_t = 1024)]
        mib: u64,
    },
    /// HTTP/1.1 connections that carried one request each and are kept, until standard input ends. After a tenth of them a
    /// line is waited for
    Idle {
        /// HOST:PORT
        server: String,
        /// How many
        #[arg(long, default_value_t = 1000)]
        connections: u32,
    },
    /// Starts a program, and says after how many milliseconds GET /ready is answered with 200; then ends it
    Start {
        /// ADDRESS:PORT of the program's admin server
        admin: String,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// The server for connections and streams
    Serve {
        /// The port
        #[arg(long, default_value_t = 9000)]
        port: u16,
    },
}

impl Load {
    /// Makes it, and says how it went.
    pub fn run(self) -> Result<Value> {
        match self {
            Self::Rate {
                server,
                rate,
                connections,
                seconds,
            } => rate::run(&server, rate, connections, seconds),
            Self::Connect {
                server,
                workers,
                seconds,
            } => connect(&server, workers, seconds),
            Self::Stream { server, mib } => stream(&server, mib),
            Self::Idle { server, connections } => idle(&server, connections),
            Self::Start { admin, command } => start(&admin, &command),
            Self::Serve { port } => serve(port),
        }
    }
}

fn resolved(server: &str) -> Result<SocketAddr> {
    let mut addresses = server.to_socket_addrs().with_context(|| server.to_owned())?;
    addresses.next().with_context(|| format!("{server} has no address"))
}

fn dial(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn connect(server: &str, workers: u32, seconds: u32) -> Result<Value> {
    let server = resolved(server)?;
    let (made, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    let end = began + Duration::from_secs(u64::from(seconds));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while Instant::now() < end {
                    let count = if echo(server).is_ok() { &made } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    Ok(json!({"done": made.into_inner(), "failed": failed.into_inner(), "seconds": began.elapsed().as_secs_f64()}))
}

fn echo(server: SocketAddr) -> Result<()> {
    let mut stream = dial(server)?;
    stream.write_all(&[ECHO])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    ensure!(answer == [ECHO], "another byte came back");
    Ok(())
}

fn stream(server: &str, mib: u64) -> Result<Value> {
    let mut stream = dial(resolved(server)?)?;
    let block = vec![0x5a; BLOCK];
    let began = Instant::now();
    stream.write_all(&[SINK])?;
    let blocks = mib * 1024 * 1024 / BLOCK as u64;
    for _ in 0..blocks {
        stream.write_all(&block)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    let (arrived, sent) = (u64::from_be_bytes(count), blocks * BLOCK as u64);
    ensure!(arrived == sent, "{arrived} of {sent} bytes arrived");
    Ok(json!({"done": mib, "failed": 0, "seconds": began.elapsed().as_secs_f64()}))
}

fn idle(server: &str, connections: u32) -> Result<Value> {
    let server = resolved(server)?;
    let mut held = Vec::new();
    let mut out = std::io::stdout();
    let mut said = std::io::stdin().lock();
    for i in 0..connections {
        if i == connections / IDLE_FIRST {
            writeln!(out, "begun")?;
            out.flush()?;
            said.read_line(&mut String::new())?;
        }
        let mut client = http::Client::dial(server).with_context(|| format!("connection {i}"))?;
        client.get(http::GET)?;
        held.push(client);
    }
    writeln!(out, "open")?;
    out.flush()?;
    std::io::copy(&mut said, &mut std::io::sink())?;
    Ok(json!({"done": held.len(), "failed": 0}))
}

fn start(admin: &str, command: &[String]) -> Result<Value> {
    let admin = resolved(admin)?;
    let (program, args) = command.split_first().context("no program")?;
    let began = Instant::now();
    let mut child = std::process::Command::new(program).args(args).spawn()?;
    let ready = loop {
        if http::is_ok(admin, READY) {
            break Some(began.elapsed());
        }
        if began.elapsed() > PATIENCE || child.try_wait()?.is_some() {
            break None;
        }
        thread::sleep(Duration::from_millis(1));
    };
    // It may have ended by itself, which is said below.
    let _ = child.kill();
    let status = child.wait()?;
    let took = ready.with_context(|| format!("{program} was never ready ({status})"))?;
    Ok(json!({"done": 1, "failed": 0, "ms": took.as_secs_f64() * 1e3}))
}

fn serve(port: u16) -> Result<Value> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for connection in listener.incoming() {
        // A client that went away is its own affair.
        thread::spawn(move || connection.map_err(anyhow::Error::from).and_then(answer));
    }
    Ok(Value::Null)
}

fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    if first == [ECHO] {
        return Ok(stream.write_all(&first)?);
    }
    let (mut block, mut count) = (vec![0; BLOCK], 0_u64);
    loop {
        match stream.read(&mut block)? {
            0 => break,
            n => count += n as u64,
        }
    }
    Ok(stream.write_all(&count.to_be_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for connection in listener.incoming() {
                thread::spawn(move || answer(connection.unwrap()));
            }
        });
        address
    }

    #[test]
    fn a_byte_comes_back_and_a_stream_is_counted() {
        let server = a_server();
        echo(server).unwrap();
        assert_eq!(stream(&server.to_string(), 3).unwrap()["done"], 3);
    }

    #[test]
    fn a_server_that_is_not_there_is_counted_as_failures() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let said = connect(&nobody.to_string(), 1, 0).unwrap();
        assert_eq!((said["done"].as_u64(), said["failed"].as_u64()), (Some(0), Some(0)));
        assert!(echo(nobody).is_err());
    }
}
