use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::{Method, Version};
use weft_model::identity::{Identity, TrustDomain};

use super::registry::SERIES_MAX;
use super::table::{FAMILIES, Kind, MESH_LABELS, SERVICE_LABELS, Scope};
use super::*;

fn labels(workload: &str) -> Labels {
    Labels {
        direction: Direction::Outbound,
        destination_workload: workload.into(),
        mutual_tls: true,
        ..Labels::default()
    }
}

fn get(status: u16, took: Duration) -> HttpCall<'static> {
    HttpCall {
        method: &Method::GET,
        version: Version::HTTP_11,
        status,
        error: None,
        took,
        trace: None,
    }
}

fn text(registry: &Registry) -> String {
    registry.text().finish()
}

/// One sample of the text: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads the text as a scraper does, and refuses what the format does not allow.
fn parse(text: &str) -> Vec<Sample> {
    let (mut family, mut seen, mut samples) = (None, BTreeSet::new(), Vec::new());
    let mut once = BTreeSet::new();
    assert!(text.is_empty() || text.ends_with('\n'));
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').expect("help has words");
            assert!(!words.is_empty());
            assert!(seen.insert(name.to_owned()), "{name} begins twice");
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(help.as_deref(), Some(name), "HELP stands before TYPE");
            assert!(["counter", "gauge", "histogram"].contains(&kind));
            assert!(kind != "counter" || name.ends_with("_total"), "{name}");
            family = Some((name.to_owned(), kind.to_owned()));
        } else {
            let sample = parse_sample(line);
            let (name, kind) = family.as_ref().expect("a family stands before its samples");
            let allowed: &[&str] = if kind == "histogram" {
                &["_bucket", "_sum", "_count"]
            } else {
                &[""]
            };
            assert!(
                allowed.iter().any(|suffix| sample.0 == format!("{name}{suffix}")),
                "{line} is not of {name}"
            );
            assert!(once.insert((sample.0.clone(), sample.1.clone())), "{line} stands twice");
            assert!(kind == "gauge" || sample.2 >= 0.0, "{line}");
            samples.push(sample);
        }
    }
    samples
}

fn parse_sample(line: &str) -> Sample {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let end = line.find(['{', ' ']).expect("a name ends");
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").expect("a label has a value");
            assert!(is_name(label), "{line}");
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().expect("a value ends") {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next().unwrap().1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        c => panic!("\\{c} is no escape in {line}"),
                    }),
                    (_, c) => value.push(c),
                }
            };
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').expect("labels end");
    }
    let value = rest.strip_prefix(' ').expect("a space stands before the value");
    (name.to_owned(), labels, value.parse().expect("a number"))
}

fn value(samples: &[Sample], name: &str, wanted: &[(&str, &str)]) -> f64 {
    let has =
        |labels: &BTreeMap<String, String>| wanted.iter().all(|(k, v)| labels.get(*k).is_some_and(|have| have == v));
    samples
        .iter()
        .filter(|(n, labels, _)| n == name && has(labels))
        .map(|(_, _, value)| value)
        .sum()
}

#[test]
fn every_kind_of_metric_is_text_that_a_strict_parser_takes() {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    let odd = labels("a\"b\\c\nd{e}=,é");
    let series = metrics.series(&odd, "/reviews/*");
    series.http(&get(200, Duration::from_millis(7)));
    series.rpc(&RpcCall {
        path: "/a.B/C",
        status: Some(0),
        error: None,
        took: Duration::from_secs(20),
        trace: None,
    });
    let open = series.open_tcp();
    open.up(10);
    open.down(20);
    open.finish(Ok(()));
    metrics.refused(Reason::PlaintextRefused, Direction::Inbound);
    let service = ServicePort {
        namespace: "shop".into(),
        name: "reviews".into(),
        port: 80,
    };
    metrics.ejected(&service, Reason::ConnectFailed);
    metrics.spillover(&service, "v1", 1, Spill::Unhealthy).add(3);
    metrics.endpoints(&service, "v1", 0).0.set(2.0);
    let samples = parse(&text(&registry));
    let odd_is_whole = samples
        .iter()
        .any(|(_, labels, _)| labels.get("destination_workload") == Some(&"a\"b\\c\nd{e}=,é".to_owned()));
    assert!(odd_is_whole);
    assert_eq!(value(&samples, "weft_tcp_bytes_total", &[("flow", "down")]), 20.0);
    assert_eq!(
        value(
            &samples,
            "weft_refusals_total",
            &[("reason", "plaintext-refused"), ("direction", "inbound")]
        ),
        1.0
    );
    assert_eq!(
        value(
            &samples,
            "weft_spillover_total",
            &[("tier", "1"), ("reason", "unhealthy"), ("subset", "v1")]
        ),
        3.0
    );
}

