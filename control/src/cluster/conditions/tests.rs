//! What a status comes to, from objects through the index: verdicts and conditions, and when there is nothing to write.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use weft_model::identity::TrustDomain;

use super::*;
use crate::index::{ConditionType, Index, ObjectStatus, Settings};
use crate::manifests::Snapshot;
use crate::serve::hub::{Lasting, Link, LinkState};
use crate::status::applied::{Holders, Named};
use crate::status::{PeerVerdict, Way};

const THEN: &str = "2026-01-01T00:00:00Z";
const NOW: &str = "2026-02-02T00:00:00Z";

fn object(kind: &str, api_version: &str, name: &str, rest: &Value) -> Arc<Object> {
    let mut raw = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}});
    raw.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    Arc::new(Object {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        resource_version: 7,
        generation: 3,
        labels: Default::default(),
        annotations: Default::default(),
        raw,
        origin: None,
    })
}

fn service(name: &str, more: &Value) -> Arc<Object> {
    let mut spec =
        json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"name": "main", "port": 80}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object("Service", "v1", name, &json!({"spec": spec}))
}

fn parent(name: &str) -> Value {
    json!({"group": "", "kind": "Service", "name": name})
}

/// An HTTPRoute with these parents, one rule to this backend, and this status.
fn route(parents: &[Value], backend: &Value, status: &Value) -> Arc<Object> {
    let spec = json!({"parentRefs": parents, "rules": [{"backendRefs": [backend]}]});
    let rest = json!({"spec": spec, "status": status});
    object("HTTPRoute", "gateway.networking.k8s.io/v1", "r", &rest)
}

/// What the index says of an object, beside the Services `web` and, without an address of its own, `none`.
fn verdict(of: &Arc<Object>) -> Verdict {
    let mut index = Index::new(Settings {
        trust_domain: TrustDomain::new("test.weft.internal").unwrap(),
        cluster: "c".to_owned(),
        network: "c".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        inside: Vec::new(),
        outside: Vec::new(),
    });
    let headless = service("none", &json!({"clusterIP": "None", "clusterIPs": ["None"]}));
    index.replace(&Snapshot {
        objects: vec![service("web", &json!({})), headless, of.clone()],
        ..Snapshot::default()
    });
    let mut statuses = index.statuses().into_iter();
    let status = statuses.find(|status| status.object == of.reference());
    Verdict {
        object: of.clone(),
        status: status.expect("a verdict"),
        holders: Holders::default(),
        peer: None,
    }
}

fn backend() -> Value {
    json!({"name": "web", "port": 80})
}

/// The status that is written of an object, which must have none yet.
#[track_caller]
fn written(of: &Arc<Object>) -> Value {
    status(&verdict(of), &of.raw["status"], false, NOW).expect("something to write")
}

/// `TYPE=STATUS REASON` of the conditions of an entry.
fn words(conditions: &Value) -> Vec<String> {
    let conditions = conditions.as_array().cloned().unwrap_or_default();
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let word = |c: &Value| format!("{}={} {}", text(c, "type"), text(c, "status"), text(c, "reason"));
    conditions.iter().map(word).collect()
}

/// The conditions for the only parent of a route.
#[track_caller]
fn of_parent(parent: Value, backend: &Value) -> Vec<String> {
    let status = written(&route(&[parent], backend, &Value::Null));
    assert_eq!(status["parents"].as_array().map(Vec::len), Some(1), "{status}");
    words(&status["parents"][0]["conditions"])
}

#[test]
fn a_route_that_is_well_says_so_for_its_parent() {
    let status = written(&route(&[parent("web")], &backend(), &Value::Null));
    let entry = &status["parents"][0];
    assert_eq!(entry["controllerName"], "weft.dev/mesh");
    assert_eq!(entry["parentRef"], parent("web"));
    assert_eq!(
        words(&entry["conditions"]),
        [
            "Accepted=True Accepted",
            "ResolvedRefs=True ResolvedRefs",
            "Applied=True NoSubscribers"
        ]
    );
    for condition in entry["conditions"].as_array().unwrap() {
        assert_eq!(
            (&condition["observedGeneration"], &condition["lastTransitionTime"]),
            (&json!(3), &json!(NOW))
        );
    }
}

