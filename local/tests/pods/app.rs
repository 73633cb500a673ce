//! The application inside the pods: a few words that do one thing each.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

/// Does what the first word says.
pub(crate) fn main(words: &[String]) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["echo", port] => echo(port),
        ["say", address, text] => say(address, text),
        ["mark"] => mark(),
        ["sleep"] => stay(),
        ["listen-later", file, port] => {
            while !std::path::Path::new(file).exists() {
                sleep(Duration::from_millis(10));
            }
            echo(port)
        }
        ["pair", a, b] => pair(a, b),
        ref other => Err(io::Error::other(format!("unknown words {other:?}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("app: {error}");
            ExitCode::FAILURE
        }
    }
}

fn stay() -> io::Result<()> {
    loop {
        sleep(Duration::from_secs(3600));
    }
}

/// Serves one connection after the other: who calls, then what it says.
fn echo(port: &str) -> io::Result<()> {
    let port = port.parse().map_err(io::Error::other)?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    println!("listening on {port}");
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || {
            let peer = stream.peer_addr()?.ip().to_canonical();
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            write!(stream, "{peer} says {text}")
        });
    }
    Ok(())
}

fn say(address: &str, text: &str) -> io::Result<()> {
    let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    println!("{answer}");
    Ok(())
}

/// Tries to set the mark that exempts the proxy.
fn mark() -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_mark(0x5745)
}

/// Reads two files of one version through one directory, again and again, until they differ or the second says `end`.
fn pair(a: &str, b: &str) -> io::Result<()> {
    println!("reading");
    loop {
        // The directory that `..data` leads to now: what a careful reader does.
        let data = std::path::Path::new(a)
            .parent()
            .map(|dir| dir.join("..data"))
            .unwrap_or_default();
        let Ok(version) = std::fs::read_link(&data) else {
            continue;
        };
        let dir = data.with_file_name(version);
        let read =
            |name: &str| std::fs::read_to_string(dir.join(std::path::Path::new(name).file_name().unwrap_or_default()));
        let (Ok(one), Ok(two)) = (read(a), read(b)) else {
            continue;
        }; // swapped away meanwhile
        if one != two {
            return Err(io::Error::other(format!("{one:?} and {two:?}")));
        }
        // Through the links, as most do: never cut short. Not there means swapped twice on the way.
        let text = match std::fs::read_to_string(a) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text?,
        };
        if text.is_empty() {
            return Err(io::Error::other("empty"));
        }
        if text == "end" {
            println!("the end");
            return Ok(());
        }
    }
}
