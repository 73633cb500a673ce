//! What a request or a response says before its body.

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use weft_model::route;

/// A request's head, whichever the version: checked, and without what belongs to the hop it came over.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// Path and query, or `*`. `None`: a CONNECT, which has none.
    pub target: Option<PathAndQuery>,
    /// `Host`, or `:authority`. `None`: an HTTP/1.0 request without one.
    pub authority: Option<Authority>,
    /// The fields. `host` is not among them, nor is what describes framing.
    pub headers: HeaderMap,
    /// The message's own version: 1.0, 1.1 or 2.
    pub version: http::Version,
    /// The `upgrade` that the client asks for, in HTTP/2 by an extended CONNECT. `h2c` is never among them.
    pub upgrade: Option<HeaderValue>,
    /// `te: trailers`.
    pub takes_trailers: bool,
    /// How long the body is.
    pub length: Length,
}

/// A response's head, whichever the version: checked, and without what belongs to the hop it came over.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The fields, without what describes framing.
    pub headers: HeaderMap,
    /// How long the body is.
    pub length: Length,
    /// What `content-length` said, also where there is no body (HEAD, 304).
    pub declared: Option<u64>,
    /// The protocol that a 101 switches to.
    pub upgrade: Option<HeaderValue>,
    /// What the peer's proxy says of a request that it did not pass on (`x-weft-unsent`). Goes no further than this hop.
    pub unsent: Option<HeaderValue>,
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// There is none.
    Empty,
    /// So many bytes; not 0.
    Exact(u64),
    /// As long as it is sent: chunked, HTTP/2 without a content-length, or until the connection ends.
    Unknown,
}

impl RequestHead {
    /// The path without the query; empty for CONNECT.
    pub fn path(&self) -> &str {
        self.target.as_ref().map_or("", PathAndQuery::path)
    }

    /// The query, without the question mark.
    pub fn query(&self) -> Option<&str> {
        self.target.as_ref().and_then(PathAndQuery::query)
    }

    /// Whether it is gRPC: `content-type` begins with `application/grpc`.
    pub fn is_grpc(&self) -> bool {
        route::is_grpc(&self.headers)
    }

    /// Whether it asks for a tunnel: an upgrade, or CONNECT.
    pub fn is_tunnel(&self) -> bool {
        self.upgrade.is_some() || self.method == Method::CONNECT
    }

    /// What routing looks at.
    pub fn for_routing(&self) -> route::RequestHead<'_> {
        route::RequestHead {
            method: &self.method,
            path: self.path(),
            query: self.query(),
            headers: &self.headers,
        }
    }
}

impl ResponseHead {
    /// A head without fields.
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            length: Length::Empty,
            declared: None,
            upgrade: None,
            unsent: None,
        }
    }

    /// Whether responses with this status have no body, whatever they say (RFC 9112 section 6.3).
    pub fn never_has_body(status: StatusCode) -> bool {
        status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
    }
}