/// Whether exports conflict is not known before the peers are heard: what was said of it stays until then.
#[test]
fn what_was_said_of_conflicts_stays_where_nothing_is_said_of_them() {
    let conflict = |status: &str| {
        json!({"type": "Conflict", "status": status, "reason": "TypeConflict", "message": "m",
        "observedGeneration": 3, "lastTransitionTime": THEN})
    };
    let other = json!({"type": "Ready", "status": "True", "reason": "Exported", "message": "m",
        "observedGeneration": 3, "lastTransitionTime": THEN});
    let before = json!({"conditions": [conflict("True"), other]});
    let of = object(
        "ServiceExport",
        "multicluster.x-k8s.io/v1beta1",
        "nobody",
        &json!({"status": before}),
    );
    let verdict = verdict(&of);
    assert!(
        verdict
            .status
            .conditions
            .iter()
            .all(|said| said.r#type.as_str() != "Conflict")
    );
    let after = status(&verdict, &of.raw["status"], false, NOW).expect("something to write");
    assert_eq!(after["conditions"][0], conflict("True"));
    assert_eq!(
        words(&after["conditions"]),
        [
            "Conflict=True TypeConflict",
            "Ready=False Failed",
            "Valid=False NoService",
            "Applied=False NotAccepted"
        ]
    );
}

#[test]
fn what_is_wrong_has_the_reasons_of_the_gateway_api() {
    let web = || parent("web");
    let port = |number: u16| json!({"group": "", "kind": "Service", "name": "web", "port": number});
    let section = json!({"group": "", "kind": "Service", "name": "web", "sectionName": "nothing"});
    let well = ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"];
    for (parent, backend, wanted) in [
        (port(80), backend(), well),
        (port(81), backend(), ["Accepted=False NoMatchingParent", well[1]]),
        (section, backend(), ["Accepted=False NoMatchingParent", well[1]]),
        (
            parent("nobody"),
            backend(),
            ["Accepted=False NoMatchingParent", well[1]],
        ),
        (parent("none"), backend(), ["Accepted=False NoMatchingParent", well[1]]),
        (
            web(),
            json!({"name": "nobody", "port": 80}),
            [well[0], "ResolvedRefs=False BackendNotFound"],
        ),
        (
            web(),
            json!({"name": "web", "port": 81}),
            [well[0], "ResolvedRefs=False BackendNotFound"],
        ),
        (
            web(),
            json!({"group": "apps", "kind": "Deployment", "name": "web", "port": 80}),
            [well[0], "ResolvedRefs=False InvalidKind"],
        ),
    ] {
        let said = of_parent(parent.clone(), &backend);
        assert_eq!(said[..2], wanted, "{parent} {backend}");
        let applied = if wanted[0] == well[0] {
            "Applied=True NoSubscribers"
        } else {
            "Applied=False NotAccepted"
        };
        assert_eq!(said[2], applied, "{parent}");
    }
}

#[test]
fn a_message_names_field_and_fix() {
    let status = written(&route(
        &[parent("web")],
        &json!({"name": "nobody", "port": 80}),
        &Value::Null,
    ));
    let message = status["parents"][0]["conditions"][1]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        message,
        "spec.rules[0].backendRefs[0].name: there is no Service shop/nobody (fix: name a Service, a ServiceSubset or a \
         ServiceImport that exists, and a port of it)"
    );
}