#[test]
fn a_histogram_counts_up_to_each_bound_and_the_bound_itself() {
    let registry = Registry::new();
    let series = Metrics::new(&registry).series(&labels("x"), "");
    for millis in [1, 5, 6, 10_000, 10_001] {
        series.http(&get(200, Duration::from_millis(millis)));
    }
    let samples = parse(&text(&registry));
    let upto = |bound| {
        value(
            &samples,
            "http_client_request_duration_seconds_bucket",
            &[("le", bound)],
        )
    };
    assert_eq!(
        [upto("0.005"), upto("0.01"), upto("10"), upto("+Inf")],
        [2.0, 3.0, 4.0, 5.0]
    );
    assert_eq!(value(&samples, "http_client_request_duration_seconds_count", &[]), 5.0);
    assert!((value(&samples, "http_client_request_duration_seconds_sum", &[]) - 20.013).abs() < 1e-9);
}

#[test]
fn the_workers_make_one_number() {
    let registry = Registry::new();
    for (count, healthy) in [(3, 2.0), (4, 1.0)] {
        let metrics = Metrics::new(&registry);
        let series = metrics.series(&labels("x"), "");
        (0..count).for_each(|_| series.http(&get(200, Duration::ZERO)));
        let service = ServicePort {
            namespace: "shop".into(),
            name: "reviews".into(),
            port: 80,
        };
        metrics.endpoints(&service, "", 0).1.set(healthy);
    }
    let samples = parse(&text(&registry));
    assert_eq!(value(&samples, "http_client_request_duration_seconds_count", &[]), 7.0);
    assert_eq!(
        value(&samples, "weft_endpoints", &[("state", "healthy")]),
        1.0,
        "the worker that sees the fewest"
    );
}

#[test]
fn calls_are_told_apart_by_method_status_route_version_and_error() {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    let series = metrics.series(&labels("x"), "/a/*");
    series.http(&get(200, Duration::ZERO));
    series.http(&get(503, Duration::ZERO));
    let refused = HttpCall {
        error: Some(Reason::NoEndpoints),
        version: Version::HTTP_2,
        ..get(503, Duration::ZERO)
    };
    series.http(&refused);
    let odd = Method::from_bytes(b"BREW").unwrap();
    series.http(&HttpCall {
        method: &odd,
        ..get(404, Duration::ZERO)
    });
    let samples = parse(&text(&registry));
    let count = |labels: &[(&str, &str)]| value(&samples, "http_client_request_duration_seconds_count", labels);
    assert_eq!(
        count(&[
            ("http_response_status_code", "200"),
            ("error_type", ""),
            ("http_route", "/a/*")
        ]),
        1.0
    );
    assert_eq!(
        count(&[("error_type", "503"), ("network_protocol_version", "1.1")]),
        1.0
    );
    assert_eq!(
        count(&[("error_type", "no-endpoints"), ("network_protocol_version", "2")]),
        1.0
    );
    assert_eq!(count(&[("http_request_method", "_OTHER")]), 1.0);
    assert_eq!(count(&[("http_request_method", "BREW")]), 0.0);
}

#[test]
fn a_4xx_is_the_clients_error_and_not_the_servers() {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    for direction in [Direction::Inbound, Direction::Outbound] {
        metrics
            .series(
                &Labels {
                    direction,
                    ..labels("x")
                },
                "",
            )
            .http(&get(404, Duration::ZERO));
    }
    let samples = parse(&text(&registry));
    assert_eq!(
        value(
            &samples,
            "http_client_request_duration_seconds_count",
            &[("error_type", "404")]
        ),
        1.0
    );
    assert_eq!(
        value(
            &samples,
            "http_server_request_duration_seconds_count",
            &[("error_type", "")]
        ),
        1.0
    );
}

#[test]
fn ten_thousand_labels_stay_under_the_cap_and_lose_no_count() {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    for index in 0..10_000 {
        metrics
            .series(&labels(&format!("w{index}")), "")
            .http(&get(200, Duration::ZERO));
    }
    assert!(registry.series() <= SERIES_MAX);
    let samples = parse(&text(&registry));
    let counts: Vec<_> = samples
        .iter()
        .filter(|(name, ..)| name == "http_client_request_duration_seconds_count")
        .collect();
    assert_eq!(counts.len(), SERIES_MAX + 1);
    assert_eq!(counts.iter().map(|(.., count)| count).sum::<f64>(), 10_000.0);
    let other = value(
        &samples,
        "http_client_request_duration_seconds_count",
        &[("destination_workload", "other")],
    );
    assert_eq!(other, (10_000 - SERIES_MAX) as f64);
}

fn port_of(service: &str) -> ServicePort {
    ServicePort {
        namespace: "shop".into(),
        name: service.into(),
        port: 80,
    }
}

