//! What the mesh itself runs and has: its namespace, its control plane as a pod, and the Services of both.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};
use weft_control::objects::{Object, Problem, Severity, uid_of};

use crate::manifest::place::ONLY_NODE;
use crate::source::Sources;
use crate::spec::{Mount, PodPlan, Volume, VolumeSource};

/// The mesh's own namespace.
pub const NAMESPACE: &str = "weft-system";
/// The control plane: its pod, container, Service and service account.
pub const CONTROL: &str = "weft-control";
/// The uid of the control plane where root starts it.
pub const CONTROL_UID: u32 = 1883;
/// The Service by which other clusters reach the control plane, at the node's addresses.
pub const FEDERATION_SERVICE: &str = "weft-federation";
/// Its port.
pub const FEDERATION_PORT: u16 = 15013;
/// Where the control plane shows its trust bundle.
pub const BUNDLE_PORT: u16 = 15016;
/// The east-west gateways: their Service, and their service account.
pub const GATEWAY: &str = "weft-gateway";
/// The port on which they are reached.
pub const GATEWAY_PORT: u16 = 15443;
/// So many, so that one may go.
const GATEWAYS: u8 = 2;
/// The Service of the mesh's names.
pub const DNS_SERVICE: &str = "weft-dns";
/// The control plane's port for proxies, and its admin port.
const PORTS: [(&str, u16); 2] = [("grpc-discovery", 15012), ("http-admin", 15014)];
/// Where the control plane finds its directories.
const SEEN: &str = "/run/weft/mesh";

/// What the mesh itself is made of.
#[derive(Clone, Debug)]
pub struct System {
    /// The uid of the control plane, to which its state directory belongs.
    pub user: u32,
    /// The user's manifests, on this machine.
    pub manifests: Sources,
    /// The finished objects, on this machine.
    pub objects: PathBuf,
    /// The control plane's state directory, on this machine.
    pub control: PathBuf,
    /// The control plane's flags besides its directories.
    pub flags: Vec<String>,
    /// There are other clusters beside.
    pub federated: bool,
    /// Whether other clusters reach this one's pods through gateways only.
    pub gateways: bool,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// The addresses of the DNS server's Service.
    pub dns: Vec<IpAddr>,
    /// Where the DNS server listens besides: the node's own addresses.
    pub node: Vec<IpAddr>,
    /// The networks of its pods.
    pub pods: Vec<IpNet>,
}