#[test]
fn what_is_not_understood_is_said_beside_accepted_and_never_without() {
    let spec = |parent: &str| json!({"spec": {"parentRefs": [self::parent(parent)], "sepc": 1, "rules": [{"backendRefs": [backend()]}]}});
    let of = |parent| object("HTTPRoute", "gateway.networking.k8s.io/v1", "r", &spec(parent));
    let said = words(&written(&of("web"))["parents"][0]["conditions"]);
    assert_eq!(said[2], "PartiallyInvalid=True UnknownField");
    let said = words(&written(&of("nobody"))["parents"][0]["conditions"]);
    assert!(
        said.iter().all(|word| !word.starts_with("PartiallyInvalid")),
        "{said:?}"
    );
}

#[test]
fn a_route_that_is_refused_is_refused_for_every_service_and_each_parent_is_judged_for_itself() {
    let spec = json!({"parentRefs": [parent("web"), parent("nobody")], "hostnames": ["a.example"], "rules": []});
    let of = object("HTTPRoute", "gateway.networking.k8s.io/v1", "r", &json!({"spec": spec}));
    for entry in written(&of)["parents"].as_array().unwrap() {
        assert_eq!(
            words(&entry["conditions"]),
            ["Accepted=False UnsupportedValue", "Applied=False NotAccepted"]
        );
    }
    let of = route(&[parent("nobody"), parent("web")], &backend(), &Value::Null);
    let status = written(&of);
    assert_eq!(
        words(&status["parents"][0]["conditions"])[0],
        "Accepted=False NoMatchingParent"
    );
    assert_eq!(words(&status["parents"][1]["conditions"])[0], "Accepted=True Accepted");
}

#[test]
fn routes_of_streams_have_the_same_status() {
    let spec = json!({"parentRefs": [parent("web")], "rules": [{"backendRefs": [{"name": "nobody", "port": 80}]}]});
    let of = object(
        "TCPRoute",
        "gateway.networking.k8s.io/v1alpha2",
        "t",
        &json!({"spec": spec}),
    );
    let said = words(&written(&of)["parents"][0]["conditions"]);
    assert_eq!(
        said[..2],
        ["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"]
    );
}

#[test]
fn what_was_written_is_not_written_again() {
    let of = route(&[parent("web"), parent("nobody")], &backend(), &Value::Null);
    let status = written(&of);
    // As the API server shows it: whatever time it is by then.
    let again = route(&[parent("web"), parent("nobody")], &backend(), &status);
    assert_eq!(
        super::status(&verdict(&again), &status, false, "2027-01-01T00:00:00Z"),
        None
    );
    // A parent that is a Gateway is none of ours, and a route with no other has no status of ours.
    let gateway = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"});
    let of = route(&[gateway], &backend(), &Value::Null);
    assert_eq!(super::status(&verdict(&of), &Value::Null, false, NOW), None);
}

#[test]
fn a_time_is_that_of_the_last_change_of_its_status() {
    let mut status = written(&route(&[parent("web")], &backend(), &Value::Null));
    for condition in status["parents"][0]["conditions"].as_array_mut().unwrap() {
        condition["lastTransitionTime"] = json!(THEN);
        condition["observedGeneration"] = json!(2);
    }
    let edited = route(&[parent("web")], &json!({"name": "nobody", "port": 80}), &status);
    let status = written(&edited);
    let conditions = status["parents"][0]["conditions"].as_array().unwrap();
    let times: Vec<&Value> = conditions.iter().map(|each| &each["lastTransitionTime"]).collect();
    assert_eq!(times, [THEN, NOW, THEN], "ResolvedRefs has changed, and nothing else");
    assert!(conditions.iter().all(|each| each["observedGeneration"] == 3));
}

