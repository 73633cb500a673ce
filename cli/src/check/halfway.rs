//! What is in the mesh by half: pods with a proxy in Namespaces that are not labelled, and Namespaces that are set up for the mesh
//! and are not labelled.

use std::collections::BTreeMap;

use serde_json::Value;
use weft_injector::annotations::{INJECT_LABEL, PREFIX, Tune};
use weft_injector::patch::is_strict;
use weft_injector::review::is_exempt;

use super::finding::{Finding, Report, note, wrong};
use super::meshed::{anew, items, name, runs};
use super::seen::Seen;
use crate::cluster::api::Answer;

/// Labels that were forgotten, and pods from before a label was taken off.
pub(super) fn check(seen: &Seen, report: &mut Report) {
    // Which are labelled is not known then, and that is told where labels are.
    if seen.namespaces.object().is_none() {
        return;
    }
    report.tell("namespaces that are set up for the mesh are labelled", unlabelled(seen));
    let labelled = |namespace: &str| {
        seen.meshed
            .iter()
            .any(|each| each.name == namespace && is_on(&each.namespace))
    };
    let what = "has a proxy, though its Namespace is not labelled: once Weft is uninstalled it breaks";
    let findings = proxied(seen, |namespace| !labelled(namespace))
        .into_iter()
        .map(|(at, fix)| note(at, what, format!("to be without: {fix}")));
    report.tell(
        "pods of other namespaces have no proxy",
        unread(seen).chain(findings).collect(),
    );
}

/// Pods that an installation that is gone has left with a proxy.
pub(super) fn left_behind(seen: &Seen, report: &mut Report) {
    let what = "still has a proxy, and no Weft: it learns of no new address, and fails once its certificate has ended";
    let findings = proxied(seen, |_| true)
        .into_iter()
        .map(|(at, fix)| wrong(at, what, fix));
    report.tell("no pod has a proxy", unread(seen).chain(findings).collect());
}

fn unread(seen: &Seen) -> impl Iterator<Item = Finding> {
    let why = match &seen.proxied {
        Answer::Forbidden(why) => Some(note(
            "Pods",
            format!("you may not list those of all Namespaces: {why}"),
            "",
        )),
        Answer::Is(_) | Answer::Missing => None,
    };
    why.into_iter()
}

/// Pods with a proxy, and how they are made anew. Those that one command makes anew are told together.
fn proxied(seen: &Seen, is_meant: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let mut by_fix: BTreeMap<(&str, String), (&str, usize)> = BTreeMap::new();
    for pod in items(&seen.proxied).filter(|pod| runs(pod)) {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        if is_meant(namespace) {
            let of = by_fix.entry((namespace, anew(namespace, pod)));
            of.or_insert((name(pod), 0)).1 += 1;
        }
    }
    let told = |((namespace, fix), (first, count)): ((&str, String), (&str, usize))| {
        let more = match count {
            1 => String::new(),
            several => format!(" and {} more", several - 1),
        };
        (format!("Pod {namespace}/{first}{more}"), fix)
    };
    by_fix.into_iter().map(told).collect()
}

fn is_on(namespace: &Value) -> bool {
    namespace["metadata"]["labels"][INJECT_LABEL] == "enabled"
}

/// Namespaces without the label for which something was written that only the mesh acts on. Any value of the label was meant, or is
/// told of where labels are.
fn unlabelled(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (plural, answer) in &seen.written {
        if let Answer::Forbidden(why) = answer {
            findings.push(note(
                "Namespaces",
                format!("you may not list {plural} of all: {why}"),
                "",
            ));
        }
    }
    for namespace in items(&seen.namespaces) {
        let own = name(namespace);
        if !namespace["metadata"]["labels"][INJECT_LABEL].is_null() || is_exempt(own, &seen.namespace) {
            continue;
        }
        let at = format!("Namespace {own}");
        let fix = format!("kubectl label namespace {own} {INJECT_LABEL}=enabled, and restart its pods");
        let has = written(seen, own, namespace);
        if is_strict(&Value::Null, namespace) {
            let strict = Tune::Inbound.key();
            let what = format!("is strict ({strict}) and not labelled: its pods get no proxy, and serve plaintext");
            findings.push(wrong(at, what, fix));
        } else if !has.is_empty() {
            let what = format!(
                "has {}, and is not labelled: its pods get no proxy, so only callers elsewhere may act on that",
                has.join(", ")
            );
            findings.push(note(at, what, fix));
        }
    }
    findings
}

/// What was written for the mesh in a Namespace.
fn written(seen: &Seen, own: &str, namespace: &Value) -> Vec<String> {
    let mut has = Vec::new();
    for (plural, answer) in &seen.written {
        let here = items(answer).filter(|object| object["metadata"]["namespace"] == own && is_ours(object));
        match here.count() {
            0 => {}
            count => has.push(format!("{plural} ({count})")),
        }
    }
    let annotations = namespace["metadata"]["annotations"].as_object();
    let mut ours = annotations.into_iter().flatten().map(|(key, _)| key);
    has.extend(ours.find(|key| key.starts_with(PREFIX)).cloned());
    has
}

