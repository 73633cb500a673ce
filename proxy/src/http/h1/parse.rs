//! Heads of HTTP/1.1 messages, read strictly: what could be read in two ways is refused.
//!
//! In: the bytes of a whole head. Out: a head without anything that describes framing or the hop. Pure.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes};
use http::header::{self, HeaderName};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use httparse::Header;
use memchr::{memchr, memchr_iter};
use weft_model::reason::Reason;

use crate::http::Origin;
use crate::http::head::{Length, RequestHead, ResponseHead};
use crate::http::headers::{self, Options};
use crate::http::limits::{HEAD_BYTES, HEAD_FIELDS};
use crate::http::spare;

/// Looks for the end of a head in all that was read so far. `scanned` remembers how much of it has been looked at, so that
/// bytes which come one by one cost no more than bytes which come at once.
///
/// Some: how long the head is, its empty line included. None: more is needed.
pub(crate) fn find_end(input: &[u8], scanned: &mut usize) -> Result<Option<usize>, Reason> {
    let window = input.get(..HEAD_BYTES.min(input.len())).unwrap_or_default();
    let rest = window.get(*scanned..).unwrap_or_default();
    for at in memchr_iter(b'\n', rest).map(|offset| *scanned + offset) {
        let line = input.get(..at).unwrap_or_default();
        let Some(before) = line.strip_suffix(b"\r") else {
            return Err(Reason::BadRequest);
        };
        // An empty line ends the head, except a single one before it begins (RFC 9112 section 2.2).
        if before.is_empty() {
            continue;
        }
        if before.ends_with(b"\n") {
            return if before.len() > 2 {
                Ok(Some(at + 1))
            } else {
                Err(Reason::BadRequest)
            };
        }
    }
    *scanned = window.len();
    if input.len() >= HEAD_BYTES {
        Err(Reason::HeadersTooLarge)
    } else {
        Ok(None)
    }
}

/// What a request says of its connection, beside its head.
#[derive(Debug)]
pub(crate) struct Request {
    /// The head.
    pub(crate) head: RequestHead,
    /// The body is chunked.
    pub(crate) chunked: bool,
    /// The client would send another request afterwards.
    pub(crate) keep_alive: bool,
}

/// What a response says of its connection, beside its head.
#[derive(Debug)]
pub(crate) struct Response {
    /// The head.
    pub(crate) head: ResponseHead,
    /// How its end is found.
    pub(crate) framing: Framing,
    /// The server would take another request afterwards.
    pub(crate) keep_alive: bool,
}

/// How the end of a response's body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes.
    Exact(u64),
    /// Chunks.
    Chunked,
    /// It ends with the connection.
    UntilEnd,
    /// There is no body, and no HTTP afterwards: 101, or 2xx to CONNECT.
    Tunnel,
}