#[test]
fn other_controllers_entries_and_types_stay_where_they_are() {
    let foreign = json!({
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"},
        "controllerName": "example.net/gateway", "conditions": [{"type": "Accepted", "status": "False"}]
    });
    // Another mesh may have the same parent.
    let mesh = json!({"parentRef": parent("web"), "controllerName": "example.net/mesh", "conditions": []});
    let special = json!({"type": "example.net/Special", "status": "True", "observedGeneration": 9});
    let ours = json!({"parentRef": parent("web"), "controllerName": CONTROLLER, "conditions": [special]});
    let stale = json!({"parentRef": parent("old"), "controllerName": CONTROLLER, "conditions": []});
    let before = json!({"parents": [foreign, stale, ours, mesh]});
    let status = written(&route(&[parent("web")], &backend(), &before));
    let parents = status["parents"].as_array().unwrap();
    assert_eq!((&parents[0], &parents[2]), (&foreign, &mesh));
    assert_eq!(parents.len(), 3, "what is said of a parent that is gone goes: {status}");
    assert_eq!(parents[1]["conditions"][0], special);
    assert_eq!(words(&parents[1]["conditions"])[1], "Accepted=True Accepted");

    // The last parent goes, and only our entry with it.
    let gateway = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"});
    let status = written(&route(&[gateway], &backend(), &before));
    assert_eq!(status, json!({"parents": [foreign, mesh]}));
}

#[test]
fn lists_that_are_full_get_no_more() {
    let entry =
        |n: usize| json!({"parentRef": parent(&format!("p{n}")), "controllerName": "example.net/c", "conditions": []});
    let full = json!({"parents": (0..PARENTS_MAX).map(entry).collect::<Vec<_>>()});
    let of = route(&[parent("web")], &backend(), &full);
    assert_eq!(super::status(&verdict(&of), &full, false, NOW), None);
}

#[test]
fn what_was_said_of_a_generation_that_is_not_there_yet_is_written_over() {
    let status = written(&route(&[parent("web")], &backend(), &Value::Null));
    let mut newer = status.clone();
    newer["parents"][0]["conditions"][0]["observedGeneration"] = json!(4000);
    let of = route(&[parent("web")], &backend(), &newer);
    assert_eq!(super::status(&verdict(&of), &newer, false, NOW), Some(status));
}

#[test]
fn our_own_kinds_have_conditions_and_others_types_are_not_named() {
    let subset = |service: &str, status: &Value| {
        let rest = json!({"spec": {"service": service}, "status": status});
        object("ServiceSubset", "weft.dev/v1alpha1", "s", &rest)
    };
    let status = written(&subset("nobody", &Value::Null));
    assert_eq!(
        words(&status["conditions"]),
        [
            "Accepted=True Accepted",
            "ResolvedRefs=False TargetNotFound",
            "Applied=True NoSubscribers"
        ]
    );
    let mut shown = status.clone();
    let others = json!({"type": "example.net/Special", "status": "True"});
    shown["conditions"].as_array_mut().unwrap().insert(0, others);
    assert_eq!(
        super::status(&verdict(&subset("nobody", &shown)), &shown, false, NOW),
        None
    );
    let status = written(&subset("web", &shown));
    assert_eq!(words(&status["conditions"])[1], "ResolvedRefs=True ResolvedRefs");
    assert_eq!(status["conditions"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_policy_of_the_gateway_api_has_its_targets_as_ancestors() {
    let spec = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "web"}], "retryConstraint": {}});
    let of = object(
        "XBackendTrafficPolicy",
        "gateway.networking.x-k8s.io/v1alpha1",
        "b",
        &json!({"spec": spec}),
    );
    let status = written(&of);
    let ancestor = json!({"group": "", "kind": "Service", "namespace": "shop", "name": "web"});
    assert_eq!(status["ancestors"][0]["ancestorRef"], ancestor);
    assert_eq!(
        words(&status["ancestors"][0]["conditions"])[0],
        "Accepted=True Accepted"
    );
}