/// Whether the mesh acts on it: of routes, those of Services.
fn is_ours(object: &Value) -> bool {
    let parents = object["spec"]["parentRefs"].as_array();
    parents.is_none_or(|parents| parents.iter().any(|parent| parent["kind"] == "Service"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(change: impl FnOnce(&mut Seen), look: fn(&Seen, &mut Report)) -> Vec<String> {
        let mut seen = Seen {
            namespaces: Answer::Is(json!([])),
            ..Seen::nothing("weft-system")
        };
        change(&mut seen);
        let mut report = Report::default();
        look(&seen, &mut report);
        let json = report.json();
        let each = |finding: &Value| {
            let part = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
            format!(
                "{} {}: {} ({})",
                part("level"),
                part("where"),
                part("what"),
                part("fix")
            )
        };
        json["findings"].as_array().unwrap().iter().map(each).collect()
    }

    fn pods(seen: &mut Seen) {
        let pod = |name: &str, owners: Value| json!({"metadata": {"namespace": "shop", "name": name, "labels": {"pod-template-hash": "5d8"}, "ownerReferences": owners}});
        let web = json!([{"kind": "ReplicaSet", "name": "web-5d8"}]);
        seen.proxied = Answer::Is(json!([
            pod("web-5d8-a", web.clone()),
            pod("web-5d8-b", web),
            pod("db-0", json!([{"kind": "StatefulSet", "name": "db"}])),
            pod("visitor", Value::Null),
        ]));
    }

    fn namespace(metadata: Value) -> Answer {
        Answer::Is(json!([{"metadata": metadata}]))
    }

    #[test]
    fn pods_that_still_have_a_proxy_are_told_with_what_makes_each_anew() {
        let here = told(pods, check);
        let gone = told(pods, left_behind);
        for (said, level) in [(here, "note"), (gone, "wrong")] {
            let all = said.join("\n");
            assert_eq!(said.len(), 3, "{all}");
            assert!(said.iter().all(|line| line.starts_with(level)), "{all}");
            for part in [
                "Pod shop/web-5d8-a and 1 more",
                "kubectl -n shop rollout restart deployment web",
                "kubectl -n shop rollout restart statefulset db",
                "kubectl -n shop delete pod visitor, and apply its manifest again",
            ] {
                assert!(all.contains(part), "{part:?} is not in {all}");
            }
        }
    }

    #[test]
    fn pods_of_a_namespace_that_is_labelled_may_have_a_proxy_while_weft_is_there() {
        let labelled = |seen: &mut Seen| {
            pods(seen);
            seen.meshed.push(super::super::seen::Meshed {
                name: "shop".to_owned(),
                namespace: json!({"metadata": {"name": "shop", "labels": {INJECT_LABEL: "enabled"}}}),
                pods: Answer::Missing,
                policies: Answer::Missing,
                services: Answer::Missing,
                ingresses: Answer::Missing,
                trust: Answer::Missing,
            });
        };
        assert_eq!(told(labelled, check), Vec::<String>::new());
        let unknown = |seen: &mut Seen| {
            pods(seen);
            seen.namespaces = Answer::Forbidden("no".to_owned());
        };
        assert_eq!(told(unknown, check), Vec::<String>::new());
        assert_eq!(told(labelled, left_behind).len(), 3);
    }

    #[test]
    fn a_strict_namespace_without_the_label_is_wrong_and_one_with_routes_is_told() {
        let strict = json!({"name": "shop", "annotations": {"config.weft.dev/inbound": "strict"}});
        let said = told(|seen| seen.namespaces = namespace(strict.clone()), check);
        assert!(
            said.len() == 1 && said[0].starts_with("wrong Namespace shop: is strict"),
            "{said:?}"
        );
        assert!(said[0].contains("kubectl label namespace shop weft.dev/inject=enabled"));

        let route = |kind: &str| json!({"metadata": {"namespace": "shop", "name": "r"}, "spec": {"parentRefs": [{"kind": kind}]}});
        let with = |kind: &'static str| {
            told(
                |seen| {
                    seen.namespaces = namespace(json!({"name": "shop"}));
                    seen.written.insert("httproutes", Answer::Is(json!([route(kind)])));
                },
                check,
            )
        };
        let said = with("Service");
        assert!(
            said.len() == 1 && said[0].starts_with("note Namespace shop: has httproutes (1)"),
            "{said:?}"
        );
        assert_eq!(with("Gateway"), Vec::<String>::new());

        let mut out = strict;
        out["labels"] = json!({INJECT_LABEL: "disabled"});
        assert_eq!(
            told(|seen| seen.namespaces = namespace(out), check),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_may_not_be_listed_is_told() {
        let said = told(|seen| seen.proxied = Answer::Forbidden("no".to_owned()), check);
        assert!(said.len() == 1 && said[0].starts_with("note Pods"), "{said:?}");
    }
}
