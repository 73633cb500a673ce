//! Probes and lifecycle hooks. Behind a redirect the kernel completes every handshake: a TCP probe of a dead app would pass,
//! and under strict an HTTP probe or hook would fail. So every one that goes over the network is rewritten to ask the proxy,
//! which runs the original against the app.
//!
//! A hook acts, and a probe only asks: so a hook's path begins with 128 random bits, which nobody learns from the network.

use serde_json::{Map, Value, json};

use crate::redirect::ADMIN_PORT;

/// The field of a container, and the word in the probe's path.
const KINDS: [(&str, &str); 3] = [
    ("readinessProbe", "readiness"),
    ("livenessProbe", "liveness"),
    ("startupProbe", "startup"),
];
const NETWORK: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];
/// The hooks of a container's lifecycle.
const HOOKS: [&str; 2] = ["postStart", "preStop"];

/// The originals of what was rewritten.
#[derive(Clone, Debug, PartialEq)]
pub struct Originals {
    /// Container → kind → probe.
    pub probes: Map<String, Value>,
    /// Container → kind → hook.
    pub hooks: Map<String, Value>,
    /// What the paths of hooks begin with: 32 hex digits.
    pub token: String,
}

impl Originals {
    /// The proxy's variables that say them.
    pub(crate) const VARIABLES: [&str; 2] = ["WEFT_PROBES", "WEFT_HOOKS"];

    /// None yet.
    pub fn new(token: u128) -> Self {
        Self {
            probes: Map::new(),
            hooks: Map::new(),
            token: format!("{token:032x}"),
        }
    }

    /// The proxy's variables that say what an earlier pass kept. `token`: where that had none.
    pub fn read(variables: &[Value], token: u128) -> Self {
        let said = |name: &str| {
            let variable = variables.iter().find(|variable| variable["name"] == name)?;
            serde_json::from_str::<Value>(variable["value"].as_str()?).ok()
        };
        let map = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let mut read = Self::new(token);
        if let Some(probes) = said("WEFT_PROBES") {
            read.probes = map(&probes);
        }
        if let Some(hooks) = said("WEFT_HOOKS") {
            read.hooks = map(&hooks["hooks"]);
            let kept = hooks["token"].as_str().unwrap_or_default();
            if kept.len() == 32 && kept.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                read.token = kept.to_owned();
            }
        }
        read
    }

    /// The same as the proxy's variables.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        // The kubelet would take a $(NAME) in a variable for a reference to another one.
        let plain = |value: &Value| value.to_string().replace('$', "\\u0024");
        let mut variables = vec![("WEFT_PROBES", plain(&Value::Object(self.probes.clone())))];
        if !self.hooks.is_empty() {
            let hooks = json!({"token": self.token, "hooks": self.hooks});
            variables.push(("WEFT_HOOKS", plain(&hooks)));
        }
        variables
    }

    /// Rewrites the probes and hooks of a container, and keeps their originals. One that is rewritten already keeps the
    /// original that `known` has of it.
    ///
    /// # Errors
    /// One of them is nothing that the proxy can read: which container and field, and what it must be.
    pub fn rewrite(&mut self, container: &mut Value, known: &Self) -> Result<(), String> {
        let Some(name) = container["name"].as_str().map(str::to_owned) else {
            return Ok(());
        };
        let ports = container.get("ports").cloned().unwrap_or_default();
        let mut kept = Map::new();
        for (field, kind) in KINDS {
            let Some(probe) = container.get_mut(field).and_then(Value::as_object_mut) else {
                continue;
            };
            let timeout = probe.get("timeoutSeconds").and_then(Value::as_u64);
            let before = known.probes.get(&name).and_then(|kinds| kinds.get(kind));
            let original = moved(probe, &NETWORK, &path(&name, kind), &ports, before);
            let original = original.map_err(|what| format!("container {name}: {field}.{what}"))?;
            if let Some(Value::Object(mut original)) = original {
                original.remove("timeoutSeconds");
                // The API server writes 1 where nothing is said: the two must be the same.
                if let Some(timeout) = timeout.filter(|timeout| *timeout > 1) {
                    original.insert("timeoutSeconds".to_owned(), timeout.into());
                }
                kept.insert(kind.to_owned(), Value::Object(original));
            }
        }
        if !kept.is_empty() {
            self.probes.insert(name.clone(), Value::Object(kept));
        }
        let mut kept = Map::new();
        for kind in HOOKS {
            let hook = container
                .get_mut("lifecycle")
                .and_then(|lifecycle| lifecycle.get_mut(kind));
            let Some(hook) = hook.and_then(Value::as_object_mut) else {
                continue;
            };
            let path = format!("/hook/{}/{name}/{kind}", self.token);
            let before = known.hooks.get(&name).and_then(|kinds| kinds.get(kind));
            let original = moved(hook, &["httpGet"], &path, &ports, before);
            if let Some(original) = original.map_err(|what| format!("container {name}: lifecycle.{kind}.{what}"))? {
                kept.insert(kind.to_owned(), original);
            }
        }
        if !kept.is_empty() {
            self.hooks.insert(name, Value::Object(kept));
        }
        Ok(())
    }
}

