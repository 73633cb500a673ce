//! Responses that Weft makes itself.
//!
//! In: a reason, and the request it is for. Out: an HTTP response whose status, `proxy-status` (RFC 9209) and body name the
//! reason; for gRPC a trailers-only response whose `grpc-status` and `grpc-message` do. Pure.

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use weft_model::reason::Reason;

use crate::http::head::{Length, ResponseHead};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The response to a request that was refused: head and body.
pub(crate) fn response(reason: Reason, grpc: bool) -> (ResponseHead, Bytes) {
    if grpc {
        let mut head = ResponseHead::new(StatusCode::OK);
        head.headers = grpc_trailers(reason);
        head.headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        return (head, Bytes::new());
    }
    let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = Bytes::from(format!("weft: {}: {}\n", reason.code(), reason.meaning().trim()));
    let mut head = ResponseHead::new(status);
    head.headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    head.headers.insert(PROXY_STATUS, proxy_status(reason));
    head.declared = Some(body.len() as u64);
    head.length = Length::Exact(body.len() as u64);
    (head, body)
}

/// What ends a gRPC response that cannot go on.
pub(crate) fn grpc_trailers(reason: Reason) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(GRPC_STATUS, HeaderValue::from(grpc_code(reason)));
    // Codes and meanings are ASCII without a percent sign: they need none of gRPC's percent-encoding.
    let message = format!("weft: {}: {}", reason.code(), reason.meaning().trim());
    headers.insert(GRPC_MESSAGE, value(message));
    headers.insert(PROXY_STATUS, proxy_status(reason));
    headers
}

fn proxy_status(reason: Reason) -> HeaderValue {
    value(format!(
        "weft; error={}; details=\"{}\"",
        reason.proxy_status(),
        reason.code()
    ))
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("weft"))
}

/// Whether a reason says that not a byte of the request reached the app here, and that it might at another endpoint.
pub(crate) fn is_unsent(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AppUnreachable | Reason::Overloaded | Reason::Draining | Reason::NoCertificate
    )
}

/// gRPC's code for a reason. What a client may try again is UNAVAILABLE, a connect timeout too: the request never left.
pub(crate) fn grpc_code(reason: Reason) -> u16 {
    if matches!(reason, Reason::RequestDeadline | Reason::BackendDeadline) {
        return 4;
    }
    match reason.status() {
        403 => 7,
        404 => 12,
        408 => 4,
        429 | 431 => 8,
        499 => 1,
        502..=504 => 14,
        _ => 13,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_response_that_names_it() {
        for reason in Reason::ALL {
            let (head, body) = response(*reason, false);
            assert_eq!(head.status.as_u16(), reason.status());
            assert_eq!(head.length, Length::Exact(body.len() as u64));
            let status = head.headers["proxy-status"].to_str().unwrap();
            assert_eq!(
                status,
                format!("weft; error={}; details=\"{reason}\"", reason.proxy_status())
            );
            assert!(String::from_utf8_lossy(&body).contains(reason.code()));
        }
    }

    #[test]
    fn every_reason_has_a_grpc_status_and_a_message_without_a_byte_to_encode() {
        for reason in Reason::ALL {
            let (head, body) = response(*reason, true);
            assert_eq!(
                (head.status, body.len(), head.length),
                (StatusCode::OK, 0, Length::Empty)
            );
            let message = head.headers["grpc-message"].to_str().unwrap();
            assert!(
                message.contains(reason.code()) && !message.contains('%') && message.is_ascii(),
                "{message}"
            );
            assert_ne!(head.headers["grpc-status"], "0");
        }
    }

    #[test]
    fn codes_are_those_that_grpc_clients_expect() {
        let expected = [
            (Reason::PlaintextRefused, 7),
            (Reason::NoRoute, 12),
            (Reason::BackendUnresolved, 13),
            (Reason::ConnectFailed, 14),
            (Reason::NoEndpoints, 14),
            (Reason::ConnectTimeout, 14),
            (Reason::RequestDeadline, 4),
            (Reason::BackendDeadline, 4),
            (Reason::HeadersTooLarge, 8),
            (Reason::Internal, 13),
        ];
        for (reason, code) in expected {
            assert_eq!(grpc_code(reason), code, "{reason}");
        }
    }
}
