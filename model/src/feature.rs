//! Features: what a policy, rule or route may need of a proxy. Meaning never rests on unknown fields alone, because a
//! protobuf decoder drops them silently.

/// Matching and weights of HTTPRoute and GRPCRoute.
pub const HTTP_ROUTES: &str = "http-routes/1";
/// Locality preference with spill-over.
pub const LOCALITY: &str = "locality/1";

/// An order of regions, and shares by place.
pub const PLACES: &str = "places/1";
/// Other ways to choose an endpoint than the default.
pub const BALANCE: &str = "balance/1";
/// Backends and mirrors whose traffic is spread by their own Service's policies.
pub const BACKEND_TRAFFIC: &str = "backend-traffic/1";

/// TCPRoute and TLSRoute.
pub const STREAMS: &str = "stream-routes/1";

/// Changes of headers, rewrites, redirects.
pub const FILTERS: &str = "filters/1";
/// Mirrored requests.
pub const MIRROR: &str = "mirror/1";
/// Timeouts of rules.
pub const TIMEOUTS: &str = "timeouts/1";
/// Retries after a response, with a budget.
pub const RETRY: &str = "retry/1";

/// Endpoints behind the gateways of another network.
pub const GATEWAYS: &str = "gateways/1";

/// All that this build honours.
pub const SUPPORTED: &[&str] = &[
    HTTP_ROUTES,
    LOCALITY,
    FILTERS,
    TIMEOUTS,
    RETRY,
    MIRROR,
    PLACES,
    BALANCE,
    BACKEND_TRAFFIC,
    STREAMS,
    GATEWAYS,
];

/// The features of `requires` that this build lacks.
pub fn missing<'a>(requires: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    requires
        .into_iter()
        .filter(|feature| !SUPPORTED.contains(feature))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_missing() {
        assert!(missing([]).is_empty());
        assert!(missing(SUPPORTED.iter().copied()).is_empty());
        assert_eq!(
            missing([LOCALITY, "locality/2", "", "Locality/1"]),
            ["locality/2", "", "Locality/1"]
        );
    }
}
