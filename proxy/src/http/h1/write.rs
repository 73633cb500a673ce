//! Heads of HTTP/1.1 messages, written anew: nothing of the framing that came is copied.
//!
//! In: a head. Out: bytes. Pure.

use bytes::{BufMut, BytesMut};
use http::uri::Authority;
use http::{HeaderMap, Method, Version};

use crate::http::head::{Length, RequestHead, ResponseHead};

/// How a message's body is framed on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// None.
    Empty,
    /// So many bytes.
    Exact(u64),
    /// Chunks.
    Chunked,
    /// It ends with the connection.
    UntilEnd,
    /// No HTTP follows.
    Tunnel,
}

/// Writes a request's head. `fallback` stands in for an authority that the request lacks.
pub(crate) fn request(out: &mut BytesMut, head: &RequestHead, fallback: Option<&Authority>) -> Body {
    let authority = head.authority.as_ref().or(fallback).map_or("", Authority::as_str);
    out.reserve(
        size_of_head(&head.headers) + authority.len() + 64 + head.target.as_ref().map_or(0, |t| t.as_str().len()),
    );
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(
        head.target
            .as_ref()
            .map_or(authority, |target| target.as_str())
            .as_bytes(),
    );
    out.put_slice(b" HTTP/1.1\r\nhost: ");
    out.put_slice(authority.as_bytes());
    out.put_slice(b"\r\n");
    fields(out, &head.headers);
    let body = match head.length {
        _ if head.method == Method::CONNECT => Body::Empty,
        // A method that usually has a body says that it has none (RFC 9110 section 8.6).
        Length::Empty => {
            if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
                out.put_slice(b"content-length: 0\r\n");
            }
            Body::Empty
        }
        Length::Exact(n) => exact(out, n),
        Length::Unknown => chunked(out),
    };
    if head.takes_trailers {
        out.put_slice(b"te: trailers\r\n");
    }
    if let Some(upgrade) = &head.upgrade {
        field(out, "upgrade", upgrade.as_bytes());
    }
    match (&head.upgrade, head.takes_trailers) {
        (None, false) => {}
        (None, true) => out.put_slice(b"connection: te\r\n"),
        (Some(_), false) => out.put_slice(b"connection: upgrade\r\n"),
        (Some(_), true) => out.put_slice(b"connection: upgrade, te\r\n"),
    }
    out.put_slice(b"\r\n");
    body
}

/// Writes a response's head, as the answer to a request of this method and version. `keep_alive`: whether another request may
/// follow; it may not behind a body that ends with the connection.
pub(crate) fn response(
    out: &mut BytesMut,
    head: &ResponseHead,
    to: &Method,
    version: Version,
    keep_alive: bool,
) -> Body {
    out.reserve(size_of_head(&head.headers) + 128);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(head.status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(head.status.canonical_reason().unwrap_or("").as_bytes());
    out.put_slice(b"\r\n");
    fields(out, &head.headers);
    let interim = head.status.is_informational();
    let tunnel = head.upgrade.is_some() || (*to == Method::CONNECT && head.status.is_success());
    let body = if tunnel {
        Body::Tunnel
    } else if *to == Method::HEAD || ResponseHead::never_has_body(head.status) {
        let says = !interim && head.status != http::StatusCode::NO_CONTENT;
        if let Some(n) = head.declared.filter(|_| says) {
            exact(out, n);
        }
        Body::Empty
    } else {
        match head.length {
            Length::Empty => {
                exact(out, 0);
                Body::Empty
            }
            Length::Exact(n) => exact(out, n),
            Length::Unknown if version == Version::HTTP_10 => Body::UntilEnd,
            Length::Unknown => chunked(out),
        }
    };
    match &head.upgrade {
        Some(upgrade) => {
            field(out, "upgrade", upgrade.as_bytes());
            out.put_slice(b"connection: upgrade\r\n");
        }
        None if interim || tunnel => {}
        None if !keep_alive || body == Body::UntilEnd => out.put_slice(b"connection: close\r\n"),
        None if version == Version::HTTP_10 => out.put_slice(b"connection: keep-alive\r\n"),
        None => {}
    }
    out.put_slice(b"\r\n");
    body
}

/// Writes the end of a chunked body.
pub(crate) fn last_chunk(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    out.put_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        fields(out, trailers);
    }
    out.put_slice(b"\r\n");
}

/// Writes one chunk.
pub(crate) fn chunk(out: &mut BytesMut, data: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(data.len() + 20);
    let mut started = false;
    for shift in (0..16).rev() {
        let digit = data.len() >> (shift * 4) & 0xf;
        started |= digit != 0;
        if let (true, Some(digit)) = (started, DIGITS.get(digit)) {
            out.put_u8(*digit);
        }
    }
    out.put_slice(b"\r\n");
    out.put_slice(data);
    out.put_slice(b"\r\n");
}

fn size_of_head(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

fn fields(out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        field(out, name.as_str(), value.as_bytes());
    }
}

fn field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn exact(out: &mut BytesMut, n: u64) -> Body {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut left = n;
    loop {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            *digit = b'0' + (left % 10) as u8;
        }
        left /= 10;
        if left == 0 {
            break;
        }
    }
    field(out, "content-length", digits.get(at..).unwrap_or_default());
    if n == 0 { Body::Empty } else { Body::Exact(n) }
}

fn chunked(out: &mut BytesMut) -> Body {
    out.put_slice(b"transfer-encoding: chunked\r\n");
    Body::Chunked
}
