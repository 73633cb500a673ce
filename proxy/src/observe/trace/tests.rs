use std::collections::HashSet;

use http::HeaderValue;
use weft_model::reason::Reason;

use super::*;
use crate::observe::metrics::Registry;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

struct Fixture {
    tracer: Tracer,
    spans: mpsc::Receiver<Finished>,
    registry: std::sync::Arc<Registry>,
}

fn fixture(sampler: &str, argument: &str) -> Fixture {
    let registry = Registry::new();
    let (tracing, spans) = Tracing::new(Sampler::parse(sampler, argument).unwrap());
    Fixture {
        tracer: Tracer::new(Some(&tracing), &registry.writer()),
        spans,
        registry,
    }
}

fn headers(parent: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if !parent.is_empty() {
        headers.insert(TRACEPARENT, HeaderValue::from_str(parent).unwrap());
    }
    headers
}

fn what<'a>(labels: &'a Labels, path: &'a str, route: &'a str, grpc: bool) -> What<'a> {
    What {
        method: &Method::GET,
        path,
        authority: Some("reviews:80"),
        version: Version::HTTP_11,
        route,
        grpc,
        labels,
        peer: None,
        gateway: false,
    }
}

fn sent(headers: &HeaderMap) -> Context {
    Context::read(headers).expect("a trace context")
}

