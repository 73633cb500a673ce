//! `weft proxy list` and `weft proxy config`: the proxies of a mesh, and what one of them knows.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_injector::annotations::INJECT_LABEL;
use weft_injector::sidecar::PROXY;

use crate::args::{Output, ProxyConfigArgs, ProxyListArgs, ProxyVerb};
use crate::status::text::{list, width, word};
use crate::table::{Table, lasting};
use crate::{paper, scrape, target, yaml};

mod config;

/// The port of a proxy's admin server on the pod's loopback.
const PORT: u16 = 15021;
/// Digits of a version that are shown to people.
const DIGITS: usize = 8;

/// Asks proxies.
pub(crate) async fn main(verb: ProxyVerb) -> Result<ExitCode> {
    match verb {
        ProxyVerb::List(args) => all(args).await,
        ProxyVerb::Config(args) => one(args).await,
    }
}

async fn all(args: ProxyListArgs) -> Result<ExitCode> {
    let mesh = target::mesh(&args.target).await?;
    let scope = mesh.scope(args.namespace.as_deref(), args.all_namespaces);
    let mut status = mesh.status(&scope).await?;
    if status["control"]["answers"] == false {
        eprintln!(
            "weft proxy list: the control plane does not answer: {}",
            word(&status["control"]["reason"])
        );
    }
    let in_scope = |item: &Value| scope.namespace().is_none_or(|namespace| item["namespace"] == namespace);
    for items in ["pods", "proxies"] {
        if let Some(items) = status[items].as_array_mut() {
            items.retain(in_scope);
        }
    }
    let (left, silent) = scrape::expiries(&mesh, &status).await;
    if !silent.is_empty() {
        eprintln!("weft proxy list: no metrics from {}", scrape::few(&silent));
    }
    let proxies = proxies(&status, &left);
    if let ([], Some(namespace)) = (&proxies[..], scope.namespace()) {
        let said = mesh.no_namespace(namespace).await.unwrap_or_else(|| none_in(namespace));
        eprintln!("weft proxy list: {said}");
    }
    let text = match args.output {
        Output::Json => format!("{:#}\n", json!({"proxies": proxies})),
        Output::Yaml => yaml::text(&json!({"proxies": proxies})),
        Output::Text => table(&proxies, false).text(width()),
        Output::Wide => table(&proxies, true).text(None),
    };
    paper::print(&text);
    Ok(ExitCode::SUCCESS)
}

fn none_in(namespace: &str) -> String {
    format!(
        "no pod of the namespace {namespace} has a proxy (fix: label the namespace {INJECT_LABEL}=enabled and restart its pods; -A \
         shows all namespaces)"
    )
}

/// The pods with a proxy, as the control plane knows them and as they are, and those that it knows of pods that are gone. What
/// ran to its end, as a Job's pods do, has no proxy any more.
/// `left`: seconds that their certificates last, by `namespace/name`.
fn proxies(status: &Value, left: &BTreeMap<String, f64>) -> Vec<Value> {
    let mut known: BTreeMap<(String, String), Value> = BTreeMap::new();
    let is_over = |pod: &&Value| matches!(pod["phase"].as_str(), Some("Succeeded" | "Failed"));
    let over: BTreeSet<String> = list(&status["pods"])
        .iter()
        .filter(is_over)
        .map(|pod| word(&pod["uid"]))
        .collect();
    let runs = |pod: &&Value| pod["meshed"] == true && !is_over(pod);
    for pod in list(&status["pods"]).iter().filter(runs) {
        let mut containers = list(&pod["containers"]).iter();
        let proxy = containers
            .find(|container| container["name"] == PROXY)
            .unwrap_or(&Value::Null);
        let (namespace, name) = (word(&pod["namespace"]), word(&pod["name"]));
        let lasts = left.get(&format!("{namespace}/{name}"));
        let row = json!({
            "namespace": namespace, "pod": name, "uid": pod["uid"], "node": pod["node"], "ready": proxy["ready"],
            "restarts": proxy["restarts"], "connected": false, "since": null, "build": null, "resources": [], "refusals": [],
            "certificateSecondsLeft": lasts.map(|seconds| seconds.floor()),
        });
        known.insert((namespace, name), row);
    }
    let known_of = list(&status["proxies"]).iter();
    for proxy in known_of.filter(|proxy| !over.contains(&word(&proxy["uid"]))) {
        let key = (word(&proxy["namespace"]), word(&proxy["pod"]));
        let row = known.entry(key).or_insert_with(|| json!({}));
        for field in [
            "namespace",
            "pod",
            "uid",
            "connected",
            "since",
            "build",
            "features",
            "resources",
            "refusals",
        ] {
            row[field] = proxy[field].clone();
        }
    }
    known.into_values().collect()
}

