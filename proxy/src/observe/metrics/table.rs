//! Table. Every metric of the proxy: name, type, unit, labels, meaning. `docs/metrics.md` is made of it.

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Goes up and down. Where several workers have one: how they make one number.
    Gauge(Merge),
    /// Durations in the buckets of OpenTelemetry's semantic conventions.
    Histogram,
}

/// How the values of several workers make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// They count different things.
    Sum,
    /// They see the same thing: the lowest counts.
    Min,
    /// They see the same thing: the highest counts.
    Max,
}

/// What the series of a metric are of. All but those of the process are capped together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The process: few, and known beforehand.
    Process,
    /// One Service, by [`SERVICE_LABELS`] and perhaps `subset` in front of the other labels. Forgotten with it.
    Service,
    /// Who talks to whom: it has [`MESH_LABELS`].
    Traffic,
}

/// One metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// The name.
    pub name: &'static str,
    /// What kind it is.
    pub kind: Kind,
    /// `seconds`, `bytes`, or what is counted.
    pub unit: &'static str,
    /// Labels of its own, beside [`MESH_LABELS`].
    pub labels: &'static [&'static str],
    /// What its series are of.
    pub scope: Scope,
    /// What it says.
    pub help: &'static str,
}

/// On every metric of traffic. From the verified identity and discovery only, never from what a request says.
pub const MESH_LABELS: &[&str] = &[
    "direction",
    "source_workload",
    "source_namespace",
    "destination_workload",
    "destination_namespace",
    "destination_service",
    "destination_version",
    "destination_region",
    "mutual_tls",
];

/// In front of the labels of every metric of a Service.
pub const SERVICE_LABELS: &[&str] = &["destination_namespace", "destination_service"];

const HTTP: &[&str] = &[
    "http_request_method",
    "http_response_status_code",
    "http_route",
    "network_protocol_version",
    "error_type",
];
const RPC: &[&str] = &[
    "rpc_system_name",
    "rpc_method",
    "rpc_response_status_code",
    "error_type",
];

macro_rules! families {
    ($($id:ident = $name:literal, $kind:expr, $unit:literal, $labels:expr, $scope:ident, $help:literal;)+) => {
        $(#[doc = $help] pub static $id: Family =
            Family { name: $name, kind: $kind, unit: $unit, labels: $labels, scope: Scope::$scope, help: $help };)+

        /// All metrics, in the order in which they are printed.
        pub static FAMILIES: &[&Family] = &[$(&$id),+];
    };
}