#[test]
fn only_what_the_specification_allows_is_a_parent() {
    let check = |value: &str, good: bool| assert_eq!(Context::parse(value.as_bytes()).is_some(), good, "{value}");
    check(PARENT, true);
    check(UNSAMPLED, true);
    check(&PARENT.replacen("00", "cc", 1), true);
    check(&format!("{}-what-comes-later", PARENT.replacen("00", "cc", 1)), true);
    check(&format!("{}.what-comes-later", PARENT.replacen("00", "cc", 1)), false);
    check(&format!("{PARENT}-more"), false);
    check(&PARENT.replacen("00", "ff", 1), false);
    check(&PARENT.to_uppercase(), false);
    check(&PARENT[..54], false);
    check("", false);
    check("00-00000000000000000000000000000000-b7ad6b7169203331-01", false);
    check("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false);
    check("00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false);
    check("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x", false);
}

#[test]
fn two_parents_are_none() {
    let mut headers = headers(PARENT);
    headers.append(TRACEPARENT, HeaderValue::from_static(PARENT));
    assert_eq!(Context::read(&headers), None);
}

#[test]
fn a_server_span_is_the_callers_child_and_the_apps_parent() {
    let mut f = fixture("parentbased_always_on", "");
    let mut headers = headers(PARENT);
    headers.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
    let begun = f.tracer.begin(&headers);
    let labels = Labels::default();
    let span = f.tracer.server(begun, &what(&labels, "/", "", false)).unwrap();
    f.tracer.carry(begun, Some(&span), &mut headers);
    span.finish(Outcome {
        status: 200,
        ..Outcome::default()
    });
    let span = f.spans.try_recv().unwrap();
    let parent = Context::parse(PARENT.as_bytes()).unwrap();
    assert_eq!((span.context.trace, span.parent), (parent.trace, parent.span));
    assert_eq!(sent(&headers), span.context);
    assert_ne!(span.context.span, parent.span);
    assert_eq!(headers[TRACESTATE], "vendor=1");
}

#[test]
fn attempts_are_siblings() {
    let mut f = fixture("parentbased_always_on", "");
    let mut headers = headers(PARENT);
    let begun = f.tracer.begin(&headers);
    let labels = Labels::default();
    for attempt in 0..2 {
        let span = f.tracer.client(begun, &what(&labels, "/", "", false), attempt).unwrap();
        f.tracer.carry(begun, Some(&span), &mut headers);
        span.finish(Outcome::default());
    }
    let (first, second) = (f.spans.try_recv().unwrap(), f.spans.try_recv().unwrap());
    assert_eq!(first.parent, second.parent);
    assert_ne!(first.context.span, second.context.span);
    assert_eq!((first.resend, second.resend), (0, 1));
    assert_eq!(sent(&headers), second.context);
}

#[test]
fn a_request_without_a_parent_begins_a_trace() {
    let mut f = fixture("parentbased_always_on", "");
    for broken in ["", "garbage"] {
        let mut headers = headers(broken);
        headers.insert(TRACESTATE, HeaderValue::from_static("nobody=1"));
        let begun = f.tracer.begin(&headers);
        let labels = Labels::default();
        let span = f.tracer.client(begun, &what(&labels, "/", "", false), 0);
        f.tracer.carry(begun, span.as_ref(), &mut headers);
        drop(span);
        let span = f.spans.try_recv().unwrap();
        assert_eq!(span.parent, [0; 8]);
        assert_eq!(sent(&headers), span.context);
        assert!(
            !headers.contains_key(TRACESTATE),
            "a state without its parent belongs to nobody"
        );
    }
}

#[test]
fn what_the_caller_did_not_sample_is_passed_untouched() {
    let mut f = fixture("parentbased_always_on", "");
    let mut headers = headers(UNSAMPLED);
    let before = headers.clone();
    let begun = f.tracer.begin(&headers);
    let labels = Labels::default();
    let span = f.tracer.server(begun, &what(&labels, "/", "", false));
    assert!(span.is_none());
    f.tracer.carry(begun, None, &mut headers);
    assert_eq!(headers, before);
    assert!(f.spans.try_recv().is_err());
}

#[test]
fn a_trace_that_is_not_kept_tells_the_next_hop_so() {
    let f = fixture("parentbased_always_off", "");
    let mut headers = headers("");
    let begun = f.tracer.begin(&headers);
    let labels = Labels::default();
    assert!(f.tracer.client(begun, &what(&labels, "/", "", false), 0).is_none());
    f.tracer.carry(begun, None, &mut headers);
    assert_eq!(sent(&headers).flags, 0);
}

#[test]
fn b3_is_the_parent_where_nothing_else_is_and_goes_on_as_it_came() {
    let mut f = fixture("parentbased_always_on", "");
    let labels = Labels::default();
    let b3 = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1";
    for (parent, expected) in [
        ("", "b7ad6b7169203331"),
        (&*PARENT.replace("b7ad", "aaaa"), "aaaa6b7169203331"),
    ] {
        let mut headers = headers(parent);
        headers.insert("b3", b3.parse().unwrap());
        let begun = f.tracer.begin(&headers);
        let span = f.tracer.server(begun, &what(&labels, "/", "", false)).unwrap();
        f.tracer.carry(begun, Some(&span), &mut headers);
        drop(span);
        let span = f.spans.try_recv().unwrap();
        assert_eq!(
            format!("{:02x?}", span.parent).replace([',', ' ', '[', ']'], ""),
            expected
        );
        assert_eq!(sent(&headers), span.context);
        let again = B3::read(&headers).unwrap();
        assert_eq!(again.parent.unwrap(), span.context, "both say the same");
    }
    let mut multi = headers("");
    for (name, value) in [
        ("x-b3-traceid", "8448eb211c80319c"),
        ("x-b3-spanid", "b7ad6b7169203331"),
        ("x-b3-sampled", "1"),
    ] {
        multi.insert(name, value.parse().unwrap());
    }
    let begun = f.tracer.begin(&multi);
    let span = f.tracer.server(begun, &what(&labels, "/", "", false)).unwrap();
    f.tracer.carry(begun, Some(&span), &mut multi);
    assert_eq!(
        (&multi["x-b3-traceid"], &multi["x-b3-parentspanid"]),
        (
            &"8448eb211c80319c".parse().unwrap(),
            &"b7ad6b7169203331".parse().unwrap()
        )
    );
    assert!(multi.contains_key(TRACEPARENT) && !multi.contains_key("b3"));
}

#[test]
fn a_decision_by_b3_is_kept_to() {
    let f = fixture("parentbased_always_on", "");
    let labels = Labels::default();
    for value in ["0", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"] {
        let mut headers = headers("");
        headers.insert("b3", value.parse().unwrap());
        let begun = f.tracer.begin(&headers);
        assert!(
            f.tracer.server(begun, &what(&labels, "/", "", false)).is_none(),
            "{value}"
        );
        f.tracer.carry(begun, None, &mut headers);
        assert_eq!(headers["b3"], value);
    }
    // Against a sampler that asks nobody, the next hop hears what was decided.
    let f = fixture("always_off", "");
    let mut headers = headers("");
    headers.insert("x-b3-sampled", "1".parse().unwrap());
    let begun = f.tracer.begin(&headers);
    f.tracer.carry(begun, None, &mut headers);
    assert_eq!(headers["x-b3-sampled"], "0");
    assert_eq!(sent(&headers).flags, 0);
}

#[test]
fn a_decision_that_b3_leaves_to_us_is_told() {
    let f = fixture("parentbased_always_off", "");
    let ids = [
        ("x-b3-traceid", "8448eb211c80319c"),
        ("x-b3-spanid", "b7ad6b7169203331"),
    ];
    let single = [("b3", "8448eb211c80319c-b7ad6b7169203331")];
    for came in [&ids[..], &single] {
        let mut headers = headers("");
        for (name, value) in came {
            headers.insert(*name, value.parse().unwrap());
        }
        let before = B3::read(&headers).unwrap();
        let begun = f.tracer.begin(&headers);
        f.tracer.carry(begun, None, &mut headers);
        let after = B3::read(&headers).unwrap();
        assert_eq!((before.sampled, after.sampled), (None, Some(false)), "{headers:?}");
        assert_eq!((after.parent, after.form), (before.parent, before.form));
        assert_eq!(headers.len(), 1 + came.len() / 2 * 2);
    }
}

#[test]
fn b3_that_cannot_be_read_goes_no_further() {
    let mut f = fixture("parentbased_always_on", "");
    let labels = Labels::default();
    let mut headers = headers("");
    headers.insert("b3", "0AF7-xyz-1".parse().unwrap());
    headers.insert("x-b3-traceid", "8448eb211c80319c".parse().unwrap());
    headers.insert("baggage", "a=b".parse().unwrap());
    let begun = f.tracer.begin(&headers);
    let span = f.tracer.server(begun, &what(&labels, "/", "", false));
    f.tracer.carry(begun, span.as_ref(), &mut headers);
    drop(span);
    let span = f.spans.try_recv().unwrap();
    assert_eq!(
        (span.parent, sent(&headers)),
        ([0; 8], span.context),
        "a new trace begins"
    );
    let left: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(headers["baggage"], "a=b");
}

#[test]
fn without_a_collector_headers_pass_untouched() {
    let registry = Registry::new();
    let tracer = Tracer::new(None, &registry.writer());
    for parent in ["", PARENT, "garbage"] {
        let mut headers = headers(parent);
        let before = headers.clone();
        let begun = tracer.begin(&headers);
        let labels = Labels::default();
        assert!(tracer.server(begun, &what(&labels, "/", "", false)).is_none());
        tracer.carry(begun, None, &mut headers);
        assert_eq!(headers, before);
    }
}

#[test]
fn a_ratio_keeps_about_its_share_and_every_hop_agrees() {
    let (one, other) = (
        fixture("traceidratio", "0.25"),
        fixture("parentbased_traceidratio", "0.25"),
    );
    let mut kept = 0;
    for _ in 0..20_000 {
        let Begun::Root { trace, sampled, .. } = one.tracer.begin(&HeaderMap::new()) else {
            panic!("a root")
        };
        let hop = other.tracer.tracing.as_ref().unwrap();
        assert_eq!(hop.tracing.sampler.without_parent(&trace), sampled);
        kept += u32::from(sampled);
    }
    // Six standard deviations of a binomial distribution: 6 * sqrt(20,000 * 0.25 * 0.75) = 367.
    assert!((4_633..=5_367).contains(&kept), "{kept}");
}

#[test]
fn samplers_are_as_opentelemetry_names_them() {
    let (sampled, unsampled) = (
        Context::parse(PARENT.as_bytes()).unwrap(),
        Context::parse(UNSAMPLED.as_bytes()).unwrap(),
    );
    let decides = |name: &str, argument: &str| {
        let sampler = Sampler::parse(name, argument).unwrap();
        [
            sampler.with_parent(&sampled),
            sampler.with_parent(&unsampled),
            sampler.without_parent(&[7; 16]),
        ]
    };
    assert_eq!(decides("always_on", ""), [true; 3]);
    assert_eq!(decides("always_off", ""), [false; 3]);
    assert_eq!(decides("traceidratio", "0"), [false; 3]);
    assert_eq!(decides("traceidratio", "1"), [true; 3]);
    assert_eq!(decides("traceidratio", ""), [true; 3]);
    assert_eq!(decides("parentbased_always_on", ""), [true, false, true]);
    assert_eq!(decides("parentbased_always_off", ""), [true, false, false]);
    assert_eq!(decides("parentbased_traceidratio", "0"), [true, false, false]);
    for (name, argument, says) in [
        ("jaeger", "", "must be always_on"),
        ("traceidratio", "2", "from 0 to 1"),
        ("traceidratio", "x", "from 0 to 1"),
    ] {
        let error = Sampler::parse(name, argument).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn no_span_name_contains_what_a_request_said() {
    let mut f = fixture("always_on", "");
    let labels = Labels::default();
    let cases = [
        (false, "/users/4711", "", None, "GET"),
        (false, "/users/4711", "/users/*", None, "GET /users/*"),
        (true, "/shop.Ratings/Get", "", Some(0), "shop.Ratings/Get"),
        (true, "/shop.Ratings/Get/4711", "", Some(0), "_OTHER"),
        (true, "/users/4711/x", "/users/*", Some(0), "_OTHER"),
        (true, "/scan.Me/m4711", "", Some(12), "_OTHER"),
    ];
    for (grpc, path, route, grpc_status, name) in cases {
        let begun = f.tracer.begin(&HeaderMap::new());
        let span = f.tracer.server(begun, &what(&labels, path, route, grpc)).unwrap();
        span.finish(Outcome {
            status: 200,
            grpc_status,
            error: None,
        });
        assert_eq!(f.spans.try_recv().unwrap().name(), name);
    }
    let odd = Method::from_bytes(b"BREW4711").unwrap();
    let begun = f.tracer.begin(&HeaderMap::new());
    drop(f.tracer.server(
        begun,
        &What {
            method: &odd,
            ..what(&labels, "/", "", false)
        },
    ));
    assert_eq!(f.spans.try_recv().unwrap().name(), "HTTP");
}

#[test]
fn a_span_that_nobody_finishes_is_cancelled() {
    let mut f = fixture("always_on", "");
    let begun = f.tracer.begin(&HeaderMap::new());
    let labels = Labels::default();
    drop(f.tracer.server(begun, &what(&labels, "/", "", false)));
    assert!(f.spans.try_recv().unwrap().cancelled);
    let span = f.tracer.server(begun, &what(&labels, "/", "", false)).unwrap();
    span.finish(Outcome {
        status: 503,
        grpc_status: None,
        error: Some(Reason::NoEndpoints),
    });
    assert!(!f.spans.try_recv().unwrap().cancelled);
}

#[test]
fn a_full_queue_costs_spans_and_a_counter_and_nothing_else() {
    let f = fixture("always_on", "");
    let labels = Labels::default();
    for _ in 0..QUEUE + 10 {
        let begun = f.tracer.begin(&HeaderMap::new());
        drop(f.tracer.server(begun, &what(&labels, "/", "", false)));
    }
    assert!(
        f.registry
            .text()
            .finish()
            .contains("weft_traces_dropped_total{reason=\"queue\"} 10\n")
    );
}

#[test]
fn ids_are_unlike_each_other() {
    let f = fixture("always_on", "");
    let worker = f.tracer.tracing.as_ref().unwrap();
    let ids: HashSet<_> = (0..100_000).map(|_| worker.trace_id()).collect();
    assert_eq!(ids.len(), 100_000);
}
