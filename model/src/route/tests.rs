//! Tables of requests and what they match, and how weights share.

use http::{HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::*;
use crate::pattern;

/// A request for a table: method, path with query, headers.
struct Request {
    method: Method,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

fn get(target: &str) -> Request {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    Request {
        method: Method::GET,
        path: path.to_owned(),
        query,
        headers: HeaderMap::new(),
    }
}

impl Request {
    fn with(mut self, name: &'static str, value: &[u8]) -> Self {
        self.headers.append(name, HeaderValue::from_bytes(value).unwrap());
        self
    }

    fn head(&self) -> RequestHead<'_> {
        let Self {
            method,
            path,
            query,
            headers,
        } = self;
        RequestHead {
            method,
            path,
            query: query.as_deref(),
            headers,
        }
    }
}

fn regex(text: &str) -> Regex {
    pattern::whole(text).unwrap()
}

#[track_caller]
fn check_path(path: &PathMatch, yes: &[&str], no: &[&str]) {
    for text in yes {
        assert!(path.matches(text), "{path:?} must match {text:?}");
    }
    for text in no {
        assert!(!path.matches(text), "{path:?} must not match {text:?}");
    }
}

#[test]
fn an_exact_path_is_the_whole_path() {
    check_path(
        &PathMatch::Exact("/a".to_owned()),
        &["/a"],
        &["/a/", "/", "/A", "/a/b", "/ab", "", "/%61", "a"],
    );
    check_path(&PathMatch::Exact("/".to_owned()), &["/"], &["/a", "", "//"]);
    check_path(&PathMatch::Exact("/a/".to_owned()), &["/a/"], &["/a", "/a//"]);
}

#[test]
fn a_prefix_is_of_whole_path_elements() {
    check_path(
        &PathMatch::Prefix("/a".to_owned()),
        &["/a", "/a/", "/a/b", "/a//b"],
        &["/ab", "/", "/A/b", "/b/a", ""],
    );
    check_path(
        &PathMatch::Prefix("/a/b".to_owned()),
        &["/a/b", "/a/b/", "/a/b/c"],
        &["/a", "/a/", "/a/bc"],
    );
}

#[test]
fn a_prefix_with_a_slash_at_its_end_is_the_same() {
    check_path(
        &PathMatch::Prefix("/a/".to_owned()),
        &["/a", "/a/", "/a/b"],
        &["/ab", "/"],
    );
}

#[test]
fn the_prefix_of_everything_matches_every_path() {
    // A CONNECT has an empty path; the asterisk of `OPTIONS *` is none.
    let yes = ["/", "/a", "/a/b", "//", ""];
    check_path(&PathMatch::Prefix("/".to_owned()), &yes, &["*"]);
}

#[test]
fn a_regular_expression_covers_the_whole_path() {
    check_path(
        &PathMatch::Regex(regex("/v[12]/.*")),
        &["/v1/", "/v2/a/b"],
        &["/v3/", "/v1", "/x/v1/", "v1/"],
    );
    check_path(&PathMatch::Regex(regex("/a|/b")), &["/a", "/b"], &["/ab", "/a/b", "/"]);
}

fn on_header(name: &'static str, value: ValueMatch) -> Match {
    Match {
        headers: vec![(HeaderName::from_static(name), value)],
        ..Match::default()
    }
}

#[test]
fn a_header_must_be_there_and_be_equal() {
    let exact = on_header("x-user", ValueMatch::Exact("ann".to_owned()));
    assert!(exact.matches(&get("/").with("x-user", b"ann").head()));
    for value in [&b"Ann"[..], b"anna", b"", b"ann ", b"bob"] {
        assert!(!exact.matches(&get("/").with("x-user", value).head()), "{value:?}");
    }
    assert!(!exact.matches(&get("/").head()), "it is not there");
    assert!(!exact.matches(&get("/").with("x-other", b"ann").head()));
    let pattern = on_header("x-user", ValueMatch::Regex(regex("a.*")));
    assert!(pattern.matches(&get("/").with("x-user", b"ann").head()));
    assert!(!pattern.matches(&get("/").with("x-user", b"joann").head()));
    let empty = on_header("x-user", ValueMatch::Exact(String::new()));
    assert!(empty.matches(&get("/").with("x-user", b"").head()));
    assert!(!empty.matches(&get("/").head()), "empty is not absent");
}

#[test]
fn repeated_headers_are_one_value() {
    let repeated = || get("/").with("x-user", b"ann").with("x-user", b"bob");
    assert!(on_header("x-user", ValueMatch::Exact("ann,bob".to_owned())).matches(&repeated().head()));
    for part in ["ann", "bob", "bob,ann", "ann, bob"] {
        assert!(
            !on_header("x-user", ValueMatch::Exact(part.to_owned())).matches(&repeated().head()),
            "{part}"
        );
    }
    assert!(on_header("x-user", ValueMatch::Regex(regex(".*bob"))).matches(&repeated().head()));
    assert!(!on_header("x-user", ValueMatch::Regex(regex("ann"))).matches(&repeated().head()));
}

#[test]
fn bytes_that_are_no_text_match_nothing() {
    let any = on_header("x-user", ValueMatch::Regex(regex("(?s).*")));
    assert!(any.matches(&get("/").with("x-user", b"ann").head()));
    assert!(!any.matches(&get("/").with("x-user", b"\xff").head()));
    assert!(!any.matches(&get("/").with("x-user", b"ann").with("x-user", b"\xff").head()));
}

#[test]
fn all_headers_must_match() {
    let mut both = on_header("x-user", ValueMatch::Exact("ann".to_owned()));
    both.headers
        .push((HeaderName::from_static("x-beta"), ValueMatch::Exact("1".to_owned())));
    assert!(both.matches(&get("/").with("x-user", b"ann").with("x-beta", b"1").head()));
    assert!(!both.matches(&get("/").with("x-user", b"ann").head()));
    assert!(!both.matches(&get("/").with("x-user", b"ann").with("x-beta", b"2").head()));
}

#[test]
fn query_parameters_are_decoded_and_the_first_counts() {
    let on_query = |name: &str, value: &str| Match {
        query: vec![(name.to_owned(), ValueMatch::Exact(value.to_owned()))],
        ..Match::default()
    };
    let matches = |name, value, target: &str| on_query(name, value).matches(&get(target).head());
    assert!(matches("a", "1", "/?a=1"));
    assert!(matches("a", "1", "/?b=2&a=1&c"));
    assert!(matches("a", "1", "/?a=1&a=2"), "the first");
    assert!(!matches("a", "2", "/?a=1&a=2"), "not the second");
    assert!(!matches("a", "1", "/?A=1") && !matches("a", "1", "/?aa=1") && !matches("a", "1", "/"));
    assert!(matches("a", "", "/?a") && matches("a", "", "/?a="));
    assert!(!matches("a", "", "/?") && !matches("a", "", "/?b"), "not there");
    assert!(matches("a", "x=y", "/?a=x=y"));
    assert!(matches("a b", "ä&=", "/?a+b=%C3%A4%26%3D"));
    assert!(matches("a", "1+1", "/?a=1%2B1") && !matches("a", "1+1", "/?a=1+1"));
    assert!(matches("a", "%", "/?a=%") && matches("a", "%4", "/?a=%4") && matches("a", "%zz", "/?a=%zz"));
    assert!(matches("a", "\u{fffd}", "/?a=%ff"), "bytes that are no text");
    let pattern = Match {
        query: vec![("a".to_owned(), ValueMatch::Regex(regex("[0-9]+")))],
        ..Match::default()
    };
    assert!(pattern.matches(&get("/?a=17").head()) && !pattern.matches(&get("/?a=x17").head()));
}

#[test]
fn the_method_must_be_the_one() {
    let post = Match {
        method: Some(Method::POST),
        ..Match::default()
    };
    assert!(!post.matches(&get("/").head()));
    let mut request = get("/");
    request.method = Method::POST;
    assert!(post.matches(&request.head()));
    request.method = Method::from_bytes(b"post").unwrap();
    assert!(
        !post.matches(&request.head()),
        "methods are case-sensitive (RFC 9110 section 9.1)"
    );
}

#[test]
fn grpc_is_known_by_its_content_type() {
    let grpc = Match {
        grpc: true,
        ..Match::default()
    };
    for value in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;x=y",
        "Application/gRPC",
    ] {
        assert!(
            grpc.matches(&get("/").with("content-type", value.as_bytes()).head()),
            "{value}"
        );
    }
    for value in [
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpcx",
        "application/json",
        "",
    ] {
        assert!(
            !grpc.matches(&get("/").with("content-type", value.as_bytes()).head()),
            "{value}"
        );
    }
    assert!(!grpc.matches(&get("/").head()));
}