families! {
    HTTP_SERVER = "http_server_request_duration_seconds", Kind::Histogram, "seconds", HTTP, Traffic,
        "HTTP requests to this pod's app, from the first byte of the request's head to the last of the response.";
    HTTP_CLIENT = "http_client_request_duration_seconds", Kind::Histogram, "seconds", HTTP, Traffic,
        "HTTP requests of this pod's app, each attempt at an endpoint, from the head of the request to the end of the response.";
    RPC_SERVER = "rpc_server_call_duration_seconds", Kind::Histogram, "seconds", RPC, Traffic,
        "gRPC calls to this pod's app. Methods that the app does not know are _OTHER.";
    RPC_CLIENT = "rpc_client_call_duration_seconds", Kind::Histogram, "seconds", RPC, Traffic,
        "gRPC calls of this pod's app, each attempt at an endpoint.";
    TCP_OPENED = "weft_tcp_connections_opened_total", Kind::Counter, "connections", &[], Traffic,
        "Opaque connections opened.";
    TCP_OPEN = "weft_tcp_connections_open", Kind::Gauge(Merge::Sum), "connections", &[], Traffic,
        "Opaque connections open now.";
    TCP_CLOSED = "weft_tcp_connections_closed_total", Kind::Counter, "connections", &["reason"], Traffic,
        "Opaque connections closed: done where both sides ended in order, else the reason code, or cancelled by the proxy's end.";
    TCP_BYTES = "weft_tcp_bytes_total", Kind::Counter, "bytes", &["flow"], Traffic,
        "Bytes of opaque connections: up from the side that dialled, down back to it.";
    REFUSALS = "weft_refusals_total", Kind::Counter, "refusals", &["reason", "direction"], Process,
        "Connections and requests that Weft refused or failed itself, by reason code (docs/errors.md).";
    ENDPOINTS = "weft_endpoints", Kind::Gauge(Merge::Min), "endpoints",
        &["destination_namespace", "destination_service", "subset", "tier", "state"], Service,
        "Endpoints by tier (0 is nearest) and state (all, healthy), as the worker that sees the fewest saw them at its latest request.";
    SPILLOVER = "weft_spillover_total", Kind::Counter, "requests",
        &["destination_namespace", "destination_service", "subset", "tier", "reason"], Service,
        "Requests and opaque connections sent to a farther tier than the nearest, and why: absent (no endpoint is nearer) or unhealthy.";
    EJECTIONS = "weft_endpoint_ejections_total", Kind::Counter, "ejections",
        &["destination_namespace", "destination_service", "reason"], Service,
        "Endpoints set aside after failures, by reason code.";
    RETRIES = "weft_retries_total", Kind::Counter, "tries",
        &["destination_namespace", "destination_service", "reason"], Service,
        "Tries that a rule's retry has made again, by what the one before came to: `http-503`, `grpc-14` (each with its status), or a reason code. Tries of which no byte had reached the app are not among them.";
    RETRIES_DENIED = "weft_retries_denied_total", Kind::Counter, "tries",
        &["destination_namespace", "destination_service"], Service,
        "Tries that a rule's retry would have made, and the Service's retry budget did not allow.";
    MIRRORS = "weft_mirrors_total", Kind::Counter, "requests",
        &["destination_namespace", "destination_service", "outcome"], Service,
        "Copies of requests for a mirror's Service, by outcome: sent (and answered), failed, or dropped (too many under way, a body that is too large or did not end, or no such backend).";
    GATEWAY_DIALS = "weft_gateway_dials_total", Kind::Counter, "connections",
        &["destination_namespace", "destination_service", "outcome"], Service,
        "Connections through gateways of other networks, each gateway that was tried, by outcome: connected, or a reason code.";
    GATEWAY_CONNECTIONS = "weft_gateway_connections_total", Kind::Counter, "connections", &["reason"], Process,
        "Connections that other clusters' proxies opened to an east-west gateway, by what became of them: passed (on to the endpoint), idle (passed, then cut because it carried nothing for too long), endpoint-vanished and client-vanished (passed, then broken off because that side acknowledged nothing any more), closed (by the client, before it had said what it wants), or why it was refused: malformed, no-sni, not-exported, not-mesh, timeout, unreachable (the endpoint), too-many.";
    GATEWAY_OPEN = "weft_gateway_connections_open", Kind::Gauge(Merge::Sum), "connections", &[], Process,
        "Connections to an east-west gateway that are open now.";
    GATEWAY_BYTES = "weft_gateway_bytes_total", Kind::Counter, "bytes", &["direction"], Process,
        "Bytes that an east-west gateway has passed on: up from the side that dialled, down back to it.";
    LEAF_EXPIRY = "weft_leaf_expiry_seconds", Kind::Gauge(Merge::Max), "seconds", &[], Process,
        "Seconds until the proxy's own certificate ends. 0: it has none that is valid.";
    CONFIG_AGE = "weft_config_age_seconds", Kind::Gauge(Merge::Max), "seconds", &[], Process,
        "Seconds since the control plane last confirmed the configuration, to this process or the one before: 0 while its stream is up and has said what changed.";
    CONNECTED = "weft_discovery_connected", Kind::Gauge(Merge::Max), "streams", &[], Process,
        "Whether the stream to the control plane is up.";
    SUBSCRIPTIONS = "weft_discovery_subscriptions", Kind::Gauge(Merge::Max), "destinations", &[], Process,
        "Destinations that the proxy follows.";
    BATCHES = "weft_discovery_batches_total", Kind::Counter, "batches", &[], Process,
        "Batches of configuration received.";
    REFUSED = "weft_discovery_refused_total", Kind::Counter, "resources", &["kind"], Process,
        "Resources that the proxy did not take, by kind; it goes on with the last good version.";
    RECONNECTS = "weft_discovery_connects_total", Kind::Counter, "attempts", &["outcome"], Process,
        "Attempts to open the stream to the control plane, by outcome: opened or failed.";
    ISSUES = "weft_identity_issues_total", Kind::Counter, "requests", &["outcome"], Process,
        "Certificates asked for, by outcome: issued, refused (by the control plane), unreachable, or invalid (what came was not ours).";
    SKEW = "weft_clock_skew_seconds", Kind::Gauge(Merge::Max), "seconds", &[], Process,
        "How far this clock is ahead of the control plane's, measured when a certificate was issued.";
    SNAPSHOTS = "weft_snapshot_writes_total", Kind::Counter, "writes", &["outcome"], Process,
        "Snapshots of the configuration written, by outcome: written or failed.";
    TRACES_EXPORTED = "weft_traces_exported_total", Kind::Counter, "spans", &[], Process,
        "Spans that the collector took.";
    TRACES_DROPPED = "weft_traces_dropped_total", Kind::Counter, "spans", &["reason"], Process,
        "Spans dropped: queue (full), collector (it did not take them) or shutdown.";
    ACCESS_DROPPED = "weft_access_log_dropped_total", Kind::Counter, "lines", &[], Process,
        "Lines of the access log dropped because whoever reads it is too slow.";
    SERIES = "weft_metrics_series", Kind::Gauge(Merge::Max), "series", &[], Process,
        "Series of traffic and of Services, each counted once however many lines it prints. What goes over the cap is counted as other.";
    CPU = "process_cpu_seconds_total", Kind::Counter, "seconds", &[], Process,
        "CPU time of the proxy's process, user and system.";
    MEMORY = "process_resident_memory_bytes", Kind::Gauge(Merge::Max), "bytes", &[], Process,
        "Memory of the proxy's process that lies in RAM.";
    BUILD = "weft_build_info", Kind::Gauge(Merge::Max), "builds", &["version"], Process,
        "Always 1, with the proxy's version.";
}

