//! Which peers and exports act, what is said of them, and what depends on them.

use std::path::Path;
use std::time::SystemTime;

use weft_certs::authority::Authority;
use weft_model::identity::TrustDomain;

use super::*;
use crate::index::{Condition, ConditionType};
use crate::manifests::{Changes, Snapshot, Writer, parse};
use crate::objects::{Kinds, ObjectRef, Severity};

/// The index of a cluster called `one`, of the trust domain `one.example`.
struct World {
    index: Index,
    version: u64,
}

impl World {
    fn new(yaml: &str) -> Self {
        let index = Index::new(Settings {
            trust_domain: TrustDomain::new("one.example").unwrap(),
            network: "c".to_owned(),
            cluster: "one".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            inside: Vec::new(),
            outside: Vec::new(),
        });
        let mut world = Self { index, version: 0 };
        let objects = world.objects(yaml);
        world.index.replace(&Snapshot {
            objects,
            ..Snapshot::default()
        });
        world
    }

    fn objects(&mut self, yaml: &str) -> Vec<Arc<Object>> {
        self.version += 1;
        let snapshot = parse(Path::new("a.yaml"), yaml, Writer::Machine, &Kinds::control()).unwrap();
        let numbered = |object: Arc<Object>| {
            let mut object = Arc::unwrap_or_clone(object);
            object.resource_version = self.version;
            Arc::new(object)
        };
        snapshot.objects.into_iter().map(numbered).collect()
    }

    fn edit(&mut self, yaml: &str) -> Changed {
        let upserts = self.objects(yaml);
        self.index.apply(&Changes {
            upserts,
            ..Changes::default()
        })
    }

    fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> Changed {
        self.index.apply(&Changes {
            deletes: vec![reference(kind, namespace, name)],
            ..Changes::default()
        })
    }

