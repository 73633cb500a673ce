//! The containers and volumes that injection adds.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::redirect::{ADMIN_PORT, Exempt, INBOUND_PORT, LOCAL_ADMIN_PORT, OUTBOUND_PORT, PROXY_UID};
use crate::settings::{InjectSettings, Resources};
use crate::tuned::Tuned;

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

/// All of them.
pub(crate) const VOLUMES: [&str; 3] = [TOKEN_VOLUME, TRUST_VOLUME, STATE_VOLUME];

/// Whether a container or volume is one of ours.
pub fn is_ours(name: &Value) -> bool {
    [INIT, PROXY].iter().chain(&VOLUMES).any(|ours| name == ours)
}

/// All that injection adds to a pod, but for what depends on the app's probes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sidecar {
    pub(crate) init: Value,
    pub(crate) proxy: Value,
    pub(crate) volumes: Vec<Value>,
}

impl Sidecar {
    pub(crate) fn new(settings: &InjectSettings, tuned: &Tuned, workload: &str) -> Self {
        Self {
            init: init_container(settings, tuned),
            proxy: proxy_container(settings, tuned, workload),
            volumes: volumes(),
        }
    }

    /// What a later review knows it by. Others may have added to the containers meanwhile (defaults of the API server,
    /// limits, another registry), and that stays.
    pub(crate) fn digest(&self) -> String {
        let text = json!([self.init, self.proxy, self.volumes]).to_string();
        let bytes = digest(&SHA256, text.as_bytes());
        bytes
            .as_ref()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// The volumes of the proxy. The ConfigMap is not optional: the control plane writes it within a second of the Namespace's
/// label, and until then the kubelet waits for it and says so, where a proxy without roots could only fail.
fn volumes() -> Vec<Value> {
    vec![
        json!({"name": TOKEN_VOLUME, "projected": {"sources": [
            {"serviceAccountToken": {"audience": "weft", "expirationSeconds": 3600, "path": "token"}}]}}),
        json!({"name": TRUST_VOLUME, "configMap": {"name": TRUST_CONFIG_MAP}}),
        json!({"name": STATE_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}),
    ]
}

/// The init container: root for the moment that the rules take, with nothing but what they need.
fn init_container(settings: &InjectSettings, tuned: &Tuned) -> Value {
    let redirect = &tuned.redirect;
    let mut args = vec!["init".to_owned()];
    match redirect.exempt {
        Exempt::Uid(uid) => args.push(format!("--exempt-uid={uid}")),
        Exempt::Mark(mark) => args.push(format!("--exempt-mark={mark}")),
    }
    let lists = [
        ("--skip-inbound-ports", join(&redirect.skip_inbound_ports)),
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
        "imagePullPolicy": settings.pull_policy,
        "command": settings.command,
        "args": args,
        "resources": resources(&tuned.resources),
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

/// The proxy's container.
fn proxy_container(settings: &InjectSettings, tuned: &Tuned, workload: &str) -> Value {
    let mut add = json!([]);
    if let Exempt::Mark(_) = settings.exempt {
        add = json!(["NET_RAW"]);
    }
    json!({
        "name": PROXY,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "command": settings.command,
        "args": ["proxy"],
        "restartPolicy": "Always",
        "env": environment(settings, tuned, workload),
        "ports": [{"name": "weft-admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": ADMIN_PORT},
            "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 120,
        },
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": ADMIN_PORT},
            "periodSeconds": 10, "timeoutSeconds": 2, "failureThreshold": 3,
        },
        "resources": resources(&tuned.resources),
        "securityContext": {
            "runAsUser": PROXY_UID,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": add},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": TOKEN_DIR, "readOnly": true},
            {"name": TRUST_VOLUME, "mountPath": TRUST_DIR, "readOnly": true},
            {"name": STATE_VOLUME, "mountPath": STATE_DIR},
        ],
    })
}

fn environment(settings: &InjectSettings, tuned: &Tuned, workload: &str) -> Vec<Value> {
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
    ];
    // The kubelet sets WEFT_ADMIN_PORT=tcp://… for a Service named weft-admin (enableServiceLinks); what a container says counts
    // before that.
    let ports = [
        ("WEFT_OUTBOUND_PORT", OUTBOUND_PORT),
        ("WEFT_INBOUND_PORT", INBOUND_PORT),
        ("WEFT_ADMIN_PORT", ADMIN_PORT),
        ("WEFT_LOCAL_ADMIN_PORT", LOCAL_ADMIN_PORT),
    ];
    env.extend(ports.map(|(name, port)| value(name, &port.to_string())));
    if let Exempt::Mark(mark) = settings.exempt {
        env.push(value("WEFT_MARK", &mark.to_string()));
    }
    // An annotation counts before a setting, and a name stands once.
    let of_all = settings.proxy_env.iter();
    let of_all = of_all.filter(|(name, _)| tuned.env.iter().all(|(own, _)| own != name));
    env.extend(of_all.chain(&tuned.env).map(|(name, text)| value(name, text)));
    env
}

fn resources(wanted: &Resources) -> Value {
    let mut resources = json!({});
    for (group, name, amount) in [
        ("requests", "cpu", &wanted.cpu_request),
        ("requests", "memory", &wanted.memory_request),
        ("limits", "cpu", &wanted.cpu_limit),
        ("limits", "memory", &wanted.memory_limit),
    ] {
        if let Some(amount) = amount {
            resources[group][name] = json!(amount);
        }
    }
    resources
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
