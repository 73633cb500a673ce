//! Heads of HTTP/2 messages, to and from ours.
//!
//! In: what the `h2` crate has decoded and limited by size. Out: heads that are safe to write as HTTP/1.1 as well (RFC 9113
//! section 8.2 and 10.3); and back. Pure.

use ::h2::ext::Protocol;
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, request, response};
use weft_model::reason::Reason;
use weft_model::route;

use crate::http::Origin;
use crate::http::head::{Length, RequestHead, ResponseHead};
use crate::http::headers;
use crate::http::limits::HEAD_FIELDS;
use crate::http::upgrade;

/// A request's head. `ends`: there is no body.
pub(crate) fn request(parts: request::Parts, ends: bool, origin: Origin) -> Result<RequestHead, Reason> {
    let request::Parts {
        mut method,
        uri,
        mut headers,
        extensions,
        ..
    } = parts;
    if headers.len() > HEAD_FIELDS {
        return Err(Reason::HeadersTooLarge);
    }
    headers::refuse_connection_specific(&headers)?;
    let uri = uri.into_parts();
    if uri
        .scheme
        .is_some_and(|scheme| scheme != Scheme::HTTP && scheme != Scheme::HTTPS)
    {
        return Err(Reason::BadRequest);
    }
    let authority = authority(&mut headers, uri.authority)?;
    let mut asked = None;
    if let Some(protocol) = extensions.get::<Protocol>() {
        asked = Some(upgrade::of_protocol(protocol.as_str(), &mut headers).ok_or(Reason::BadRequest)?);
        method = Method::GET;
    }
    let target = if method == Method::CONNECT {
        if authority
            .as_ref()
            .is_none_or(|authority| authority.port_u16().is_none())
        {
            return Err(Reason::BadRequest);
        }
        None
    } else {
        let target = uri.path_and_query.ok_or(Reason::BadRequest)?;
        headers::refuse_path(target.as_str().as_bytes(), &method)?;
        Some(target)
    };
    let declared = declared_length(&mut headers)?;
    let length = match declared {
        Some(n) if n > 0 && (ends || asked.is_some()) => return Err(Reason::BadRequest),
        // What follows belongs to the tunnel.
        _ if asked.is_some() => Length::Empty,
        _ if ends => Length::Empty,
        Some(n) if n > 0 => Length::Exact(n),
        _ => Length::Unknown,
    };
    let takes_trailers = headers.remove(header::TE).is_some();
    headers.remove(HeaderName::from_static("http2-settings"));
    headers::strip_reserved(&mut headers, origin);
    join_cookies(&mut headers)?;
    Ok(RequestHead {
        method,
        target,
        authority,
        headers,
        version: Version::HTTP_2,
        upgrade: asked,
        takes_trailers,
        length,
    })
}

/// `:authority`, or else `host`; where both stand they must agree.
fn authority(headers: &mut HeaderMap, named: Option<Authority>) -> Result<Option<Authority>, Reason> {
    let checked = |text: &[u8]| headers::authority(Bytes::copy_from_slice(text));
    let named = match named {
        Some(named) => {
            headers::refuse_authority(named.as_str().as_bytes())?;
            Some(named)
        }
        None => None,
    };
    if headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err(Reason::BadRequest);
    }
    match (headers.remove(header::HOST), named) {
        (None, named) => Ok(named),
        (Some(host), None) => checked(host.as_bytes()),
        (Some(host), Some(named)) if host.as_bytes().eq_ignore_ascii_case(named.as_str().as_bytes()) => Ok(Some(named)),
        _ => Err(Reason::BadRequest),
    }
}

fn declared_length(headers: &mut HeaderMap) -> Result<Option<u64>, Reason> {
    if headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Reason::BadRequest);
    }
    match headers.remove(header::CONTENT_LENGTH) {
        Some(value) => headers::content_length(value.as_bytes())
            .map(Some)
            .ok_or(Reason::BadRequest),
        None => Ok(None),
    }
}

