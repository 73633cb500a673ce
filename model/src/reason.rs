//! Why something was refused or failed: a closed list of stable codes.

use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $status:literal, $proxy_status:literal;)+) => {
        /// Why something was refused or failed. The code is stable; `docs/errors.md` lists them all.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The stable code, in kebab case: a metric label, and `Proxy-Status`' `details`.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// The HTTP status of a response that Weft makes for it.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status),+ }
            }

            /// The error type of `Proxy-Status` (RFC 9209 section 2.3).
            pub const fn proxy_status(self) -> &'static str {
                match self { $(Self::$variant => $proxy_status),+ }
            }

            /// What it means.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }
            }
        }
    };
}

reasons! {
    /// Plaintext to a pod that accepts only mutual TLS.
    PlaintextRefused = "plaintext-refused", 403, "http_request_denied";
    /// A certificate of a foreign trust domain on a port that is not exported to it.
    ForeignTrustDomain = "foreign-trust-domain", 403, "http_request_denied";
    /// A policy that this proxy does not wholly understand covers the port.
    PolicyUnsupported = "policy-unsupported", 403, "http_request_denied";
    /// Routes are attached to the Service, and none matches the request.
    NoRoute = "no-route", 404, "http_request_error";
    /// The chosen backend does not resolve, or the rule has none.
    BackendUnresolved = "backend-unresolved", 500, "proxy_configuration_error";
    /// The backend has no endpoints.
    NoEndpoints = "no-endpoints", 503, "destination_unavailable";
    /// Every endpoint that was tried could not be connected to.
    ConnectFailed = "connect-failed", 502, "connection_refused";
    /// Connecting took too long.
    ConnectTimeout = "connect-timeout", 504, "connection_timeout";
    /// The endpoint showed another identity than discovery named, or none that verifies.
    IdentityMismatch = "identity-mismatch", 502, "tls_certificate_error";
    /// The mesh's handshake with the endpoint failed.
    TlsFailed = "tls-failed", 502, "tls_protocol_error";
    /// The control plane did not say in time what is at the address.
    DiscoveryTimeout = "discovery-timeout", 503, "proxy_internal_response";
    /// The proxy follows as many destinations as it may.
    SubscriptionLimit = "subscription-limit", 503, "proxy_internal_response";
    /// The Service or pod has no such port.
    NoSuchPort = "no-such-port", 503, "destination_unavailable";
    /// The connection ended before a response began.
    UpstreamClosed = "upstream-closed", 502, "connection_terminated";
    /// The response broke the protocol.
    UpstreamProtocol = "upstream-protocol", 502, "http_protocol_error";
    /// The app does not listen on its port.
    AppUnreachable = "app-unreachable", 502, "connection_refused";
    /// The request breaks HTTP, or could be read in two ways.
    BadRequest = "bad-request", 400, "http_request_error";
    /// The request's headers are larger than the limit.
    HeadersTooLarge = "headers-too-large", 431, "http_request_error";
    /// The client was too slow to send its request's headers.
    RequestTimeout = "request-timeout", 408, "http_request_error";
    /// The declared protocol is HTTP, and the bytes are not.
    NotHttp = "not-http", 400, "http_request_error";
    /// A connection to one of Weft's own listeners.
    OwnListener = "own-listener", 403, "http_request_denied";
    /// A limit on connections or requests was reached.
    Overloaded = "overloaded", 503, "connection_limit_reached";
    /// The proxy is ending.
    Draining = "draining", 503, "destination_unavailable";
    /// The proxy has no certificate (yet, or any more).
    NoCertificate = "no-certificate", 503, "proxy_internal_error";
    /// The client went away.
    ClientClosed = "client-closed", 499, "connection_terminated";
    /// A defect in the proxy.
    Internal = "internal", 500, "proxy_internal_error";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