/// `docs/metrics.md`, for the test that holds the two together.
#[cfg(test)]
pub(crate) fn markdown() -> String {
    let mut out = String::from(
        "# Metrics of the proxy\n\nGenerated from `proxy/src/observe/metrics/table.rs`; a test holds the two together. \
         `GET :15020/metrics` prints them in Prometheus' text format.\n\nMetrics of traffic carry the mesh's labels: ",
    );
    let labels: Vec<_> = MESH_LABELS.iter().map(|label| format!("`{label}`")).collect();
    out.push_str(&labels.join(", "));
    out.push_str(
        ". They come from the verified identity of the peer and from discovery, never from what a request says. With \
         `direction=\"outbound\"`, `source_workload` is the workload of the proxy's own pod. With `direction=\"inbound\"` it is \
         the caller's service account, the only name of it that its certificate proves: callers with the same service account \
         are one there, and one in plaintext has no name. Give each workload a service account of its own to tell them apart. At most \
         2,000 series of traffic and of Services are kept; what goes over is counted in one series a metric whose labels are \
         all `other`, and `weft_endpoints` leaves it out. The series of a Service are forgotten with it.\n\n\
         | name | type | unit | mesh labels | own labels | meaning |\n|---|---|---|---|---|---|\n",
    );
    for family in FAMILIES {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge(_) => "gauge",
            Kind::Histogram => "histogram",
        };
        let own: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let mesh = if family.scope == Scope::Traffic { "yes" } else { "" };
        out.push_str(&format!(
            "| `{}` | {kind} | {} | {mesh} | {} | {} |\n",
            family.name,
            family.unit,
            own.join(", "),
            family.help
        ));
    }
    out
}