impl System {
    /// The user's objects, with the mesh's own beside them; and what is wrong with those that pretend to be the mesh's.
    pub fn with(&self, objects: Vec<Arc<Object>>) -> (Vec<Arc<Object>>, Vec<Problem>) {
        let (strangers, mut all): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| is_ours(object));
        let problems = strangers.iter().map(|object| {
            let message = format!("the namespace {NAMESPACE} is the mesh's own");
            object.problem(
                Severity::Error,
                "metadata.namespace",
                message,
                "move it to another namespace",
            )
        });
        let problems = problems.collect();
        let nodes = all.iter().any(|object| object.kind == "Node");
        all.extend(self.objects(nodes));
        (all, problems)
    }

    fn objects(&self, nodes: bool) -> Vec<Arc<Object>> {
        let named = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": CONTROL, "namespace": NAMESPACE}});
        let ports = PORTS
            .iter()
            .map(|(name, port)| json!({"name": name, "port": port}))
            .collect::<Vec<_>>();
        let control = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": CONTROL, "namespace": NAMESPACE},
            "spec": {"clusterIP": "None", "selector": {"app": CONTROL}, "ports": ports, "ipFamilyPolicy": "PreferDualStack"},
        });
        let dns = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": DNS_SERVICE, "namespace": NAMESPACE},
            "spec": {
                "clusterIPs": self.dns,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "tcp-dns", "port": 53, "protocol": "TCP"},
                ],
            },
        });
        let mut raw = vec![named("Namespace", NAMESPACE), account, control, dns, self.pod()];
        if self.federated {
            raw.push(json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": FEDERATION_SERVICE, "namespace": NAMESPACE},
                "spec": {
                    "type": "LoadBalancer", "selector": {"app": CONTROL}, "ipFamilyPolicy": "PreferDualStack",
                    "ports": [
                        {"name": "grpc-federation", "port": FEDERATION_PORT},
                        {"name": "https-bundle", "port": BUNDLE_PORT},
                    ],
                },
            }));
        }
        if self.gateways {
            raw.extend(gateways());
        }
        if !nodes {
            let mut node = named("Node", ONLY_NODE);
            if let Some(first) = self.pods.first() {
                // Other clusters are told where pods are.
                node["spec"] = json!({"podCIDR": first, "podCIDRs": self.pods});
            }
            raw.push(node);
        }
        raw.into_iter().map(object).collect()
    }

    fn pod(&self) -> Value {
        let mut command: Vec<String> = ["weft", "control"].map(str::to_owned).to_vec();
        // Problems name files as the control plane sees them; whoever shows them puts the user's directory back.
        for (i, place) in self.manifests.places.iter().enumerate() {
            let file = place.file.as_ref().map(|file| format!("/{file}")).unwrap_or_default();
            command.push(format!("--manifests={SEEN}/{}{file}", mounted(i)));
        }
        command.push(format!("--manifests={SEEN}/objects"));
        command.push(format!("--state-dir={SEEN}/control"));
        command.push(format!("--admin-socket={SEEN}/control/{ADMIN_SOCKET}"));
        command.push(format!("--token-jwks={SEEN}/control/{KEY_SET}"));
        command.extend(self.flags.iter().cloned());
        let env: Vec<Value> = self
            .env
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": CONTROL, "namespace": NAMESPACE, "labels": {"app": CONTROL}},
            "spec": {
                "serviceAccountName": CONTROL,
                "terminationGracePeriodSeconds": 5,
                "containers": [{
                    "name": CONTROL,
                    "command": command,
                    "env": env,
                    "ports": PORTS.map(|(name, port)| json!({"name": name, "containerPort": port})),
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 15014}, "periodSeconds": 1},
                    "securityContext": {"runAsUser": CONTROL_UID, "runAsGroup": CONTROL_UID, "readOnlyRootFilesystem": true},
                }],
            },
        })
    }

    /// Gives the plan of a pod of the mesh's own its user, and the control plane's its directories. A gateway has none of
    /// them: the authority's key is there.
    pub fn furnish(&self, plan: &mut PodPlan) {
        for container in &mut plan.containers {
            (container.user, container.group) = (Some(self.user), Some(self.user));
        }
        if plan.name != CONTROL {
            return;
        }
        let places = self.manifests.places.iter().enumerate();
        let binds = places.map(|(i, place)| (mounted(i), &place.directory, true)).chain([
            ("objects".to_owned(), &self.objects, true),
            ("control".to_owned(), &self.control, false),
        ]);
        for (name, path, read_only) in binds {
            plan.volumes.push(Volume {
                name: name.clone(),
                source: VolumeSource::Bind { path: path.clone() },
            });
            let path = PathBuf::from(format!("{SEEN}/{name}"));
            for container in &mut plan.containers {
                let mount = Mount {
                    volume: name.clone(),
                    path: path.clone(),
                    sub_path: None,
                    read_only,
                };
                container.mounts.push(mount);
            }
        }
    }

    /// The EndpointSlices of the DNS server, which is no pod.
    pub fn dns_slices(&self) -> Vec<Value> {
        let slice = |ip: &IpAddr| {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{DNS_SERVICE}-{}-0", family.to_ascii_lowercase()), "namespace": NAMESPACE,
                    "labels": {"kubernetes.io/service-name": DNS_SERVICE},
                },
                "addressType": family,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "tcp-dns", "port": 53, "protocol": "TCP"},
                ],
                "endpoints": [{"addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false}}],
            })
        };
        self.node.iter().map(slice).collect()
    }

    /// A file's path as the user knows it, where the control plane names it as it sees it.
    pub fn as_the_user_knows(&self, path: &str) -> String {
        for (i, place) in self.manifests.places.iter().enumerate() {
            let Some(rest) = path.strip_prefix(&format!("{SEEN}/{}/", mounted(i))) else {
                continue;
            };
            let file = match place.stdin {
                true => place.shown(),
                false => place.directory.join(rest),
            };
            return file.display().to_string();
        }
        path.replace(&format!("{SEEN}/objects"), &self.objects.display().to_string())
    }
}

