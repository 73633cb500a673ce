//! The control plane of a cluster: its replicas, and what they say together. Each knows only the proxies that are connected to it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::api::Answer;
use super::report::ROUTES;
use super::{Cluster, PODS, pods};
use crate::mesh::ADMIN;

/// The Service of the control plane.
const SERVICE: &str = "weft-control";
/// Replicas asked at once.
const AT_ONCE: usize = 8;

impl Cluster {
    /// What the control plane says, of all replicas that answer, with `control` about the replicas themselves. `path`: all of
    /// its status, or a view of it.
    ///
    /// # Errors
    /// There is none, or it may not be looked for.
    pub(super) async fn control(&self, path: &str) -> Result<Value> {
        let pods = self.replicas().await?;
        let asked = pods.iter().map(|pod| async move {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            match pods::is_ready(pod) {
                true => self.status_of(name, path).await,
                false => bail!("{}", pods::trouble(pod).unwrap_or_else(|| "it is not ready".to_owned())),
            }
        });
        let answers: Vec<Result<Value>> = stream::iter(asked).buffered(AT_ONCE).collect().await;
        let mut said = Vec::new();
        let mut replicas = Vec::new();
        for (pod, answer) in pods.iter().zip(answers) {
            let mut replica = json!({
                "pod": pod["metadata"]["name"], "node": pod["spec"]["nodeName"], "ready": pods::is_ready(pod),
                "answers": answer.is_ok(),
            });
            match answer {
                Ok(status) => {
                    replica["build"] = status["build"].clone();
                    replica["epoch"] = status["epoch"].clone();
                    said.push(status);
                }
                Err(why) => replica["reason"] = json!(format!("{why:#}")),
            }
            replicas.push(replica);
        }
        let answers = !said.is_empty();
        let mut all = union(said);
        if replicas.iter().any(|replica| replica["answers"] == false) && all["mesh"]["federation"].is_object() {
            // How far its proxies are nobody knows.
            all["mesh"]["federation"]["bundleReached"] = json!(0);
        }
        let reasons: Vec<&str> = replicas
            .iter()
            .filter_map(|replica| replica["reason"].as_str())
            .collect();
        let reason = match reasons.first() {
            _ if pods.is_empty() => format!(
                "it has no pod (fix: kubectl -n {} describe deployment weft-control)",
                self.control_namespace
            ),
            Some(reason) => (*reason).to_owned(),
            None => String::new(),
        };
        all["control"] = json!({
            "namespace": self.control_namespace, "ready": replicas.iter().any(|replica| replica["ready"] == true),
            "answers": answers, "reason": reason, "epoch": all["epoch"].take(), "build": all["build"].take(),
            "replicas": replicas,
        });
        Ok(all)
    }

    /// What the control plane says of this cluster for others, and of its links to them.
    ///
    /// # Errors
    /// There is none, or it may not be looked for.
    pub(crate) async fn links(&self) -> Result<Value> {
        let mut all = self.control("/status").await?;
        all["federation"] = all["mesh"]["federation"].take();
        if all["federation"].is_object() {
            self.add_reach(&mut all).await;
        }
        Ok(all)
    }

    /// What the control plane has heard of other clusters, by that replica which knows best of each: every one has links of its own,
    /// and one that began just now, or whose link is broken for long, has heard nothing, or what is not so any more.
    ///
    /// # Errors
    /// There is none, it may not be looked for, or none answers.
    pub(crate) async fn heard(&self, path: &str) -> Result<Value> {
        let pods = self.replicas().await?;
        let asked = pods.iter().filter(|pod| pods::is_ready(pod)).map(|pod| async move {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            self.status_of(name, path).await
        });
        let answers: Vec<Result<Value>> = stream::iter(asked).buffered(AT_ONCE).collect().await;
        let mut last = anyhow!("the control plane has no pod that is ready");
        let mut said = Vec::new();
        for answer in answers {
            match answer {
                Ok(heard) => said.push(heard),
                Err(error) => last = error,
            }
        }
        if said.is_empty() { Err(last) } else { Ok(most(said)) }
    }

