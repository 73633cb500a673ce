//! Table. The cases of the conformance suite of the Multi-Cluster Services API (v0.5.0), by their names there, on two clusters
//! that follow each other: what their control planes make of exports. What needs DNS or connections is held by tests elsewhere, and
//! what differs is named with the sentence of KEP-1645 that says otherwise: docs/federation.md lists both, and is compared.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};
use weft_certs::authority::Authority;
use weft_model::destination::{Lookup, Target};
use weft_model::identity::TrustDomain;
use weft_proto::resource::bundles::TrustRoots;
use weft_proto::resource::federation::Transport;
use weft_proto::resource::name::CLUSTER;
use weft_proto::resource::{Body, Change, Cluster, Kind, Name as Resource, Update};

use super::derived::{self, Ready};
use crate::compile;
use crate::index::{Condition, ConditionType, Index, Name, Settings};
use crate::manifests::{Changes, Writer, parse};
use crate::objects::peer::Selection;
use crate::objects::{Kinds, ObjectRef};

/// The page that says where the other cases are held, and what differs.
const PAGE: &str = include_str!("../../../docs/federation.md");
const CLUSTERS: [&str; 2] = ["one", "two"];

/// Two clusters, each the other's peer. Objects take effect at once, and what is exported is told by [`Clusterset::tell`].
struct Clusterset {
    indexes: [Index; 2],
    told: [BTreeMap<String, Resource>; 2],
}

/// Where a case is held.
enum Held {
    /// By this.
    Here(fn()),
    /// By another test: docs/federation.md says which.
    Elsewhere,
}

use Held::{Elsewhere, Here};

/// Each case by its name in the suite. Where a case stands within a context, the context's name comes first.
const CASES: [(&str, Held); 24] = [
    (
        "A ServiceImport should only exist as long as there's at least one exporting cluster",
        Here(as_long_as_exported),
    ),
    (
        "Only labels and annotations specified as exported in the ServiceExport should be propagated to the ServiceImport",
        Here(only_exported_labels),
    ),
    (
        "A service exported on two clusters with conflicting annotations and labels should apply the conflict resolution policy and report a Conflict condition on each ServiceExport",
        Here(conflicting_labels),
    ),
    (
        "Exporting a ClusterIP service should create a ServiceImport of type ClusterSetIP in the service's namespace in each cluster. Unexporting should delete the ServiceImport",
        Here(cluster_ip),
    ),
    (
        "The SessionAffinity for a ClusterSetIP ServiceImport should match the exported service's SessionAffinity",
        Here(session_affinity),
    ),
    (
        "The InternalTrafficPolicy for a ClusterSetIP ServiceImport should match the exported service's InternalTrafficPolicy",
        Here(internal_traffic_policy),
    ),
    (
        "The TrafficDistribution for a ClusterSetIP ServiceImport should match the exported service's TrafficDistribution",
        Here(traffic_distribution),
    ),
    (
        "An IP should be allocated for a ClusterSetIP ServiceImport",
        Here(an_address),
    ),
    (
        "The ports for a ClusterSetIP ServiceImport should match those of the exported service",
        Here(ports),
    ),
    (
        "A ClusterIP service exported on two clusters should expose the union of the constituent service ports and raise a conflict",
        Here(union_of_ports),
    ),
    (
        "A ClusterIP service exported on two clusters with conflicting ports should apply the conflict resolution policy and report a Conflict condition on each ServiceExport",
        Here(conflicting_ports),
    ),
    (
        "Exporting a headless service should create a ServiceImport of type Headless in the service's namespace in each cluster. Unexporting should delete the ServiceImport",
        Here(headless),
    ),
    (
        "No clusterset IP should be allocated for a Headless ServiceImport",
        Here(no_address),
    ),
    (
        "Exporting an ExternalName service should set ServiceExport Valid condition to False",
        Here(external_name),
    ),
    (
        "A service exported on two clusters with conflicting headlessness should apply the conflict resolution policy and report a Conflict condition on the ServiceExport",
        Here(conflicting_headlessness),
    ),
    (
        "Exporting a service should create an MCS EndpointSlice in the service's namespace in each cluster with the required MCS labels. Unexporting should delete the EndpointSlice.",
        Elsewhere,
    ),
    (
        "Connectivity to remote services with no exported service should be inaccessible",
        Here(inaccessible),
    ),
    (
        "Connectivity to remote services with an exported ClusterIP service should be accessible through DNS (after a potential delay)",
        Elsewhere,
    ),
    (
        "A DNS lookup of the <service>.<ns>.svc.clusterset.local domain for a ClusterIP service should resolve to the clusterset IP",
        Elsewhere,
    ),
    (
        "A DNS SRV query of the <service>.<ns>.svc.clusterset.local domain for a ClusterIP service should return valid SRV records",
        Elsewhere,
    ),
    (
        "DNS lookups of the <service>.<ns>.svc.cluster.local domain for a ClusterIP service should only resolve local services",
        Elsewhere,
    ),
    (
        "A DNS query of the <service>.<ns>.svc.clusterset.local domain for a headless service should return the ready endpoint addresses of all the backing pods",
        Elsewhere,
    ),
    (
        "A DNS query of the <hostname>.<clusterid>.<service>.<ns>.svc.clusterset.local domain for a headless StatefulSet service should return the requested pod's endpoint address",
        Elsewhere,
    ),
    (
        "A DNS SRV query of the <service>.<ns>.svc.clusterset.local domain for a headless service should return valid SRV records",
        Elsewhere,
    ),
];

