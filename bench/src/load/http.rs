//! As little of an HTTP/1.1 client as a load needs: one GET after the other on one connection.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};

use super::dial;

/// What a load asks for.
pub const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: server\r\n\r\n";
const HEAD_MAX: usize = 16 * 1024;

/// A connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Opens one.
    pub fn dial(server: SocketAddr) -> Result<Self> {
        Ok(Self {
            stream: dial(server)?,
            buffer: Vec::new(),
        })
    }

    /// A request, and all of its response, which must be a 200 with a length.
    pub fn get(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request)?;
        self.buffer.clear();
        let mut chunk = [0; 4096];
        let mut whole = None;
        loop {
            let count = self.stream.read(&mut chunk)?;
            ensure!(count > 0, "closed before the response was whole");
            self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
            if whole.is_none() {
                whole = length(&self.buffer)?;
            }
            if whole.is_some_and(|whole| self.buffer.len() >= whole) {
                return Ok(());
            }
            ensure!(whole.is_some() || self.buffer.len() < HEAD_MAX, "the head is too long");
        }
    }
}

/// Whether a new connection's first answer has status 200, whatever its body.
pub fn is_ok(server: SocketAddr, request: &[u8]) -> bool {
    let answer = || -> Result<bool> {
        let mut stream = dial(server)?;
        stream.write_all(request)?;
        let mut status = [0; b"HTTP/1.1 200".len()];
        stream.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    answer().unwrap_or(false)
}

/// How long head and body are together. `None`: the head isn't whole yet.
fn length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(bytes.get(..end).unwrap_or_default())?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "not a 200: {head}");
    let body = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim())
    });
    let body: usize = body.context("a response without content-length")?.parse()?;
    Ok(Some(end + 4 + body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_whole_with_its_body() {
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n").unwrap(), None);
        assert_eq!(
            length(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab").unwrap(),
            Some(41)
        );
    }

    #[test]
    fn a_failure_is_an_error() {
        assert!(length(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