/// Reads a request's head: the bytes that [`find_end`] has found.
pub(crate) fn request(mut head: Bytes, origin: Origin) -> Result<Request, Reason> {
    if head.starts_with(b"\r\n") {
        head.advance(2);
    }
    refuse_controls(&head)?;
    let mut slots = [const { MaybeUninit::<Header<'_>>::uninit() }; HEAD_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed.parse_with_uninit_headers(&head, &mut slots).map_err(refusal)?;
    if status != httparse::Status::Complete(head.len()) {
        return Err(Reason::BadRequest);
    }
    let version = version(parsed.version)?;
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).map_err(|_| Reason::BadRequest)?;
    let mut fields = Fields::read(&head, parsed.headers, origin)?;
    let (target, named) = target(&head, &method, parsed.path.unwrap_or_default().as_bytes())?;
    let authority = authority(&mut fields, version, named)?;
    let (length, chunked) = fields.request_length(version)?;
    if method == Method::CONNECT && length != Length::Empty {
        return Err(Reason::BadRequest);
    }
    let options = fields.options.take(&mut fields.map)?;
    let keep_alive = options.keeps_alive(version);
    // Only an upgrade without a body: with one, two messages would be under way when the protocol changes.
    let upgrade = fields
        .upgrade
        .filter(|_| options.upgrade && length == Length::Empty && version == Version::HTTP_11);
    let head = RequestHead {
        method,
        target,
        authority,
        takes_trailers: fields.takes_trailers,
        headers: fields.map,
        version,
        upgrade,
        length,
    };
    Ok(Request {
        head,
        chunked,
        keep_alive,
    })
}

/// Reads a response's head: the bytes that [`find_end`] has found. `to` is the method that it answers, `upgrade` whether an
/// upgrade was asked for.
pub(crate) fn response(head: Bytes, to: &Method, upgrade: bool) -> Result<Response, Reason> {
    let broken = |_| Reason::UpstreamProtocol;
    refuse_controls(&head).map_err(broken)?;
    let mut slots = [const { MaybeUninit::<Header<'_>>::uninit() }; HEAD_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, &head, &mut slots)
        .map_err(|_| Reason::UpstreamProtocol)?;
    if status != httparse::Status::Complete(head.len()) {
        return Err(Reason::UpstreamProtocol);
    }
    let version = version(parsed.version).map_err(broken)?;
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| Reason::UpstreamProtocol)?;
    let mut fields = Fields::read(&head, parsed.headers, Origin::Outside).map_err(broken)?;
    if fields.chunked && (version == Version::HTTP_10 || fields.length.is_some()) {
        return Err(Reason::UpstreamProtocol);
    }
    let options = fields.options.take(&mut fields.map).map_err(broken)?;
    let switched = status == StatusCode::SWITCHING_PROTOCOLS;
    if switched && !(upgrade && options.upgrade && fields.upgrade.is_some()) {
        return Err(Reason::UpstreamProtocol);
    }
    let framing = if switched || (to == Method::CONNECT && status.is_success()) {
        Framing::Tunnel
    } else if *to == Method::HEAD || ResponseHead::never_has_body(status) {
        Framing::Exact(0)
    } else if fields.chunked {
        Framing::Chunked
    } else {
        fields.length.map_or(Framing::UntilEnd, Framing::Exact)
    };
    let head = ResponseHead {
        status,
        // What a response to HEAD, or a 304, says of a body that is not there, is passed on.
        declared: fields.length.filter(|_| framing != Framing::Tunnel),
        length: match framing {
            Framing::Exact(0) | Framing::Tunnel => Length::Empty,
            Framing::Exact(n) => Length::Exact(n),
            Framing::Chunked | Framing::UntilEnd => Length::Unknown,
        },
        upgrade: fields.upgrade.filter(|_| switched),
        unsent: fields.unsent,
        headers: fields.map,
    };
    let keep_alive = options.keeps_alive(version) && !matches!(framing, Framing::UntilEnd | Framing::Tunnel);
    Ok(Response {
        head,
        framing,
        keep_alive,
    })
}

/// Reads the trailer section behind the last chunk: field lines and the empty line.
pub(crate) fn trailers(section: Bytes) -> Result<HeaderMap, Reason> {
    refuse_controls(&section)?;
    let mut slots = [httparse::EMPTY_HEADER; HEAD_FIELDS];
    let mut map = HeaderMap::new();
    match httparse::parse_headers(&section, &mut slots).map_err(refusal)? {
        httparse::Status::Complete((n, fields)) if n == section.len() => {
            for field in fields {
                let (name, value) = checked(&section, field)?;
                map.try_append(name, value).map_err(|_| Reason::HeadersTooLarge)?;
            }
        }
        _ => return Err(Reason::BadRequest),
    }
    headers::strip_trailers(&mut map);
    Ok(map)
}

/// NUL, and carriage returns that end no line, are nowhere allowed. Line feeds were looked at by [`find_end`].
fn refuse_controls(head: &[u8]) -> Result<(), Reason> {
    if memchr(0, head).is_some() || memchr_iter(b'\r', head).any(|at| head.get(at + 1) != Some(&b'\n')) {
        return Err(Reason::BadRequest);
    }
    Ok(())
}

fn refusal(error: httparse::Error) -> Reason {
    match error {
        httparse::Error::TooManyHeaders => Reason::HeadersTooLarge,
        _ => Reason::BadRequest,
    }
}

fn version(minor: Option<u8>) -> Result<Version, Reason> {
    match minor {
        Some(0) => Ok(Version::HTTP_10),
        Some(1) => Ok(Version::HTTP_11),
        _ => Err(Reason::BadRequest),
    }
}

/// A field as `http` knows it. The value shares the head's memory.
fn checked(head: &Bytes, field: &Header<'_>) -> Result<(HeaderName, HeaderValue), Reason> {
    let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Reason::BadRequest)?;
    let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).map_err(|_| Reason::BadRequest)?;
    Ok((name, value))
}

/// The fields of a head, sorted into what is passed on and what describes framing and the hop.
#[derive(Debug, Default)]
struct Fields {
    map: HeaderMap,
    host: Option<Bytes>,
    length: Option<u64>,
    chunked: bool,
    upgrade: Option<HeaderValue>,
    upgrades: usize,
    takes_trailers: bool,
    options: Options,
    unsent: Option<HeaderValue>,
}