#[test]
fn the_cases_of_the_suite_hold() {
    for (name, held) in CASES {
        match held {
            Here(check) => {
                // The name of the case that fails is what a reader needs.
                let failed = std::panic::catch_unwind(check).is_err();
                assert!(!failed, "{name}");
            }
            Elsewhere => assert!(
                PAGE.contains(name),
                "docs/federation.md does not say where this is held: {name}"
            ),
        }
    }
}

/// What differs is written down with the sentence that says otherwise.
#[test]
fn what_differs_is_named_with_the_sentence_that_says_otherwise() {
    for sentence in [
        "All service consumers must use the `*.svc.clusterset.local` name to enable clusterset routing, even if there is a matching `Service` with the same namespaced name in the local cluster.",
        "While there are no general restrictions on which namespaces are allowed, administrators should be especially careful about permitting exports from `kube-system` and `default`.",
    ] {
        let page = PAGE.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(page.contains(sentence), "{sentence}");
    }
}

fn hello() -> Name {
    Name::new("mcs", "hello")
}

/// The Service of the suite, with these fields of its spec in place of its own.
fn service(change: &Value) -> Value {
    let mut spec = json!({
        "selector": {"app": "hello"},
        "ports": [
            {"name": "tcp", "port": 42, "protocol": "TCP"},
            {"name": "udp", "port": 42, "protocol": "UDP"}
        ],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}},
        "clusterIP": "10.96.0.42"
    });
    spec.as_object_mut()
        .unwrap()
        .extend(change.as_object().unwrap().clone());
    json!({
        "apiVersion": "v1", "kind": "Service", "spec": spec,
        "metadata": {"namespace": "mcs", "name": "hello", "labels": {"own": "true"}, "annotations": {"own": "true"}}
    })
}

/// An export that was made in this second.
fn export(second: u8, spec: &Value) -> Value {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport", "spec": spec,
        "metadata": {"namespace": "mcs", "name": "hello", "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
            "labels": {"of-export": "true"}}
    })
}

impl Clusterset {
    fn new() -> Self {
        let domain = |cluster: &str| TrustDomain::new(&format!("{cluster}.td")).unwrap();
        let index = |cluster: &str| {
            let settings = Settings {
                trust_domain: domain(cluster),
                cluster: cluster.to_owned(),
                network: cluster.to_owned(),
                cluster_domain: "cluster.local".to_owned(),
                inside: vec!["10.0.0.0/8".parse().unwrap()],
                outside: Vec::new(),
            };
            Index::new(settings)
        };
        let mut set = Self {
            indexes: CLUSTERS.map(index),
            told: Default::default(),
        };
        for (at, other) in [(0, "two"), (1, "one")] {
            let authority = Authority::create(domain(other), std::time::SystemTime::now()).unwrap();
            let peer = json!({
                "apiVersion": "weft.dev/v1alpha1", "kind": "ClusterPeer", "metadata": {"name": other},
                "spec": {
                    "trustDomain": format!("{other}.td"), "endpoints": ["peer.example:15013"],
                    "trustBundle": {"roots": authority.bundle(0).to_pem()}, "imports": [{"namespaces": ["*"]}]
                }
            });
            set.apply(
                at,
                &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mcs"}}),
            );
            set.apply(at, &peer);
            let bundle = authority.bundle(0);
            let cluster = Cluster {
                name: other.to_owned(),
                network: other.to_owned(),
                gateways: Vec::new(),
                pod_networks: Vec::new(),
                bundle: TrustRoots {
                    trust_domain: domain(other),
                    roots: bundle.roots().iter().map(|root| root.to_vec().into()).collect(),
                    sequence: 0,
                },
            };
            let said = update(
                Resource::new(Kind::Cluster, CLUSTER),
                Change::Body(Box::new(Body::Cluster(cluster))),
            );
            assert!(set.indexes[at].hear(other, vec![said]).0.is_empty());
        }
        set
    }

