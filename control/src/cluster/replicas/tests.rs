//! What replicas write and read of each other.

use super::super::tests::server;
use super::*;
use crate::index::ObjectStatus;
use crate::status::applied::Named;

fn verdict(version: u64, holders: Holders) -> Verdict {
    let kind = Kind::all().into_iter().find(|kind| kind.kind == "HTTPRoute").unwrap();
    let raw = json!({"metadata": {
        "name": "r", "namespace": "shop", "uid": "u", "generation": 1, "resourceVersion": version.to_string()
    }});
    let object = super::super::object::read(&kind, "v1", raw).unwrap();
    Verdict {
        status: ObjectStatus {
            object: object.reference(),
            origin: None,
            conditions: Vec::new(),
            parents: Vec::new(),
        },
        object: object.into(),
        holders,
        peer: None,
    }
}

fn named(names: &[&str]) -> Named {
    Named {
        count: names.len(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn holders(subscribers: usize, waiting: &[&str], apart: &[&str]) -> Holders {
    Holders {
        subscribers,
        waiting: named(waiting),
        apart: named(apart),
        ..Holders::default()
    }
}

fn view(version: u64, holders: Holders, connected: &[&str]) -> View {
    let verdicts = Verdicts {
        of: vec![verdict(version, holders)],
        connected: connected.iter().map(|pod| (*pod).to_owned()).collect(),
    };
    View::of(&verdicts, BYTES_MAX)
}

fn read(other: View) -> Read {
    Read {
        text: String::new(),
        since: Instant::now(),
        view: Some(other),
        standing: Standing::Counts,
        pod: false,
        removed: false,
        moved: 0,
    }
}

/// What the one that leads makes of its own knowledge and of another's, of an object at this version.
fn together(own: Holders, other: View, version: u64) -> (bool, String) {
    let (_, api) = server();
    let mut reader = Reader::new(api, "weft-system", "one");
    reader.complete = true;
    reader.views.insert("two".to_owned(), read(other));
    let mut verdicts = Verdicts {
        of: vec![verdict(version, own)],
        connected: vec!["shop/own".to_owned()],
    };
    reader.meet(&verdicts);
    reader.add(&mut verdicts.of[0], version);
    let (applied, _, message) = verdicts.of[0].holders.applied(true);
    (applied, message)
}

#[tokio::test]
async fn an_object_is_applied_when_no_replicas_proxy_lags() {
    let (applied, _) = together(holders(1, &[], &[]), view(7, holders(1, &[], &[]), &[]), 7);
    assert!(applied);
    let (applied, message) = together(holders(1, &[], &[]), view(7, holders(2, &["shop/a"], &[]), &[]), 7);
    assert!(
        !applied && message.contains("1 of 3") && message.contains("shop/a"),
        "{message}"
    );
    // None of the leader's own needs it, and one of the other's does.
    let (applied, message) = together(holders(0, &[], &[]), view(7, holders(1, &[], &[]), &[]), 7);
    assert!(applied && message.contains("all connected"), "{message}");
}

#[tokio::test]
async fn a_replica_that_has_not_seen_the_object_yet_has_said_nothing_of_it() {
    let (applied, message) = together(holders(1, &[], &[]), view(6, holders(1, &[], &[]), &[]), 7);
    assert!(!applied && message.contains("two"), "{message}");
    let mut full = view(7, holders(0, &[], &[]), &[]);
    assert!(together(holders(0, &[], &[]), full.clone(), 7).0);
    full.more = true;
    assert!(!together(holders(0, &[], &[]), full, 7).0, "there was no room for it");
}

#[tokio::test]
async fn who_has_gone_to_another_replica_is_not_apart() {
    let other = view(7, holders(1, &[], &["shop/own", "shop/lost"]), &["shop/moved"]);
    let (applied, message) = together(holders(1, &[], &["shop/moved"]), other, 7);
    assert!(applied && message.ends_with("older version: shop/lost"), "{message}");
}

#[tokio::test]
async fn who_has_moved_is_not_counted_either_where_only_a_few_are_named() {
    let pods: Vec<String> = (0..100).map(|n| format!("shop/p{n:03}")).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    let apart = |pods: &[&str]| holders(1, &[], pods);
    // All of them have come to the other one.
    let (applied, message) = together(apart(&pods), view(7, holders(1, &[], &[]), &pods), 7);
    assert!(applied && !message.contains("not connected"), "{message}");
    // The other one misses them, and one more.
    let mut missed = pods.clone();
    missed.push("shop/zero");
    let (_, api) = server();
    let mut reader = Reader::new(api, "weft-system", "one");
    reader
        .views
        .insert("two".to_owned(), read(view(7, apart(&missed), &[])));
    let mut verdicts = Verdicts {
        of: vec![verdict(7, holders(1, &[], &[]))],
        connected: pods.iter().map(|pod| (*pod).to_owned()).collect(),
    };
    reader.meet(&verdicts);
    reader.add(&mut verdicts.of[0], 7);
    assert_eq!(
        verdicts.of[0].holders.apart,
        Named {
            count: 1,
            names: vec![]
        }
    );
}

/// So many objects, of which this is known.
fn many(count: usize, holders: &Holders) -> Vec<Verdict> {
    let of = |n| {
        let mut verdict = verdict(7, holders.clone());
        let mut object = (*verdict.object).clone();
        object.name = format!("r{n}");
        verdict.object = object.into();
        verdict
    };
    (0..count).map(of).collect()
}

#[tokio::test]
async fn a_view_has_no_more_bytes_than_there_is_room_for() {
    let names: Vec<String> = (0..8).map(|n| format!("{n}{}", "x".repeat(200))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let verdicts = Verdicts {
        of: many(1000, &holders(8, &names, &names)),
        connected: (0..20_000).map(|n| format!("shop/p{n}")).collect(),
    };
    for room in [BYTES_MAX, room(2), room(16)] {
        let view = View::of(&verdicts, room);
        let bytes = serde_json::to_string(&view).unwrap().len();
        assert!(view.more && !view.objects.is_empty());
        assert!((room / 2..room + 1024).contains(&bytes), "{bytes}");
    }
    assert_eq!(room(2), BYTES_MAX);
    assert!(room(16) * 15 <= ROOM);
    assert_eq!(spacing(0), SPACING);
    assert_eq!(spacing(128 << 10), Duration::from_secs(2));
}

#[tokio::test]
async fn more_objects_than_a_view_holds_are_applied_where_all_is_well() {
    let all = |holders: &Holders| {
        let mut of = many(10_000, holders);
        of.push(verdict(7, self::holders(1, &["shop/late"], &[])));
        let connected = vec!["shop/other".to_owned()];
        View::of(&Verdicts { of, connected }, BYTES_MAX)
    };
    let well = all(&holders(1, &[], &[]));
    assert!(well.rest && !well.more);
    let (applied, message) = together(Holders::default(), well.clone(), 7);
    assert!(
        !applied && message.contains("shop/late"),
        "what is waited for comes first: {message}"
    );
    let mut told = well;
    told.objects.clear();
    let (applied, message) = together(Holders::default(), told, 7);
    assert!(applied && message.contains("all connected"), "{message}");
    // What there is no room for although it is waited for is not taken for applied.
    let mut lagging = all(&holders(1, &["shop/late"], &[]));
    assert!(lagging.more);
    lagging.objects.clear();
    let (applied, message) = together(Holders::default(), lagging, 7);
    assert!(!applied && message.contains("two (more is waited for"), "{message}");
}

/// The one that leads, beside what is shown of replicas.
struct Seen {
    reader: Reader,
    maps: Shown,
    cluster: Shown,
    version: u64,
}

fn kind(name: &str) -> Kind {
    Kind::all().into_iter().find(|kind| kind.kind == name).unwrap()
}

impl Seen {
    fn new() -> (super::super::tests::Server, Self) {
        let (server, api) = server();
        let seen = Self {
            reader: Reader::new(api, "weft-system", "one-1_0"),
            maps: Shown::new(std::slice::from_ref(&maps("weft-system"))),
            cluster: Shown::new(&[kind("Pod"), kind("EndpointSlice")]),
            version: 1,
        };
        (server, seen)
    }

    fn object(&mut self, kind: &Kind, name: &str, more: Value) -> Object {
        self.version += 1;
        let mut raw = json!({"metadata": {
            "name": name, "namespace": "weft-system", "uid": name, "resourceVersion": self.version.to_string()
        }});
        for (field, value) in more.as_object().unwrap() {
            raw[field] = value.clone();
        }
        raw["metadata"]["labels"] = json!({SERVICE_LABEL: SERVICE});
        super::super::object::read(kind, "v1", raw).unwrap()
    }

    /// What replicas have written.
    fn write(&mut self, data: Value) {
        let kind = maps("weft-system");
        let map = self.object(&kind, CONFIG_MAP, json!({"data": data}));
        self.maps.listed(&kind, "v1", self.version, 0, vec![Ok(map)]);
    }

    /// Pods that are there, and whether proxies are sent to them.
    fn pods(&mut self, pods: &[(&str, bool)]) {
        let endpoint = |(pod, ready): &(&str, bool)| {
            let target = json!({"kind": "Pod", "name": pod, "namespace": "weft-system"});
            json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready}, "targetRef": target})
        };
        let endpoints: Vec<Value> = pods.iter().map(endpoint).collect();
        let slice = self.object(&kind("EndpointSlice"), "s", json!({"endpoints": endpoints}));
        self.cluster.put(&kind("EndpointSlice"), Ok(slice));
        let all = pods
            .iter()
            .map(|(pod, _)| Ok(self.object(&kind("Pod"), pod, json!({}))));
        let all = all.collect();
        self.cluster.listed(&kind("Pod"), "v1", self.version, 0, all);
    }

    /// How many proxies lag, and of which replicas nobody knows. Removals are answered; they are returned.
    async fn look(&mut self, server: &mut super::super::tests::Server) -> (usize, Vec<String>, Vec<String>) {
        let mut removed = Vec::new();
        let answer = async {
            loop {
                let request = server.next().await;
                assert_eq!(request.body.get("data"), None);
                removed.push(request.query.clone());
                request.answer(200, &json!({}));
            }
        };
        tokio::select! {
            read = self.reader.read(&self.maps, &self.cluster) => read.unwrap(),
            () = answer => {}
        }
        let mut verdict = verdict(7, Holders::default());
        self.reader.add(&mut verdict, 7);
        (verdict.holders.waiting.count, verdict.holders.unheard, removed)
    }
}

fn text(at: &str) -> String {
    let mut view = view(7, holders(1, &["shop/a"], &[]), &[]);
    at.clone_into(&mut view.at);
    serde_json::to_string(&view).unwrap()
}

#[tokio::test(start_paused = true)]
async fn of_a_replica_that_serves_and_says_nothing_nobody_knows() {
    let (mut server, mut seen) = Seen::new();
    let (_, unheard, _) = seen.look(&mut server).await;
    assert_eq!(unheard, ["other replicas"], "nothing is listed yet");
    seen.pods(&[("one-1", true), ("two-2", true), ("new-3", false)]);
    seen.write(json!({}));
    assert_eq!(seen.look(&mut server).await, (0, vec!["two-2".to_owned()], vec![]));
    seen.write(json!({"two-2_0": text("1")}));
    assert_eq!(seen.look(&mut server).await, (1, vec![], vec![]));
    tokio::time::advance(GONE).await;
    let unknown = vec!["two-2_0".to_owned()];
    assert_eq!(seen.look(&mut server).await, (0, unknown.clone(), vec![]), "stale");
    seen.write(json!({"two-2_0": "{\"of\": \"another version\"}"}));
    assert_eq!(seen.look(&mut server).await, (0, unknown, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_gone_counts_no_more() {
    let (mut server, mut seen) = Seen::new();
    seen.pods(&[("one-1", true), ("two-2", true)]);
    seen.write(json!({"two-2_0": text("1")}));
    assert_eq!(seen.look(&mut server).await, (1, vec![], vec![]));
    // Its process began anew.
    seen.write(json!({"two-2_0": text("1"), "two-2_1": text("2"), "one-1_9": text("1")}));
    let (lag, unheard, removed) = seen.look(&mut server).await;
    assert_eq!((lag, unheard.len(), removed.len()), (1, 0, 2), "{removed:?}");
    assert!(
        removed[0].contains("=one-1_9&") && removed[1].contains("=two-2_0&"),
        "{removed:?}"
    );
    // Its pod is gone; that it is removed is asked for once.
    seen.pods(&[("one-1", true)]);
    let (lag, unheard, removed) = seen.look(&mut server).await;
    assert_eq!((lag, unheard.len(), removed.len()), (0, 0, 1), "{removed:?}");
    assert_eq!(seen.look(&mut server).await, (0, vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_renewed_does_not_count_where_no_pod_says_more_and_is_removed_at_last() {
    let (mut server, mut seen) = Seen::new();
    seen.write(json!({"two": text("1"), "three": "nonsense"}));
    assert_eq!(seen.look(&mut server).await, (1, vec!["three".to_owned()], vec![]));
    tokio::time::advance(STALE).await;
    assert_eq!(seen.look(&mut server).await, (0, vec![], vec![]));
    tokio::time::advance(GONE).await;
    let (.., removed) = seen.look(&mut server).await;
    assert!(
        removed[0].contains("=three&") && removed[1].contains("=two&"),
        "{removed:?}"
    );
}

#[tokio::test]
async fn who_ends_takes_back_what_it_has_said() {
    let (mut server, api) = server();
    let silent = Writer::new(api.clone(), "weft-system", "one");
    silent.end().await;
    let mut writer = Writer::new(api, "weft-system", "two");
    let (verdicts, shown) = (Verdicts::default(), Shown::new(&[]));
    let write = async { server.next().await.answer(200, &json!({})) };
    let (written, ()) = tokio::join!(writer.write(&verdicts, &shown), write);
    written.unwrap();
    writer.forget();
    let answer = async {
        let request = server.next().await;
        assert!(request.query.contains("=two&") && request.body.get("data").is_none());
        // Nor anything else that it would be kept for as a manager.
        let named = json!({"name": CONFIG_MAP, "namespace": "weft-system"});
        assert_eq!(request.body["metadata"], named);
        request.answer(200, &json!({}));
    };
    tokio::join!(writer.end(), answer);
}

#[tokio::test(start_paused = true)]
async fn a_view_is_written_when_it_is_news_and_from_time_to_time() {
    let (mut server, api) = server();
    let mut writer = Writer::new(api, "weft-system", "two");
    let verdicts = |version| Verdicts {
        of: vec![verdict(version, holders(1, &[], &[]))],
        connected: Vec::new(),
    };
    let shown = Shown::new(&[]);
    for (version, wait, writes) in [(7, 0, true), (7, 1, false), (8, 1, true), (8, 11, true)] {
        tokio::time::advance(Duration::from_secs(wait)).await;
        let verdicts = verdicts(version);
        let mut write = std::pin::pin!(writer.write(&verdicts, &shown));
        tokio::select! {
            biased;
            written = &mut write => assert!(!writes && written.is_ok()),
            request = server.next() => {
                assert!(writes);
                let text = request.body["data"]["two"].as_str().unwrap().to_owned();
                assert!(text.contains("\"seen\":{\"HTTPRoute\":"), "{text}");
                request.answer(200, &json!({}));
                write.await.unwrap();
            }
        }
    }
}
