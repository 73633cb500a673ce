//! Kinds are followed against an API server of this process: each test says what it answers, request by request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::api::Api;
use super::discover;
use super::follow::Follow;
use super::kinds::{Kind, Served};
use super::shown::{Phase, Shown};
use crate::manifests::{Changes, Snapshot};
use crate::source::News;

type AnyBody = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

/// The requests of a client, one by one.
pub(super) struct Server {
    asked: mpsc::Receiver<Asked>,
}

/// A request that waits for its answer.
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) body: Value,
    answer: oneshot::Sender<Response<AnyBody>>,
}

pub(super) fn server() -> (Server, Api) {
    let (ask, asked) = mpsc::channel(16);
    let service = tower::service_fn(move |request: Request<Body>| {
        let ask = ask.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let asked = Asked {
                method: parts.method.to_string(),
                path: parts.uri.path().to_owned(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                body: serde_json::from_slice(&body).unwrap_or_default(),
                answer,
            };
            ask.send(asked).await.map_err(|_| std::io::Error::other("gone"))?;
            answered.await.map_err(|_| std::io::Error::other("connection closed"))
        }
    });
    (Server { asked }, Api::new(kube::Client::new(service, "default")))
}

impl Server {
    pub(super) async fn next(&mut self) -> Asked {
        self.asked.recv().await.expect("a request")
    }
}

impl Asked {
    pub(super) fn answer(self, code: u16, body: &Value) {
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {});
        self.send(code, body.boxed_unsync());
    }

    pub(super) fn refuse(self, code: u16, reason: &str) {
        self.answer(
            code,
            &json!({"kind": "Status", "code": code, "reason": reason, "message": "no"}),
        );
    }

    /// Answers with a watch, whose lines come from here.
    fn watched(self) -> mpsc::Sender<Value> {
        let (say, said) = mpsc::channel::<Value>(16);
        let lines = futures_util::StreamExt::map(ReceiverStream::new(said), |event| {
            Ok(hyper::body::Frame::data(Bytes::from(format!("{event}\n"))))
        });
        self.send(200, StreamBody::new(lines).boxed_unsync());
        say
    }

    fn send(self, code: u16, body: AnyBody) {
        let response = Response::builder().status(StatusCode::from_u16(code).unwrap());
        let _ = self.answer.send(response.body(body).unwrap()); // Whoever asked may have given up.
    }
}

fn kind(name: &str) -> Kind {
    Kind::all().into_iter().find(|kind| kind.kind == name).unwrap()
}

fn service(name: &str, version: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": version.to_string()}})
}

fn list(version: u64, next: &str, items: &[Value]) -> Value {
    json!({"metadata": {"resourceVersion": version.to_string(), "continue": next}, "items": items})
}

/// Follows a kind of which the API server serves what the test says.
fn follow(name: &str) -> (Server, Arc<Shown>, watch::Sender<Option<Arc<Served>>>) {
    let (server, api) = server();
    let kind = kind(name);
    let shown = Arc::new(Shown::new(std::slice::from_ref(&kind)));
    let served = watch::Sender::new(Some(Arc::new(Served::default())));
    let follow = Follow {
        api,
        kind,
        shown: shown.clone(),
        served: served.subscribe(),
        looks: shown.looks(),
    };
    tokio::task::spawn(follow.run());
    (server, shown, served)
}

#[tokio::test(start_paused = true)]
async fn while_nobody_knows_which_kinds_are_served_each_says_why_it_is_not_followed() {
    let (mut server, api) = server();
    let kind = kind("HTTPRoute");
    let shown = Arc::new(Shown::new(std::slice::from_ref(&kind)));
    let served = watch::Sender::new(None);
    tokio::task::spawn(discover::run(api, served, vec![kind], shown.clone()));
    server.next().await.refuse(403, "Forbidden");
    let again = server.next().await;
    assert_eq!(again.path, "/apis");
    let error = shown.states().remove(0).1.error.unwrap();
    assert!(error.contains("/apis: 403 Forbidden"), "{error}");
}

fn serves(kind: &str, group: &str, version: &str) -> Option<Arc<Served>> {
    let resource = json!({"responseKind": {"kind": kind}});
    let versions = json!([{"version": version, "resources": [resource]}]);
    let group = json!({"metadata": {"name": group}, "versions": versions});
    Served::read(&json!({"kind": "APIGroupDiscoveryList", "items": [group]})).map(Arc::new)
}