    /// Exported by the first, and told.
    fn exporting(service: &Value) -> Self {
        let mut set = Self::new();
        set.apply(0, service);
        set.apply(0, &export(1, &json!({})));
        set.tell();
        set
    }

    /// Exported by both, by the second a little later.
    fn of_two(first: (&Value, &Value), second: (&Value, &Value)) -> Self {
        let mut set = Self::new();
        for (at, (service, spec)) in [first, second].into_iter().enumerate() {
            set.apply(at, service);
            set.apply(at, &export(1 + u8::try_from(at).unwrap(), spec));
        }
        set.tell();
        set
    }

    fn apply(&mut self, at: usize, object: &Value) {
        let snapshot = parse(
            Path::new("a.yaml"),
            object.to_string(),
            Writer::Machine,
            &Kinds::control(),
        )
        .unwrap();
        self.indexes[at].apply(&Changes {
            upserts: snapshot.objects,
            ..Changes::default()
        });
    }

    fn unexport(&mut self, at: usize) {
        self.indexes[at].apply(&Changes {
            deletes: vec![reference()],
            ..Changes::default()
        });
        self.tell();
    }

    /// Each cluster tells the other what it exports, as the link does.
    fn tell(&mut self) {
        for (from, to) in [(0, 1), (1, 0)] {
            let all = vec![Selection::new(["*".to_owned()].into(), BTreeMap::new())];
            let exporter = &self.indexes[from];
            let mut said: Vec<(Resource, Body)> = Vec::new();
            for name in compile::exports_to(exporter, CLUSTERS[to], &all).value {
                let export = compile::export(exporter, &name).unwrap().value;
                let tcp = export.ports.iter().filter(|port| port.transport == Transport::Tcp);
                for port in tcp.map(|port| port.port).collect::<Vec<_>>() {
                    let behind = compile::exported(exporter, &name, port).unwrap().value;
                    said.push((
                        Resource::new(Kind::Exported, format!("{name}:{port}")),
                        Body::Exported(behind),
                    ));
                }
                said.push((Resource::new(Kind::Export, name.to_string()), Body::Export(export)));
            }
            let now: BTreeMap<String, Resource> =
                said.iter().map(|(name, _)| (name.to_string(), name.clone())).collect();
            let before = std::mem::replace(&mut self.told[from], now);
            let gone = before
                .into_iter()
                .filter(|(name, _)| !self.told[from].contains_key(name));
            let gone = gone.map(|(_, name)| update(name, Change::Removed));
            let said = said
                .into_iter()
                .map(|(name, body)| update(name, Change::Body(Box::new(body))));
            let updates = gone.chain(said).collect();
            let (refused, _) = self.indexes[to].hear(CLUSTERS[from], updates);
            assert!(refused.is_empty(), "{refused:?}");
        }
    }

    /// The ServiceImport of a cluster, whose derived Service has this address.
    fn import(&self, at: usize) -> Option<Value> {
        let merged = self.indexes[at].merged(&hello())?;
        let ips: [IpAddr; 1] = ["10.96.7.7".parse().unwrap()];
        Some(derived::service_import(
            &hello(),
            &merged,
            &ips,
            (Ready::Ready, "2026-01-01T00:00:00Z"),
        ))
    }

    #[track_caller]
    fn both(&self) -> [Value; 2] {
        [0, 1].map(|at| self.import(at).expect("a ServiceImport"))
    }

