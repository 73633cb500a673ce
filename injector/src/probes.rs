//! Probes. Behind a redirect the kernel completes every handshake: a TCP probe of a dead app would pass, and under strict
//! an HTTP probe would fail. So every network probe is rewritten to ask the proxy, which runs the original.

use serde_json::{Map, Value, json};

use crate::redirect::ADMIN_PORT;

/// The field of a container, and the word in the probe's path.
const KINDS: [(&str, &str); 3] = [
    ("readinessProbe", "readiness"),
    ("livenessProbe", "liveness"),
    ("startupProbe", "startup"),
];
const NETWORK: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// The originals of the rewritten probes: container → kind → probe.
pub type Originals = Map<String, Value>;

/// Rewrites the network probes of a container, and returns the originals. A probe that is rewritten already keeps the
/// original that `known` has of it.
pub fn rewrite(container: &mut Value, known: &Originals) -> Option<(String, Value)> {
    let name = container.get("name")?.as_str()?.to_owned();
    let ports = container.get("ports").cloned().unwrap_or_default();
    let mut originals = Map::new();
    for (field, kind) in KINDS {
        let Some(probe) = container.get_mut(field).and_then(Value::as_object_mut) else {
            continue;
        };
        let ours = path(&name, kind);
        if probe
            .get("httpGet")
            .is_some_and(|get| get["path"] == json!(ours) && get["port"] == json!(ADMIN_PORT))
        {
            if let Some(original) = known.get(&name).and_then(|kinds| kinds.get(kind)) {
                originals.insert(kind.to_owned(), original.clone());
            }
            continue;
        }
        let Some(action) = NETWORK.iter().find(|action| probe.contains_key(**action)) else {
            continue;
        };
        let mut original = probe.remove(*action).unwrap_or_default();
        number_port(&mut original, &ports);
        let mut kept = json!({ *action: original });
        if let Some(timeout) = probe.get("timeoutSeconds") {
            kept["timeoutSeconds"] = timeout.clone();
        }
        originals.insert(kind.to_owned(), kept);
        probe.insert("httpGet".to_owned(), json!({"path": ours, "port": ADMIN_PORT}));
    }
    (!originals.is_empty()).then_some((name, Value::Object(originals)))
}

/// Where the proxy answers for a probe.
pub fn path(container: &str, kind: &str) -> String {
    format!("/probe/{container}/{kind}")
}

/// A named port becomes its number: the proxy does not know the container's ports.
fn number_port(action: &mut Value, ports: &Value) {
    let Some(name) = action.get("port").and_then(Value::as_str) else {
        return;
    };
    let named = ports
        .as_array()
        .into_iter()
        .flatten()
        .find(|port| port["name"] == json!(name));
    if let Some(number) = named.and_then(|port| port.get("containerPort")).cloned() {
        action["port"] = number;
    } else if let Ok(number) = name.parse::<u16>() {
        action["port"] = json!(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_probes_ask_the_proxy_and_keep_their_timing() {
        let mut container = json!({
            "name": "app",
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/ok", "port": "http"}, "periodSeconds": 3},
            "livenessProbe": {"tcpSocket": {"port": 9000}, "timeoutSeconds": 2},
        });
        let (name, originals) = rewrite(&mut container, &Map::new()).expect("two probes");
        assert_eq!(name, "app");
        assert_eq!(
            originals["readiness"],
            json!({"httpGet": {"path": "/ok", "port": 8080}})
        );
        assert_eq!(
            originals["liveness"],
            json!({"tcpSocket": {"port": 9000}, "timeoutSeconds": 2})
        );
        assert_eq!(
            container["readinessProbe"],
            json!({"httpGet": {"path": "/probe/app/readiness", "port": 15020}, "periodSeconds": 3})
        );
    }

    #[test]
    fn exec_probes_stay() {
        let mut container = json!({"name": "app", "livenessProbe": {"exec": {"command": ["true"]}}});
        let before = container.clone();
        assert_eq!(rewrite(&mut container, &Map::new()), None);
        assert_eq!(container, before);
    }

    #[test]
    fn a_second_pass_changes_nothing_and_forgets_nothing() {
        let mut container = json!({"name": "app", "startupProbe": {"grpc": {"port": 7070}}});
        let (name, first) = rewrite(&mut container, &Map::new()).expect("a probe");
        let known = Map::from_iter([(name, first.clone())]);
        let before = container.clone();
        assert_eq!(rewrite(&mut container, &known), Some(("app".to_owned(), first)));
        assert_eq!(container, before);
    }
}