    #[track_caller]
    fn condition(&self, of: &ObjectRef, r#type: ConditionType) -> Condition {
        let statuses = self.index.written_statuses();
        let status = statuses
            .into_iter()
            .find(|status| status.object == *of)
            .expect("a status");
        let mut conditions = status.conditions.into_iter();
        conditions
            .find(|condition| condition.r#type == r#type)
            .expect("the condition")
    }

    /// The names of the peers that act.
    fn acting(&self) -> Vec<&str> {
        self.index.peers().map(|(name, _)| name).collect()
    }
}

fn reference(kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn of_peer(name: &str) -> ObjectRef {
    reference("ClusterPeer", "", name)
}

/// A document of a peer. `created`: in seconds, on one day.
fn peer(name: &str, domain: &str, created: Option<u8>, more: &str) -> String {
    let authority = Authority::create(TrustDomain::new(domain).unwrap(), SystemTime::now()).unwrap();
    let roots = authority.bundle(0).to_pem().replace('\n', "\\n");
    let created = created.map(|second| format!(", creationTimestamp: '2026-01-01T00:00:{second:02}Z'"));
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: ClusterPeer\nmetadata: {{name: {name}{}}}\nspec:\n  trustDomain: {domain}\n  \
         trustBundle: {{roots: \"{roots}\"}}\n  endpoints: ['{name}.example:15013']\n{more}---\n",
        created.unwrap_or_default()
    )
}

#[test]
fn a_valid_peer_acts_and_says_so() {
    let world = World::new(&peer("two", "two.example", None, ""));
    assert_eq!(world.acting(), ["two"]);
    assert_eq!(world.index.peer("two").unwrap().trust_domain.as_str(), "two.example");
    let condition = world.condition(&of_peer("two"), ConditionType::Accepted);
    assert!(condition.status && condition.reason == "Accepted");
    assert!(world.index.problems().is_empty());
    assert!(world.index.written(&of_peer("two")).is_some());
}

#[test]
fn this_cluster_is_no_peer_of_its_own_by_name_or_by_trust_domain() {
    for (name, domain, field) in [
        ("one", "two.example", "metadata.name"),
        ("two", "one.example", "spec.trustDomain"),
    ] {
        let world = World::new(&peer(name, domain, None, ""));
        assert!(world.acting().is_empty(), "{name} {domain}");
        let condition = world.condition(&of_peer(name), ConditionType::Accepted);
        assert!(!condition.status && condition.field == field, "{condition:?}");
        for named in [name, "one"] {
            assert!(condition.message.contains(named), "{}", condition.message);
        }
        assert!(!condition.fix.is_empty());
    }
}

#[test]
fn of_two_peers_of_one_trust_domain_the_older_acts_and_the_other_says_which() {
    let yaml = peer("two", "two.example", Some(9), "") + &peer("zwei", "two.example", Some(1), "");
    let mut world = World::new(&yaml);
    assert_eq!(world.acting(), ["zwei"]);
    let condition = world.condition(&of_peer("two"), ConditionType::Accepted);
    assert_eq!((condition.status, condition.reason.as_str()), (false, "Conflicted"));
    assert!(condition.message.contains("ClusterPeer zwei") && condition.message.contains("two does not"));
    assert!(world.condition(&of_peer("zwei"), ConditionType::Accepted).status);
    let [problem] = &world.index.problems()[..] else {
        panic!("{:?}", world.index.problems())
    };
    assert_eq!(
        (problem.severity, problem.field.as_str()),
        (Severity::Error, "spec.trustDomain")
    );
    assert!(!problem.fix.is_empty());
    world.delete("ClusterPeer", "", "zwei");
    assert_eq!(world.acting(), ["two"], "which is alone now");
    assert!(world.condition(&of_peer("two"), ConditionType::Accepted).status);
}

#[test]
fn where_nobody_says_which_peer_is_older_the_first_name_acts() {
    let yaml = peer("b", "two.example", None, "") + &peer("a", "two.example", None, "");
    assert_eq!(World::new(&yaml).acting(), ["a"]);
    let yaml = peer("b", "two.example", Some(1), "") + &peer("a", "two.example", None, "");
    assert_eq!(World::new(&yaml).acting(), ["b"]);
}

#[test]
fn a_peer_that_becomes_invalid_keeps_its_last_valid_form_and_its_trust_domain() {
    let mut world = World::new(&peer("two", "two.example", None, "  imports: [{namespaces: [shop]}]\n"));
    world.edit(&peer("two", "three.example", None, "  export: []\n"));
    let held = world.index.peer("two").expect("it acts as it was");
    assert_eq!((held.trust_domain.as_str(), held.imports.len()), ("two.example", 1));
    let condition = world.condition(&of_peer("two"), ConditionType::Accepted);
    assert!(!condition.status && condition.message.contains("version 1 of it still acts"));
    world.edit(&peer("drei", "three.example", None, ""));
    world.edit(&peer("zwei", "two.example", None, ""));
    assert_eq!(world.acting(), ["drei", "two"]);
}

#[test]
fn the_bundle_of_a_peer_may_be_mended_but_never_goes_back_unless_it_is_removed_first() {
    let at = |sequence: u64| {
        let sequence = format!("trustBundle: {{sequence: {sequence}, roots");
        peer("two", "two.example", None, "").replace("trustBundle: {roots", &sequence)
    };
    let mut world = World::new(&at(2));
    let bundle = |world: &World| world.index.peer("two").expect("it acts").bundle.clone();
    let first = bundle(&world);
    world.edit(&at(2));
    let mended = bundle(&world);
    assert!(first != mended && mended.sequence() == 2);
    world.edit(&at(1));
    assert_eq!(bundle(&world), mended);
    let condition = world.condition(&of_peer("two"), ConditionType::Accepted);
    assert!(
        !condition.status && condition.message.contains("never goes back"),
        "{condition:?}"
    );
    assert_eq!(condition.field, "spec.trustBundle.sequence");
    assert!(
        condition.fix.starts_with("delete the ClusterPeer two, wait"),
        "{condition:?}"
    );
    world.delete("ClusterPeer", "", "two");
    world.edit(&at(1));
    assert_eq!(bundle(&world).sequence(), 1);
}

#[test]
fn any_change_of_a_peer_is_one_of_the_peers() {
    let mut world = World::new("");
    let peers = Changed {
        topics: [Topic::Peers].into(),
    };
    assert_eq!(world.edit(&peer("two", "two.example", None, "")), peers);
    assert_eq!(world.edit(&peer("two", "two.example", None, "  network: n\n")), peers);
    assert_eq!(world.delete("ClusterPeer", "", "two"), peers);
    assert_eq!(world.index.replace(&Snapshot::default()), Changed::default());
}

const EXPORT: &str = "
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: web, namespace: shop}
spec: {exportedLabels: {tier: front}}
";
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
";

fn web() -> Name {
    Name::new("shop", "web")
}

#[test]
fn an_export_is_valid_while_there_is_a_service_that_can_be_exported() {
    let of = reference("ServiceExport", "shop", "web");
    let mut world = World::new(EXPORT);
    let said = |world: &World| {
        let condition = world.condition(&of, ConditionType::Valid);
        (condition.status, condition.reason)
    };
    assert_eq!(said(&world), (false, "NoService".to_owned()));
    assert!(world.index.export(&web()).is_none());
    assert_eq!(world.index.problems()[0].severity, Severity::Warning);
    world.edit(SERVICE);
    assert_eq!(said(&world), (true, "Valid".to_owned()));
    assert_eq!(world.index.export(&web()).unwrap().labels["tier"], "front");
    assert_eq!(world.index.exports().count(), 1);
    world.edit(&SERVICE.replace(
        "spec: {clusterIP: 10.96.0.1, ",
        "spec: {type: ExternalName, externalName: a.example, ",
    ));
    assert_eq!(said(&world), (false, "InvalidServiceType".to_owned()));
    assert!(world.index.exports().next().is_none());
}

#[test]
fn a_service_that_is_here_only_because_others_export_it_is_not_exported_again() {
    let label = "metadata: {name: web, namespace: shop, labels: {weft.dev/import: 'true'}}";
    let imported = SERVICE.replace("metadata: {name: web, namespace: shop}", label);
    let mut world = World::new(&format!("{imported}---{EXPORT}"));
    let condition = world.condition(&reference("ServiceExport", "shop", "web"), ConditionType::Valid);
    assert_eq!((condition.status, condition.reason.as_str()), (false, "NoService"));
    assert!(world.index.own_export(&web()).is_none() && !world.index.has_own(&web()));
    world.edit(SERVICE);
    assert!(world.index.own_export(&web()).is_some() && world.index.has_own(&web()));
}

#[test]
fn a_refused_export_says_so_and_keeps_its_last_valid_form() {
    let mut world = World::new(&format!("{SERVICE}---{EXPORT}"));
    world.edit(&EXPORT.replace("{tier: front}", "{tier: 1}"));
    let condition = world.condition(&reference("ServiceExport", "shop", "web"), ConditionType::Valid);
    assert!(
        !condition.status && condition.field == "spec.exportedLabels.tier",
        "{condition:?}"
    );
    assert!(world.index.export(&web()).is_some());
}

#[test]
fn which_exports_there_are_changes_with_their_coming_and_going_alone() {
    let mut world = World::new(SERVICE);
    let came = world.edit(EXPORT).topics;
    assert_eq!(came, [Topic::Export(web()), Topic::Exports].into());
    let edited = world.edit(&EXPORT.replace("front", "back")).topics;
    assert_eq!(edited, [Topic::Export(web())].into());
    let gone = world.delete("ServiceExport", "shop", "web").topics;
    assert_eq!(gone, came);
    let old = EXPORT.replace("v1beta1", "v1alpha1");
    assert_eq!(world.edit(&old).topics, came);
}

#[test]
fn an_import_is_known_by_its_name_and_a_wrong_one_is_told() {
    let import = |kind: &str| {
        format!(
            "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceImport\nmetadata: {{name: web, namespace: shop}}\n\
             spec: {{type: {kind}, ports: [{{port: 80}}]}}\n"
        )
    };
    let mut world = World::new("");
    assert_eq!(world.edit(&import("Headless")).topics, [Topic::Import(web())].into());
    assert!(world.index.imports[&web()].form().unwrap().headless);
    assert!(world.index.problems().is_empty());
    world.edit(&import("Anycast"));
    assert_eq!(world.index.problems()[0].field, "spec.type");
    assert_eq!(
        world.delete("ServiceImport", "shop", "web").topics,
        [Topic::Import(web())].into()
    );
    assert!(world.index.imports.is_empty());
}

#[test]
fn a_service_that_is_here_only_because_of_an_import_is_not_exported() {
    let service = |labels: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop, labels: {labels}}}, \
             spec: {{ports: [{{port: 80}}]}}}}"
        )
    };
    let export = "{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, \
                   metadata: {name: web, namespace: shop}}";
    let mut world = World::new(&format!("{}\n---\n{export}", service("{weft.dev/import: 'true'}")));
    let name = Name::new("shop", "web");
    assert!(world.index.export(&name).is_none() && world.index.imported().is_empty());
    let why = world.index.unexported(&name).unwrap();
    assert_eq!(why.reason, "NoService");
    assert!(why.message.contains("other clusters export it"), "{}", why.message);
    let changed = world.edit(&service("{}"));
    assert!(changed.topics.contains(&Topic::Service(name.clone())));
    assert!(world.index.export(&name).is_some() && world.index.imported().contains(&name));
}

