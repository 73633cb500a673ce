//! Observe: spans in OpenTelemetry's words (semantic conventions v1.44).

use std::collections::HashSet;
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
    /// Of OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES: they count before all else.
    given: Vec<(String, String)>,
}

impl Pod {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            namespace: settings.pod_namespace.clone(),
            name: settings.pod_name.clone(),
            uid: settings.pod_uid.clone(),
            node: settings.node_name.clone(),
            workload: settings.workload.clone(),
            given: given(&settings.service_name, &settings.resource_attributes),
        }
    }
}

/// What the settings give, the service's name of its own variable first. A pair without `=` is left out, as OpenTelemetry's
/// resource specification has it.
fn given(service_name: &str, attributes: &str) -> Vec<(String, String)> {
    let named = (!service_name.is_empty()).then(|| ("service.name".to_owned(), service_name.to_owned()));
    let pairs = attributes.split(',').filter_map(|pair| pair.split_once('='));
    let pairs = pairs.map(|(key, value)| (decoded(key.trim()), decoded(value.trim())));
    named
        .into_iter()
        .chain(pairs.filter(|(key, _)| !key.is_empty()))
        .collect()
}

/// Percent-decoding (W3C Baggage). Bad escapes stay as they are.
fn decoded(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let digits = bytes
            .get(at + 1..at + 3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits
            .filter(|digits| bytes[at] == b'%' && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
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
    for (key, value) in &pod.given {
        attributes.text(key, value);
    }
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
    // The first of a key counts.
    let mut seen = HashSet::new();
    attributes.0.retain(|attribute| seen.insert(attribute.key.clone()));
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
                attributes.text("client.address", &peer.ip().to_canonical().to_string());
            }
        }
        SpanKind::Client => {
            // Without the query, which may hold secrets.
            attributes.text("url.full", &format!("http://{}{}", finished.authority, finished.path));
            if let Some(peer) = finished.peer {
                attributes.text("network.peer.address", &peer.ip().to_canonical().to_string());
                attributes.number("network.peer.port", Some(i64::from(peer.port())));
            }
            if finished.gateway {
                attributes.put("weft.gateway", Value::BoolValue(true));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(pod: &Pod, key: &str) -> Vec<String> {
        let all = resource(pod, None)
            .attributes
            .into_iter()
            .filter(|attribute| attribute.key == key);
        all.map(|attribute| match attribute.value.and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            other => panic!("{other:?}"),
        })
        .collect()
    }

    fn pod(service_name: &str, attributes: &str) -> Pod {
        let word = |word: &str| word.to_owned();
        let (namespace, name, workload) = (word("shop"), word("web-1"), word("web"));
        Pod {
            namespace,
            name,
            uid: word("u"),
            node: word(""),
            workload,
            given: given(service_name, attributes),
        }
    }

    #[test]
    fn what_is_given_counts_first_and_each_key_once() {
        assert_eq!(attribute(&pod("", ""), "service.name"), ["web"]);
        let named = pod(
            "shop-web",
            "service.name=other,team=a%20b%2C%zz, k8s.pod.name = mine ,broken,=x",
        );
        assert_eq!(attribute(&named, "service.name"), ["shop-web"]);
        assert_eq!(attribute(&named, "team"), ["a b,%zz"]);
        assert_eq!(attribute(&named, "k8s.pod.name"), ["mine"]);
        assert_eq!(attribute(&pod("", "service.name=other"), "service.name"), ["other"]);
        assert!(attribute(&named, "broken").is_empty());
    }
}