fn table(proxies: &[Value], wide: bool) -> Table {
    let mut headings = vec![
        "NAMESPACE",
        "POD",
        "NODE",
        "CONNECTED SINCE",
        "ACKNOWLEDGED",
        "CERTIFICATE",
    ];
    if wide {
        headings.extend(["BUILD", "RESTARTS", "VERSIONS"]);
    }
    let mut table = Table::new(&headings).spare(&["NODE"]);
    for proxy in proxies {
        let resources = list(&proxy["resources"]);
        let acked = resources.iter().filter(|resource| resource["acked"] == true).count();
        let refused = match list(&proxy["refusals"]).len() {
            0 => String::new(),
            several => format!(", {several} refused"),
        };
        let mut cells = vec![
            word(&proxy["namespace"]),
            word(&proxy["pod"]),
            word(&proxy["node"]),
            match (proxy["connected"] == true, proxy["since"].as_str()) {
                (true, since) => since.unwrap_or_default().to_owned(),
                (false, Some(since)) => format!("not connected (was since {since})"),
                (false, None) => "not connected".to_owned(),
            },
            format!("{acked}/{}{refused}", resources.len()),
            match proxy["certificateSecondsLeft"].as_f64() {
                None => String::new(),
                Some(seconds) if seconds <= 0.0 => "none that is valid".to_owned(),
                Some(seconds) => lasting(seconds),
            },
        ];
        if wide {
            let versions = resources.iter().map(|resource| {
                let version: String = word(&resource["version"]).chars().take(DIGITS).collect();
                let waits = if resource["acked"] == true {
                    ""
                } else {
                    " (not acknowledged)"
                };
                let (kind, key) = (word(&resource["kind"]), word(&resource["key"]));
                let name = if kind == key { kind } else { format!("{kind} {key}") };
                format!("{name}={version}{waits}")
            });
            cells.extend([
                word(&proxy["build"]),
                word(&proxy["restarts"]),
                versions.collect::<Vec<_>>().join(", "),
            ]);
        }
        table.row(cells);
    }
    table
}

async fn one(args: ProxyConfigArgs) -> Result<ExitCode> {
    let mesh = target::mesh(&args.pod.target).await?;
    let found = mesh.find(&args.pod, None).await?;
    let answer = mesh.get(&found.namespace, &found.pod, PORT, "/config").await;
    let answer = answer.with_context(|| format!("the proxy of {}/{}", found.namespace, found.pod))?;
    let config: Value = serde_json::from_str(&answer).context("the proxy's answer can't be read")?;
    let text = match args.output {
        Output::Json => format!("{config:#}\n"),
        Output::Yaml => yaml::text(&config),
        Output::Text => config::text(&config, width()),
        Output::Wide => config::text(&config, None),
    };
    paper::print(&text);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Value {
        json!({
            "pods": [
                {"namespace": "shop", "name": "web", "uid": "1", "node": "n1", "meshed": true,
                    "containers": [{"name": "weft-proxy", "ready": true, "restarts": 2}]},
                {"namespace": "shop", "name": "late", "uid": "2", "node": "n2", "meshed": true, "containers": []},
                {"namespace": "shop", "name": "plain", "uid": "3", "meshed": false, "containers": []},
                {"namespace": "shop", "name": "job", "uid": "5", "phase": "Succeeded", "meshed": true, "containers": []},
                {"namespace": "shop", "name": "broke", "uid": "6", "phase": "Failed", "meshed": true, "containers": []},
            ],
            "proxies": [
                {"namespace": "shop", "pod": "web", "uid": "1", "connected": true, "since": "2026-01-01T00:00:00Z", "build": "1.0",
                    "refusals": [{}], "resources": [
                        {"kind": "inbound", "key": "", "version": "0123456789abcdef", "acked": true},
                        {"kind": "service", "key": "shop/db:80", "version": "fedcba9876543210", "acked": false}]},
                {"namespace": "shop", "pod": "gone", "uid": "4", "connected": false, "since": "2025-01-01T00:00:00Z"},
                {"namespace": "shop", "pod": "job", "uid": "5", "connected": false, "since": "2025-01-01T00:00:00Z"},
            ],
        })
    }

    #[test]
    fn every_pod_with_a_proxy_is_listed_and_every_proxy_that_the_control_plane_knows() {
        let left = BTreeMap::from([("shop/web".to_owned(), 86_279.9)]);
        let proxies = proxies(&status(), &left);
        let names: Vec<String> = proxies.iter().map(|proxy| word(&proxy["pod"])).collect();
        assert_eq!(names, ["gone", "late", "web"]);
        let text = table(&proxies, false).text(None);
        for part in [
            "2026-01-01T00:00:00Z",
            "1/2, 1 refused",
            "23h 57m",
            "n1",
            "not connected (was since 2025",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let late = text.lines().find(|line| line.contains("late")).unwrap();
        assert!(late.contains("not connected") && late.contains("0/0"), "{late}");
        let wide = table(&proxies, true).text(None);
        assert!(
            wide.contains("service shop/db:80=fedcba98 (not acknowledged)"),
            "{wide}"
        );
        assert_eq!(proxies[2]["certificateSecondsLeft"], 86_279.0);
    }

    #[test]
    fn a_proxy_without_a_certificate_is_said_to_have_none() {
        let left = BTreeMap::from([("shop/web".to_owned(), 0.0)]);
        assert!(
            table(&proxies(&status(), &left), false)
                .text(None)
                .contains("none that is valid")
        );
    }
}
