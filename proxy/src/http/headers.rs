//! Which headers end at a hop, which are ours alone, and who the caller is.
//!
//! Also the small grammars that both versions of HTTP read in the same strict way: authority, path, content-length.

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Version};
use weft_model::identity::Identity;
use weft_model::reason::Reason;

use crate::http::Origin;

/// Says who calls. Set at the inbound from the handshake, and never believed when it comes from anyone.
pub const CALLER: HeaderName = HeaderName::from_static(CALLER_NAME);
const CALLER_NAME: &str = "x-forwarded-client-cert";
/// Says in a response of the peer's proxy that not a byte of the request reached its app, and why: its value is a reason's
/// code. Believed only where the peer's identity was verified.
pub(crate) const UNSENT: HeaderName = HeaderName::from_static("x-weft-unsent");
/// Headers that begin so pass between proxies only.
const INTERNAL: &str = "x-weft-";

/// Says in `x-forwarded-client-cert` who calls: `By=<own>;URI=<peer>`. Replaces whatever stood there.
pub fn set_caller(headers: &mut HeaderMap, own: &Identity, peer: &Identity) {
    // An identity's characters were checked when it was made: all of them may stand in a header.
    if let Ok(value) = HeaderValue::try_from(format!("By={own};URI={peer}")) {
        headers.insert(CALLER, value);
    }
}

/// Whether a header belongs to the mesh, and is dropped when it comes from `origin`. Names that only look like ours are
/// made by nobody in the mesh, and are dropped wherever they come from.
pub(crate) fn is_reserved(name: &HeaderName, origin: Origin) -> bool {
    let name = name.as_str();
    (name.len() == CALLER_NAME.len() && begins_like(name, CALLER_NAME))
        || (begins_like(name, INTERNAL) && (origin == Origin::Outside || !name.starts_with(INTERNAL)))
}

/// Whether a name begins so to the least careful of readers: CGI and what descends from it (WSGI, Rack, PHP) make one
/// variable of `x-a` and `x_a`, and some of them of `x.a` too.
fn begins_like(name: &str, beginning: &str) -> bool {
    let same = |(a, b): (u8, u8)| a == b || (b == b'-' && !a.is_ascii_alphanumeric());
    name.len() >= beginning.len() && name.bytes().zip(beginning.bytes()).all(same)
}

/// Removes every field whose name is such.
fn remove(headers: &mut HeaderMap, such: impl Fn(&HeaderName) -> bool) {
    // There is nearly always none.
    if headers.keys().any(&such) {
        let names: Vec<HeaderName> = headers.keys().filter(|name| such(name)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Whether a header describes the hop that it came over (RFC 9110 section 7.6.1), or one that no hop of ours makes.
pub(crate) fn is_of_hop(name: &HeaderName) -> bool {
    match *name {
        header::CONNECTION
        | header::TE
        | header::TRANSFER_ENCODING
        | header::UPGRADE
        | header::CONTENT_LENGTH
        | header::HOST => true,
        _ => matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings"),
    }
}

/// Takes what trailers must not carry (RFC 9110 section 6.5.1): framing, routing, and what is ours.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    remove(trailers, |name| {
        is_of_hop(name)
            || is_reserved(name, Origin::Outside)
            || matches!(
                *name,
                header::TRAILER | header::AUTHORIZATION | header::CONTENT_TYPE | header::CONTENT_ENCODING
            )
    });
}

/// What `Connection` says.
#[derive(Debug, Default)]
pub(crate) struct Options {
    close: bool,
    keep_alive: bool,
    /// An upgrade is asked for, or made.
    pub(crate) upgrade: bool,
    named: Vec<HeaderName>,
}

