use weft_model::filter::Scheme;
use weft_model::name::ServicePort;

use super::*;
use crate::discover::store::Store;

fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

#[test]
fn what_rules_say_is_shown_and_secrets_are_not() {
    let store = Store::new(Duration::from_secs(3), 16);
    let state = store.state();
    let filters = Filters {
        request_headers: HeaderChanges {
            remove: vec![HeaderName::from_static("x-gone")],
            set: vec![pair("x-set", "1"), pair("authorization", "Bearer hush")],
            add: vec![pair("x-api-key", "hush")],
        },
        response_headers: HeaderChanges::default(),
        rewrite: Some(Rewrite {
            host: Some("other".to_owned()),
            path: Some(PathChange::Prefix {
                from: "/a".to_owned(),
                to: "/b".to_owned(),
            }),
        }),
        mirrors: vec![Mirror {
            place: BackendPlace::Unresolved("it is gone".to_owned()),
            service: ServicePort {
                namespace: "shop".to_owned(),
                name: "reviews".to_owned(),
                port: 80,
            },
            subset: String::new(),
            numerator: 1,
            denominator: 2,
            traffic: None,
        }],
    };
    let shown = super::filters(state, &filters).unwrap();
    assert_eq!(
        shown,
        json!({
            "request_headers": {
                "remove": ["x-gone"],
                "set": [{ "name": "x-set", "value": "1" }, { "name": "authorization", "value": "(hidden)" }],
                "add": [{ "name": "x-api-key", "value": "(hidden)" }],
            },
            "rewrite": { "host": "other", "path": { "prefix": "/a", "becomes": "/b" } },
            "mirrors": [{
                "service": "shop/reviews:80",
                "subset": "",
                "numerator": 1,
                "denominator": 2,
                "unresolved": "it is gone",
            }],
        })
    );
    let redirect = Redirect {
        scheme: Some(Scheme::Https),
        host: None,
        port: Some(8443),
        path: Some(PathChange::Full("/c".to_owned())),
        status: 301,
    };
    let want = json!({ "status": 301, "scheme": "https", "port": 8443, "path": { "full": "/c" } });
    assert_eq!(super::redirect(&redirect), want);
    let limits = Timeouts {
        request: Some(Duration::from_millis(1500)),
        backend_request: None,
    };
    assert_eq!(timeouts(&limits).unwrap(), json!({ "request_ms": 1500 }));
}

#[test]
fn what_a_rule_does_not_say_is_not_shown() {
    let store = Store::new(Duration::from_secs(3), 16);
    let state = store.state();
    assert_eq!(super::filters(state, &Filters::default()), None);
    assert_eq!(timeouts(&Timeouts::default()), None);
}
