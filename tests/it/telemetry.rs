//! What operators see: one trace over three hops, metrics that add up, a collector that may die.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use weft_tests::collector::{Collector, Seen, hex};
use weft_tests::host::until;
use weft_tests::shop::shop;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn one_request_makes_one_trace_with_right_parents_over_three_hops() {
    let collector = Collector::start();
    let mesh = shop().env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()).up();
    mesh.visit("shop", "visitor", "http://web/products/4711", &["-H", PARENT])
        .none_failed();
    until("six spans arrive", || collector.trace(TRACE).len() >= 6);
    let spans = collector.trace(TRACE);

    let mut parent = "00f067aa0ba902b7".to_owned();
    for (service, kind) in [
        ("visitor", SpanKind::Client),
        ("web", SpanKind::Server),
        ("web", SpanKind::Client),
        ("reviews", SpanKind::Server),
        ("reviews", SpanKind::Client),
        ("ratings", SpanKind::Server),
    ] {
        let child = |seen: &&Seen| hex(&seen.span.parent_span_id) == parent;
        let span = spans
            .iter()
            .find(child)
            .unwrap_or_else(|| panic!("no child of {parent}: {spans:#?}"));
        assert!(span.service.starts_with(service), "{} is not {service}", span.service);
        assert_eq!(span.span.kind, kind as i32, "{span:#?}");
        assert!(span.span.start_time_unix_nano <= span.span.end_time_unix_nano);
        parent = hex(&span.span.span_id);
    }
    assert!(
        spans.iter().all(|seen| !seen.span.name.contains("4711")),
        "a span name has an id from a path: {spans:#?}"
    );
    let grpc: Vec<&Seen> = spans
        .iter()
        .filter(|seen| seen.span.name == "shop.Ratings/Get")
        .collect();
    assert_eq!(grpc.len(), 2, "{spans:#?}");
    assert!(
        grpc.iter()
            .all(|seen| seen.attribute("rpc.response.status_code") == "OK"),
        "{grpc:#?}"
    );
}

#[test]
fn a_new_trace_is_begun_where_there_is_none() {
    let collector = Collector::start();
    let mesh = shop().env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()).up();
    mesh.visit("shop", "visitor", "http://reviews/reviews/1", &[])
        .none_failed();
    until("a root span of the visitor arrives", || {
        collector
            .spans()
            .iter()
            .any(|seen| seen.service == "visitor" && seen.span.parent_span_id.is_empty())
    });
}

#[test]
fn a_dead_collector_costs_nothing_but_a_counter() {
    let mut collector = Collector::start();
    let mesh = shop().env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()).up();
    collector.die();
    mesh.visit(
        "shop",
        "visitor",
        "http://reviews/reviews/1",
        &["--count", "3000", "--rate", "600"],
    )
    .none_failed();
    until("the counter of lost spans rises", || {
        let metrics = mesh.admin("shop", "visitor", "/metrics");
        let lost = metrics
            .lines()
            .find_map(|line| line.strip_prefix("weft_traces_dropped_total"));
        lost.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .is_some_and(|lost| lost > 0.0)
    });
}

#[test]
fn metrics_name_both_sides_and_whether_mutual_tls_was_used() {
    let mesh = shop().up();
    mesh.visit("shop", "visitor", "http://reviews/reviews/1", &["--count", "10"])
        .none_failed();
    let metrics = mesh.admin("shop", "visitor", "/metrics");
    let count = metrics.lines().find(|line| {
        line.starts_with("http_client_request_duration_seconds_count{")
            && line.contains("destination_service=\"reviews")
    });
    let count = count.unwrap_or_else(|| panic!("{metrics}"));
    for label in [
        "direction=\"outbound\"",
        "source_workload=\"visitor\"",
        "source_namespace=\"shop\"",
        "destination_namespace=\"shop\"",
        "destination_version=\"v",
        "destination_region=\"west\"",
        "mutual_tls=\"true\"",
        "http_response_status_code=\"200\"",
    ] {
        assert!(count.contains(label), "{label} is missing: {count}");
    }
    let strangers = mesh.exec("street", "stranger", &["visitor", "http://reviews.shop/reviews/1"]);
    assert!(strangers.status.success());
    let pods = mesh.pods("reviews-");
    let all: String = pods
        .iter()
        .map(|pod| mesh.admin("shop", pod["name"].as_str().expect("a name"), "/metrics"))
        .collect();
    let refused = |line: &str| line.starts_with("weft_refusals_total") && line.contains("plaintext-refused");
    assert!(all.lines().any(|line| refused(line) && !line.ends_with(" 0")), "{all}");
}
