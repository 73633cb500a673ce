//! Observe: spans in OpenTelemetry's words (semantic conventions v1.44).

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind as WireKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use weft_model::inbound::Inbound;

use crate::config::Settings;
use crate::observe::metrics::series::rpc_status;
use crate::observe::trace::{Finished, SpanKind};

/// What the settings say of the pod.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    namespace: String,
    name: String,
    uid: String,
    node: String,
    workload: String,
}

impl Pod {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            namespace: settings.pod_namespace.clone(),
            name: settings.pod_name.clone(),
            uid: settings.pod_uid.clone(),
            node: settings.node_name.clone(),
            workload: settings.workload.clone(),
        }
    }
}

/// A batch as one request.
pub(super) fn request(batch: &[Finished], pod: &Pod, inbound: Option<&Inbound>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: "weft-proxy".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = ScopeSpans {
        scope: Some(scope),
        spans: batch.iter().map(span).collect(),
        ..ScopeSpans::default()
    };
    let resource = Some(resource(pod, inbound));
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource,
            scope_spans: vec![spans],
            ..ResourceSpans::default()
        }],
    }
}

/// The control plane's word for the workload counts, then the injector's, then the pod's name.
fn resource(pod: &Pod, inbound: Option<&Inbound>) -> Resource {
    let named = [
        inbound.map_or("", |inbound| &inbound.workload.name),
        &pod.workload,
        &pod.name,
    ];
    let service = named
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or("unknown_service:weft-proxy");
    let mut attributes = Attributes::default();
    attributes
        .text("service.name", service)
        .text("service.namespace", &pod.namespace)
        .text("service.instance.id", &pod.uid)
        .text("k8s.namespace.name", &pod.namespace)
        .text("k8s.pod.name", &pod.name)
        .text("k8s.pod.uid", &pod.uid)
        .text("k8s.node.name", &pod.node)
        .text("k8s.container.name", "weft-proxy");
    if let Some(inbound) = inbound {
        attributes
            .text("service.version", &inbound.workload.version)
            .text("cloud.region", &inbound.workload.place.region)
            .text("cloud.availability_zone", &inbound.workload.place.zone)
            .text("k8s.cluster.name", &inbound.workload.place.cluster);
    }
    Resource {
        attributes: attributes.0,
        ..Resource::default()
    }
}

fn span(finished: &Finished) -> Span {
    let start = finished
        .start
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let parent = if finished.parent == [0; 8] {
        Vec::new()
    } else {
        finished.parent.to_vec()
    };
    let kind = match finished.kind {
        SpanKind::Server => WireKind::Server,
        SpanKind::Client => WireKind::Client,
    };
    let code = if is_error(finished) {
        StatusCode::Error
    } else {
        StatusCode::Unset
    };
    let message = finished
        .outcome
        .error
        .map_or(String::new(), |reason| reason.code().to_owned());
    Span {
        trace_id: finished.context.trace.to_vec(),
        span_id: finished.context.span.to_vec(),
        parent_span_id: parent,
        flags: u32::from(finished.context.flags),
        name: finished.name(),
        kind: kind.into(),
        start_time_unix_nano: nanos(start),
        end_time_unix_nano: nanos(start + finished.took),
        attributes: attributes(finished),
        status: Some(Status {
            message,
            code: code.into(),
        }),
        ..Span::default()
    }
}

/// Whether the span failed, by its own side's rules: a 4xx is the client's error, not the server's; of gRPC's statuses the
/// server owns only some.
fn is_error(finished: &Finished) -> bool {
    let outcome = &finished.outcome;
    if finished.cancelled || outcome.error.is_some() {
        return true;
    }
    let server = finished.kind == SpanKind::Server;
    if finished.rpc_method.is_some() && outcome.status == 200 {
        let status = outcome.grpc_status.unwrap_or(2);
        // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
        return if server {
            matches!(status, 2 | 4 | 12 | 13 | 14 | 15)
        } else {
            status != 0
        };
    }
    outcome.status >= if server { 500 } else { 400 }
}

fn attributes(finished: &Finished) -> Vec<KeyValue> {
    let outcome = &finished.outcome;
    let (host, port) = split(&finished.authority);
    let mut attributes = Attributes::default();
    attributes
        .text("http.request.method", finished.method)
        .text("http.route", &finished.route)
        .text("network.protocol.name", "http")
        .text("network.protocol.version", finished.version)
        .text("server.address", host)
        .number("server.port", port)
        .number(
            "http.response.status_code",
            (outcome.status > 0).then(|| i64::from(outcome.status)),
        );
    match finished.kind {
        SpanKind::Server => {
            attributes.text("url.scheme", "http").text("url.path", &finished.path);
            if let Some(peer) = finished.peer {
                attributes.text("client.address", &peer.ip().to_string());
            }
        }
        SpanKind::Client => {
            // Without the query, which may hold secrets.
            attributes.text("url.full", &format!("http://{}{}", finished.authority, finished.path));
            if let Some(peer) = finished.peer {
                attributes.text("network.peer.address", &peer.ip().to_string());
                attributes.number("network.peer.port", Some(i64::from(peer.port())));
            }
            attributes.number(
                "http.request.resend_count",
                (finished.resend > 0).then(|| i64::from(finished.resend)),
            );
        }
    }
    if let Some(method) = &finished.rpc_method {
        attributes.text("rpc.system.name", "grpc").text("rpc.method", method);
        if let Some(status) = outcome.grpc_status {
            attributes.text("rpc.response.status_code", rpc_status(status));
        }
    }
    if is_error(finished) {
        let status = outcome.status.to_string();
        let error = match outcome.error {
            Some(reason) => reason.code(),
            None if finished.cancelled => "cancelled",
            None if finished.rpc_method.is_some() => rpc_status(outcome.grpc_status.unwrap_or(2)),
            None => &status,
        };
        attributes.text("error.type", error);
    }
    let labels = &finished.labels;
    attributes
        .text("weft.source.workload", &labels.source_workload)
        .text("weft.source.namespace", &labels.source_namespace)
        .text("weft.destination.workload", &labels.destination_workload)
        .text("weft.destination.namespace", &labels.destination_namespace)
        .text("weft.destination.service", &labels.destination_service)
        .text("weft.destination.version", &labels.destination_version)
        .text("weft.destination.region", &labels.destination_region)
        .put("weft.mutual_tls", Value::BoolValue(labels.mutual_tls));
    attributes.0
}

fn split(authority: &str) -> (&str, Option<i64>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// Attributes under construction. What is empty is left out.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn text(&mut self, key: &str, value: &str) -> &mut Self {
        if value.is_empty() {
            return self;
        }
        self.put(key, Value::StringValue(value.to_owned()))
    }

    fn number(&mut self, key: &str, value: Option<i64>) -> &mut Self {
        match value {
            Some(value) => self.put(key, Value::IntValue(value)),
            None => self,
        }
    }

    fn put(&mut self, key: &str, value: Value) -> &mut Self {
        self.0.push(KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        });
        self
    }
}