/// The control plane's admin socket, and the key set that it checks tokens with, below its state directory.
pub const ADMIN_SOCKET: &str = "admin.sock";
/// See [`ADMIN_SOCKET`].
pub const KEY_SET: &str = "token-keys.json";

fn is_ours(object: &Object) -> bool {
    object.namespace == NAMESPACE || (object.kind == "Namespace" && object.name == NAMESPACE)
}

/// The name of a place's directory as the control plane sees it.
fn mounted(place: usize) -> String {
    match place {
        0 => "manifests".to_owned(),
        more => format!("manifests-{more}"),
    }
}

/// An object that no file holds.
pub(super) fn object(raw: Value) -> Arc<Object> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &raw["metadata"];
    let (kind, namespace, name) = (
        text(&raw["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"]),
    );
    let labels = metadata["labels"].as_object().into_iter().flatten();
    Arc::new(Object {
        api_version: text(&raw["apiVersion"]),
        uid: uid_of(&kind, &namespace, &name),
        labels: labels.map(|(key, value)| (key.clone(), text(value))).collect(),
        kind,
        namespace,
        name,
        resource_version: 0,
        generation: 0,
        annotations: BTreeMap::new(),
        origin: None,
        raw,
    })
}

/// The gateways, with their Service and who they are: pods as any others, whose identity the control plane knows.
fn gateways() -> Vec<Value> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": GATEWAY, "namespace": NAMESPACE}});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": GATEWAY, "namespace": NAMESPACE},
        "spec": {
            "type": "LoadBalancer", "selector": {"app": GATEWAY}, "ipFamilyPolicy": "PreferDualStack",
            "ports": [{"name": "tls", "port": GATEWAY_PORT}],
        },
    });
    let pods = (1..=GATEWAYS).map(gateway);
    [account, service].into_iter().chain(pods).collect()
}

fn gateway(number: u8) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let control = format!("{CONTROL}.{NAMESPACE}.svc.{}:15012", crate::dns::DOMAIN);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{GATEWAY}-{number}"), "namespace": NAMESPACE, "labels": {"app": GATEWAY}},
        "spec": {
            "serviceAccountName": GATEWAY,
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": GATEWAY,
                "command": ["weft", "gateway"],
                "env": [
                    field("WEFT_POD_NAME", "metadata.name"),
                    field("WEFT_POD_NAMESPACE", "metadata.namespace"),
                    field("WEFT_POD_UID", "metadata.uid"),
                    field("WEFT_POD_IPS", "status.podIPs"),
                    field("WEFT_SERVICE_ACCOUNT", "spec.serviceAccountName"),
                    {"name": "WEFT_CONTROL_ADDRESS", "value": control},
                ],
                "ports": [{"name": "tls", "containerPort": GATEWAY_PORT}],
                // One that ends accepts for some seconds more: by then it must be withdrawn. One that is slow must not.
                "readinessProbe": {
                    "httpGet": {"path": "/ready", "port": 15020}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 3,
                },
                "volumeMounts": [
                    {"name": "token", "mountPath": "/var/run/secrets/weft", "readOnly": true},
                    {"name": "trust", "mountPath": "/var/run/weft/trust", "readOnly": true},
                    {"name": "state", "mountPath": "/var/run/weft/state"},
                ],
            }],
            "volumes": [
                {"name": "token", "projected": {"sources": [
                    {"serviceAccountToken": {"audience": "weft", "expirationSeconds": 3600, "path": "token"}}]}},
                {"name": "trust", "configMap": {"name": "weft-trust"}},
                {"name": "state", "emptyDir": {"medium": "Memory"}},
            ],
        },
    })
}
