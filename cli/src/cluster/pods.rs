//! Pods of an API server in the words of `weft status`. Pure.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weft_injector::sidecar::PROXY;

/// Labels of nodes.
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
/// What a container waits for without anything being wrong.
const USUAL: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// A list, or nothing.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text, or nothing.
pub(super) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Whether a selector of a Service takes a pod. An empty one takes none.
pub(super) fn is_selected(selector: &Value, pod: &Value) -> bool {
    let selector = selector.as_object();
    let labels = &pod["metadata"]["labels"];
    selector.is_some_and(|selector| !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value))
}

/// Whether it is ready and stays.
pub(super) fn is_ready(pod: &Value) -> bool {
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    list(&pod["status"]["conditions"]).iter().any(ready) && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Whether it has a proxy, or will have.
pub(super) fn is_meshed(pod: &Value) -> bool {
    let spec = &pod["spec"];
    let mut containers = list(&spec["initContainers"]).iter().chain(list(&spec["containers"]));
    containers.any(|container| container["name"] == PROXY)
}

/// Whether its containers have ended for good.
pub(super) fn has_ended(pod: &Value) -> bool {
    matches!(word(&pod["status"]["phase"]), "Succeeded" | "Failed")
}

/// What is wrong with it, if something is.
pub(super) fn trouble(pod: &Value) -> Option<String> {
    let status = &pod["status"];
    if status["phase"] == "Succeeded" {
        return None;
    }
    if let Some(reason) = status["reason"].as_str() {
        return Some(join(reason, word(&status["message"])));
    }
    let unscheduled = list(&status["conditions"])
        .iter()
        .find(|condition| condition["type"] == "PodScheduled" && condition["status"] == "False");
    if let Some(condition) = unscheduled {
        return Some(join(word(&condition["reason"]), word(&condition["message"])));
    }
    let containers = list(&status["initContainerStatuses"])
        .iter()
        .chain(list(&status["containerStatuses"]));
    let mut wrong = containers.filter_map(|container| {
        let name = word(&container["name"]);
        let waiting = &container["state"]["waiting"];
        let ended = &container["state"]["terminated"];
        match (waiting["reason"].as_str(), ended["exitCode"].as_i64()) {
            (Some(reason), _) if !USUAL.contains(&reason) => {
                Some(format!("container {name}: {}", join(reason, word(&waiting["message"]))))
            }
            (None, Some(code)) if code != 0 => Some(format!(
                "container {name} ended with exit code {code}: {}",
                word(&ended["reason"])
            )),
            _ => None,
        }
    });
    wrong.next()
}

fn join(reason: &str, message: &str) -> String {
    match message {
        "" => reason.to_owned(),
        message => format!("{reason}: {message}"),
    }
}

/// A node's region and zone.
pub(super) fn node(node: &Value) -> Value {
    let label = |name: &str| word(&node["metadata"]["labels"][name]).to_owned();
    json!({"name": node["metadata"]["name"], "region": label(REGION), "zone": label(ZONE)})
}

/// A pod. `nodes`: as [`node`] has them.
pub(super) fn pod(pod: &Value, nodes: &[Value]) -> Value {
    let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
    let node = nodes.iter().find(|node| node["name"] == spec["nodeName"]);
    let place = |part: &str| node.map(|node| word(&node[part]).to_owned()).unwrap_or_default();
    let version = ["app.kubernetes.io/version", "version"]
        .iter()
        .find_map(|name| metadata["labels"][*name].as_str());
    let addresses: Vec<&Value> = list(&status["podIPs"]).iter().map(|ip| &ip["ip"]).collect();
    let containers = containers(pod);
    let restarts: u64 = containers
        .iter()
        .filter_map(|container| container["restarts"].as_u64())
        .sum();
    let phase = match metadata["deletionTimestamp"].is_null() {
        true => word(&status["phase"]),
        false => "Terminating",
    };
    json!({
        "namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"], "phase": phase,
        "ready": is_ready(pod), "reason": trouble(pod), "addresses": addresses, "node": word(&spec["nodeName"]),
        "region": place("region"), "zone": place("zone"), "version": version.unwrap_or_default(),
        "workload": weft_injector::patch::workload(pod), "serviceAccount": spec["serviceAccountName"],
        "meshed": is_meshed(pod), "restarts": restarts, "proxyPid": null, "containers": containers,
    })
}