#[test]
fn an_empty_match_matches_everything() {
    assert!(Match::default().matches(&get("/a?b").with("c", b"d").head()));
}

fn rule(path: &str, weights: &[u32]) -> Arc<Rule> {
    let service = ServicePort {
        namespace: "shop".to_owned(),
        name: "reviews".to_owned(),
        port: 80,
    };
    let backend = |&weight: &u32| Backend {
        weight,
        place: BackendPlace::Endpoints("key".to_owned()),
        service: service.clone(),
        subset: String::new(),
        filters: Filters::default(),
        traffic: None,
    };
    Arc::new(Rule {
        route: ObjectRef {
            kind: "HTTPRoute".to_owned(),
            namespace: "shop".to_owned(),
            name: "reviews".to_owned(),
        },
        index: 0,
        name: String::new(),
        matches: Match {
            path: Some(PathMatch::Prefix(path.to_owned())),
            ..Match::default()
        },
        backends: weights.iter().map(backend).collect(),
        redirect: None,
        filters: Filters::default(),
        timeouts: Timeouts::default(),
        retry: None,
    })
}

#[test]
fn the_first_rule_that_matches_wins() {
    let rules = Rules {
        rules: vec![rule("/a/b", &[1]), rule("/a", &[1]), rule("/a/b/c", &[1])],
    };
    let picked = |path| {
        let request = get(path);
        rules.rules.iter().position(|rule| {
            rules
                .pick(&request.head())
                .is_some_and(|picked| Arc::ptr_eq(picked, rule))
        })
    };
    assert_eq!(picked("/a/b/c"), Some(0));
    assert_eq!(picked("/a/x"), Some(1));
    assert_eq!(picked("/x"), None);
    assert!(Rules { rules: Vec::new() }.pick(&get("/").head()).is_none());
}