    #[track_caller]
    fn condition(&self, at: usize, r#type: ConditionType) -> Condition {
        let statuses = self.indexes[at].written_statuses().into_iter();
        let mut of_export = statuses.filter(|status| status.object == reference());
        let conditions = of_export.next().expect("a status").conditions;
        let found = conditions.into_iter().find(|condition| condition.r#type == r#type);
        found.expect("the condition")
    }

    #[track_caller]
    fn conflict_in_both(&self, reason: &str) {
        for at in [0, 1] {
            let condition = self.condition(at, ConditionType::Conflict);
            assert_eq!(
                (condition.status, condition.reason.as_str()),
                (true, reason),
                "{}",
                condition.message
            );
            let names = CLUSTERS.iter().all(|cluster| condition.message.contains(cluster));
            assert!(names, "{}", condition.message);
        }
        let [first, second] = [0, 1].map(|at| self.condition(at, ConditionType::Conflict).message);
        assert_eq!(first, second, "every cluster decides alike");
    }
}

fn update(name: Resource, change: Change) -> Update {
    Update {
        name,
        version: Default::default(),
        change,
    }
}

fn reference() -> ObjectRef {
    ObjectRef {
        kind: "ServiceExport".to_owned(),
        namespace: "mcs".to_owned(),
        name: "hello".to_owned(),
    }
}

fn none() -> Value {
    json!({})
}

fn as_long_as_exported() {
    let plain = service(&none());
    let mut set = Clusterset::of_two((&plain, &none()), (&plain, &none()));
    for import in set.both() {
        assert_eq!(
            import["status"]["clusters"],
            json!([{"cluster": "one"}, {"cluster": "two"}])
        );
    }
    for at in [0, 1] {
        assert!(!set.condition(at, ConditionType::Conflict).status);
        assert_eq!(set.condition(at, ConditionType::Conflict).reason, "NoConflicts");
    }
    set.unexport(0);
    for import in set.both() {
        assert_eq!(import["status"]["clusters"], json!([{"cluster": "two"}]));
    }
    set.unexport(1);
    assert!(set.import(0).is_none() && set.import(1).is_none());
}

fn labelled(what: &str) -> Value {
    json!({"exportedLabels": {format!("{what}-label"): "true"}, "exportedAnnotations": {format!("{what}-annotation"): "true"}})
}

#[track_caller]
fn carries(import: &Value, what: &str) {
    let labels = json!({format!("{what}-label"): "true", derived::IMPORT_LABEL: "true"});
    assert_eq!(import["metadata"]["labels"], labels);
    assert_eq!(
        import["metadata"]["annotations"],
        json!({format!("{what}-annotation"): "true"})
    );
}

fn only_exported_labels() {
    let mut set = Clusterset::exporting(&service(&none()));
    set.apply(0, &export(1, &labelled("dummy")));
    set.tell();
    set.both().iter().for_each(|import| carries(import, "dummy"));
}

fn conflicting_labels() {
    let plain = service(&none());
    let set = Clusterset::of_two((&plain, &labelled("dummy")), (&plain, &labelled("dummy2")));
    set.conflict_in_both("AnnotationsConflict,LabelsConflict");
    set.both().iter().for_each(|import| carries(import, "dummy"));
}

fn cluster_ip() {
    let mut set = Clusterset::exporting(&service(&none()));
    let valid = set.condition(0, ConditionType::Valid);
    assert!(valid.status && valid.reason == "Valid");
    assert!(set.condition(0, ConditionType::Ready).status);
    for import in set.both() {
        assert_eq!(import["spec"]["type"], "ClusterSetIP");
        assert_eq!(
            (&import["metadata"]["namespace"], &import["metadata"]["name"]),
            (&json!("mcs"), &json!("hello"))
        );
        assert_eq!(import["status"]["conditions"][0]["reason"], "Ready");
    }
    set.unexport(0);
    assert!(set.import(0).is_none() && set.import(1).is_none());
}

#[track_caller]
fn matches(change: &Value, fields: &[&str]) {
    let service = service(change);
    for import in Clusterset::exporting(&service).both() {
        for field in fields {
            assert_eq!(import["spec"][field], service["spec"][field], "{field}");
        }
    }
}

fn session_affinity() {
    matches(&none(), &["sessionAffinity", "sessionAffinityConfig"]);
}

fn internal_traffic_policy() {
    matches(&json!({"internalTrafficPolicy": "Cluster"}), &["internalTrafficPolicy"]);
    matches(&json!({"internalTrafficPolicy": "Local"}), &["internalTrafficPolicy"]);
}

fn traffic_distribution() {
    matches(&json!({"trafficDistribution": "PreferClose"}), &["trafficDistribution"]);
}

/// The API server gives the derived Service an address, and that is the import's.
fn an_address() {
    let set = Clusterset::exporting(&service(&none()));
    for at in [0, 1] {
        let merged = set.indexes[at].merged(&hello()).unwrap();
        let derived = derived::derived_service(&hello(), &merged);
        assert_eq!(derived["spec"]["type"], "ClusterIP");
        assert!(derived["spec"].get("clusterIP").is_none(), "the API server chooses it");
        assert_eq!(set.import(at).unwrap()["spec"]["ips"], json!(["10.96.7.7"]));
    }
}

fn ports() {
    matches(&none(), &["ports"]);
}

fn union_of_ports() {
    let (first, sctp) = (
        service(&none()),
        json!({"name": "stcp", "port": 142, "protocol": "SCTP"}),
    );
    let own = first["spec"]["ports"].as_array().unwrap();
    let second = service(&json!({"ports": [own[0], sctp]}));
    let set = Clusterset::of_two((&first, &none()), (&second, &none()));
    set.conflict_in_both("PortConflict");
    for import in set.both() {
        assert_eq!(import["spec"]["ports"], json!([own[0], own[1], sctp]));
    }
}

fn conflicting_ports() {
    let first = service(&none());
    let second = service(&json!({"ports": [{"name": "tcp", "port": 43, "protocol": "TCP"}]}));
    let set = Clusterset::of_two((&first, &none()), (&second, &none()));
    set.conflict_in_both("PortConflict");
    for import in set.both() {
        assert_eq!(import["spec"]["ports"], first["spec"]["ports"]);
    }
}

fn headless() {
    let mut set = Clusterset::exporting(&service(&json!({"clusterIP": "None"})));
    for import in set.both() {
        assert_eq!(import["spec"]["type"], "Headless");
    }
    set.unexport(0);
    assert!(set.import(0).is_none() && set.import(1).is_none());
}

fn no_address() {
    let set = Clusterset::exporting(&service(&json!({"clusterIP": "None"})));
    for (at, import) in set.both().iter().enumerate() {
        assert!(import["spec"].get("ips").is_none());
        let merged = set.indexes[at].merged(&hello()).unwrap();
        assert_eq!(derived::derived_service(&hello(), &merged)["spec"]["clusterIP"], "None");
    }
}

fn external_name() {
    let set = Clusterset::exporting(&service(
        &json!({"type": "ExternalName", "externalName": "example.com"}),
    ));
    let valid = set.condition(0, ConditionType::Valid);
    assert_eq!((valid.status, valid.reason.as_str()), (false, "InvalidServiceType"));
    assert!(!set.condition(0, ConditionType::Ready).status);
    assert!(set.import(0).is_none() && set.import(1).is_none());
}

fn conflicting_headlessness() {
    let (first, second) = (service(&none()), service(&json!({"clusterIP": "None"})));
    let set = Clusterset::of_two((&first, &none()), (&second, &none()));
    set.conflict_in_both("TypeConflict");
    for import in set.both() {
        assert_eq!(import["spec"]["type"], "ClusterSetIP");
    }
}

/// No name of the clusterset leads anywhere, whether a cluster has such a Service or not.
fn inaccessible() {
    let mut set = Clusterset::new();
    set.apply(0, &service(&none()));
    set.tell();
    for index in &set.indexes {
        let target: Target = "name:hello.mcs.svc.clusterset.local:42".parse().unwrap();
        let found = compile::lookup(index, &target, "mcs").value;
        assert!(matches!(found, Some(Lookup::Outside { .. })), "{found:?}");
    }
    assert!(set.import(0).is_none() && set.import(1).is_none());
}

/// A cluster that has not heard of a peer yet says nothing of conflicts: there may be one, and saying that there is none would
/// be taken back.
#[test]
fn that_there_is_no_conflict_is_said_once_all_peers_were_heard() {
    let (plain, headless) = (service(&none()), service(&json!({"clusterIP": "None"})));
    let said = |set: &Clusterset| {
        let statuses = set.indexes[0].written_statuses().into_iter();
        let conditions = statuses
            .filter(|status| status.object == reference())
            .flat_map(|status| status.conditions);
        let mut conflict = conditions.filter(|condition| condition.r#type == ConditionType::Conflict);
        conflict.next().map(|condition| condition.status)
    };
    let mut set = Clusterset::exporting(&plain);
    set.indexes[0].forget("two");
    assert_eq!(said(&set), None);
    set.apply(1, &headless);
    set.apply(1, &export(2, &none()));
    set.tell();
    assert_eq!(
        said(&set),
        Some(true),
        "a conflict that is known is told whoever else may come"
    );
    set.unexport(1);
    assert_eq!(said(&set), None, "the other cluster has not said all that it has");
}