/// Where the proxy answers for a probe.
pub fn path(container: &str, kind: &str) -> String {
    format!("/probe/{container}/{kind}")
}

/// Makes a probe or hook ask the proxy, and returns its original. The error: the field that the proxy can't read.
fn moved(
    action: &mut Map<String, Value>,
    kinds: &[&str],
    ours: &str,
    ports: &Value,
    before: Option<&Value>,
) -> Result<Option<Value>, String> {
    let is_ours = |get: &Value| get["path"] == ours && get["port"] == ADMIN_PORT;
    if action.get("httpGet").is_some_and(is_ours) && before.is_some() {
        return Ok(before.cloned());
    }
    // Of a container that was renamed, say, or whose sidecar was taken away by hand: the proxy would ask itself.
    if action.get("httpGet").is_some_and(asks_a_proxy) {
        return Err("httpGet: asks the sidecar, and nothing is left of the app's own; write that one".to_owned());
    }
    let is_kind = |kind: &&&str| action.get(**kind).is_some_and(Value::is_object);
    let Some(kind) = kinds.iter().find(is_kind) else {
        return Ok(None);
    };
    let mut original = action[*kind].clone();
    // One that names a host does not ask this pod, and so does not meet its redirect. One whose port nobody knows fails
    // as it did before.
    let elsewhere = original["host"].as_str().is_some_and(|host| !host.is_empty());
    if elsewhere || !number_port(&mut original, ports) {
        return Ok(None);
    }
    if let Some(fields) = original.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    if let Some((field, what)) = unreadable(&original) {
        return Err(format!("{kind}.{field}: must be {what}"));
    }
    action.remove(*kind);
    // Never with a host (KEP-4940): it is the pod that is asked.
    action.insert(
        "httpGet".to_owned(),
        json!({"path": ours, "port": ADMIN_PORT, "scheme": "HTTP"}),
    );
    Ok(Some(json!({ *kind: original })))
}

/// Whether an action is one that was rewritten.
fn asks_a_proxy(get: &Value) -> bool {
    let path = get["path"].as_str().unwrap_or_default();
    let is_local = get["host"].as_str().is_none_or(str::is_empty);
    is_local && get["port"] == ADMIN_PORT && (path.starts_with("/probe/") || path.starts_with("/hook/"))
}

/// The field of an action that is not of the proxy's type, and that type. The API server refuses the same in a pod, but would
/// not see it any more.
fn unreadable(action: &Value) -> Option<(String, &'static str)> {
    let is_text = |value: &Value| value.is_string();
    for field in ["path", "host", "scheme", "service"] {
        if action.get(field).is_some_and(|value| !is_text(value)) {
            return Some((field.to_owned(), "text"));
        }
    }
    let headers = match action.get("httpHeaders") {
        None => return None,
        Some(Value::Array(headers)) => headers,
        Some(_) => return Some(("httpHeaders".to_owned(), "a list")),
    };
    let mut fields = headers.iter().enumerate().flat_map(|(at, header)| {
        ["name", "value"].map(|field| (format!("httpHeaders[{at}].{field}"), header.get(field)))
    });
    let (field, _) = fields.find(|(_, value)| !value.is_some_and(is_text))?;
    Some((field, "text"))
}

