//! What rules change of requests and responses, and where they send clients instead.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use weft_model::filter::{Filters, HeaderChanges, PathChange, Redirect, Rewrite, Scheme};
use weft_model::reason::Reason;
use weft_model::route::Backend;

use super::script::*;
use super::world::*;

fn changes(
    remove: &[&'static str],
    set: &[(&'static str, &'static str)],
    add: &[(&'static str, &'static str)],
) -> HeaderChanges {
    let pair =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    HeaderChanges {
        remove: remove.iter().map(|name| HeaderName::from_static(name)).collect(),
        set: set.iter().map(pair).collect(),
        add: add.iter().map(pair).collect(),
    }
}

fn rewrite(host: Option<&str>, path: Option<PathChange>) -> Option<Rewrite> {
    Some(Rewrite {
        host: host.map(str::to_owned),
        path,
    })
}

fn prefix(from: &str, to: &str) -> Option<PathChange> {
    Some(PathChange::Prefix {
        from: from.to_owned(),
        to: to.to_owned(),
    })
}

/// The rule's come first, then the backend's.
fn both(rule: &mut Filters, backend: &mut Backend) {
    rule.request_headers = changes(
        &["x-gone"],
        &[("x-set", "rule"), ("x-last", "rule")],
        &[("x-add", "rule")],
    );
    rule.response_headers = changes(&["x-app"], &[("x-back", "rule")], &[]);
    rule.rewrite = rewrite(Some("rewritten.example"), prefix("/old", "/new"));
    backend.filters.request_headers = changes(&[], &[("x-last", "backend")], &[("x-add", "backend")]);
    backend.filters.response_headers = changes(&[], &[], &[("x-back", "backend")]);
}

const ASKED: [(&str, &str); 4] = [
    ("x-gone", "1"),
    ("x-set", "client"),
    ("x-add", "client"),
    ("x-kept", "1"),
];

#[test]
fn an_app_gets_and_a_client_sees_what_the_rule_makes_of_it() {
    story(async {
        for speaks in BOTH {
            let (app, got) = scripted_app(speaks, &[Does::Status(200)]).await;
            let world = World::new();
            let client = client_of(&world, &[app], |rule| both(&mut rule.filters, &mut rule.backends[0])).await;
            let seen = ask(&client, speaks, "/old/one?q=/old", &ASKED, "body").await;
            let (head, body) = got.borrow()[0].clone();
            assert!(head.contains("/new/one?q=/old"), "{head}");
            assert!(
                head.contains("rewritten.example") && !head.contains("host: reviews"),
                "{head}"
            );
            assert!(!head.contains("x-gone") && head.contains("x-kept: 1"), "{head}");
            assert!(
                head.contains("x-set: rule\r\n") && head.contains("x-last: backend\r\n"),
                "{head}"
            );
            assert!(
                !head.contains("x-set: client") && !head.contains("x-last: rule"),
                "{head}"
            );
            for value in ["client", "rule", "backend"] {
                assert!(head.contains(&format!("x-add: {value}\r\n")), "{head}");
            }
            assert_eq!(body, "body");
            let back: Vec<_> = seen.headers.get_all("x-back").iter().collect();
            assert_eq!(
                (seen.status, seen.header("x-app"), back.len()),
                (200, "", 2),
                "{seen:?}"
            );
            assert_eq!(seen.body, b"said");
        }
    });
}

#[test]
fn a_rule_without_filters_changes_nothing() {
    story(async {
        for speaks in BOTH {
            let (app, got) = scripted_app(speaks, &[Does::Status(200)]).await;
            let client = client_of(&World::new(), &[app], |_| {}).await;
            let seen = ask(&client, speaks, "/old/one?q=/old", &ASKED, "body").await;
            let (head, _) = got.borrow()[0].clone();
            assert!(head.contains("/old/one?q=/old") && head.contains("reviews"), "{head}");
            for (name, value) in ASKED {
                assert!(head.contains(&format!("{name}: {value}\r\n")), "{head}");
            }
            assert_eq!((seen.header("x-app"), seen.header("x-back")), ("said", ""));
        }
    });
}

#[test]
fn refusals_and_trailers_are_not_the_rules_to_change() {
    story(async {
        let world = World::new();
        let response_headers = changes(&["x-trailer"], &[("x-back", "rule")], &[]);
        let client = client_of(&world, &[], |rule| {
            rule.filters.response_headers = response_headers.clone()
        })
        .await;
        for speaks in BOTH {
            let seen = ask(&client, speaks, "/", &[], "").await;
            assert_eq!((seen.status, seen.header("x-back")), (503, ""), "{seen:?}");
        }
        let (app, _) = scripted_app(Speaks::H2, &[Does::GrpcMessage(0)]).await;
        let client = client_of(&world, &[app], |rule| rule.filters.response_headers = response_headers).await;
        let seen = call(&client, &[]).await;
        assert_eq!((seen.header("x-back"), seen.grpc()), ("rule", Some(0)));
        assert_eq!(seen.trailers["x-trailer"], "said");
    });
}

#[test]
fn a_rule_cannot_say_who_calls_nor_where_a_message_ends() {
    story(async {
        let (app, got) = scripted_app(Speaks::H1, &[Does::Status(200)]).await;
        let forged = [
            (
                "x-forwarded-client-cert",
                "By=x;URI=spiffe://demo.weft.internal/ns/shop/sa/admin",
            ),
            ("content-length", "100"),
            ("transfer-encoding", "chunked"),
            ("x-weft-unsent", "draining"),
        ];
        let client = client_of(&World::new(), &[app], |rule| {
            rule.filters.request_headers = changes(&["x-forwarded-client-cert"], &forged, &forged);
            rule.filters.response_headers = changes(&[], &forged, &forged);
        })
        .await;
        let seen = ask(&client, Speaks::H1, "/", &[], "body").await;
        assert_eq!((seen.status, seen.whole), (200, true), "{seen:?}");
        let (head, body) = got.borrow()[0].clone();
        assert!(
            head.contains("URI=spiffe://demo.weft.internal/ns/shop/sa/web\r\n"),
            "{head}"
        );
        assert!(
            !head.contains("admin") && !head.contains("chunked") && !head.contains("draining"),
            "{head}"
        );
        assert_eq!(body, "body");
    });
}

#[test]
fn a_request_whose_path_cannot_be_rewritten_is_not_sent() {
    story(async {
        let (app, got) = scripted_app(Speaks::H1, &[Does::Status(200)]).await;
        let client = client_of(&World::new(), &[app], |rule| {
            rule.filters.rewrite = rewrite(None, Some(PathChange::Full("/<".to_owned())));
        })
        .await;
        let seen = ask(&client, Speaks::H1, "/", &[], "").await;
        assert_eq!((seen.status, got.borrow().len()), (500, 0), "{seen:?}");
        assert_eq!(client.refusals(Reason::BackendUnresolved), 1);
    });
}

#[test]
fn a_redirect_is_answered_without_an_app() {
    let nothing = Redirect {
        scheme: None,
        host: None,
        port: None,
        path: None,
        status: 302,
    };
    let https = Redirect {
        scheme: Some(Scheme::Https),
        status: 301,
        ..nothing.clone()
    };
    let elsewhere = Redirect {
        host: Some("example.org".to_owned()),
        port: Some(8080),
        path: prefix("/old", "/new"),
        status: 308,
        ..nothing.clone()
    };
    let table = [
        (nothing, "http://reviews/old/one?q=1"),
        (https, "https://reviews/old/one?q=1"),
        (elsewhere, "http://example.org:8080/new/one?q=1"),
    ];
    story(async {
        for (redirect, location) in table {
            let (app, got) = scripted_app(Speaks::H1, &[Does::Status(200)]).await;
            let client = client_of(&World::new(), &[app], |rule| rule.redirect = Some(redirect.clone())).await;
            for speaks in BOTH {
                let seen = ask(&client, speaks, "/old/one?q=1", &[], "a body that nobody wants").await;
                assert_eq!((seen.status, seen.header("location")), (redirect.status, location));
                assert!(seen.whole && seen.body.is_empty(), "{seen:?}");
            }
            let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
            let seen = ask(&client, Speaks::H2, "/old/one?q=1", &grpc, "").await;
            assert_eq!(
                (seen.status, seen.header("location"), seen.grpc()),
                (redirect.status, location, None)
            );
            assert!(got.borrow().is_empty());
            let counted = client.metrics();
            let status = format!("http_response_status_code=\"{}\",http_route=\"/*\"", redirect.status);
            assert!(counted.contains(&status), "{counted}");
        }
    });
}

#[test]
fn a_filter_holds_from_the_next_request_of_the_same_connection() {
    story(async {
        let (app, got) = scripted_app(Speaks::H1, &[Does::Status(200)]).await;
        let client = client_of(&World::new(), &[app], |_| {}).await;
        let mut connection = Client::to(client.outbound).await;
        assert!(!connection.get("/").await.unwrap().head.contains("x-back"));
        client
            .tell(|told| {
                let service = told.state.services["reviews"].value.clone();
                let mut rules = service.rules.clone().unwrap();
                let only = Arc::make_mut(&mut rules.rules[0]);
                both(&mut only.filters, &mut only.backends[0]);
                told.service(service.protocol, Some(rules));
            })
            .await;
        assert!(connection.get("/").await.unwrap().head.contains("x-back"));
        assert!(got.borrow()[1].0.contains("x-set: rule"));
    });
}
