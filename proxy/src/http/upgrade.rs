//! Tunnels between the two versions of HTTP: `Upgrade` in HTTP/1.1, extended CONNECT in HTTP/2 (RFC 8441).
//!
//! Here an app that asks for another protocol is always an upgrade: a GET with [`RequestHead::upgrade`], answered by 101. What
//! HTTP/2 says instead is made into that where it is read, and made of it where it is written. WebSocket's handshake has a
//! key and its proof in HTTP/1.1 only (RFC 8441 section 5), so whoever crosses over asks for one, and looks at the other.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use http::header::{HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::{HeaderMap, HeaderValue, Version};

use crate::http::head::RequestHead;

/// Says between proxies that the app asked for a tunnel over HTTP/2: the other app is spoken to in that.
pub(crate) const APP_VERSION: HeaderName = HeaderName::from_static("x-weft-version");
/// Its only value.
const TWO: HeaderValue = HeaderValue::from_static("2");
/// What is hashed with a key (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Says to the peer's proxy what the app spoke.
pub(crate) fn tell_version(headers: &mut HeaderMap) {
    headers.insert(APP_VERSION, TWO);
}

/// Whether the app that sent this spoke HTTP/2, however the request has come here.
pub(crate) fn is_of_http2(head: &RequestHead) -> bool {
    head.version == Version::HTTP_2 || (head.is_tunnel() && head.headers.get(APP_VERSION) == Some(&TWO))
}

/// The `upgrade` that an extended CONNECT stands for. `None`: no token, or one that would change the HTTP under us.
pub(crate) fn of_protocol(protocol: &str, headers: &mut HeaderMap) -> Option<HeaderValue> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if protocol.is_empty() || !protocol.bytes().all(is_token) || protocol.eq_ignore_ascii_case("h2c") {
        return None;
    }
    headers.remove(SEC_WEBSOCKET_KEY);
    headers.remove(SEC_WEBSOCKET_ACCEPT);
    HeaderValue::from_str(protocol).ok()
}

/// Makes a request of HTTP/2 one that a server of HTTP/1.1 understands.
pub(crate) fn ask_by_http1(head: &mut RequestHead) {
    let is_websocket = |upgrade: &HeaderValue| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket");
    if head.version == Version::HTTP_2
        && head.upgrade.as_ref().is_some_and(is_websocket)
        && !head.headers.contains_key(SEC_WEBSOCKET_KEY)
    {
        let key = base64(&rand::random::<[u8; 16]>());
        head.headers.insert(SEC_WEBSOCKET_KEY, key);
    }
}

/// Puts the proof that a server of HTTP/1.1 would have given beside the answer of one of HTTP/2.
pub(crate) fn prove(asked: &HeaderMap, answer: &mut HeaderMap) {
    answer.remove(SEC_WEBSOCKET_ACCEPT);
    if let Some(key) = asked.get(SEC_WEBSOCKET_KEY) {
        answer.insert(SEC_WEBSOCKET_ACCEPT, proof(key));
    }
}

/// Whether an answer proves that a WebSocket server has read our key, where we have sent one.
pub(crate) fn is_proven(asked: &RequestHead, answer: &HeaderMap) -> bool {
    match asked.headers.get(SEC_WEBSOCKET_KEY) {
        // The app's own key is the app's to look at.
        Some(key) if asked.version == Version::HTTP_2 => answer.get(SEC_WEBSOCKET_ACCEPT) == Some(&proof(key)),
        _ => true,
    }
}

fn proof(key: &HeaderValue) -> HeaderValue {
    let hashed = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    base64(hashed.as_ref())
}

/// RFC 4648 section 4, of a few bytes.
fn base64(bytes: &[u8]) -> HeaderValue {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, n| {
            bits << 8 | u32::from(group.get(n).copied().unwrap_or(0))
        });
        for n in 0..4 {
            let digit = DIGITS
                .get((bits >> (18 - 6 * n) & 63) as usize)
                .copied()
                .unwrap_or(b'=');
            text.push(if n <= group.len() { digit } else { b'=' });
        }
    }
    // Digits only.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_of_a_key_is_that_of_the_rfc() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(proof(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn keys_are_sixteen_bytes_in_base64() {
        assert_eq!(base64(b"the sample nonce"), "dGhlIHNhbXBsZSBub25jZQ==");
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }

    #[test]
    fn what_is_no_protocol_is_no_upgrade() {
        let mut headers = HeaderMap::new();
        assert_eq!(of_protocol("websocket", &mut headers).unwrap(), "websocket");
        for wrong in ["", "h2c", "H2C", "web socket", "a\r\nb", "a,b", "web\u{e9}"] {
            assert_eq!(of_protocol(wrong, &mut headers), None, "{wrong:?}");
        }
    }
}
