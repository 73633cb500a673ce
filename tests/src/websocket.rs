//! A WebSocket peer in Rust, for both ends: an echo server by tungstenite, and a driver that says each case of
//! [`cases`] byte by byte and prints what came back.
//!
//! The driver writes frames itself, since no library sends what the RFC forbids. What it prints is compared with what the same
//! case gives without a mesh.

pub mod cases;

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use cases::{Case, Frame};

/// What one case may take.
const WITHIN: Duration = Duration::from_secs(60);
/// The largest message.
const LARGEST: usize = 17 << 20;

/// Echoes messages on a port, for ever.
///
/// # Errors
/// It cannot listen there.
pub async fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("::", port)).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        tokio::spawn(echo(socket));
    }
}

async fn echo(socket: TcpStream) {
    use futures_util::{SinkExt, StreamExt};
    let config = WebSocketConfig::default()
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    let Ok(mut socket) = tokio_tungstenite::accept_async_with_config(socket, Some(config)).await else {
        return;
    };
    while let Some(Ok(message)) = socket.next().await {
        let message = match message {
            Message::Text(_) | Message::Binary(_) => message,
            // Pings and closes are answered by the library.
            _ => continue,
        };
        if socket.send(message).await.is_err() {
            break;
        }
    }
}

/// Runs every case against a server, and prints a line for each: its name, and what came back.
///
/// # Errors
/// A connection or its handshake fails.
pub async fn drive(host: &str, port: u16) -> io::Result<()> {
    for case in cases::all() {
        let came = timeout(WITHIN, run(&case, host, port)).await;
        let came = came.unwrap_or_else(|_| Ok("nothing in time".to_owned()))?;
        println!("{}\t{came}", case.name);
    }
    Ok(())
}

async fn run(case: &Case, host: &str, port: u16) -> io::Result<String> {
    let mut socket = TcpStream::connect((host, port)).await?;
    let request = format!(
        "GET /echo HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut input = Vec::new();
    let head = loop {
        if let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            break input.drain(..end + 4).collect::<Vec<u8>>();
        }
        if socket.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let proven = head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=");
    if !head.starts_with("http/1.1 101 ") || !proven {
        return Ok(format!("no handshake: {}", head.lines().next().unwrap_or_default()));
    }
    let (mut reader, mut writer) = socket.into_split();
    let answered = Notify::new();
    let says = async {
        for piece in &case.says {
            // Who has heard enough may have gone.
            if writer.write_all(piece).await.is_err() {
                return writer;
            }
            if case.slowly {
                // Each piece in a segment of its own.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        if case.answers.is_some() {
            // A server may drop what it still has to say behind a close.
            answered.notified().await;
            let _ = writer.write_all(&cases::bye()).await;
        }
        // Kept open: it is the server that ends a WebSocket.
        writer
    };
    let hears = async {
        let (mut heard, mut answers) = (Vec::new(), 0);
        loop {
            if case.answers == Some(answers) {
                answered.notify_one();
            }
            if let Some((frame, length)) = Frame::read(&input) {
                input.drain(..length);
                answers += usize::from(frame.is_answer());
                heard.push(frame.to_string());
                continue;
            }
            match reader.read_buf(&mut input).await {
                Ok(n) if n > 0 => {}
                // By a reset or in order: who ends behind a close frame has said all there was.
                _ => break,
            }
        }
        answered.notify_one();
        heard.push("end".to_owned());
        heard.join(" ")
    };
    let (_writer, heard) = tokio::join!(says, hears);
    Ok(heard)
}