fn containers(pod: &Value) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let statuses = || {
        list(&status["initContainerStatuses"])
            .iter()
            .chain(list(&status["containerStatuses"]))
    };
    let init = list(&spec["initContainers"]).iter().map(|container| {
        let kind = if container["restartPolicy"] == "Always" {
            "sidecar"
        } else {
            "init"
        };
        (kind, container)
    });
    let main = list(&spec["containers"]).iter().map(|container| ("main", container));
    let shown = init.chain(main).map(|(kind, container)| {
        let status = statuses()
            .find(|status| status["name"] == container["name"])
            .unwrap_or(&Value::Null);
        let state = &status["state"];
        let (word, reason) = match (&state["running"], &state["terminated"]) {
            (Value::Object(_), _) => ("running", String::new()),
            (_, Value::Object(ended)) => {
                let reason = ended.get("reason").map(word).unwrap_or_default();
                let code = ended.get("exitCode").and_then(Value::as_i64).unwrap_or_default();
                ("terminated", format!("{reason} (exit code {code})"))
            }
            _ => {
                let waiting = &state["waiting"];
                ("waiting", join(word(&waiting["reason"]), word(&waiting["message"])))
            }
        };
        json!({
            "name": container["name"], "kind": kind, "pid": null, "state": word, "reason": reason,
            "since": state["running"]["startedAt"].as_str().and_then(seconds), "ready": status["ready"] == true,
            "restarts": status["restartCount"].as_u64().unwrap_or(0),
        })
    });
    shown.collect()
}

/// Seconds since 1970 of a time of an object.
pub(super) fn seconds(time: &str) -> Option<f64> {
    let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
    #[expect(clippy::cast_precision_loss, reason = "seconds, which people read")]
    Some(time.unix_timestamp() as f64)
}

