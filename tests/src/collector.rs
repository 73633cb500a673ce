//! An OTLP/gRPC trace collector in the test's process, that can die and come back.

use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use tonic::{Request, Response, Status};

/// A collector on a free port of the host's loopback.
pub struct Collector {
    endpoint: String,
    received: Received,
    /// Its tasks end with it.
    runtime: Option<tokio::runtime::Runtime>,
}

/// A span with the name of the service that made it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `service.name` of the resource.
    pub service: String,
    /// The span.
    pub span: Span,
}

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<ResourceSpans>>>);

impl Collector {
    /// Starts a collector.
    #[must_use]
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let received = Received::default();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let service = TraceServiceServer::new(received.clone());
        let connections = tokio_stream::wrappers::TcpListenerStream::new(listener);
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(connections),
        );
        Self {
            endpoint,
            received,
            runtime: Some(runtime),
        }
    }

    /// For OTEL_EXPORTER_OTLP_ENDPOINT.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Dies: its port is closed, its connections are cut.
    pub fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Seen> {
        let received = self.received.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = |resource: &ResourceSpans| {
            let service = resource
                .resource
                .as_ref()
                .map(|resource| attribute(&resource.attributes, "service.name"));
            let spans = resource.scope_spans.iter().flat_map(|scope| scope.spans.clone());
            let service = service.unwrap_or_default();
            spans
                .map(|span| Seen {
                    service: service.clone(),
                    span,
                })
                .collect::<Vec<_>>()
        };
        received.iter().flat_map(seen).collect()
    }

    /// The spans of a trace (32 hex digits) so far.
    pub fn trace(&self, id: &str) -> Vec<Seen> {
        self.spans()
            .into_iter()
            .filter(|seen| hex(&seen.span.trace_id) == id)
            .collect()
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(request.into_inner().resource_spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Seen {
    /// The text of an attribute, or nothing.
    #[must_use]
    pub fn attribute(&self, key: &str) -> String {
        attribute(&self.span.attributes, key)
    }
}

fn attribute(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], key: &str) -> String {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let value = attributes
        .iter()
        .find(|pair| pair.key == key)
        .and_then(|pair| pair.value.as_ref());
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// Bytes as hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