#[test]
fn whoever_has_just_begun_does_not_say_that_nobody_needs_an_object() {
    let of = route(&[parent("web")], &backend(), &Value::Null);
    let applied = |before: &Value, young| {
        let status = super::status(&verdict(&of), before, young, NOW)?;
        Some(words(&status["parents"][0]["conditions"])[2].clone())
    };
    assert_eq!(applied(&Value::Null, true).as_deref(), Some("Applied=Unknown Pending"));
    assert_eq!(
        applied(&Value::Null, false).as_deref(),
        Some("Applied=True NoSubscribers")
    );
    // What the one before has said of this generation stays meanwhile.
    let mut of_before = verdict(&of);
    of_before.holders = Holders {
        subscribers: 1,
        waiting: Named {
            count: 1,
            names: vec!["shop/a".to_owned()],
        },
        ..Holders::default()
    };
    let status = super::status(&of_before, &Value::Null, false, NOW).unwrap();
    assert_eq!(words(&status["parents"][0]["conditions"])[2], "Applied=False Waiting");
    assert_eq!(applied(&status, true), None);
}

#[test]
fn a_document_holds_only_over_the_version_that_was_read() {
    let of = route(&[parent("web")], &backend(), &Value::Null);
    let document = document(&of, 12, &json!({"parents": []}));
    assert_eq!(
        document,
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "shop", "uid": "uid-r", "resourceVersion": "12"},
            "status": {"parents": []}
        })
    );
}

/// A ClusterPeer with this status, and what is to be said of it.
fn peer(status: &Value, link: Option<LinkState>) -> Verdict {
    let of = object("ClusterPeer", "weft.dev/v1alpha1", "west", &json!({"status": status}));
    let condition = index::Condition {
        r#type: ConditionType::Accepted,
        status: true,
        reason: "Accepted".to_owned(),
        message: "it acts as written".to_owned(),
        field: String::new(),
        fix: String::new(),
        observed_generation: 3,
    };
    Verdict {
        status: ObjectStatus {
            object: of.reference(),
            origin: None,
            conditions: vec![condition],
            parents: Vec::new(),
        },
        object: of,
        holders: Holders::default(),
        peer: Some(PeerVerdict {
            link,
            keep_for: Duration::from_secs(3600),
            imported: 2,
            exported: 3,
            way: None,
            unlike: None,
            bundle: (5, "PEM".to_owned()),
        }),
    }
}

fn link(state: Link, heard: Option<u64>, reason: &str) -> Option<LinkState> {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    Some(LinkState {
        state,
        since: at(0),
        endpoint: "weft.west.example:15013".to_owned(),
        fault: "port",
        reason: "what the last attempt has failed of".to_owned(),
        lasting: Lasting::new("weft.west.example:15013", reason),
        heard: heard.map(at),
        complete: true,
        linked: None,
    })
}

fn connected(status: &Value) -> &Value {
    of_type(status, &"Connected".into()).expect("the condition")
}

#[test]
fn a_peer_says_how_its_link_is_and_what_comes_of_it() {
    let nothing = peer(&json!({}), None);
    let new = status(&nothing, &json!({}), false, NOW).unwrap();
    assert_eq!(
        (&connected(&new)["status"], &connected(&new)["reason"]),
        (&json!("Unknown"), &json!("Connecting"))
    );
    assert_eq!((&new["imported"], &new["exported"]), (&json!(2), &json!(3)));
    assert_eq!(new["trustBundle"], json!({"sequence": 5, "roots": "PEM"}));

    let is_up = peer(&new, link(Link::Connected, Some(7), ""));
    let up = status(&is_up, &new, false, THEN).unwrap();
    assert_eq!(
        (&connected(&up)["status"], &connected(&up)["reason"]),
        (&json!("True"), &json!("Connected"))
    );
    assert!(up.get("lastHeard").is_none());
    assert_eq!(status(&is_up, &up, false, NOW), None, "nothing has changed");
    let mut other = peer(&up, link(Link::Connected, Some(7), ""));
    other.peer.as_mut().unwrap().unlike = Some("name is \"west\", and the ClusterPeer is \"east\"".to_owned());
    let other = status(&other, &up, false, NOW).unwrap();
    let condition = connected(&other);
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&json!("False"), &json!("OtherCluster"))
    );
    let message = condition["message"].as_str().unwrap();
    assert!(message.contains("the ClusterPeer is \"east\""), "{message}");

    let is_stale = peer(&up, link(Link::Stale, Some(7), "connection refused"));
    let stale = status(&is_stale, &up, false, NOW).unwrap();
    let condition = connected(&stale);
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&json!("False"), &json!("Stale"))
    );
    assert_eq!(
        (&condition["lastTransitionTime"], &stale["lastHeard"]),
        (&json!(NOW), &json!("1970-01-01T00:00:07Z"))
    );
    let message = condition["message"].as_str().unwrap();
    assert!(
        message.contains("kept until 1970-01-01T01:00:07Z") && message.contains("connection refused"),
        "{message}"
    );

    let gone = status(
        &peer(&stale, link(Link::Forgotten, Some(7), "x")),
        &stale,
        false,
        "later",
    )
    .unwrap();
    let condition = connected(&gone);
    assert_eq!(
        (&condition["reason"], &condition["lastTransitionTime"]),
        (&json!("Forgotten"), &json!(NOW))
    );
}

