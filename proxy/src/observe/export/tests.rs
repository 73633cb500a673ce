use std::sync::Arc;

use clap::Parser as _;
use http::{HeaderMap, Method, Version};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::{Request, Response, Status};

use super::*;
use crate::discover;
use crate::observe::metrics::{Labels, Registry};
use crate::observe::trace::{Outcome, Sampler, Tracer, Tracing, What};

struct Fixture {
    exporter: Exporter,
    tracer: Tracer,
    registry: Arc<Registry>,
    _rest: (discover::Back, Vec<discover::View>),
}

fn fixture(collector: &str) -> Fixture {
    let settings = [
        "weft-proxy",
        "--pod-ips",
        "127.0.0.1",
        "--pod-name",
        "web-1",
        "--pod-namespace",
        "shop",
    ];
    let own = [
        "--workload",
        "web",
        "--state-dir",
        "/nonexistent",
        "--trust-dir",
        "/nonexistent",
    ];
    let settings = Settings::try_parse_from(settings.iter().chain(&own)).unwrap();
    let registry = Registry::new();
    let (back, beliefs, views) = discover::start(&settings, &registry, &weft_daemon::ready::Ready::new());
    let (tracing, spans) = Tracing::new(Sampler::parse("always_on", "").unwrap());
    let writer = registry.writer();
    let tracer = Tracer::new(Some(&tracing), &writer);
    let exporter = Exporter::new(collector.to_owned(), &settings, beliefs, spans, &registry.writer());
    Fixture {
        exporter,
        tracer,
        registry,
        _rest: (back, views),
    }
}

/// Makes one server span and one client span.
fn request(tracer: &Tracer, status: u16, grpc_status: Option<u16>) {
    let labels = Labels {
        source_workload: "web".into(),
        destination_workload: "reviews".into(),
        mutual_tls: true,
        ..Labels::default()
    };
    let what = What {
        method: &Method::POST,
        path: if grpc_status.is_some() {
            "/shop.Ratings/Get"
        } else {
            "/reviews/4711"
        },
        authority: Some("reviews:9080"),
        version: Version::HTTP_2,
        route: "/reviews/*",
        grpc: grpc_status.is_some(),
        labels: &labels,
        peer: Some(([10, 244, 0, 7], 9080).into()),
        gateway: true,
    };
    let begun = tracer.begin(&HeaderMap::new());
    let outcome = Outcome {
        status,
        grpc_status,
        error: None,
    };
    tracer.server(begun, &what).unwrap().finish(outcome);
    tracer.client(begun, &what, 1).unwrap().finish(outcome);
}

fn count(registry: &Registry, line: &str) -> u64 {
    let text = registry.text().finish();
    let found = text
        .lines()
        .find_map(|l| l.strip_prefix(line))
        .unwrap_or_else(|| panic!("{line} is not in {text}"));
    found.trim().parse().unwrap()
}

#[derive(Clone)]
struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).await.unwrap();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector() -> (String, mpsc::Receiver<ExportTraceServiceRequest>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (send, received) = mpsc::channel(16);
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(send)));
    tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
    (address, received)
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn number(span: &Span, key: &str) -> Option<i64> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::IntValue(number) => Some(*number),
        _ => None,
    }
}

#[tokio::test]
async fn spans_reach_the_collector_in_opentelemetrys_words() {
    let (address, mut received) = collector().await;
    let Fixture {
        exporter,
        tracer,
        registry,
        _rest,
    } = fixture(&address);
    request(&tracer, 404, None);
    request(&tracer, 200, Some(14));
    let story = async {
        let all = timeout(Duration::from_secs(20), received.recv())
            .await
            .unwrap()
            .unwrap();
        let resource = &all.resource_spans[0].resource.as_ref().unwrap().attributes;
        assert_eq!(text(resource, "service.name"), Some("web"));
        assert_eq!(text(resource, "k8s.pod.name"), Some("web-1"));
        assert_eq!(text(resource, "k8s.namespace.name"), Some("shop"));
        all.resource_spans[0].scope_spans[0].spans.clone()
    };
    let spans = tokio::select! {
        () = exporter.run(std::future::pending()) => panic!("the exporter ends never"),
        spans = story => spans,
    };
    let [server, client, rpc_server, rpc_client] = &spans[..] else {
        panic!("{spans:?}")
    };
    assert_eq!(server.name, "POST /reviews/*");
    assert_eq!((server.kind, client.kind), (2, 3));
    assert_eq!(text(&server.attributes, "url.path"), Some("/reviews/4711"));
    assert_eq!(text(&server.attributes, "client.address"), Some("10.244.0.7"));
    assert_eq!(number(server, "http.response.status_code"), Some(404));
    assert_eq!(
        (
            number(server, "server.port"),
            number(client, "http.request.resend_count")
        ),
        (Some(9080), Some(1))
    );
    assert_eq!(text(&client.attributes, "network.peer.address"), Some("10.244.0.7"));
    let through = |span: &Span| span.attributes.iter().any(|attribute| attribute.key == "weft.gateway");
    assert_eq!((through(server), through(client)), (false, true));
    let code = |span: &Span| span.status.as_ref().unwrap().code;
    assert_eq!(
        (code(server), code(client)),
        (0, 2),
        "a 4xx is the client's error and not the server's"
    );
    assert_eq!(text(&client.attributes, "error.type"), Some("404"));
    assert_eq!(rpc_server.name, "shop.Ratings/Get");
    assert_eq!(
        text(&rpc_client.attributes, "rpc.response.status_code"),
        Some("UNAVAILABLE")
    );
    assert_eq!((code(rpc_server), code(rpc_client)), (2, 2));
    assert!(server.parent_span_id.is_empty() && server.trace_id == client.trace_id);
    assert!(server.end_time_unix_nano >= server.start_time_unix_nano);
    for span in &spans {
        assert!(!span.name.contains("4711"), "{}", span.name);
    }
    drop(registry);
}

