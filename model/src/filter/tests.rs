use super::*;

fn prefix(from: &str, to: &str) -> PathChange {
    PathChange::Prefix {
        from: from.to_owned(),
        to: to.to_owned(),
    }
}

/// The table of Gateway API's `ReplacePrefixMatch`.
#[test]
fn a_prefix_is_replaced_as_the_gateway_api_has_it() {
    for (path, from, to, want) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/bar", "/", "/xyz", "/xyz/bar"),
    ] {
        assert_eq!(prefix(from, to).apply(path), want, "{path}: {from} becomes {to}");
    }
    assert_eq!(PathChange::Full("/all".to_owned()).apply("/foo/bar"), "/all");
    assert_eq!(PathChange::Full(String::new()).apply("/foo/bar"), "/");
}

#[test]
fn a_redirect_names_a_port_only_where_the_scheme_does_not_say_it() {
    let nothing = Redirect {
        scheme: None,
        host: None,
        port: None,
        path: None,
        status: 302,
    };
    let https = Redirect {
        scheme: Some(Scheme::Https),
        ..nothing.clone()
    };
    let elsewhere = Redirect {
        host: Some("example.org".to_owned()),
        port: Some(8080),
        path: Some(prefix("/a", "/b")),
        ..nothing.clone()
    };
    let location =
        |redirect: &Redirect, dialled, query| redirect.location(Scheme::Http, "web:80", dialled, "/a/c", query);
    assert_eq!(location(&nothing, 80, Some("q=1")), "http://web/a/c?q=1");
    assert_eq!(location(&nothing, 8080, None), "http://web:8080/a/c");
    assert_eq!(location(&https, 8080, None), "https://web/a/c");
    assert_eq!(location(&elsewhere, 80, None), "http://example.org:8080/b/c");
    let v6 = nothing.location(Scheme::Http, "[fd00::7]:8080", 8080, "/", None);
    assert_eq!(v6, "http://[fd00::7]:8080/");
    assert_eq!(
        nothing.location(Scheme::Http, "[fd00::7]", 80, "/", None),
        "http://[fd00::7]/"
    );
}

#[test]
fn headers_are_removed_set_and_added() {
    let name = |text: &'static str| HeaderName::from_static(text);
    let value = |text: &'static str| HeaderValue::from_static(text);
    let changes = HeaderChanges {
        remove: vec![name("x-gone")],
        set: vec![(name("x-set"), value("new"))],
        add: vec![(name("x-add"), value("two"))],
    };
    let mut headers = HeaderMap::new();
    for (header, text) in [
        ("x-gone", "1"),
        ("x-gone", "2"),
        ("x-set", "old"),
        ("x-set", "older"),
        ("x-add", "one"),
    ] {
        headers.append(name(header), value(text));
    }
    changes.apply(&mut headers);
    let all = |header: &str| headers.get_all(header).iter().cloned().collect::<Vec<_>>();
    assert_eq!(all("x-gone"), Vec::<HeaderValue>::new());
    assert_eq!(all("x-set"), ["new"]);
    assert_eq!(all("x-add"), ["one", "two"]);
}

#[test]
fn a_mirror_takes_its_share_and_no_more() {
    let mirror = |numerator, denominator| Mirror {
        place: BackendPlace::Endpoints("key".to_owned()),
        service: ServicePort {
            namespace: "shop".to_owned(),
            name: "reviews".to_owned(),
            port: 80,
        },
        subset: String::new(),
        numerator,
        denominator,
        traffic: None,
    };
    let draws = (0..1024_u64).map(|n| n << 54);
    let taken = |mirror: Mirror| draws.clone().filter(|&drawn| mirror.takes(drawn)).count();
    assert_eq!(taken(mirror(0, 100)), 0);
    assert_eq!(taken(mirror(50, 100)), 512);
    assert_eq!(taken(mirror(100, 100)), 1024);
    assert!(mirror(1, 1).takes(u64::MAX));
    assert!(!mirror(99, 100).takes(u64::MAX));
}