#[test]
fn a_peer_says_how_its_pods_are_reached_and_why_flat_mode_is_refused() {
    let reached = |before: &Value, way: Option<Way>| {
        let mut verdict = peer(before, None);
        verdict.peer.as_mut().unwrap().way = way;
        status(&verdict, before, false, NOW)
    };
    let reachable = |status: &Value| of_type(status, &"Reachable".into()).cloned();
    let first = reached(&json!({}), None).unwrap();
    assert_eq!(reachable(&first), None, "it has not said where its pods are");
    for (way, want) in [
        (Way::Direct, ("True", "Direct")),
        (Way::Gateways, ("True", "Gateways")),
        (Way::NoGateways, ("False", "NoGateways")),
        (Way::NothingImported, ("True", "NothingImported")),
        (
            Way::Overlaps(vec!["10.244.0.0/16".to_owned()]),
            ("False", "OverlappingNetworks"),
        ),
    ] {
        let said = reached(&first, Some(way)).unwrap();
        let condition = reachable(&said).expect("the condition");
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!(want.0), &json!(want.1))
        );
        // Nor does a start take away what is not known anew yet.
        assert_eq!(reached(&said, None), None);
        if want.1 == "OverlappingNetworks" {
            let message = condition["message"].as_str().unwrap();
            assert!(
                message.contains("10.244.0.0/16") && message.contains("WEFT_NETWORK"),
                "{message}"
            );
        }
    }
}

#[test]
fn each_attempt_of_a_broken_link_is_no_news() {
    let first = peer(&json!({}), link(Link::Connecting, None, "no such host"));
    let said = status(&first, &json!({}), false, THEN).unwrap();
    assert!(connected(&said)["message"].as_str().unwrap().contains("no such host"));
    let mut second = peer(&said, link(Link::Connecting, None, "no such host"));
    let attempt = second.peer.as_mut().and_then(|peer| peer.link.as_mut()).unwrap();
    attempt.reason = "connection refused".to_owned();
    assert_eq!(status(&second, &said, false, NOW), None);
    // A replica that takes over does not know yet how the link is.
    assert_eq!(status(&peer(&said, None), &said, false, NOW), None);
    // What lasts is, and it is no other state.
    let lasts = peer(&said, link(Link::Connecting, None, "connection refused"));
    let said = status(&lasts, &said, false, NOW).unwrap();
    let condition = connected(&said);
    assert!(condition["message"].as_str().unwrap().contains("connection refused"));
    assert_eq!(condition["lastTransitionTime"], THEN);
}

#[test]
fn of_a_peer_that_does_not_act_nothing_is_said_but_why() {
    let mut verdict = peer(&json!({}), None);
    let before = status(&verdict, &json!({}), false, THEN).unwrap();
    verdict.peer = None;
    let said = status(&verdict, &before, false, NOW).unwrap();
    assert!(of_type(&said, &"Connected".into()).is_none() && said.get("imported").is_none());
    assert_eq!(status(&verdict, &said, false, NOW), None);
}