impl Options {
    /// Reads one `Connection` field.
    pub(crate) fn read(&mut self, value: &HeaderValue) -> Result<(), Reason> {
        for token in tokens(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.named
                    .push(HeaderName::from_bytes(token).map_err(|_| Reason::BadRequest)?);
            }
        }
        Ok(())
    }

    /// Removes the fields that it names. Naming one that a hop may not take away is an attempt to hide it from the next
    /// reader, and is refused.
    pub(crate) fn take(&mut self, headers: &mut HeaderMap) -> Result<Self, Reason> {
        for name in std::mem::take(&mut self.named) {
            let kept = is_reserved(&name, Origin::Outside)
                || matches!(
                    name,
                    header::HOST
                        | header::CONTENT_LENGTH
                        | header::TRANSFER_ENCODING
                        | header::CONTENT_TYPE
                        | header::AUTHORIZATION
                        | header::COOKIE
                        | header::SET_COOKIE
                        | header::FORWARDED
                )
                || name.as_str().starts_with("x-forwarded-")
                || name.as_str().starts_with("x-b3-")
                || matches!(name.as_str(), "traceparent" | "tracestate" | "baggage" | "b3");
            if kept {
                return Err(Reason::BadRequest);
            }
            headers.remove(name);
        }
        Ok(std::mem::take(self))
    }

    /// Whether the connection stays open after the message.
    pub(crate) fn keeps_alive(&self, version: Version) -> bool {
        !self.close && (version != Version::HTTP_10 || self.keep_alive)
    }
}

/// Refuses what HTTP/2 has no place for (RFC 9113 section 8.2.2).
pub(crate) fn refuse_connection_specific(headers: &HeaderMap) -> Result<(), Reason> {
    let te_is_right = headers
        .get_all(header::TE)
        .iter()
        .all(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    let specific = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];
    let named = ["keep-alive", "proxy-connection"];
    if !te_is_right
        || specific.iter().any(|n| headers.contains_key(n))
        || named.iter().any(|n| headers.contains_key(*n))
    {
        return Err(Reason::BadRequest);
    }
    Ok(())
}

/// Drops what is reserved to the mesh.
pub(crate) fn strip_reserved(headers: &mut HeaderMap, origin: Origin) {
    remove(headers, |name| is_reserved(name, origin));
}

/// Drops what passes between proxies only: before an app, or anyone else who is no verified peer, gets to see it.
pub(crate) fn strip_internal(headers: &mut HeaderMap) {
    remove(headers, |name| begins_like(name.as_str(), INTERNAL));
}

/// Whether a list has a token, parameters aside.
pub(crate) fn has_token(value: &HeaderValue, wanted: &str) -> bool {
    tokens(value).any(|token| {
        let name = token.split(|b| *b == b';' || *b == b'/').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes())
    })
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// A content-length: digits and nothing else.
pub(crate) fn content_length(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Host and optional port (RFC 9110 section 7.2), without the letters that no host has and that readers disagree about.
/// `None`: an empty one, which says that there is no authority.
pub(crate) fn authority(text: Bytes) -> Result<Option<Authority>, Reason> {
    if text.is_empty() {
        return Ok(None);
    }
    refuse_authority(&text)?;
    Authority::from_maybe_shared(text)
        .map(Some)
        .map_err(|_| Reason::BadRequest)
}

/// The check of [`authority`].
pub(crate) fn refuse_authority(text: &[u8]) -> Result<(), Reason> {
    let (host, port) = match text.strip_prefix(b"[") {
        Some(rest) => {
            let end = rest.iter().position(|b| *b == b']').ok_or(Reason::BadRequest)?;
            let (address, behind) = rest.split_at(end);
            let address = std::str::from_utf8(address).map_err(|_| Reason::BadRequest)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| Reason::BadRequest)?;
            (None, behind.strip_prefix(b"]").unwrap_or_default())
        }
        None => {
            let end = text.iter().position(|b| *b == b':').unwrap_or(text.len());
            let (host, port) = text.split_at(end);
            (Some(host), port)
        }
    };
    let of_host = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    if host.is_some_and(|host| host.is_empty() || host.len() > 255 || !host.iter().all(of_host)) {
        return Err(Reason::BadRequest);
    }
    if !port.is_empty() {
        let digits = port.strip_prefix(b":").ok_or(Reason::BadRequest)?;
        let number = content_length(digits).ok_or(Reason::BadRequest)?;
        if digits.len() > 5 || number > u64::from(u16::MAX) {
            return Err(Reason::BadRequest);
        }
    }
    Ok(())
}