async fn news(shown: &Shown) -> News {
    let mut revisions = shown.revisions();
    let wait = async {
        loop {
            revisions.mark_unchanged();
            match shown.take() {
                Some(news) => return news,
                None => revisions.changed().await.unwrap(),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("news")
}

async fn all(shown: &Shown) -> (Snapshot, bool) {
    match news(shown).await {
        News::All { snapshot, older, .. } => (snapshot, older),
        other => panic!("{other:?}"),
    }
}

async fn changes(shown: &Shown) -> (Changes, bool) {
    match news(shown).await {
        News::Changes { changes, older } => (changes, older),
        other => panic!("{other:?}"),
    }
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.objects.iter().map(|object| object.name.as_str()).collect()
}

/// Answers the first list with these, and returns the watch's lines.
async fn begin(server: &mut Server, shown: &Shown, version: u64, items: &[Value]) -> mpsc::Sender<Value> {
    server.next().await.answer(200, &list(version, "", items));
    all(shown).await;
    server.next().await.watched()
}

#[tokio::test(start_paused = true)]
async fn a_kind_is_listed_page_by_page_and_watched_from_there() {
    let (mut server, shown, _served) = follow("Service");
    let first = server.next().await;
    assert_eq!(
        (first.path.as_str(), first.query.as_str()),
        ("/api/v1/services", "limit=500")
    );
    first.answer(200, &list(7, "to/go on", &[service("a", 3)]));
    assert!(shown.take().is_none(), "half a list is none");
    let second = server.next().await;
    assert_eq!(second.query, "limit=500&continue=to%2Fgo%20on");
    second.answer(200, &list(7, "", &[service("b", 5)]));
    assert_eq!(names(&all(&shown).await.0), ["a", "b"]);

    let watch = server.next().await;
    assert!(watch.query.contains("watch=true") && watch.query.ends_with("resourceVersion=7"));
    let say = watch.watched();
    for (r#type, object) in [("MODIFIED", service("a", 8)), ("DELETED", service("b", 9))] {
        say.send(json!({"type": r#type, "object": object})).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let (changes, older) = changes(&shown).await;
        assert!(!older);
        seen.extend(
            changes
                .upserts
                .iter()
                .map(|object| format!("{}@{}", object.name, object.resource_version)),
        );
        seen.extend(changes.deletes.iter().map(|name| format!("-{}", name.name)));
    }
    seen.sort();
    assert_eq!(seen, ["-b", "a@8"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_goes_on_where_it_was_and_one_that_is_too_old_begins_with_a_list() {
    let (mut server, shown, _served) = follow("Service");
    let say = begin(&mut server, &shown, 7, &[service("a", 3), service("b", 4)]).await;
    let bookmark = json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "40"}}});
    say.send(bookmark).await.unwrap();
    drop(say);
    let watch = server.next().await;
    assert!(watch.query.ends_with("resourceVersion=40"), "{}", watch.query);
    let say = watch.watched();
    let gone = json!({"kind": "Status", "code": 410, "reason": "Expired"});
    say.send(json!({"type": "ERROR", "object": gone})).await.unwrap();
    server
        .next()
        .await
        .answer(200, &list(90, "", &[service("b", 4), service("c", 80)]));
    let (changes, older) = changes(&shown).await;
    assert_eq!(changes.deletes.len(), 1, "a was deleted meanwhile");
    assert_eq!(changes.upserts.len(), 1, "b has not changed");
    assert!(!older);
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_all_stays_as_it_was_and_is_said_to_be_so() {
    let (mut server, shown, _served) = follow("Service");
    drop(begin(&mut server, &shown, 7, &[service("a", 3)]).await);
    for _ in 0..4 {
        drop(server.next().await); // The connection is closed.
    }
    assert!(shown.take().is_none());
    let (_, state) = shown.states().remove(0);
    assert!(state.error.as_deref().is_some_and(|error| error.contains("away")));
    assert_eq!((state.objects, state.phase), (1, Phase::Listed));
    let back = server.next().await;
    assert!(back.query.starts_with("limit="), "after failures: a list");
    back.answer(200, &list(9, "", &[service("a", 8)]));
    assert_eq!(changes(&shown).await.0.upserts[0].resource_version, 8);
    assert_eq!(shown.states()[0].1.error, None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_restored_is_noticed_by_its_versions() {
    let (mut server, shown, _served) = follow("Service");
    let say = begin(&mut server, &shown, 70, &[service("a", 60)]).await;
    drop(say);
    server.next().await.refuse(410, "Expired");
    server.next().await.answer(200, &list(50, "", &[service("a", 30)]));
    let (changes, older) = changes(&shown).await;
    assert!(older);
    assert_eq!(changes.upserts[0].resource_version, 30);
}

#[tokio::test(start_paused = true)]
async fn a_look_lists_everything_again_from_then_on() {
    let (mut server, shown, _served) = follow("Service");
    let _say = begin(&mut server, &shown, 7, &[service("a", 3)]).await;
    shown.look_again();
    let list_again = server.next().await;
    assert!(list_again.query.starts_with("limit=") && !list_again.query.contains("resourceVersion"));
    // Asked for once more while that list is on its way: it does not answer this one.
    shown.look_again();
    list_again.answer(200, &list(8, "", &[service("a", 3)]));
    let second = loop {
        let request = server.next().await;
        if request.query.starts_with("limit=") {
            break request;
        }
    };
    assert!(shown.take().is_none());
    second.answer(200, &list(9, "", &[service("a", 9)]));
    assert_eq!(all(&shown).await.0.objects[0].resource_version, 9);
}

#[tokio::test(start_paused = true)]
async fn how_new_everything_is_is_told_by_the_list_and_of_no_kind_that_is_not_there() {
    let (mut server, shown, _served) = follow("Service");
    server.next().await.answer(200, &list(70, "", &[service("a", 3)]));
    let News::All { lists, .. } = news(&shown).await else {
        panic!("not all")
    };
    assert_eq!(lists, [("Service".to_owned(), 70)].into(), "the newest may be gone");

    let (mut server, shown, _served) = follow("TCPRoute");
    server.next().await.refuse(404, "NotFound");
    let News::All { lists, .. } = news(&shown).await else {
        panic!("not all")
    };
    assert!(lists.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_refused_is_held_and_told_of() {
    let (mut server, shown, _served) = follow("Service");
    let say = begin(&mut server, &shown, 7, &[service("a", 3)]).await;
    let mut bad = service("a", 0);
    bad["metadata"]["resourceVersion"] = json!("x1");
    say.send(json!({"type": "MODIFIED", "object": bad})).await.unwrap();
    let (held, _) = changes(&shown).await;
    assert!(held.upserts.is_empty() && held.deletes.is_empty());
    assert!(
        held.problems[0]
            .to_string()
            .contains("Service shop/a: metadata.resourceVersion")
    );
    let good = json!({"type": "MODIFIED", "object": service("a", 9)});
    drop(say);
    let again = server.next().await;
    assert!(
        again.query.ends_with("resourceVersion=7"),
        "from the last version that is one"
    );
    again.watched().send(good).await.unwrap();
    let (mended, _) = changes(&shown).await;
    assert_eq!((mended.upserts.len(), mended.problems.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_kind_without_a_crd_is_waited_for_and_one_whose_crd_goes_takes_its_objects_along() {
    let (mut server, shown, served) = follow("TCPRoute");
    let definition = server.next().await;
    assert_eq!(
        definition.path,
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tcproutes.gateway.networking.k8s.io"
    );
    definition.refuse(404, "NotFound");
    assert!(all(&shown).await.0.objects.is_empty());
    assert_eq!(shown.states()[0].1.phase, Phase::Absent);

    served.send_replace(serves("TCPRoute", "gateway.networking.k8s.io", "v1alpha2"));
    let request = server.next().await;
    assert_eq!(request.path, "/apis/gateway.networking.k8s.io/v1alpha2/tcproutes");
    request.answer(200, &list(7, "", &[service("r", 3)]));
    assert_eq!(changes(&shown).await.0.upserts[0].kind, "TCPRoute");
    drop(server.next().await.watched());

    let mut request = server.next().await;
    while request.query.contains("watch=") {
        request.refuse(404, "NotFound");
        request = server.next().await;
    }
    // The list is not there either; only the definition decides.
    request.refuse(404, "NotFound");
    let definition = server.next().await;
    assert!(definition.path.contains("customresourcedefinitions"));
    definition.refuse(404, "NotFound");
    assert_eq!(changes(&shown).await.0.deletes.len(), 1);
}

/// A CustomResourceDefinition with these versions, served or not.
fn definition(versions: &[(&str, bool)]) -> Value {
    let version = |(name, served): &(&str, bool)| json!({"name": name, "served": served, "storage": false});
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({"metadata": {"name": "it is there"}, "spec": {"versions": versions}})
}

#[tokio::test(start_paused = true)]
async fn a_kind_in_versions_that_nobody_here_reads_keeps_nobody_waiting_and_is_told_of() {
    let (mut server, shown, served) = follow("GRPCRoute");
    served.send_replace(serves("GRPCRoute", "gateway.networking.k8s.io", "v1alpha2"));
    let asked = server.next().await;
    asked.answer(200, &definition(&[("v1alpha2", true), ("v1", false)]));
    assert!(all(&shown).await.0.objects.is_empty(), "the others are served");
    let (_, state) = shown.states().remove(0);
    assert_eq!(state.phase, Phase::Absent);
    let error = state.error.unwrap();
    assert!(
        error.contains("GRPCRoute") && error.contains("update its CRD"),
        "{error}"
    );

    served.send_replace(serves("GRPCRoute", "gateway.networking.k8s.io", "v1"));
    server.next().await.answer(200, &list(7, "", &[service("r", 3)]));
    assert_eq!(changes(&shown).await.0.upserts.len(), 1);
    assert_eq!(shown.states()[0].1.error, None);
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_loses_our_version_takes_no_routes_away_and_ends_looks() {
    let (mut server, shown, served) = follow("HTTPRoute");
    served.send_replace(serves("HTTPRoute", "gateway.networking.k8s.io", "v1"));
    let _say = begin(&mut server, &shown, 7, &[service("r", 3)]).await;
    served.send_replace(serves("HTTPRoute", "gateway.networking.k8s.io", "v9"));
    shown.look_again();
    server.next().await.answer(200, &definition(&[("v9", true)]));
    assert_eq!(names(&all(&shown).await.0), ["r"]);
    assert!(shown.states()[0].1.error.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_404_that_is_not_the_api_servers_takes_no_routes_away() {
    let (mut server, shown, served) = follow("HTTPRoute");
    served.send_replace(serves("HTTPRoute", "gateway.networking.k8s.io", "v1"));
    drop(begin(&mut server, &shown, 7, &[service("r", 3)]).await);
    for _ in 0..8 {
        server.next().await.refuse(404, "");
    }
    assert!(shown.take().is_none(), "nothing was taken away");
    assert!(shown.states()[0].1.error.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_no_watch_comes_of_is_asked_for_ever_more_rarely() {
    let (mut server, shown, _served) = follow("Service");
    let (begun, mut lists) = (tokio::time::Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(120) {
        let request = server.next().await;
        match request.query.contains("watch=") {
            true => request.refuse(403, "Forbidden"),
            false => {
                lists += 1;
                request.answer(200, &list(7, "", &[service("a", 3)]));
            }
        }
    }
    assert!((5..40).contains(&lists), "{lists}");
    // One that is asked for comes at once.
    shown.look_again();
    let begun = tokio::time::Instant::now();
    while server.next().await.query.contains("watch=") {}
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_only_starts_takes_no_routes_away() {
    let (mut server, shown, served) = follow("HTTPRoute");
    served.send_replace(serves("HTTPRoute", "gateway.networking.k8s.io", "v1"));
    drop(begin(&mut server, &shown, 7, &[service("r", 3)]).await);
    served.send_replace(Some(Arc::new(Served::default())));
    for _ in 0..6 {
        let request = server.next().await;
        match request.path.contains("customresourcedefinitions") {
            true => request.answer(200, &definition(&[("v1", true)])),
            false => request.refuse(404, "NotFound"),
        }
    }
    assert!(shown.take().is_none(), "nothing was taken away");
    let (_, state) = shown.states().remove(0);
    assert_eq!(state.objects, 1);
    assert!(
        state.error.as_deref().is_some_and(|error| error.contains("not served")),
        "{state:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_may_not_be_read_is_not_taken_for_absent() {
    let (mut server, shown, served) = follow("HTTPRoute");
    served.send_replace(serves("HTTPRoute", "gateway.networking.k8s.io", "v1"));
    for _ in 0..3 {
        server.next().await.refuse(403, "Forbidden");
    }
    assert!(shown.take().is_none() && !shown.has_begun());
    assert!(
        shown.states()[0]
            .1
            .error
            .as_deref()
            .is_some_and(|error| error.contains("403 Forbidden"))
    );
}
