//! The containers and volumes that injection adds.

use serde_json::{Value, json};

use crate::redirect::{ADMIN_PORT, Exempt, PROXY_UID, RedirectSettings};
use crate::settings::InjectSettings;

/// The init container that puts the redirect rules in place.
pub const INIT: &str = "weft-init";
/// The proxy: a native sidecar (KEP-753).
pub const PROXY: &str = "weft-proxy";
/// Where the token, the trust bundle and the proxy's state are mounted.
const TOKEN_DIR: &str = "/var/run/secrets/weft";
const TRUST_DIR: &str = "/var/run/weft/trust";
const STATE_DIR: &str = "/var/run/weft/state";
/// The volumes' names, and the ConfigMap that the control plane keeps in every labelled namespace.
const TOKEN_VOLUME: &str = "weft-token";
const TRUST_VOLUME: &str = "weft-trust";
const STATE_VOLUME: &str = "weft-state";
const TRUST_CONFIG_MAP: &str = "weft-trust";

/// Whether a container or volume is one of ours.
pub fn is_ours(name: &Value) -> bool {
    [INIT, PROXY, TOKEN_VOLUME, TRUST_VOLUME, STATE_VOLUME]
        .iter()
        .any(|ours| *name == json!(ours))
}

/// The volumes of the proxy.
pub fn volumes() -> Vec<Value> {
    vec![
        json!({"name": TOKEN_VOLUME, "projected": {"sources": [
            {"serviceAccountToken": {"audience": "weft", "expirationSeconds": 3600, "path": "token"}}]}}),
        json!({"name": TRUST_VOLUME, "configMap": {"name": TRUST_CONFIG_MAP}}),
        json!({"name": STATE_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}),
    ]
}

/// The init container: root for the moment that the rules take, with nothing but what they need.
pub fn init_container(settings: &InjectSettings, redirect: &RedirectSettings) -> Value {
    let mut args = vec!["init".to_owned()];
    match redirect.exempt {
        Exempt::Uid(uid) => args.push(format!("--exempt-uid={uid}")),
        Exempt::Mark(mark) => args.push(format!("--exempt-mark={mark}")),
    }
    let lists = [
        ("--skip-outbound-ports", join(&redirect.skip_outbound_ports)),
        ("--skip-outbound-subnets", join(&redirect.skip_outbound_subnets)),
    ];
    args.extend(
        lists
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(flag, list)| format!("{flag}={list}")),
    );
    json!({
        "name": INIT,
        "image": settings.image,
        "command": settings.command,
        "args": args,
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
        },
    })
}

/// The proxy's container. `probes`: the originals of the rewritten probes; `extra`: variables from annotations.
pub fn proxy_container(settings: &InjectSettings, workload: &str, probes: &Value, extra: &[(String, String)]) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let value = |name: &str, value: &str| json!({"name": name, "value": value});
    let mut env = vec![
        field("WEFT_POD_NAME", "metadata.name"),
        field("WEFT_POD_NAMESPACE", "metadata.namespace"),
        field("WEFT_POD_UID", "metadata.uid"),
        field("WEFT_POD_IPS", "status.podIPs"),
        field("WEFT_NODE_NAME", "spec.nodeName"),
        field("WEFT_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        value("WEFT_WORKLOAD", workload),
        value("WEFT_CONTROL_ADDRESS", &settings.control_address),
        value("WEFT_TRUST_DIR", TRUST_DIR),
        value("WEFT_TOKEN_FILE", &format!("{TOKEN_DIR}/token")),
        value("WEFT_STATE_DIR", STATE_DIR),
        value("WEFT_PROBES", &probes.to_string()),
    ];
    let mut add = json!([]);
    if let Exempt::Mark(mark) = settings.exempt {
        env.push(value("WEFT_MARK", &mark.to_string()));
        add = json!(["NET_RAW"]);
    }
    env.extend(
        settings
            .proxy_env
            .iter()
            .chain(extra)
            .map(|(name, text)| value(name, text)),
    );
    json!({
        "name": PROXY,
        "image": settings.image,
        "command": settings.command,
        "args": ["proxy"],
        "restartPolicy": "Always",
        "env": env,
        "ports": [{"name": "weft-admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": ADMIN_PORT},
            "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 120,
        },
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": ADMIN_PORT},
            "periodSeconds": 10, "timeoutSeconds": 2, "failureThreshold": 3,
        },
        "securityContext": {
            "runAsUser": PROXY_UID,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": add},
        },
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": TOKEN_DIR, "readOnly": true},
            {"name": TRUST_VOLUME, "mountPath": TRUST_DIR, "readOnly": true},
            {"name": STATE_VOLUME, "mountPath": STATE_DIR},
        ],
    })
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