/// A Job; `now` in seconds since 1970.
pub(super) fn job(job: &Value, now: f64) -> Value {
    let (spec, status) = (&job["spec"], &job["status"]);
    let over = |kind: &str| {
        let conditions = list(&status["conditions"]);
        conditions
            .iter()
            .find(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    let (word_of, reason) = match (over("Complete"), over("Failed")) {
        (Some(_), _) => ("Complete", ""),
        (None, Some(failed)) => ("Failed", word(&failed["reason"])),
        (None, None) => ("Running", ""),
    };
    let failed_at = over("Failed").and_then(|failed| failed["lastTransitionTime"].as_str());
    let end = status["completionTime"]
        .as_str()
        .or(failed_at)
        .and_then(seconds)
        .unwrap_or(now);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole seconds, not negative"
    )]
    let took = status["startTime"]
        .as_str()
        .and_then(seconds)
        .map(|start| (end - start).max(0.0) as u64);
    json!({
        "namespace": job["metadata"]["namespace"], "name": job["metadata"]["name"], "status": word_of, "reason": reason,
        "succeeded": status["succeeded"].as_u64().unwrap_or(0), "completions": spec["completions"],
        "active": status["active"].as_u64().unwrap_or(0), "failed": status["failed"].as_u64().unwrap_or(0), "seconds": took,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": "web-5d8-x", "uid": "u", "labels": {"app": "web", "version": "v1",
                "pod-template-hash": "5d8"}, "ownerReferences": [{"controller": true, "kind": "ReplicaSet", "name": "web-5d8"}]},
            "spec": {
                "nodeName": "n1", "serviceAccountName": "web",
                "initContainers": [{"name": "weft-init"}, {"name": "weft-proxy", "restartPolicy": "Always"}],
                "containers": [{"name": "web"}],
            },
            "status": {
                "phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": "True"}],
                "initContainerStatuses": [
                    {"name": "weft-init", "ready": true, "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                    {"name": "weft-proxy", "ready": true, "restartCount": 1, "state": {"running": {"startedAt": "1970-01-01T00:00:07Z"}}},
                ],
                "containerStatuses": [{"name": "web", "ready": true, "restartCount": 2, "state": {"running": {}}}],
            },
        })
    }

    #[test]
    fn a_pod_is_told_as_one_of_a_local_mesh_is() {
        let nodes = [node(
            &json!({"metadata": {"name": "n1", "labels": {REGION: "west", ZONE: "west-a"}}}),
        )];
        let told = pod(&web(), &nodes);
        assert_eq!(
            (told["region"].as_str(), told["zone"].as_str()),
            (Some("west"), Some("west-a"))
        );
        assert_eq!(
            (told["workload"].as_str(), told["restarts"].as_u64()),
            (Some("web"), Some(3))
        );
        assert_eq!(told["addresses"], json!(["10.0.0.1", "fd00::1"]));
        assert_eq!(
            (&told["meshed"], &told["ready"], &told["reason"]),
            (&json!(true), &json!(true), &Value::Null)
        );
        let proxy = &told["containers"][1];
        assert_eq!(
            (proxy["kind"].as_str(), proxy["state"].as_str()),
            (Some("sidecar"), Some("running"))
        );
        assert_eq!(proxy["since"], 7.0);
    }

    #[test]
    fn what_is_wrong_with_a_pod_is_said_and_what_is_usual_is_not() {
        assert_eq!(trouble(&web()), None);
        let mut creating = web();
        creating["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "PodInitializing"}});
        assert_eq!(trouble(&creating), None);
        let mut crashing = web();
        crashing["status"]["containerStatuses"][0]["state"] =
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "again"}});
        assert_eq!(
            trouble(&crashing).as_deref(),
            Some("container web: CrashLoopBackOff: again")
        );
        let mut nowhere = web();
        nowhere["status"] = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}]});
        assert_eq!(trouble(&nowhere).as_deref(), Some("Unschedulable: no node"));
        let mut ending = web();
        ending["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:07Z");
        assert_eq!(
            (is_ready(&ending), pod(&ending, &[])["phase"].as_str()),
            (false, Some("Terminating"))
        );
    }

    #[test]
    fn a_selector_takes_pods_with_all_its_labels_and_an_empty_one_none() {
        assert!(is_selected(&json!({"app": "web"}), &web()));
        assert!(!is_selected(&json!({"app": "web", "version": "v2"}), &web()));
        assert!(!is_selected(&json!({}), &web()) && !is_selected(&Value::Null, &web()));
    }

    #[test]
    fn a_job_says_how_it_ended_and_how_long_it_took() {
        let failed = json!({"metadata": {"name": "j"}, "spec": {"completions": 1}, "status": {"startTime": "1970-01-01T00:00:01Z",
            "failed": 2, "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded",
            "lastTransitionTime": "1970-01-01T00:00:05Z"}]}});
        let told = job(&failed, 100.0);
        assert_eq!(
            (told["status"].as_str(), told["reason"].as_str()),
            (Some("Failed"), Some("BackoffLimitExceeded"))
        );
        assert_eq!((told["seconds"].as_u64(), told["failed"].as_u64()), (Some(4), Some(2)));
        let runs = json!({"metadata": {}, "spec": {}, "status": {"startTime": "1970-01-01T00:00:01Z", "active": 1}});
        assert_eq!(
            (
                job(&runs, 10.0)["status"].as_str(),
                job(&runs, 10.0)["seconds"].as_u64()
            ),
            (Some("Running"), Some(9))
        );
    }
}