#[tokio::test]
async fn a_dead_collector_costs_the_spans_and_a_counter() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let Fixture {
        exporter,
        tracer,
        registry,
        _rest,
    } = fixture(&address);
    request(&tracer, 200, None);
    let story = async {
        while count(&registry, "weft_traces_dropped_total{reason=\"collector\"}") < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = exporter.run(std::future::pending()) => panic!("the exporter ends never"),
        counted = timeout(Duration::from_secs(20), story) => counted.expect("it is counted"),
    }
    assert_eq!(count(&registry, "weft_traces_exported_total"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_collector_is_waited_for_within_a_bound() {
    // It accepts, and says nothing: not even HTTP/2.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let Fixture {
        mut exporter,
        tracer,
        registry: _registry,
        _rest,
    } = fixture(&listener.local_addr().unwrap().to_string());
    request(&tracer, 200, None);
    let mut batch = Vec::new();
    assert_eq!(exporter.take(&mut batch), 2);
    assert!(exporter.send(&batch).await.is_err());
}

/// What stands between a proxy and its collector. Dropping the task of a connection closes it.
async fn relay(collector: String) -> (String, mpsc::Receiver<tokio::task::JoinHandle<()>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (send, connections) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = tokio::net::TcpStream::connect(&collector).await.unwrap();
            let passing = async move {
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            };
            send.send(tokio::spawn(passing)).await.unwrap();
        }
    });
    (address, connections)
}

#[tokio::test]
async fn a_connection_that_was_closed_between_two_batches_costs_no_spans() {
    let (collector, mut received) = collector().await;
    let (address, mut connections) = relay(collector).await;
    let Fixture {
        mut exporter,
        tracer,
        registry: _registry,
        _rest,
    } = fixture(&address);
    for number in 1..=2 {
        request(&tracer, 200, None);
        let mut batch = Vec::new();
        assert_eq!(exporter.take(&mut batch), 2);
        assert_eq!(exporter.send(&batch).await, Ok(()), "batch {number}");
        assert!(received.try_recv().is_ok(), "batch {number}");
        assert!(received.try_recv().is_err(), "batch {number} comes once");
        let connection = connections.try_recv().unwrap();
        connection.abort();
        assert!(connection.await.unwrap_err().is_cancelled());
    }
}

/// Counts what it is asked, and takes nothing.
#[derive(Clone, Default)]
struct Refuses(Arc<std::sync::atomic::AtomicUsize>);

#[tonic::async_trait]
impl TraceService for Refuses {
    async fn export(
        &self,
        _: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Err(Status::unavailable("too much"))
    }
}

#[tokio::test]
async fn what_the_collector_refuses_is_not_sent_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let refuses = Refuses::default();
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(refuses.clone()));
    tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
    let Fixture {
        mut exporter,
        tracer,
        registry: _registry,
        _rest,
    } = fixture(&address);
    for number in 1..=2 {
        request(&tracer, 200, None);
        let mut batch = Vec::new();
        assert_eq!(exporter.take(&mut batch), 2);
        assert!(exporter.send(&batch).await.unwrap_err().contains("too much"));
        assert_eq!(refuses.0.load(std::sync::atomic::Ordering::Relaxed), number);
    }
}

#[tokio::test]
async fn the_last_spans_are_taken_out_when_the_process_ends() {
    let (address, mut received) = collector().await;
    let Fixture {
        exporter,
        tracer,
        registry: _registry,
        _rest,
    } = fixture(&address);
    request(&tracer, 200, None);
    exporter.run(async {}).await;
    assert_eq!(
        received.try_recv().unwrap().resource_spans[0].scope_spans[0]
            .spans
            .len(),
        2
    );
}

#[tokio::test]
async fn what_cannot_be_taken_out_at_the_end_is_counted() {
    let Fixture {
        exporter,
        tracer,
        registry,
        _rest,
    } = fixture("127.0.0.1:1");
    request(&tracer, 200, None);
    exporter.run(async {}).await;
    assert_eq!(count(&registry, "weft_traces_dropped_total{reason=\"shutdown\"}"), 2);
}
