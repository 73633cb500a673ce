//! Why something was refused or failed: a closed list of stable codes.

use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $status:literal, $proxy_status:literal, $fix:literal;)+) => {
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
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ }
            }

            /// What to do about it.
            pub const fn fix(self) -> &'static str {
                match self { $(Self::$variant => $fix),+ }
            }
        }
    };
}

reasons! {
    /// Plaintext to a pod that accepts only mutual TLS.
    PlaintextRefused = "plaintext-refused", 403, "http_request_denied",
        "Put the caller into the mesh (label its namespace `weft.dev/inject: enabled` and restart its pods), or annotate the pod's namespace `config.weft.dev/inbound: permissive`.";
    /// A certificate of a foreign trust domain on a port that is not exported to it.
    ForeignTrustDomain = "foreign-trust-domain", 403, "http_request_denied",
        "Export the Service to the caller's cluster, or call a port that is exported.";
    /// A policy that this proxy does not wholly understand covers the port.
    PolicyUnsupported = "policy-unsupported", 403, "http_request_denied",
        "Upgrade this proxy (restart its pod), or take back the policy; `weft status` names the proxy and the features that it lacks.";
    /// Routes are attached to the Service, and none matches the request.
    NoRoute = "no-route", 404, "http_request_error",
        "Add a rule that matches the request to one of the Service's routes, or detach the routes.";
    /// The chosen backend does not resolve, or the rule has none.
    BackendUnresolved = "backend-unresolved", 500, "proxy_configuration_error",
        "Correct the rule's backendRefs; the route's ResolvedRefs condition says which and why.";
    /// The backend has no endpoints.
    NoEndpoints = "no-endpoints", 503, "destination_unavailable",
        "Look at the readiness of the pods behind the Service or subset, and at its selector.";
    /// Every endpoint that was tried could not be connected to.
    ConnectFailed = "connect-failed", 502, "connection_refused",
        "Look at the pods behind the Service, and at network policies between the two pods.";
    /// Connecting took too long.
    ConnectTimeout = "connect-timeout", 504, "connection_timeout",
        "Look at the network between the two pods: packets are lost or dropped on the way.";
    /// The endpoint showed another identity than discovery named, or none that verifies.
    IdentityMismatch = "identity-mismatch", 502, "tls_certificate_error",
        "If it lasts: another workload has the endpoint's address, or its certificate has ended. Look at the pod's proxy and at the clocks.";
    /// The mesh's handshake with the endpoint failed.
    TlsFailed = "tls-failed", 502, "tls_protocol_error",
        "Look at the other pod's proxy: it may be of an incompatible version, or not be running.";
    /// The control plane cannot be asked, or did not say in time what is at the address.
    DiscoveryTimeout = "discovery-timeout", 503, "proxy_internal_response",
        "Look at the control plane, and at the connection to it: `weft status` says whether it answers, and which proxies it has.";
    /// The address lies in the mesh's networks, and no Service or Pod that the mesh knows has it.
    UnknownAddress = "unknown-address", 503, "destination_unavailable",
        "Look at what was dialled: a Service or pod that is gone, or an address that is written somewhere. One that lies there and is not the mesh's is left alone with the annotation `config.weft.dev/skip-outbound-subnets`, or the control plane's `--outside`.";
    /// The proxy follows as many destinations as it may.
    SubscriptionLimit = "subscription-limit", 503, "proxy_internal_response",
        "Raise the limit of subscriptions, or find the app that dials so many addresses.";
    /// The Service or pod has no such port.
    NoSuchPort = "no-such-port", 503, "destination_unavailable",
        "Correct the port that is dialled, or declare it on the Service.";
    /// The connection ended before a response began.
    UpstreamClosed = "upstream-closed", 502, "connection_terminated",
        "Look at the log of the app that was called: it closed the connection, or ended.";
    /// The response broke the protocol.
    UpstreamProtocol = "upstream-protocol", 502, "http_protocol_error",
        "Look at the app that was called: its response is not valid HTTP, or its declared protocol (`appProtocol`) is wrong.";
    /// The app does not listen on its port.
    AppUnreachable = "app-unreachable", 502, "connection_refused",
        "Look at whether the app runs, and listens on the pod's address and not on loopback only.";
    /// The request took longer than its rule, or its caller's `grpc-timeout`, allows.
    RequestDeadline = "request-deadline", 504, "http_response_timeout",
        "Look at why the app takes so long; else raise the rule's `timeouts.request`, or the caller's own deadline.";
    /// A try took longer than its rule allows one.
    BackendDeadline = "backend-deadline", 504, "http_response_timeout",
        "Look at why the app takes so long; else raise the rule's `timeouts.backendRequest`.";
    /// The request breaks HTTP, or could be read in two ways.
    BadRequest = "bad-request", 400, "http_request_error",
        "Correct the client: its request is refused so that no two servers read it differently.";
    /// The request's headers are larger than the limit.
    HeadersTooLarge = "headers-too-large", 431, "http_request_error",
        "Send fewer or smaller headers (cookies, often).";
    /// The client was too slow to send its request's headers.
    RequestTimeout = "request-timeout", 408, "http_request_error",
        "Look at the client and the network to it: the headers must be complete within the limit.";
    /// The declared protocol is HTTP, and the bytes are not.
    NotHttp = "not-http", 400, "http_request_error",
        "Correct the port's `appProtocol`, or the client.";
    /// A connection to one of Weft's own listeners. It is closed without a response, and counted by that proxy; a caller in
    /// the mesh gets `connect-failed` from its own proxy.
    OwnListener = "own-listener", 403, "http_request_denied",
        "Dial the app's port and not the proxy's.";
    /// A limit on connections or requests was reached.
    Overloaded = "overloaded", 503, "connection_limit_reached",
        "Add replicas, or raise the limit.";
    /// The proxy is ending.
    Draining = "draining", 503, "destination_unavailable",
        "Nothing: the pod is ending, and a retry reaches another.";
    /// The proxy has no certificate (yet, or any more).
    NoCertificate = "no-certificate", 503, "proxy_internal_error",
        "Look at the control plane and at this proxy's log: it has not been given a certificate, or its last one has ended.";
    /// The client went away.
    ClientClosed = "client-closed", 499, "connection_terminated",
        "Nothing, or look at the client's own timeouts.";
    /// A defect in the proxy.
    Internal = "internal", 500, "proxy_internal_error",
        "Report it, with the proxy's log.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The reference of all reasons, as Markdown: `docs/errors.md`.
pub fn reference() -> String {
    let mut page = String::from(
        "# Errors\n\n\
        Everything that Weft itself refuses, or fails at, has one of these codes. They are stable. A code stands in the\n\
        response's `Proxy-Status` header (RFC 9209; `weft; error=<error>; details=\"<code>\"`), in the metric\n\
        `weft_refusals_total{reason=\"<code>\"}` and in the proxy's log. A gRPC caller sees it in `grpc-message`; a connection\n\
        that is not HTTP is closed.\n\n\
        <!-- Written from model/src/reason.rs: WEFT_WRITE_DOCS=1 cargo test -p weft-model reason -->\n\n\
        | code | HTTP status | Proxy-Status error | what it means | what to do |\n\
        |---|---|---|---|---|\n",
    );
    for &reason in Reason::ALL {
        let (code, status, error) = (reason.code(), reason.status(), reason.proxy_status());
        let (meaning, fix) = (reason.meaning(), reason.fix());
        let answer = match reason {
            Reason::OwnListener => "none | none".to_owned(),
            _ => format!("{status} | `{error}`"),
        };
        page.push_str(&format!("| `{code}` | {answer} | {meaning} | {fix} |\n"));
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_reference_is_that_of_the_code() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
        if std::env::var_os("WEFT_WRITE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, reference()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == reference(),
            "docs/errors.md is old: WEFT_WRITE_DOCS=1 cargo test -p weft-model reason"
        );
    }

    #[test]
    fn codes_are_distinct_and_in_kebab_case() {
        let codes: HashSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for code in codes {
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code}");
        }
    }

    #[test]
    fn every_reason_is_an_error_and_says_what_to_do() {
        for reason in Reason::ALL {
            assert!((400..600).contains(&reason.status()), "{reason}");
            for text in [reason.meaning(), reason.fix()] {
                assert!(
                    text.len() > 10 && text.ends_with('.') && !text.contains('|'),
                    "{reason}: {text}"
                );
            }
        }
    }

    #[test]
    fn proxy_status_errors_are_registered() {
        // RFC 9209 section 2.3, those that are used.
        let registered = [
            "destination_unavailable",
            "connection_refused",
            "connection_terminated",
            "connection_timeout",
            "connection_limit_reached",
            "tls_protocol_error",
            "tls_certificate_error",
            "http_request_error",
            "http_request_denied",
            "http_protocol_error",
            "http_response_timeout",
            "proxy_internal_response",
            "proxy_internal_error",
            "proxy_configuration_error",
        ];
        for reason in Reason::ALL {
            assert!(
                registered.contains(&reason.proxy_status()),
                "{reason}: {}",
                reason.proxy_status()
            );
        }
    }
}