#[test]
fn without_weight_there_is_no_backend() {
    for weights in [&[][..], &[0], &[0, 0, 0]] {
        for drawn in [0, 1, u64::MAX / 2, u64::MAX] {
            assert_eq!(rule("/", weights).backend(drawn), None, "{weights:?}");
        }
    }
}

/// The least number that is drawn for the unit `unit` of `total`.
fn first_of(unit: u64, total: u64) -> u64 {
    u64::try_from((u128::from(unit) << 64).div_ceil(u128::from(total))).unwrap()
}

#[track_caller]
fn check_shares(weights: &[u32]) {
    let rule = rule("/", weights);
    let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    let mut before = 0;
    for (index, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
        // The whole range from this backend's first number to its last: no gap, no overlap.
        let first = first_of(before, total);
        before += u64::from(weight);
        let last = if before == total {
            u64::MAX
        } else {
            first_of(before, total) - 1
        };
        for drawn in [first, last, first + (last - first) / 2] {
            assert_eq!(rule.backend(drawn), Some(index), "{weights:?} {drawn}");
        }
        let (share, want) = (
            u128::from(last - first) + 1,
            (u128::from(weight) << 64) / u128::from(total),
        );
        assert!(
            share.abs_diff(want) <= 1,
            "{weights:?}: {share} of 2^64, and {want} is right"
        );
    }
}

#[test]
fn shares_are_exact_over_the_whole_range() {
    for weights in [
        &[1][..],
        &[90, 10],
        &[1, 1, 1],
        &[0, 1, 0, 2, 0],
        &[1, 1_000_000],
        &[u32::MAX, 1, u32::MAX],
        &[7, 0, 0],
        &[0, 0, 7],
    ] {
        check_shares(weights);
    }
}

proptest! {
    #[test]
    fn any_weights_share_exactly(weights in proptest::collection::vec(0..1_000_000_u32, 1..16)) {
        if weights.iter().any(|weight| *weight > 0) {
            check_shares(&weights);
        }
    }

    #[test]
    fn a_backend_of_weight_0_is_never_chosen(
        weights in proptest::collection::vec(0..3_u32, 1..8),
        drawn in any::<u64>(),
    ) {
        if let Some(index) = rule("/", &weights).backend(drawn) {
            prop_assert!(weights[index] > 0);
        }
    }

    #[test]
    fn a_path_under_a_prefix_stays_under_it(prefix in "(/[a-z]{1,3}){0,3}/?", more in "(/[a-z]{1,3}){0,3}") {
        let prefix = if prefix.is_empty() { "/".to_owned() } else { prefix };
        let under = format!("{}{more}", prefix.trim_end_matches('/'));
        let under = if under.is_empty() { "/".to_owned() } else { under };
        prop_assert!(PathMatch::Prefix(prefix).matches(&under));
    }

    #[test]
    fn any_query_is_read_without_a_panic(query in "[ -~ä]{0,40}", name in "[a-z%+]{1,3}") {
        let wanted = ValueMatch::Regex(regex("(?s).*"));
        query_matches(Some(&query), &name, &wanted);
    }
}