    /// The pods behind its Service.
    async fn replicas(&self) -> Result<Vec<Value>> {
        let namespace = &self.control_namespace;
        let path = format!("/api/v1/namespaces/{namespace}/services/{SERVICE}");
        let service = match self.api.get(&path).await? {
            Answer::Is(service) => service,
            Answer::Missing => bail!(
                "there is no Service {SERVICE} in the namespace {namespace}: Weft is not installed there (fix: `weft install`, or \
                 --control-namespace)"
            ),
            Answer::Forbidden(why) => {
                bail!(
                    "{why} (fix: a Role in {namespace} that allows `get` on services, `list` on pods, and `get` and `create` on pods/portforward)"
                )
            }
        };
        let pods = self.list(&PODS, Some(namespace)).await?;
        let behind = pods
            .into_iter()
            .filter(|pod| pods::is_selected(&service["spec"]["selector"], pod));
        Ok(behind.collect())
    }

    async fn status_of(&self, pod: &str, path: &str) -> Result<Value> {
        let text = self.get(&self.control_namespace, pod, ADMIN, path).await?;
        serde_json::from_str(&text).context("the control plane's status can't be read")
    }
}

/// Of each cluster, what that replica has heard which is connected and has heard all; else the one which has heard most.
fn most(said: Vec<Value>) -> Value {
    let count = |heard: &Value| {
        (
            heard["whole"] == true,
            heard["resources"].as_array().map_or(0, Vec::len),
        )
    };
    let mut clusters: BTreeMap<String, Value> = BTreeMap::new();
    for heard in said.into_iter().flat_map(|mut all| taken(&mut all)) {
        match clusters.get(&word(&heard["cluster"])) {
            Some(known) if count(known) >= count(&heard) => {}
            _ => drop(clusters.insert(word(&heard["cluster"]), heard)),
        }
    }
    clusters.into_values().collect()
}

/// What several replicas say, as if one said it: proxies of all of them, once each; objects with all who need them. What an
/// object is worth every replica knows by itself, from the same objects; who has acknowledged it only all together. Each has a
/// link of its own to every peer, of which the one that is the most wrong is told.
pub(super) fn union(statuses: Vec<Value>) -> Value {
    let mut all = json!({"epoch": null, "build": null, "mesh": null, "problems": []});
    let mut peers: BTreeMap<String, Value> = BTreeMap::new();
    let mut proxies: BTreeMap<(String, String, String), Value> = BTreeMap::new();
    let mut objects: BTreeMap<(String, String, String), Value> = BTreeMap::new();
    let here = |status: &Value| {
        status["mesh"]["federation"]["bundleHere"]["reached"]
            .as_u64()
            .unwrap_or(0)
    };
    let here = statuses.iter().map(here).min();
    for mut status in statuses {
        if all["epoch"].as_u64() < status["epoch"].as_u64() {
            all["epoch"] = status["epoch"].take();
        }
        for field in ["build", "mesh"] {
            if all[field].is_null() {
                all[field] = status[field].take();
            }
        }
        for proxy in taken(&mut status["proxies"]) {
            let key = (word(&proxy["namespace"]), word(&proxy["pod"]), word(&proxy["uid"]));
            let rank = |proxy: &Value| (proxy["connected"] == true, word(&proxy["since"]));
            match proxies.get_mut(&key) {
                Some(known) if rank(known) >= rank(&proxy) => {}
                _ => drop(proxies.insert(key, proxy)),
            }
        }
        for object in taken(&mut status["objects"]) {
            let key = (word(&object["kind"]), word(&object["namespace"]), word(&object["name"]));
            match objects.get_mut(&key) {
                Some(known) => add(known, object),
                None => drop(objects.insert(key, object)),
            }
        }
        for peer in taken(&mut status["peers"]) {
            match peers.get_mut(&word(&peer["cluster"])) {
                Some(known) => join(known, peer),
                None => drop(peers.insert(word(&peer["cluster"]), peer)),
            }
        }
        for problem in taken(&mut status["problems"]) {
            if let Some(known) = all["problems"].as_array_mut().filter(|known| !known.contains(&problem)) {
                known.push(problem);
            }
        }
    }
    let is_route = |object: &&Value| object["kind"].as_str().is_some_and(|kind| ROUTES.contains(&kind));
    all["routes"] = objects.values().filter(is_route).cloned().collect();
    all["objects"] = objects.into_values().collect();
    all["proxies"] = proxies.into_values().collect();
    if all["mesh"]["federation"].is_object() {
        let there = peers.values().map(|peer| &peer["bundleThere"]["reached"]);
        let reached = there.map(|reached| reached.as_u64().unwrap_or(0)).chain(here).min();
        all["mesh"]["federation"]["bundleReached"] = json!(reached);
    }
    all["peers"] = peers.into_values().collect();
    all
}