#[test]
fn ten_thousand_services_stay_under_the_cap_and_lose_no_count() {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    for index in 0..10_000 {
        let service = port_of(&format!("s{index}"));
        metrics.ejected(&service, Reason::ConnectFailed);
        metrics.spillover(&service, "", 1, Spill::Absent).add(1);
        metrics.endpoints(&service, "", 0).0.set(7.0);
    }
    assert!(registry.series() <= SERIES_MAX);
    let samples = parse(&text(&registry));
    assert!(samples.len() <= SERIES_MAX + 2, "one more a counter");
    for name in ["weft_endpoint_ejections_total", "weft_spillover_total"] {
        assert_eq!(value(&samples, name, &[]), 10_000.0);
    }
    // A number of endpoints that is of many Services would be of none.
    assert_eq!(
        value(&samples, "weft_endpoints", &[("destination_service", "other")]),
        0.0
    );
}

#[test]
fn a_service_that_is_gone_is_forgotten_unless_somebody_still_counts_in_it() {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    let mut kept = Vec::new();
    for (service, subset) in [("stays", "v1"), ("stays", "v2"), ("gone", "v1"), ("draining", "v1")] {
        metrics.ejected(&port_of(service), Reason::ConnectFailed);
        metrics.endpoints(&port_of(service), subset, 0).0.set(1.0);
        let spilled = metrics.spillover(&port_of(service), subset, 1, Spill::Absent);
        spilled.add(1);
        if service == "draining" {
            kept.push(spilled);
        }
    }
    let forget = || {
        registry.forget_services(|namespace, service, subset| {
            (namespace, service) == ("shop", "stays") && subset != Some("v2")
        });
        parse(&text(&registry))
            .into_iter()
            .map(|(name, labels, _)| format!("{name} {} {:?}", labels["destination_service"], labels.get("subset")))
            .collect::<BTreeSet<_>>()
    };
    let of = |service: &str| {
        BTreeSet::from([
            format!("weft_endpoint_ejections_total {service} None"),
            format!("weft_endpoints {service} Some(\"v1\")"),
            format!("weft_spillover_total {service} Some(\"v1\")"),
        ])
    };
    let mut expected = of("stays");
    expected.insert("weft_spillover_total draining Some(\"v1\")".to_owned());
    assert_eq!(forget(), expected);
    kept.clear();
    assert_eq!(forget(), of("stays"));
    // All and healthy, spilled, ejected: what is forgotten makes room.
    assert_eq!(registry.series(), 4);
}

#[test]
fn what_was_counted_as_other_is_not_forgotten() {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    for index in 0..SERIES_MAX + 5 {
        metrics.ejected(&port_of(&format!("s{index}")), Reason::ConnectFailed);
    }
    registry.forget_services(|_, _, _| false);
    assert_eq!(registry.series(), 0);
    let samples = parse(&text(&registry));
    assert_eq!(value(&samples, "weft_endpoint_ejections_total", &[]), 5.0);
    metrics.ejected(&port_of("new"), Reason::ConnectFailed);
    let samples = parse(&text(&registry));
    let new = value(
        &samples,
        "weft_endpoint_ejections_total",
        &[("destination_service", "new")],
    );
    assert_eq!(new, 1.0, "there is room again");
}

#[test]
fn methods_of_strangers_do_not_become_labels() {
    let registry = Registry::new();
    let series = Metrics::new(&registry).series(&labels("x"), "");
    fn call(path: &str, status: u16) -> RpcCall<'_> {
        RpcCall {
            path,
            status: Some(status),
            error: None,
            took: Duration::ZERO,
            trace: None,
        }
    }
    for index in 0..10_000 {
        series.rpc(&call(&format!("/scan.S/M{index}"), 12));
    }
    series.rpc(&call("/no-method-at-all", 0));
    series.rpc(&call("/a.B/C/42", 0));
    series.rpc(&call("/shop.Ratings/Get", 0));
    // The app knows it, so that it may say UNIMPLEMENTED of it too.
    series.rpc(&call("/shop.Ratings/Get", 12));
    let samples = parse(&text(&registry));
    let count = |labels: &[(&str, &str)]| value(&samples, "rpc_client_call_duration_seconds_count", labels);
    assert_eq!(count(&[("rpc_method", "_OTHER")]), 10_002.0);
    assert_eq!(count(&[("rpc_method", "shop.Ratings/Get")]), 2.0);
    assert_eq!(
        count(&[
            ("rpc_response_status_code", "UNIMPLEMENTED"),
            ("rpc_system_name", "grpc")
        ]),
        10_001.0
    );
    assert_eq!(registry.series(), 4);
}