#[test]
fn an_endpoint_slice_of_an_import_says_nothing_of_this_cluster() {
    let slice = |manager: &str| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s, namespace: shop, \
             labels: {{kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: {manager}}}}}, \
             addressType: IPv4, ports: [{{name: '', port: 80}}], endpoints: [{{addresses: [10.1.0.7]}}]}}"
        )
    };
    let mut world = World::new(&slice("imports.weft.dev"));
    assert!(world.index.slices.is_empty());
    world.edit(&slice("somebody"));
    assert_eq!(world.index.slices.len(), 1);
    let changed = world.edit(&slice("imports.weft.dev"));
    assert!(world.index.slices.is_empty());
    assert!(changed.topics.contains(&Topic::Endpoints(Name::new("shop", "web"))));
}

#[test]
fn an_export_says_whom_it_can_be_had_by_and_one_that_nobody_can_have_says_why() {
    let of = reference("ServiceExport", "shop", "web");
    let said = |world: &World| {
        let condition = world.condition(&of, ConditionType::Ready);
        (condition.status, condition.reason, condition.message)
    };
    let mut world = World::new(EXPORT);
    let (status, reason, message) = said(&world);
    assert_eq!((status, reason.as_str()), (false, "Failed"));
    assert!(message.contains("there is no Service shop/web"), "{message}");
    world.edit(SERVICE);
    let (status, reason, message) = said(&world);
    assert_eq!((status, reason.as_str()), (true, "Ready"));
    assert!(message.contains("no ClusterPeer"), "{message}");
    world.edit(&peer("two", "two.example", None, ""));
    world.edit(&peer("three", "three.example", None, "  exports: []\n"));
    assert_eq!(said(&world).2, "it can be had by two");
    // The last valid form goes on.
    world.edit(&EXPORT.replace("{tier: front}", "{tier: 1}"));
    assert!(said(&world).0 && !world.condition(&of, ConditionType::Valid).status);
    // Of Kubernetes itself nothing is shared.
    let mut world = World::new(&format!("{SERVICE}---{EXPORT}").replace("namespace: shop", "namespace: kube-system"));
    let of = reference("ServiceExport", "kube-system", "web");
    let condition = world.condition(&of, ConditionType::Ready);
    assert!(
        !condition.status && condition.message.contains("nothing of it is shared"),
        "{condition:?}"
    );
    assert!(world.condition(&of, ConditionType::Valid).status);
    let statuses = world.index.written_statuses();
    let conflict = statuses[0]
        .conditions
        .iter()
        .find(|condition| condition.r#type == ConditionType::Conflict);
    assert!(conflict.is_none(), "it takes no part");
    world.delete("ServiceExport", "kube-system", "web");
    assert!(world.index.problems().is_empty());
}