/// Adds what another replica says of a peer. The peer's own replicas follow one or the other of ours.
fn join(known: &mut Value, mut other: Value) {
    let rank = |peer: &Value| match peer["link"]["state"].as_str() {
        Some("Connected") => 0,
        Some("Stale") => 2,
        Some("Forgotten") => 3,
        _ => 1,
    };
    if rank(&other) > rank(known) {
        std::mem::swap(known, &mut other);
    }
    let silent = is_silent(known) || is_silent(&other);
    let more = taken(&mut other["followers"]);
    if let Some(followers) = known["followers"].as_array_mut() {
        followers.extend(more);
    }
    for bundle in ["bundleHere", "bundleThere"] {
        known[bundle] = both(known[bundle].take(), other[bundle].take());
    }
    for tried in taken(&mut other["gatewaysTried"]) {
        let Some(all) = known["gatewaysTried"].as_array_mut() else {
            continue;
        };
        match all.iter_mut().find(|known| known["gateway"] == tried["gateway"]) {
            Some(known) if known["fault"] == "" => *known = tried,
            Some(_) => {}
            // The other one has begun just now.
            None => all.push(tried),
        }
    }
    if silent {
        known["bundleThere"] = Value::Null;
    }
    for refused in taken(&mut other["refused"]) {
        if let Some(all) = known["refused"].as_array_mut().filter(|all| !all.contains(&refused)) {
            all.push(refused);
        }
    }
}

/// Whether a replica of the peer has not said how far our bundle has come there.
fn is_silent(peer: &Value) -> bool {
    peer["bundleThere"].is_null()
        && peer["followers"]
            .as_array()
            .is_some_and(|followers| !followers.is_empty())
}

/// How far a trust bundle has come, as two replicas say, each of its own proxies, or of those of the peer's replicas that follow
/// it.
fn both(one: Value, other: Value) -> Value {
    let (Value::Object(_), Value::Object(_)) = (&one, &other) else {
        return if one.is_null() { other } else { one };
    };
    let of = |field: &str| (one[field].as_u64().unwrap_or(0), other[field].as_u64().unwrap_or(0));
    let least = |field: &str| of(field).0.min(of(field).1);
    let sum = |field: &str| of(field).0 + of(field).1;
    json!({
        "sequence": least("sequence"), "reached": least("reached"),
        "proxies": sum("proxies"), "acknowledged": sum("acknowledged"),
    })
}

/// Adds who needs an object at another replica.
fn add(known: &mut Value, mut other: Value) {
    for count in ["subscribers", "applied"] {
        known[count] = json!(known[count].as_u64().unwrap_or(0) + other[count].as_u64().unwrap_or(0));
    }
    let more = taken(&mut other["waiting"]);
    if let Some(waiting) = known["waiting"].as_array_mut() {
        waiting.extend(more);
    }
    let Some(said) = applied(&mut other).map(Value::take) else {
        return;
    };
    match applied(known) {
        // A replica whose proxies do not need the object says that it is applied, too.
        Some(known) if known["status"] == "True" && (said["status"] != "True" || said["reason"] != "NoSubscribers") => {
            *known = said
        }
        _ => {}
    }
}

/// The condition `Applied` of an object.
fn applied(object: &mut Value) -> Option<&mut Value> {
    let conditions = object["conditions"].as_array_mut()?;
    conditions.iter_mut().find(|condition| condition["type"] == "Applied")
}

