use super::*;

#[test]
fn the_wait_grows_to_ten_times_and_no_further() {
    let first = Duration::from_millis(100);
    let most: Vec<_> = (0..6).map(|made| backoff(first, made, 1.0).as_millis()).collect();
    assert_eq!(most, [100, 200, 400, 800, 1000, 1000]);
    assert_eq!(backoff(first, u32::MAX, 1.0).as_millis(), 1000);
    assert_eq!(backoff(first, 3, 0.0), Duration::ZERO);
    assert_eq!(backoff(Duration::ZERO, 3, 1.0), Duration::ZERO);
    assert_eq!(backoff(Duration::MAX, 3, 1.0), WAIT_MAX);
}

#[test]
fn a_rule_changes_no_header_that_another_reader_would_read_the_message_by() {
    let name = |text: &'static str| HeaderName::from_static(text);
    let both = HeaderChanges {
        remove: vec![name("content-length"), name("x-gone")],
        set: vec![
            (name("transfer-encoding"), "chunked".parse().unwrap()),
            (name("host"), "other".parse().unwrap()),
            (name("x-set"), "1".parse().unwrap()),
        ],
        add: vec![
            (name("x-forwarded-client-cert"), "By=me".parse().unwrap()),
            (name("x-weft-unsent"), "draining".parse().unwrap()),
            (name("connection"), "x".parse().unwrap()),
        ],
    };
    let left = allowed([&both, &HeaderChanges::default()]);
    let want = HeaderChanges {
        remove: vec![name("x-gone")],
        set: vec![(name("x-set"), "1".parse().unwrap())],
        add: vec![],
    };
    assert_eq!(left, [want]);
}

fn head_for(target: &'static str) -> RequestHead {
    RequestHead {
        method: http::Method::GET,
        target: Some(PathAndQuery::from_static(target)),
        authority: None,
        headers: HeaderMap::new(),
        version: http::Version::HTTP_11,
        upgrade: None,
        takes_trailers: false,
        length: Length::Empty,
    }
}

#[test]
fn a_path_is_rewritten_and_its_query_stays() {
    let prefix = PathChange::Prefix {
        from: "/a".to_owned(),
        to: "/b".to_owned(),
    };
    let full = |path: &str| PathChange::Full(path.to_owned());
    let to = |changes: &[PathChange], target: &'static str| {
        rewritten(changes, &head_for(target)).map(|target| target.to_string())
    };
    let one = std::slice::from_ref(&prefix);
    assert_eq!(to(one, "/a/c?q=/a").unwrap(), "/b/c?q=/a");
    assert_eq!(to(&[prefix.clone(), full("/d")], "/a/c").unwrap(), "/d");
    assert_eq!(to(&[full("/<")], "/a"), Err(Reason::BackendUnresolved));
}

#[test]
fn a_path_that_climbs_above_the_root_once_it_is_rewritten_is_refused() {
    let strip = PathChange::Prefix {
        from: "/api".to_owned(),
        to: "/".to_owned(),
    };
    for (target, want) in [
        ("/api/x/../y", Ok("/x/../y")),
        ("/api/../x", Err(Reason::BadRequest)),
        ("/api/%2e%2e/x", Err(Reason::BadRequest)),
        ("/api/x?to=/../y", Ok("/x?to=/../y")),
    ] {
        let to = rewritten(std::slice::from_ref(&strip), &head_for(target));
        assert_eq!(
            to.as_ref().map(PathAndQuery::as_str).map_err(|reason| *reason),
            want,
            "{target}"
        );
    }
}

#[test]
fn only_a_proxy_of_the_mesh_says_that_its_app_has_closed() {
    let says = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("proxy-status", value.parse().unwrap());
        says_closed(&headers)
    };
    assert!(says("weft; error=connection_terminated; details=\"upstream-closed\""));
    assert!(!says("weft; error=http_request_denied; details=\"plaintext-refused\""));
    assert!(!says("nginx; details=\"upstream-closed\""));
    assert!(!says_closed(&HeaderMap::new()));
}
