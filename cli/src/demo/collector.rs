//! A small OTLP/gRPC trace collector in memory.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

/// Spans kept at most; a demo makes a few thousand.
const SPANS_MAX: usize = 100_000;

/// A span, as far as the demo looks at it.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) service: String,
    pub(super) name: String,
    pub(super) kind: i32,
    pub(super) trace: String,
    pub(super) id: String,
    pub(super) parent: String,
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
}

/// A running collector.
pub(super) struct Collector {
    endpoint: String,
    spans: Spans,
}

#[derive(Clone, Default)]
struct Spans {
    kept: Arc<Mutex<Vec<Span>>>,
    /// Where everything goes too.
    further: Option<mpsc::Sender<ExportTraceServiceRequest>>,
}

impl Collector {
    /// Listens on a free port of the loopback. `further`: where everything goes too, unless it is full.
    pub(super) async fn start(further: Option<mpsc::Sender<ExportTraceServiceRequest>>) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let spans = Spans {
            further,
            ..Spans::default()
        };
        let service = TraceServiceServer::new(spans.clone());
        let connections = tokio_stream::wrappers::TcpListenerStream::new(listener);
        // Ends with the demo's runtime.
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(connections),
        );
        Ok(Self { endpoint, spans })
    }

    /// `http://127.0.0.1:…`.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The spans of a trace, so far.
    pub(super) fn trace(&self, id: &str) -> Vec<Span> {
        let spans = self.spans.kept.lock().unwrap_or_else(PoisonError::into_inner);
        spans.iter().filter(|span| span.trace == id).cloned().collect()
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner();
        if let Some(further) = &self.further {
            // Full: what is behind it is too slow, and misses these.
            let _ = further.try_send(request.clone());
        }
        let mut spans = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.resource_spans {
            let attributes = resource
                .resource
                .map(|resource| resource.attributes)
                .unwrap_or_default();
            let service = text(&attributes, "service.name");
            let scoped = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let room = SPANS_MAX.saturating_sub(spans.len());
            spans.extend(scoped.take(room).map(|span| Span {
                service: service.clone(),
                name: span.name,
                kind: span.kind,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                start_ns: span.start_time_unix_nano,
                end_ns: span.end_time_unix_nano,
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes
        .iter()
        .find(|pair| pair.key == key)
        .and_then(|pair| pair.value.as_ref());
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
