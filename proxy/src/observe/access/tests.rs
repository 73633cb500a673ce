use std::io::{self, Write};
use std::sync::mpsc::{Sender, channel};

use serde_json::{Value, json};
use weft_model::identity::TrustDomain;
use weft_model::name::ObjectRef;
use weft_model::reason::Reason;
use weft_model::route::Match;

use super::write::{FIELDS, describe, markdown, start};
use super::*;
use crate::http::head::Length;
use crate::observe::metrics::{Metrics, Registry};

fn log(on: bool) -> (Rc<AccessLog>, Switch, mpsc::Receiver<Box<Entry>>, Arc<Registry>) {
    let (switch, registry) = (Switch::new(on), Registry::new());
    let (access, entries) = Access::new(switch.clone());
    (AccessLog::new(&access, &registry.writer()), switch, entries, registry)
}

fn identity(name: &str) -> Identity {
    Identity::new(TrustDomain::new("demo.weft.internal").unwrap(), "shop", name).unwrap()
}

fn head(path: &'static str, grpc: bool) -> RequestHead {
    let mut headers = http::HeaderMap::new();
    if grpc {
        headers.insert("content-type", "application/grpc".parse().unwrap());
    }
    RequestHead {
        method: Method::POST,
        target: Some(path.parse().unwrap()),
        authority: None,
        headers,
        version: Version::HTTP_2,
        upgrade: None,
        takes_trailers: false,
        length: Length::Empty,
    }
}

fn rule() -> Arc<Rule> {
    Arc::new(Rule {
        route: ObjectRef {
            kind: "GRPCRoute".into(),
            namespace: "shop".into(),
            name: "ratings".into(),
        },
        index: 3,
        name: String::new(),
        matches: Match::default(),
        backends: vec![],
        redirect: None,
        filters: weft_model::filter::Filters::default(),
        timeouts: weft_model::route::Timeouts::default(),
        retry: None,
    })
}

/// A line that has something to say in every field that a request has.
fn full(log: &Rc<AccessLog>) -> Line {
    let labels = Labels {
        direction: Direction::Outbound,
        source_workload: "web".into(),
        source_namespace: "shop".into(),
        destination_workload: "ratings".into(),
        destination_namespace: "shop".into(),
        destination_service: "ratings".into(),
        ..Labels::default()
    };
    let metrics = Metrics::new(&Registry::new());
    let mut line = log.begin(Direction::Outbound, || Some(identity("web")));
    Line::note(&mut line, |entry| {
        entry.asks(&head("/shop.Ratings/Get?token=secret", true), "ratings:9080");
        entry.routed(Some(&rule()), "/shop.Ratings/*");
        entry.of(&metrics.series(&labels, ""));
        entry.endpoint = Some("shop/ratings-1".into());
        // As a socket of both families has it.
        entry.peer = Some("[::ffff:10.244.0.7]:9080".parse().unwrap());
        entry.destination = Some(identity("ratings"));
        entry.gateway = true;
        entry.tries = 2;
        entry.trace = Context::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let outcome = Outcome {
            status: 200,
            grpc_status: Some(14),
            error: Some(Reason::ConnectFailed),
        };
        entry.ended(outcome, (5, 7));
    });
    line.unwrap()
}

fn said(entries: &mut mpsc::Receiver<Box<Entry>>) -> Value {
    describe(&entries.try_recv().unwrap())
}

#[test]
fn a_line_says_all_that_is_known_of_a_request_and_no_query() {
    let (log, _, mut entries, _) = log(true);
    drop(full(&log));
    let mut line = said(&mut entries);
    let text = line.to_string();
    assert!(!text.contains("secret") && !text.contains('\n'), "{text}");
    let object = line.as_object_mut().unwrap();
    assert!(object.remove("timestamp").unwrap().as_str().unwrap().ends_with('Z'));
    assert!(object.remove("weft.duration").unwrap().as_f64().unwrap() >= 0.0);
    let want = json!({
        "weft.direction": "outbound",
        "network.transport": "tcp",
        "network.protocol.name": "http",
        "network.protocol.version": "2",
        "http.request.method": "POST",
        "url.path": "/shop.Ratings/Get",
        "server.address": "ratings:9080",
        "http.route": "/shop.Ratings/*",
        "http.response.status_code": 200,
        "http.request.body.size": 5,
        "http.response.body.size": 7,
        "rpc.system.name": "grpc",
        "rpc.method": "shop.Ratings/Get",
        "rpc.response.status_code": "UNAVAILABLE",
        "error.type": "connect-failed",
        "weft.reason": "connect-failed",
        "network.peer.address": "10.244.0.7",
        "network.peer.port": 9080,
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": "b7ad6b7169203331",
        "weft.route.object": "GRPCRoute shop/ratings",
        "weft.route.rule": "3",
        "weft.endpoint.pod": "shop/ratings-1",
        "weft.gateway": true,
        "weft.tries": 2,
        "weft.source.identity": "spiffe://demo.weft.internal/ns/shop/sa/web",
        "weft.destination.identity": "spiffe://demo.weft.internal/ns/shop/sa/ratings",
        "weft.source.workload": "shop/web",
        "weft.destination.workload": "shop/ratings",
        "weft.destination.service": "shop/ratings",
    });
    assert_eq!(line, want);
}