#[test]
fn a_server_with_very_many_methods_has_others() {
    let registry = Registry::new();
    let series = Metrics::new(&registry).series(&labels("x"), "");
    for index in 0..(RPC_METHODS_MAX + 10) {
        series.rpc(&RpcCall {
            path: &format!("/a.B/M{index}"),
            status: Some(0),
            error: None,
            took: Duration::ZERO,
            trace: None,
        });
    }
    let samples = parse(&text(&registry));
    assert_eq!(
        value(
            &samples,
            "rpc_client_call_duration_seconds_count",
            &[("rpc_method", "_OTHER")]
        ),
        10.0
    );
}

#[test]
fn a_connection_that_nobody_finishes_counts_as_cancelled() {
    let registry = Registry::new();
    let series = Metrics::new(&registry).series(&labels("x"), "");
    let kept = series.open_tcp();
    drop(series.open_tcp());
    series.open_tcp().finish(Err(Reason::ConnectFailed));
    let samples = parse(&text(&registry));
    assert_eq!(value(&samples, "weft_tcp_connections_opened_total", &[]), 3.0);
    assert_eq!(value(&samples, "weft_tcp_connections_open", &[]), 1.0);
    assert_eq!(
        value(
            &samples,
            "weft_tcp_connections_closed_total",
            &[("reason", "cancelled")]
        ),
        1.0
    );
    assert_eq!(
        value(
            &samples,
            "weft_tcp_connections_closed_total",
            &[("reason", "connect-failed")]
        ),
        1.0
    );
    kept.finish(Ok(()));
    assert_eq!(value(&parse(&text(&registry)), "weft_tcp_connections_open", &[]), 0.0);
}

#[test]
fn the_caller_on_inbound_is_its_verified_identity_and_nothing_else() {
    let inbound = Inbound {
        mode: weft_model::inbound::Mode::Strict,
        ports: Vec::new(),
        policies: Vec::new(),
        workload: weft_model::inbound::Workload {
            name: "reviews".into(),
            ..Default::default()
        },
    };
    let identity = Identity::new(TrustDomain::new("demo").unwrap(), "shop", "web").unwrap();
    let verified = Labels::inbound(&inbound, 80, &Caller::Verified(identity));
    assert_eq!(
        (
            &*verified.source_workload,
            &*verified.source_namespace,
            verified.mutual_tls
        ),
        ("web", "shop", true)
    );
    let plain = Labels::inbound(&inbound, 80, &Caller::Plaintext);
    assert_eq!(
        (&*plain.source_workload, &*plain.source_namespace, plain.mutual_tls),
        ("", "", false)
    );
}

#[test]
fn names_follow_the_conventions() {
    let mut names = BTreeSet::new();
    for family in FAMILIES {
        assert!(names.insert(family.name), "{} is in the table twice", family.name);
        let suffix = match family.kind {
            Kind::Counter => "_total",
            Kind::Histogram => "_seconds",
            Kind::Gauge(_) => "",
        };
        assert!(family.name.ends_with(suffix), "{}", family.name);
        assert!(family.help.ends_with('.'), "{}", family.name);
        assert!(
            !MESH_LABELS
                .iter()
                .any(|label| family.scope == Scope::Traffic && family.labels.contains(label)),
            "{}",
            family.name
        );
        // Whatever names a Service is capped and forgotten with it.
        assert_eq!(
            family.scope == Scope::Service,
            family.labels.contains(&"destination_service"),
            "{}",
            family.name
        );
        assert!(
            family.scope != Scope::Service || family.labels.starts_with(SERVICE_LABELS),
            "{}",
            family.name
        );
    }
}

#[test]
fn the_list_in_the_docs_is_this_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let made = table::markdown();
    if std::env::var_os("WEFT_WRITE_DOCS").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == made,
        "docs/metrics.md is old: run the test with WEFT_WRITE_DOCS=1 to write it anew"
    );
}

#[test]
fn the_last_sampled_request_of_a_bucket_is_its_example() {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    let series = metrics.series(&Labels::default(), "/x");
    let parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let sampled = HttpCall {
        trace: crate::observe::trace::context::Context::parse(parent),
        ..get(200, Duration::from_millis(7))
    };
    series.http(&get(200, Duration::from_millis(1)));
    series.http(&sampled);
    let open = registry.open_metrics().finish();
    let with: Vec<_> = open.lines().filter(|line| line.contains(" # {")).collect();
    assert_eq!(with.len(), 1, "{open}");
    assert!(
        with[0].contains("le=\"0.01\"} 2 # {trace_id=\"0af7651916cd43dd8448eb211c80319c\""),
        "{with:?}"
    );
    assert!(with[0].contains("span_id=\"b7ad6b7169203331\"} 0.007 "), "{with:?}");
    assert!(open.ends_with("# EOF\n"));
    let plain = registry.text().finish();
    assert!(!plain.contains("trace_id") && !plain.contains("EOF"), "{plain}");
}