/// A named port becomes its number: the proxy does not know the container's ports. Says whether it is one then.
fn number_port(action: &mut Value, ports: &Value) -> bool {
    let is_port = |value: &Value| value.as_u64().is_some_and(|port| (1..=65535).contains(&port));
    let named = |name: &str| {
        let mut all = ports.as_array().into_iter().flatten();
        let port = all.find(|port| port["name"] == name)?;
        port.get("containerPort").cloned()
    };
    if let Some(name) = action["port"].as_str().map(str::to_owned)
        && let Some(number) = named(&name).or_else(|| name.parse::<u16>().ok().map(Value::from))
    {
        action["port"] = number;
    }
    is_port(&action["port"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(container: &mut Value) -> Originals {
        let mut originals = Originals::new(0xabc);
        originals.rewrite(container, &Originals::new(1)).unwrap();
        originals
    }

    #[test]
    fn network_probes_ask_the_proxy_and_keep_their_timing() {
        let mut container = json!({
            "name": "app",
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/ok", "port": "http", "httpHeaders": null}, "periodSeconds": 3},
            "livenessProbe": {"tcpSocket": {"port": 9000}, "timeoutSeconds": 2},
        });
        let originals = rewritten(&mut container);
        assert_eq!(
            Value::Object(originals.probes),
            json!({"app": {
                "readiness": {"httpGet": {"path": "/ok", "port": 8080}},
                "liveness": {"tcpSocket": {"port": 9000}, "timeoutSeconds": 2},
            }})
        );
        assert_eq!(
            container["readinessProbe"],
            json!({
                "httpGet": {"path": "/probe/app/readiness", "port": 15020, "scheme": "HTTP"},
                "periodSeconds": 3,
            })
        );
    }

    #[test]
    fn hooks_ask_the_proxy_by_a_path_that_nobody_guesses() {
        let mut container = json!({"name": "app", "lifecycle": {
            "postStart": {"exec": {"command": ["true"]}},
            "preStop": {"httpGet": {"path": "/bye", "port": 8080}},
        }});
        let originals = rewritten(&mut container);
        let path = "/hook/00000000000000000000000000000abc/app/preStop";
        assert_eq!(container["lifecycle"]["preStop"]["httpGet"]["path"], path);
        assert_eq!(
            container["lifecycle"]["postStart"],
            json!({"exec": {"command": ["true"]}})
        );
        assert_eq!(
            originals.hooks["app"],
            json!({"preStop": {"httpGet": {"path": "/bye", "port": 8080}}})
        );
    }

    #[test]
    fn what_does_not_meet_the_redirect_stays() {
        for probe in [
            json!({"exec": {"command": ["true"]}}),
            json!({"httpGet": {"host": "example.com", "port": 80}}),
            json!({"httpGet": {"port": "unheard-of"}}),
            json!({"tcpSocket": {"port": 0}}),
            json!({"grpc": {"port": 70000}}),
            json!({}),
        ] {
            let mut container = json!({"name": "app", "livenessProbe": probe, "lifecycle": {"preStop": probe}});
            let before = container.clone();
            let originals = rewritten(&mut container);
            assert_eq!(container, before);
            assert!(originals.probes.is_empty() && originals.hooks.is_empty());
        }
    }

    #[test]
    fn a_second_pass_changes_nothing_and_forgets_nothing() {
        let mut container = json!({
            "name": "app",
            "startupProbe": {"grpc": {"port": 7070}, "timeoutSeconds": 4},
            "lifecycle": {"preStop": {"httpGet": {"port": 8080, "path": "/$(HOME)"}}},
        });
        let first = rewritten(&mut container);
        let variables: Vec<Value> = first
            .variables()
            .into_iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        assert!(!variables[1].to_string().contains('$'), "{variables:?}");
        let known = Originals::read(&variables, 2);
        assert_eq!(known, first);
        let (before, mut second) = (container.clone(), Originals::read(&variables, 2));
        second.probes.clear();
        second.hooks.clear();
        second.rewrite(&mut container, &known).unwrap();
        assert_eq!((container, second), (before, first));
    }

    #[test]
    fn a_timeout_is_the_probes_own_in_each_pass_and_one_second_is_not_kept() {
        let mut container = json!({"name": "app", "livenessProbe": {"tcpSocket": {"port": 9000}, "timeoutSeconds": 5}});
        let known = rewritten(&mut container);
        let second = |container: &mut Value| {
            let mut second = Originals::new(0xabc);
            second.rewrite(container, &known).unwrap();
            second.probes["app"]["liveness"].clone()
        };
        container["livenessProbe"]["timeoutSeconds"] = json!(7);
        let moved = json!({"tcpSocket": {"port": 9000}, "timeoutSeconds": 7});
        assert_eq!(second(&mut container), moved, "changed");
        container["livenessProbe"] = json!({"grpc": {"port": 9001}, "timeoutSeconds": 9});
        let moved = json!({"grpc": {"port": 9001}, "timeoutSeconds": 9});
        assert_eq!(second(&mut container), moved, "replaced");
        container["livenessProbe"]["timeoutSeconds"] = json!(1);
        assert_eq!(
            second(&mut container),
            json!({"tcpSocket": {"port": 9000}}),
            "as the API server has it"
        );
    }

    #[test]
    fn what_the_proxy_cannot_read_is_refused_by_field() {
        for (action, said) in [
            (json!({"port": 80, "path": 1}), "httpGet.path: must be text"),
            (
                json!({"port": 80, "httpHeaders": {"a": "b"}}),
                "httpGet.httpHeaders: must be a list",
            ),
            (
                json!({"port": 80, "httpHeaders": [{"name": "a", "value": "b"}, {"name": "c", "value": 1}]}),
                "httpGet.httpHeaders[1].value: must be text",
            ),
            (
                json!({"port": 80, "httpHeaders": [null]}),
                "httpGet.httpHeaders[0].name: must be text",
            ),
        ] {
            let probe = json!({"httpGet": action});
            for (container, field) in [
                (json!({"name": "app", "startupProbe": probe}), "startupProbe"),
                (
                    json!({"name": "app", "lifecycle": {"preStop": probe}}),
                    "lifecycle.preStop",
                ),
            ] {
                let error = Originals::new(1).rewrite(&mut container.clone(), &Originals::new(1));
                assert_eq!(error, Err(format!("container app: {field}.{said}")));
            }
        }
    }
}