/// Cookie crumbs become one field again (RFC 9113 section 8.2.3): HTTP/1.1 has room for one only.
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Reason> {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return Ok(());
    }
    let crumbs: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let whole = HeaderValue::from_maybe_shared(Bytes::from(crumbs.join(&b"; "[..]))).map_err(|_| Reason::BadRequest)?;
    headers.insert(header::COOKIE, whole);
    Ok(())
}

/// A request for `h2` to send. `fallback` stands in for an authority that it lacks.
pub(crate) fn to_request(head: &RequestHead, fallback: Option<&Authority>) -> Result<Request<()>, Reason> {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    let mut uri = http::uri::Parts::default();
    uri.authority = head.authority.as_ref().or(fallback).cloned();
    uri.path_and_query = head.target.clone();
    if head.method != Method::CONNECT {
        uri.scheme = uri.authority.is_some().then_some(Scheme::HTTP);
        uri.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    }
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Reason::BadRequest)?;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = head.headers.clone();
    if let Some(protocol) = &head.upgrade {
        let protocol = protocol.to_str().map_err(|_| Reason::BadRequest)?;
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from(protocol));
        request.headers_mut().remove(header::SEC_WEBSOCKET_KEY);
    }
    if let Length::Exact(n) = head.length {
        request
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(n));
    }
    if head.takes_trailers {
        request
            .headers_mut()
            .insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

/// A response's head. `ends`: there is no body.
pub(crate) fn response(parts: response::Parts, to: &RequestHead, ends: bool) -> Result<ResponseHead, Reason> {
    let response::Parts {
        status, mut headers, ..
    } = parts;
    // HTTP/2 has no 101 (RFC 9113 section 8.6), and on HTTP/1.1 it would end all HTTP.
    if headers.len() > HEAD_FIELDS || status == http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(Reason::UpstreamProtocol);
    }
    let declared = declared_length(&mut headers).map_err(|_| Reason::UpstreamProtocol)?;
    // What has no place here is harmless in a response, since its end is told by the stream: it goes no further.
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
        header::HOST,
    ] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        headers.remove(name);
    }
    let unsent = headers.remove(headers::UNSENT);
    headers::strip_reserved(&mut headers, Origin::Outside);
    if to.upgrade.is_some() && status.is_success() {
        upgrade::prove(&to.headers, &mut headers);
        return Ok(ResponseHead {
            headers,
            upgrade: to.upgrade.clone(),
            unsent,
            ..ResponseHead::new(http::StatusCode::SWITCHING_PROTOCOLS)
        });
    }
    // With trailers to come the end of a body is told by chunks on HTTP/1.1, not by a length.
    let trailers = headers.contains_key(header::TRAILER) || route::is_grpc(&headers);
    let bodiless = to.method == Method::HEAD || ResponseHead::never_has_body(status);
    let length = match declared {
        _ if ends || bodiless => Length::Empty,
        Some(n) if n > 0 && !trailers => Length::Exact(n),
        _ => Length::Unknown,
    };
    Ok(ResponseHead {
        status,
        headers,
        length,
        declared,
        upgrade: None,
        unsent,
    })
}

/// A response for `h2` to send, and whether it ends with its head.
pub(crate) fn to_response(mut head: ResponseHead, to: &RequestHead) -> (Response<()>, bool) {
    let switches = head.upgrade.is_some();
    if switches {
        head.status = http::StatusCode::OK;
        head.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    }
    let bodiless = to.method == Method::HEAD || ResponseHead::never_has_body(head.status);
    let tunnel = switches || (to.method == Method::CONNECT && head.status.is_success());
    let ends = !tunnel && (bodiless || head.length == Length::Empty);
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.version_mut() = Version::HTTP_2;
    *response.headers_mut() = head.headers;
    let says = !tunnel && head.status != http::StatusCode::NO_CONTENT;
    if let Some(n) = head.declared.filter(|_| says) {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(n));
    }
    (response, ends)
}