/// Path and query as they are decided by and forwarded, byte for byte: so nothing may stand there that two readers take
/// differently. `*` only for OPTIONS.
pub(crate) fn path(text: Bytes, method: &Method) -> Result<PathAndQuery, Reason> {
    refuse_path(&text, method)?;
    PathAndQuery::from_maybe_shared(text).map_err(|_| Reason::BadRequest)
}

/// The check of [`path`].
pub(crate) fn refuse_path(text: &[u8], method: &Method) -> Result<(), Reason> {
    let is_star = text == b"*";
    if (is_star && *method != Method::OPTIONS) || (!is_star && !text.starts_with(b"/")) {
        return Err(Reason::BadRequest);
    }
    // A fragment never travels; a control character or a backslash is read as something else by somebody.
    if text.iter().any(|b| *b <= b' ' || matches!(b, b'#' | b'\\' | 0x7f)) {
        return Err(Reason::BadRequest);
    }
    let end = text.iter().position(|b| *b == b'?').unwrap_or(text.len());
    if leaves_the_root(text.get(..end).unwrap_or_default()) {
        return Err(Reason::BadRequest);
    }
    Ok(())
}

/// Whether dot segments, escaped or not, climb above the root; or the path has an escaped NUL.
fn leaves_the_root(path: &[u8]) -> bool {
    if memchr::memmem::find(path, b"%00").is_some() {
        return true;
    }
    if memchr::memmem::find(path, b"..").is_none() && memchr::memchr(b'%', path).is_none() {
        return false;
    }
    let mut depth = 0_i32;
    for segment in path.split(|b| *b == b'/').skip(1) {
        match dots(segment) {
            Some(2) => depth -= 1,
            Some(1) => {}
            _ if segment.is_empty() => {}
            _ => depth += 1,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

/// How many dots a segment is made of, if of nothing else.
fn dots(mut segment: &[u8]) -> Option<usize> {
    let mut count = 0;
    while !segment.is_empty() {
        segment = match segment {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return None,
        };
        count += 1;
    }
    (count > 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_some_reader_takes_for_ours_is_reserved() {
        for name in [
            "x-forwarded-client-cert",
            "x_forwarded_client_cert",
            "X-Forwarded_Client-Cert",
            "x.forwarded~client|cert",
            "x-weft-",
            "x_weft_unsent",
            "X-Weft_Unsent",
            "x.weft.a",
        ] {
            assert!(is_reserved(&name.parse().unwrap(), Origin::Outside), "{name}");
        }
        // A peer's proxy has a name of ours to say, but says nobody's identity, and misspells nothing.
        for (name, reserved) in [
            ("x-weft-a", false),
            ("x_weft-a", true),
            ("x-weft_a", true),
            ("x_forwarded_client_cert", true),
        ] {
            assert_eq!(is_reserved(&name.parse().unwrap(), Origin::Mesh), reserved, "{name}");
        }
    }

    #[test]
    fn what_nobody_takes_for_ours_is_left_alone() {
        for name in [
            "x-forwarded-client-cert-chain",
            "x-forwarded-client-cer",
            "xxforwarded-client-cert",
            "x-forwarded-for",
            "x_forwarded_for",
            "x-weft",
            "x-wefta-b",
            "weft-a",
            "x",
        ] {
            assert!(!is_reserved(&name.parse().unwrap(), Origin::Outside), "{name}");
        }
    }
}