impl Fields {
    fn read(head: &Bytes, fields: &[Header<'_>], origin: Origin) -> Result<Self, Reason> {
        let mut read = Self {
            map: spare::map(fields.len()),
            ..Self::default()
        };
        for field in fields {
            let (name, value) = checked(head, field)?;
            if name == header::HOST {
                if read.host.replace(head.slice_ref(field.value)).is_some() {
                    return Err(Reason::BadRequest);
                }
            } else {
                read.sort(name, value, origin)?;
            }
        }
        // Two upgrades are none.
        read.upgrade.take_if(|_| read.upgrades != 1);
        Ok(read)
    }

    fn sort(&mut self, name: HeaderName, value: HeaderValue, origin: Origin) -> Result<(), Reason> {
        match name {
            header::CONTENT_LENGTH => {
                let length = headers::content_length(value.as_bytes()).ok_or(Reason::BadRequest)?;
                if self.length.replace(length).is_some() {
                    return Err(Reason::BadRequest);
                }
            }
            header::TRANSFER_ENCODING => {
                if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Reason::BadRequest);
                }
                self.chunked = true;
            }
            header::CONNECTION => self.options.read(&value)?,
            header::TE => self.takes_trailers |= headers::has_token(&value, "trailers"),
            header::UPGRADE => {
                self.upgrades += 1;
                // An upgrade to HTTP/2 would change the protocol under us.
                self.upgrade = (!headers::has_token(&value, "h2c")).then_some(value);
            }
            _ if name == headers::UNSENT => self.unsent = Some(value),
            _ if headers::is_of_hop(&name) || headers::is_reserved(&name, origin) => {}
            _ => {
                self.map.try_append(name, value).map_err(|_| Reason::HeadersTooLarge)?;
            }
        }
        Ok(())
    }

    fn request_length(&self, version: Version) -> Result<(Length, bool), Reason> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Reason::BadRequest),
            (true, None) if version == Version::HTTP_10 => Err(Reason::BadRequest),
            (true, None) => Ok((Length::Unknown, true)),
            (false, None | Some(0)) => Ok((Length::Empty, false)),
            (false, Some(n)) => Ok((Length::Exact(n), false)),
        }
    }
}

/// The request target in its four forms (RFC 9112 section 3.2): the path and query, and the authority if it names one.
fn target(head: &Bytes, method: &Method, text: &[u8]) -> Result<(Option<PathAndQuery>, Option<Authority>), Reason> {
    let text = head.slice_ref(text);
    if *method == Method::CONNECT {
        let named = headers::authority(text)?.ok_or(Reason::BadRequest)?;
        return if named.port_u16().is_some() {
            Ok((None, Some(named)))
        } else {
            Err(Reason::BadRequest)
        };
    }
    if text.starts_with(b"/") || text.as_ref() == b"*" {
        return Ok((Some(headers::path(text, method)?), None));
    }
    let lower = text.get(..8).unwrap_or(&text).to_ascii_lowercase();
    let from = if lower.starts_with(b"http://") {
        7
    } else if lower.starts_with(b"https://") {
        8
    } else {
        return Err(Reason::BadRequest);
    };
    let rest = text.slice(from.min(text.len())..);
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?' | b'#'))
        .unwrap_or(rest.len());
    let named = headers::authority(rest.slice(..end))?.ok_or(Reason::BadRequest)?;
    let path = match rest.get(end) {
        None if *method == Method::OPTIONS => Bytes::from_static(b"*"),
        None => Bytes::from_static(b"/"),
        Some(b'/') => rest.slice(end..),
        Some(_) => Bytes::from([b"/", rest.slice(end..).as_ref()].concat()),
    };
    Ok((Some(headers::path(path, method)?), Some(named)))
}

/// The authority of a request: `Host`, which a target in absolute form must agree with.
fn authority(fields: &mut Fields, version: Version, named: Option<Authority>) -> Result<Option<Authority>, Reason> {
    let Some(host) = fields.host.take() else {
        return if version == Version::HTTP_10 {
            Ok(named)
        } else {
            Err(Reason::BadRequest)
        };
    };
    let host = headers::authority(host)?;
    match (host, named) {
        (Some(host), Some(named)) if host.as_str().eq_ignore_ascii_case(named.as_str()) => Ok(Some(host)),
        (_, Some(_)) => Err(Reason::BadRequest),
        (host, None) => Ok(host),
    }
}

#[cfg(test)]
mod tests;