fn taken(list: &mut Value) -> Vec<Value> {
    match list.take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(pod: &str, connected: bool, since: &str) -> Value {
        json!({"namespace": "shop", "pod": pod, "uid": pod, "connected": connected, "since": since})
    }

    fn object(subscribers: u64, applied: u64, waiting: &[&str]) -> Value {
        json!({"kind": "HTTPRoute", "namespace": "shop", "name": "reviews", "conditions": [], "subscribers": subscribers,
            "applied": applied, "waiting": waiting})
    }

    #[test]
    fn a_proxy_is_where_it_is_connected_however_many_replicas_remember_it() {
        let old = json!({"epoch": 3, "build": "a", "proxies": [proxy("web", false, "2026-01-01T00:00:00Z")]});
        let new = json!({"epoch": 4, "build": "b", "proxies": [proxy("web", true, "2026-01-01T00:01:00Z"), proxy("db", true, "x")]});
        for both in [[old.clone(), new.clone()], [new, old]] {
            let all = union(both.to_vec());
            let proxies = all["proxies"].as_array().unwrap();
            assert_eq!(proxies.len(), 2, "{all:#}");
            assert!(proxies.iter().all(|proxy| proxy["connected"] == true), "{all:#}");
            assert_eq!(all["epoch"], 4);
        }
    }

    #[test]
    fn who_needs_an_object_is_counted_over_all_replicas() {
        let of = |object: Value| json!({"objects": [object], "problems": [{"message": "same"}]});
        let all = union(vec![of(object(2, 1, &["shop/a"])), of(object(1, 0, &["shop/b"]))]);
        assert_eq!(all["objects"][0]["subscribers"], 3);
        assert_eq!(all["objects"][0]["applied"], 1);
        assert_eq!(all["objects"][0]["waiting"], json!(["shop/a", "shop/b"]));
        assert_eq!(all["routes"].as_array().unwrap().len(), 1);
        assert_eq!(all["problems"], json!([{"message": "same"}]));
    }

    #[test]
    fn an_object_is_applied_when_no_replica_says_otherwise() {
        let of = |status: &str, reason: &str| {
            let mut object = object(1, 1, &[]);
            object["conditions"] = json!([
                {"type": "Accepted", "status": "True", "reason": "Accepted"},
                {"type": "Applied", "status": status, "reason": reason}
            ]);
            json!({"objects": [object]})
        };
        let together = |one: (&str, &str), two: (&str, &str)| {
            let all = union(vec![of(one.0, one.1), of(two.0, two.1)]);
            all["objects"][0]["conditions"][1]["reason"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let (no, waits, applied) = (
            ("True", "NoSubscribers"),
            ("False", "Waiting"),
            ("True", "Acknowledged"),
        );
        for (one, two, is) in [
            (no, waits, "Waiting"),
            (no, applied, "Acknowledged"),
            (waits, applied, "Waiting"),
            (no, no, "NoSubscribers"),
        ] {
            assert_eq!((together(one, two), together(two, one)), (is.to_owned(), is.to_owned()));
        }
    }

    #[test]
    fn of_several_links_to_a_peer_the_most_wrong_is_told_with_the_followers_of_all_replicas() {
        let of = |state: &str, follower: &str| {
            json!({"peers": [{
                "cluster": "west", "link": {"state": state}, "followers": [{"build": follower}],
                "refused": [{"object": "Export shop/db"}],
            }]})
        };
        let (good, bad) = (of("Connected", "a"), of("Stale", "b"));
        for both in [[good.clone(), bad.clone()], [bad, good.clone()]] {
            let all = union(both.to_vec());
            let peers = all["peers"].as_array().unwrap();
            assert_eq!(peers.len(), 1, "{all:#}");
            assert_eq!(peers[0]["link"]["state"], "Stale");
            assert_eq!(peers[0]["followers"].as_array().unwrap().len(), 2);
            assert_eq!(peers[0]["refused"].as_array().unwrap().len(), 1);
        }
        let all = union(vec![good.clone(), good]);
        assert_eq!(all["peers"][0]["link"]["state"], "Connected");
    }

    #[test]
    fn a_gateway_that_one_replica_does_not_reach_is_told() {
        let of = |fault: &str| {
            json!({"peers": [{"cluster": "west", "link": {"state": "Connected"},
                "gatewaysTried": [{"gateway": "gw:1", "fault": fault}]}]})
        };
        for (one, other) in [("", "port"), ("port", "")] {
            let all = union(vec![of(one), of(other)]);
            assert_eq!(
                all["peers"][0]["gatewaysTried"],
                json!([{"gateway": "gw:1", "fault": "port"}])
            );
        }
    }

    #[test]
    fn a_gateway_that_only_one_replica_has_tried_is_told_as_that_one_says() {
        let of = |state: &str, tried: Value| json!({"peers": [{"cluster": "west", "link": {"state": state}, "gatewaysTried": tried}]});
        let tried = json!([{"gateway": "gw:1", "fault": "port"}, {"gateway": "gw:2", "fault": ""}]);
        let (began, knows) = (of("Connecting", json!([])), of("Connected", tried.clone()));
        for both in [[began.clone(), knows.clone()], [knows, began]] {
            let all = union(both.to_vec());
            assert_eq!(all["peers"][0]["link"]["state"], "Connecting");
            assert_eq!(all["peers"][0]["gatewaysTried"], tried);
        }
    }

    #[test]
    fn of_each_cluster_is_told_what_the_replica_has_heard_that_has_heard_most() {
        let of =
            |cluster: &str, resources: &[&str]| json!({"cluster": cluster, "resources": resources, "gateways": []});
        let one = json!([of("north", &["n1"]), of("west", &[])]);
        let other = json!([of("north", &[]), of("west", &["w1", "w2"])]);
        let want = json!([of("north", &["n1"]), of("west", &["w1", "w2"])]);
        for said in [vec![one.clone(), other.clone()], vec![other, one]] {
            assert_eq!(most(said), want);
        }
        assert_eq!(most(vec![json!([])]), json!([]));
        // More of what was is less than what is.
        let mut whole = of("west", &["w1"]);
        whole["whole"] = json!(true);
        let stale = of("west", &["w1", "w2"]);
        for said in [[whole.clone(), stale.clone()], [stale, whole.clone()]] {
            assert_eq!(most(said.map(|one| json!([one])).to_vec()), json!([whole]));
        }
    }

    #[test]
    fn how_far_a_bundle_has_come_is_told_of_the_proxies_of_all_replicas() {
        let of = |here: Value, there: Value| json!({"peers": [{"cluster": "west", "link": {"state": "Connected"}, "bundleHere": here, "bundleThere": there}]});
        let held = |sequence: u64, acknowledged: u64| json!({"sequence": sequence, "proxies": 3, "acknowledged": acknowledged, "reached": sequence - 1});
        let all = union(vec![of(held(4, 1), Value::Null), of(held(5, 3), held(2, 2))]);
        let want = json!({"sequence": 4, "proxies": 6, "acknowledged": 4, "reached": 3});
        assert_eq!(all["peers"][0]["bundleHere"], want);
        assert_eq!(all["peers"][0]["bundleThere"], held(2, 2), "one is not followed");
    }

    #[test]
    fn a_bundle_has_come_as_far_as_the_last_proxy_of_any_replica_here_or_there() {
        let of = |here: u64, there: Value, followers: usize| {
            let followers = vec![json!({"build": "a"}); followers];
            json!({
                "mesh": {"federation": {"bundleHere": {"reached": here}, "bundleReached": 9}},
                "peers": [{"cluster": "west", "link": {"state": "Connected"}, "bundleThere": there, "followers": followers}],
            })
        };
        let reached = |statuses: Vec<Value>| union(statuses)["mesh"]["federation"]["bundleReached"].clone();
        let there = |reached: u64| json!({"sequence": 5, "proxies": 1, "acknowledged": 1, "reached": reached});
        // The other one's proxies are further, and the peer's replicas follow it alone.
        for (one, other) in [
            (of(3, Value::Null, 0), of(5, there(4), 1)),
            (of(4, there(5), 1), of(5, there(3), 1)),
        ] {
            assert_eq!(reached(vec![one.clone(), other.clone()]), 3);
            assert_eq!(reached(vec![other, one]), 3);
        }
        // One that follows has not said; or none follows.
        let (said, silent) = (of(5, there(5), 1), of(5, Value::Null, 1));
        assert_eq!(reached(vec![said.clone(), said.clone()]), 5);
        assert_eq!(reached(vec![said.clone(), silent.clone()]), 0);
        assert_eq!(reached(vec![silent, said]), 0);
        assert_eq!(reached(vec![of(5, Value::Null, 0)]), 0);
    }

    #[test]
    fn of_no_replica_nothing_is_said() {
        let all = union(Vec::new());
        assert_eq!((&all["proxies"], &all["objects"]), (&json!([]), &json!([])));
    }
}