#[test]
fn every_field_is_in_the_table_and_the_table_is_in_the_docs() {
    let (log, _, mut entries, _) = log(true);
    drop(full(&log));
    let mut stream = log.begin(Direction::Inbound, || None);
    Line::note(&mut stream, |entry| entry.ended(Outcome::default(), (1, 2)));
    drop(stream);
    let (request, stream) = (said(&mut entries), said(&mut entries));
    let fields: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
    for name in &fields {
        assert!(
            request.get(name).is_some() || stream.get(name).is_some(),
            "{name} is never said"
        );
    }
    for line in [request, stream] {
        for name in line.as_object().unwrap().keys() {
            assert!(fields.contains(&name.as_str()), "{name} is in no table");
        }
    }
    let docs = include_str!("../../../../docs/telemetry.md");
    assert!(
        docs.contains(&markdown()),
        "docs/telemetry.md lacks this:\n{}",
        markdown()
    );
}

#[test]
fn a_stream_has_bytes_and_no_path() {
    let (log, _, mut entries, _) = log(true);
    let mut line = log.begin(Direction::Inbound, || Some(identity("db")));
    Line::note(&mut line, |entry| {
        entry.called_by(Some(&identity("web")), Some("10.244.0.3:4711".parse().unwrap()));
        entry.ended(Outcome::default(), (100, 200));
    });
    drop(line);
    let line = said(&mut entries);
    assert_eq!(
        (&line["weft.stream.sent"], &line["weft.stream.received"]),
        (&json!(100), &json!(200))
    );
    assert_eq!(
        line["weft.source.identity"],
        "spiffe://demo.weft.internal/ns/shop/sa/web"
    );
    assert_eq!(
        line["weft.destination.identity"],
        "spiffe://demo.weft.internal/ns/shop/sa/db"
    );
    for absent in [
        "url.path",
        "http.response.status_code",
        "network.protocol.name",
        "error.type",
    ] {
        assert_eq!(line.get(absent), None, "{absent}");
    }
}

#[test]
fn what_has_no_outcome_was_cancelled() {
    let (log, _, mut entries, _) = log(true);
    drop(log.begin(Direction::Outbound, || None));
    assert_eq!(said(&mut entries)["error.type"], "cancelled");
}

#[test]
fn whose_fault_a_4xx_is_depends_on_the_side() {
    let (log, _, mut entries, _) = log(true);
    for (direction, error) in [(Direction::Inbound, None), (Direction::Outbound, Some("404"))] {
        let mut line = log.begin(direction, || None);
        Line::note(&mut line, |entry| {
            entry.asks(&head("/", false), "reviews");
            let outcome = Outcome {
                status: 404,
                ..Outcome::default()
            };
            entry.ended(outcome, (0, 0));
        });
        drop(line);
        assert_eq!(said(&mut entries).get("error.type").and_then(Value::as_str), error);
    }
}

#[test]
fn an_endless_path_is_cut() {
    let (log, _, mut entries, _) = log(true);
    let path: &'static str = format!("/{}", "x".repeat(10_000)).leak();
    let mut line = log.begin(Direction::Outbound, || None);
    Line::note(&mut line, |entry| entry.asks(&head(path, false), path));
    drop(line);
    let line = said(&mut entries);
    assert_eq!(line["url.path"].as_str().unwrap().len(), 2048);
    assert_eq!(line["server.address"].as_str().unwrap().len(), 2048);
}

#[test]
fn a_log_that_is_off_writes_nothing_and_is_switched_while_it_runs() {
    let (log, switch, mut entries, _) = log(false);
    assert!(log.begin(Direction::Outbound, || panic!("nobody looks")).is_none());
    switch.set(true);
    drop(log.begin(Direction::Outbound, || None));
    switch.set(false);
    assert!(log.begin(Direction::Outbound, || None).is_none());
    assert!(entries.try_recv().is_ok() && entries.try_recv().is_err());
}

#[test]
fn a_writer_that_is_stuck_costs_lines_and_a_counter_and_nothing_else() {
    let (log, _, entries, registry) = log(true);
    for _ in 0..QUEUE + 3 {
        drop(log.begin(Direction::Outbound, || None));
    }
    drop(entries);
    let text = registry.text().finish();
    assert!(text.contains("weft_access_log_dropped_total 3\n"), "{text}");
}

struct Sink(Sender<Vec<u8>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).unwrap();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_last_lines_are_written_before_it_ends() {
    let (log, _, entries, _) = log(true);
    let (sink, written) = channel();
    for _ in 0..100 {
        drop(log.begin(Direction::Outbound, || None));
    }
    drop(log);
    start(entries, Sink(sink)).unwrap().wait(Duration::from_secs(10));
    let all: Vec<u8> = written.iter().flatten().collect();
    let lines: Vec<Value> = all
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 100);
}
