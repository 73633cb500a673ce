//! The chunked transfer coding (RFC 9112 section 7.1), read strictly.
//!
//! In: bytes as they come. Out: how many of them are data, and the trailers. Pure.

use bytes::{Buf, BytesMut};
use http::HeaderMap;
use weft_model::reason::Reason;

use super::parse;
use crate::http::limits::HEAD_BYTES;

/// The longest line before a chunk, its extensions included. Nobody uses extensions but to hide something in them.
const LINE: usize = 256;

/// Where in a chunked body the next byte belongs.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// In front of a chunk's size.
    #[default]
    Size,
    /// Within a chunk's data; so many bytes are missing.
    Data(u64),
    /// In front of the line end behind a chunk's data.
    DataEnd,
    /// In front of the trailer section; so much of it has been looked at.
    Trailers(usize),
}

/// What is next.
#[derive(Debug)]
pub(crate) enum Next {
    /// More bytes are needed.
    More,
    /// So many bytes at the front of the input are data; not 0.
    Data(usize),
    /// The body has ended, perhaps with trailers.
    End(Option<HeaderMap>),
}

impl Chunked {
    /// Takes what frames the body from the front of the input, up to the next data.
    pub(crate) fn next(&mut self, input: &mut BytesMut) -> Result<Next, Reason> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = line(input)? else {
                        return Ok(Next::More);
                    };
                    let size = size(input.get(..line).unwrap_or_default())?;
                    input.advance(line + 2);
                    self.state = if size == 0 {
                        State::Trailers(0)
                    } else {
                        State::Data(size)
                    };
                }
                State::Data(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    return Ok(if here == 0 { Next::More } else { Next::Data(here) });
                }
                State::DataEnd => match input.get(..2) {
                    Some(b"\r\n") => {
                        input.advance(2);
                        self.state = State::Size;
                    }
                    Some(_) => return Err(Reason::BadRequest),
                    None if input.first().is_none_or(|b| *b == b'\r') => return Ok(Next::More),
                    None => return Err(Reason::BadRequest),
                },
                State::Trailers(scanned) => return self.trailers(input, scanned),
            }
        }
    }

    /// So many bytes of data were taken from the front of the input.
    pub(crate) fn taken(&mut self, n: usize) {
        if let State::Data(left) = &mut self.state {
            *left = left.saturating_sub(n as u64);
            if *left == 0 {
                self.state = State::DataEnd;
            }
        }
    }

    fn trailers(&mut self, input: &mut BytesMut, mut scanned: usize) -> Result<Next, Reason> {
        match input.get(..2) {
            Some(b"\r\n") => {
                input.advance(2);
                return Ok(Next::End(None));
            }
            Some([b'\r', _]) => return Err(Reason::BadRequest),
            None if input.first().is_none_or(|b| *b == b'\r') => return Ok(Next::More),
            _ => {}
        }
        match parse::find_end(input, &mut scanned)? {
            Some(end) if end <= HEAD_BYTES => {
                let trailers = parse::trailers(input.split_to(end).freeze())?;
                Ok(Next::End((!trailers.is_empty()).then_some(trailers)))
            }
            Some(_) => Err(Reason::HeadersTooLarge),
            None => {
                self.state = State::Trailers(scanned);
                Ok(Next::More)
            }
        }
    }
}

/// The length of the line at the front, its end excluded. None: it has no end yet.
fn line(input: &[u8]) -> Result<Option<usize>, Reason> {
    let seen = input.get(..LINE.min(input.len())).unwrap_or_default();
    match memchr::memchr2(b'\r', b'\n', seen) {
        None if seen.len() == LINE => Err(Reason::BadRequest),
        None => Ok(None),
        Some(at) => match seen.get(at..at + 2) {
            Some(b"\r\n") => Ok(Some(at)),
            Some(_) => Err(Reason::BadRequest),
            None if seen.get(at) == Some(&b'\n') || seen.len() == LINE => Err(Reason::BadRequest),
            None => Ok(None),
        },
    }
}

/// A chunk's size: 1 to 16 hex digits, and perhaps extensions, which are dropped.
fn size(line: &[u8]) -> Result<u64, Reason> {
    let end = line.iter().position(|b| *b == b';').unwrap_or(line.len());
    let (digits, extensions) = line.split_at(end);
    let visible = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 0x7f);
    if digits.is_empty()
        || digits.len() > 16
        || !digits.iter().all(u8::is_ascii_hexdigit)
        || !extensions.iter().all(visible)
    {
        return Err(Reason::BadRequest);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Reason::BadRequest)?;
    u64::from_str_radix(text, 16).map_err(|_| Reason::BadRequest)
}

#[cfg(test)]
mod tests;
