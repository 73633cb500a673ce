//! What is done for imports, against objects as an API server would have them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::json;

use super::super::kinds::Kind;
use super::super::object;
use super::*;
use crate::federation::derived::{IMPORT_LABEL, derived_name};
use crate::federation::merge::{
    Conflict, ImportType, InternalTrafficPolicy, IpFamily, Merged, Port, Protocol, SessionAffinity,
};
use crate::federation::slices::{Backend, Backends};
use crate::index::Name;
use crate::objects::Object;
use crate::status::{Import, Wanted};

const DERIVED: &str = "weft-import-c1c97e5699";

fn kind(name: &str) -> Kind {
    Kind::all().into_iter().find(|kind| kind.kind == name).unwrap()
}

/// A Service as the API server shows it.
pub(super) fn service(raw: Value) -> Object {
    read("Service", raw)
}

fn read(name: &str, raw: Value) -> Object {
    let version = match raw["apiVersion"].as_str().and_then(|version| version.split_once('/')) {
        Some((_, version)) => version.to_owned(),
        None if name == "ServiceImport" => "v1beta1".to_owned(),
        None => "v1".to_owned(),
    };
    object::read(&kind(name), &version, raw)
        .map_err(|(_, problem)| problem)
        .unwrap()
}

fn reviews() -> Name {
    Name::new("shop", "reviews")
}

pub(super) fn merged(clusters: &[&str]) -> Merged {
    Merged {
        kind: ImportType::ClusterSetIP,
        ports: vec![Port {
            name: "http".to_owned(),
            port: 80,
            protocol: Protocol::Tcp,
            app_protocol: None,
        }],
        session_affinity: SessionAffinity::None,
        ip_families: vec![IpFamily::V4],
        internal_traffic_policy: InternalTrafficPolicy::Cluster,
        traffic_distribution: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        clusters: clusters.iter().map(|&cluster| cluster.to_owned()).collect(),
        conflict: Conflict {
            status: false,
            reason: String::new(),
            message: String::new(),
        },
    }
}

/// `shop/reviews` of the cluster `west`, behind its gateways.
fn wanted() -> Wanted {
    Wanted {
        imports: vec![Import {
            service: reviews(),
            merged: merged(&["west"]),
            backends: Vec::new(),
            apart: BTreeSet::from(["west".to_owned()]),
        }],
        peers: peers(),
        ..Wanted::default()
    }
}

fn peers() -> BTreeSet<String> {
    ["west", "north", "south"].map(str::to_owned).into()
}

/// The same in a flat network, with a pod.
fn flat() -> Wanted {
    let mut wanted = wanted();
    let import = &mut wanted.imports[0];
    import.apart.clear();
    let backend = Backend {
        ports: [(80, 8080)].into(),
        ..Backend::default()
    };
    import.backends.push(Backends {
        cluster: "west".to_owned(),
        pods: [(IpAddr::from([10, 1, 0, 7]), backend)].into(),
    });
    wanted
}

/// An API server that does what it is told.
struct World {
    shown: Shown,
    version: u64,
}

impl World {
    fn new() -> Self {
        let world = Self {
            shown: Shown::new(&[]),
            version: 1,
        };
        world.shown.listed(&kind("ServiceImport"), "v1beta1", 1, 0, Vec::new());
        let mut world = world;
        world.put("Namespace", json!({"metadata": {"name": "shop"}}));
        world
    }

    fn put(&mut self, name: &str, mut raw: Value) {
        self.version += 1;
        let metadata = &mut raw["metadata"];
        if metadata["uid"].is_null() {
            metadata["uid"] = format!("uid-{}", self.version).into();
        }
        metadata["resourceVersion"] = self.version.to_string().into();
        self.shown.put(&kind(name), Ok(read(name, raw)));
    }

    fn get(&self, kind: &str, name: &str) -> Option<Arc<Object>> {
        self.shown.object(&ObjectRef {
            kind: kind.to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        })
    }

    fn plan(&self, wanted: &Wanted) -> Plan {
        self.plan_for(wanted, 1000)
    }

    fn plan_for(&self, wanted: &Wanted, most: usize) -> Plan {
        plan::plan(wanted, &self.shown, "2026-01-01T00:00:00Z", most)
    }

    fn act(&mut self, deed: Deed) {
        let there = self.shown.object(&deed.object);
        match deed.act {
            Act::Make(mut document) | Act::Mend(mut document) => {
                document["metadata"]["managedFields"] = json!([{"manager": MANAGER, "fieldsV1": {"f:spec": {}}}]);
                if deed.object.kind == "Service" && document["spec"]["clusterIP"] != "None" {
                    document["spec"]["clusterIPs"] = json!(["10.96.0.7"]);
                }
                if let Some(there) = there {
                    document["metadata"]["uid"] = there.uid.as_str().into();
                    document["status"] = there.raw["status"].clone();
                }
                self.put(&deed.object.kind, document);
            }
            Act::Status(document) => {
                let mut raw = there.unwrap().raw.clone();
                raw["status"] = document["status"].clone();
                self.put(&deed.object.kind, raw);
            }
            Act::Delete => self.shown.gone(&kind(&deed.object.kind), deed.object, self.version),
            Act::GiveUp(_) => panic!("{deed:?}"),
        }
    }

    /// Does what is to be done until nothing is. Returns what was done.
    fn keep(&mut self, wanted: &Wanted) -> Vec<String> {
        let mut done = Vec::new();
        loop {
            let deeds = self.plan(wanted).deeds;
            if deeds.is_empty() {
                return done;
            }
            assert!(done.len() < 20, "there is no end of it: {done:?}");
            for deed in deeds {
                done.push(told(&deed));
                self.act(deed);
            }
        }
    }
}

fn told(deed: &Deed) -> String {
    format!("{} {}", deed.act.word(), deed.object)
}

fn all(plan: &Plan) -> Vec<String> {
    plan.deeds.iter().map(told).collect()
}

#[test]
fn an_import_is_called_by_a_derived_service_and_by_its_own_name_and_then_nothing_is_left_to_do() {
    let mut world = World::new();
    let done = world.keep(&wanted());
    assert_eq!(derived_name(&reviews()), DERIVED);
    let derived = format!("made Service shop/{DERIVED}");
    let import = "ServiceImport shop/reviews";
    let expected = [
        &derived,
        "made Service shop/reviews",
        &format!("made {import}"),
        // By now its derived Service has an address.
        &format!("mended {import}"),
        &format!("status {import}"),
        // And says so only when it says that address.
        &format!("status {import}"),
    ];
    assert_eq!(done, expected);
    let import = world.get("ServiceImport", "reviews").unwrap();
    assert_eq!(import.raw["spec"]["ips"], json!(["10.96.0.7"]));
    assert_eq!(import.raw["status"]["clusters"], json!([{"cluster": "west"}]));
    let conditions = &import.raw["status"]["conditions"];
    assert_eq!(
        (&conditions[0]["type"], &conditions[0]["status"]),
        (&json!("Ready"), &json!("True"))
    );
    assert_eq!(conditions[1]["reason"], "OtherNetwork");
    assert!(conditions[1]["message"].as_str().unwrap().contains("west"));
}

#[test]
fn what_changes_is_written_and_what_does_not_keeps_its_time() {
    let mut world = World::new();
    world.keep(&wanted());
    let mut more = wanted();
    let merged = &mut more.imports[0].merged;
    merged.clusters.insert("north".to_owned());
    merged.annotations.insert("example.com/a".to_owned(), "b".to_owned());
    let plan = plan::plan(&more, &world.shown, "2027-01-01T00:00:00Z", 1000);
    assert_eq!(
        all(&plan),
        ["mended ServiceImport shop/reviews", "status ServiceImport shop/reviews"]
    );
    let Act::Status(status) = &plan.deeds[1].act else {
        panic!()
    };
    let since = |at: usize| &status["status"]["conditions"][at]["lastTransitionTime"];
    assert_eq!(since(0), "2026-01-01T00:00:00Z");
    let Act::Mend(document) = &plan.deeds[0].act else {
        panic!()
    };
    let there = world.get("ServiceImport", "reviews").unwrap();
    assert_eq!(document["metadata"]["uid"], there.uid.as_str());
    assert_eq!(
        document["metadata"]["resourceVersion"],
        there.resource_version.to_string()
    );

    // A field that goes is not there to be compared with.
    world.keep(&more);
    more.imports[0].merged.annotations.clear();
    assert_eq!(all(&world.plan(&more)), ["mended ServiceImport shop/reviews"]);
}

#[test]
fn what_people_change_of_what_is_ours_is_mended() {
    let mut world = World::new();
    world.keep(&wanted());
    let mut raw = world.get("Service", DERIVED).unwrap().raw.clone();
    raw["spec"]["ports"][0]["port"] = json!(81);
    world.put("Service", raw);
    assert_eq!(all(&world.plan(&wanted())), [format!("mended Service shop/{DERIVED}")]);
}

#[test]
fn a_service_of_this_cluster_is_never_written() {
    let mut world = World::new();
    world.put(
        "Service",
        json!({"metadata": {"name": "reviews", "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}}),
    );
    let done = world.keep(&wanted());
    assert!(
        !done.iter().any(|done| done.ends_with("Service shop/reviews")),
        "{done:?}"
    );

    let mut world = World::new();
    let labels = json!({IMPORT_LABEL: "true"});
    world.put(
        "Service",
        json!({"metadata": {"name": "reviews", "namespace": "shop", "labels": labels}, "spec": {}}),
    );
    let plan = world.plan(&wanted());
    assert!(!all(&plan).iter().any(|done| done.ends_with("Service shop/reviews")));
    assert!(plan.faults["Service shop/reviews"].contains("remove the label"));
    assert!(all(&world.plan(&Wanted::default())).is_empty(), "and it is not deleted");
}

#[test]
fn a_service_of_ours_that_somebody_else_claims_is_given_up_with_or_without_an_import() {
    let mut world = World::new();
    world.keep(&wanted());
    let mut raw = world.get("Service", "reviews").unwrap().raw.clone();
    let theirs = json!({"manager": "kubectl", "fieldsV1": {"f:spec": {"f:selector": {}}}});
    raw["metadata"]["managedFields"].as_array_mut().unwrap().push(theirs);
    world.put("Service", raw);
    assert_eq!(all(&world.plan(&wanted())), ["given up Service shop/reviews"]);
    let without = all(&world.plan(&Wanted::default()));
    assert!(
        without.contains(&"given up Service shop/reviews".to_owned()),
        "{without:?}"
    );
    assert!(
        !without.contains(&"deleted Service shop/reviews".to_owned()),
        "{without:?}"
    );
}

#[test]
fn behind_a_service_that_was_given_up_nothing_of_ours_is_left_also_while_its_cluster_is_not_heard() {
    let unheard = BTreeSet::from(["west".to_owned()]);
    let now = [
        flat(),
        Wanted {
            unheard: unheard.clone(),
            ..flat()
        },
        Wanted {
            unheard,
            ..Wanted::default()
        },
    ];
    for wanted in now {
        let mut world = World::new();
        world.keep(&flat());
        let mut raw = world.get("Service", "reviews").unwrap().raw.clone();
        let theirs = json!({"manager": "kubectl", "fieldsV1": {"f:spec": {"f:selector": {}}}});
        raw["metadata"]["managedFields"].as_array_mut().unwrap().push(theirs);
        world.put("Service", raw.clone());
        let plan = world.plan(&wanted);
        let behind = |world: &World, deed: &Deed| {
            let slice = world.get("EndpointSlice", &deed.object.name);
            slice.map(|slice| slice.labels["kubernetes.io/service-name"].clone())
        };
        let mut done: Vec<String> = plan
            .deeds
            .iter()
            .map(|deed| behind(&world, deed).unwrap_or_else(|| told(deed)))
            .collect();
        done.sort();
        assert_eq!(done, ["given up Service shop/reviews", "reviews"]);

        // Nor if it was given up, and what was behind it is still there.
        raw["metadata"]["labels"] = json!({});
        raw["metadata"]["managedFields"].as_array_mut().unwrap().remove(0);
        world.put("Service", raw);
        let plan = world.plan(&wanted);
        let [deleted] = &plan.deeds[..] else {
            panic!("{:?}", plan.deeds);
        };
        assert!(
            matches!(deleted.act, Act::Delete) && behind(&world, deleted).as_deref() == Some("reviews"),
            "{deleted:?}"
        );
    }
}

#[test]
fn what_is_somebody_elses_is_left_and_told_of() {
    let mut world = World::new();
    let spec = json!({"type": "ClusterSetIP", "ports": []});
    world.put(
        "ServiceImport",
        json!({"metadata": {"name": "reviews", "namespace": "shop"}, "spec": spec}),
    );
    world.put(
        "Service",
        json!({"metadata": {"name": DERIVED, "namespace": "shop"}, "spec": {}}),
    );
    let plan = world.plan(&wanted());
    assert_eq!(all(&plan), ["made Service shop/reviews"]);
    for of in [
        format!("Service shop/{DERIVED}"),
        "ServiceImport shop/reviews".to_owned(),
    ] {
        assert!(plan.faults[&of].contains("somebody else's"), "{of}");
    }
}

#[test]
fn an_endpoint_slice_of_our_name_that_somebody_else_has_made_is_left_and_told_of() {
    let mut world = World::new();
    world.keep(&flat());
    let mut raw = world.shown.of_kind("EndpointSlice")[0].raw.clone();
    let name = raw["metadata"]["name"].as_str().unwrap().to_owned();
    raw["endpoints"] = json!([]);
    raw["metadata"]["managedFields"] = json!([{"manager": "kubectl", "fieldsV1": {}}]);
    world.put("EndpointSlice", raw.clone());
    let plan = world.plan(&flat());
    assert_eq!(all(&plan), Vec::<String>::new());
    assert!(plan.faults[&format!("EndpointSlice shop/{name}")].contains("somebody else's"));

    raw["metadata"]["managedFields"] = json!([{"manager": MANAGER, "fieldsV1": {}}]);
    world.put("EndpointSlice", raw);
    assert_eq!(all(&world.plan(&flat())), [format!("mended EndpointSlice shop/{name}")]);
}

#[test]
fn imports_of_peers_that_find_no_room_become_no_objects_and_each_peer_is_told_what_to_narrow() {
    let mut world = World::new();
    let mut both = wanted();
    both.imports.push(Import {
        service: Name::new("shop", "web"),
        ..both.imports[0].clone()
    });
    let none = world.plan_for(&both, 0);
    assert!(none.deeds.is_empty(), "{none:?}");
    let why = &none.faults["ClusterPeer west"];
    assert!(why.starts_with("2 of the Services that west exports, the first of them shop/reviews,"));
    assert!(why.contains("narrow spec.imports"), "{why}");

    // What is there stays, and what is new waits.
    world.keep(&wanted());
    let plan = world.plan_for(&both, 1);
    assert!(plan.deeds.is_empty(), "{plan:?}");
    assert!(plan.faults["ClusterPeer west"].contains("the first of them shop/web,"));
    let plan = world.plan_for(&both, 2);
    assert_eq!((plan.deeds.len(), plan.faults.len()), (3, 0));

    // This cluster's own export is its own choice.
    both.imports[1].merged.clusters.insert("here".to_owned());
    assert_eq!(world.plan_for(&both, 1).deeds.len(), 3);
}

#[test]
fn nothing_is_imported_into_a_namespace_that_is_not_here_or_ends() {
    let mut world = World::new();
    let mut away = wanted();
    away.imports[0].service.namespace = "away".to_owned();
    let plan = world.plan(&away);
    assert!(plan.deeds.is_empty());
    assert!(plan.faults["ServiceImport away/reviews"].contains("the Namespace away is not in this cluster"));

    let ending = json!({"metadata": {"name": "away", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    world.put("Namespace", ending);
    let plan = world.plan(&away);
    assert!(plan.deeds.is_empty() && plan.faults.is_empty());
}

#[test]
fn without_the_crd_of_service_imports_services_are_there_all_the_same() {
    let mut world = World::new();
    world.shown.absent(&kind("ServiceImport"), 0);
    let plan = world.plan(&wanted());
    assert!(plan.faults["ServiceImport"].contains("CRDs"));
    assert_eq!(world.keep(&wanted()).len(), 2);
    let shown = world.keep(&Wanted::default());
    assert_eq!(shown.len(), 2, "{shown:?}");
}

#[test]
fn where_there_is_only_the_first_version_of_service_imports_they_have_only_what_that_declares() {
    let mut world = World::new();
    world.shown.listed(&kind("ServiceImport"), "v1alpha1", 1, 0, Vec::new());
    world.keep(&wanted());
    let import = world.get("ServiceImport", "reviews").unwrap();
    assert_eq!(import.raw["apiVersion"], "multicluster.x-k8s.io/v1alpha1");
    let fields: Vec<&String> = import.raw["spec"].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["ips", "ports", "sessionAffinity", "type"]);
    assert_eq!(
        import.raw["status"],
        json!({"clusters": [{"cluster": "west"}]}),
        "it says of whom it is"
    );
    // The version that declares all has all.
    world.shown.listed(&kind("ServiceImport"), "v1beta1", 2, 0, Vec::new());
    world.keep(&wanted());
    let import = world.get("ServiceImport", "reviews").unwrap();
    assert!(import.raw["spec"]["internalTrafficPolicy"] == "Cluster" && import.raw["status"]["conditions"].is_array());
}

#[test]
fn what_is_of_no_import_any_more_is_deleted_and_the_import_itself_last() {
    let mut world = World::new();
    world.keep(&flat());
    let done = world.keep(&Wanted::default());
    assert_eq!(done.len(), 5, "{done:?}");
    assert_eq!(done.last().unwrap(), "deleted ServiceImport shop/reviews");
    assert!(world.get("Service", DERIVED).is_none() && world.get("Service", "reviews").is_none());
}

#[test]
fn nothing_goes_while_it_is_not_known_what_a_peer_exports() {
    let mut world = World::new();
    let mut both = flat();
    both.imports[0].merged.clusters.insert("north".to_owned());
    world.keep(&both);
    for cluster in ["west", "north"] {
        let unheard = BTreeSet::from([cluster.to_owned()]);
        let nothing = Wanted {
            unheard: unheard.clone(),
            ..Wanted::default()
        };
        // But for the endpoints of the other one, of which it is known that it exports nothing.
        let is_slice = |deed: &Deed| deed.object.kind == "EndpointSlice";
        let deeds = world.plan(&nothing).deeds;
        assert_eq!(
            deeds.iter().filter(|deed| is_slice(deed)).count(),
            if cluster == "north" { 2 } else { 0 }
        );
        assert!(deeds.iter().all(is_slice), "{deeds:?}");
        // Nor does an import become what the others alone would make of it.
        let fewer = Wanted { unheard, ..flat() };
        assert!(world.plan(&fewer).deeds.is_empty());
    }
    let other = Wanted {
        unheard: BTreeSet::from(["south".to_owned()]),
        ..Wanted::default()
    };
    assert!(
        !world.plan(&other).deeds.is_empty(),
        "a peer that has nothing to do with it holds nothing up"
    );
}

/// A flat import of these clusters, each with a pod.
fn flat_of(pods: &[(&str, [u8; 4])]) -> Wanted {
    let mut wanted = flat();
    let import = &mut wanted.imports[0];
    let backend = import.backends.remove(0).pods.into_values().next().unwrap();
    for (cluster, ip) in pods {
        import.merged.clusters.insert((*cluster).to_owned());
        import.backends.push(Backends {
            cluster: (*cluster).to_owned(),
            pods: [(IpAddr::from(*ip), backend.clone())].into(),
        });
    }
    wanted.cluster = "here".to_owned();
    wanted
}

/// The addresses that clients outside the mesh find.
fn addresses(world: &World) -> BTreeSet<String> {
    let slices = world.shown.of_kind("EndpointSlice");
    let all = slices
        .iter()
        .flat_map(|slice| crate::federation::slices::addresses(slice));
    all.map(|ip| ip.to_string()).collect()
}

#[test]
fn while_a_peer_is_not_heard_the_pods_of_the_others_still_come_and_go() {
    let mut world = World::new();
    world.keep(&flat_of(&[
        ("here", [10, 0, 0, 1]),
        ("east", [10, 1, 0, 1]),
        ("west", [10, 2, 0, 1]),
    ]));
    let objects = |world: &World| {
        let of = |kind, name| world.get(kind, name).map(|object| object.resource_version);
        [
            of("Service", DERIVED),
            of("Service", "reviews"),
            of("ServiceImport", "reviews"),
        ]
    };
    let before = objects(&world);
    // Of east it is known only what was kept, and perhaps not even that.
    for east in [&[("east", [10, 1, 0, 9])][..], &[]] {
        let others = [("here", [10, 0, 0, 2]), ("west", [10, 2, 0, 2])];
        let mut now = flat_of(&[east, &others].concat());
        now.unheard = BTreeSet::from(["east".to_owned()]);
        world.keep(&now);
        assert_eq!(
            addresses(&world),
            ["10.0.0.2", "10.1.0.1", "10.2.0.2"].map(str::to_owned).into()
        );
        assert_eq!(objects(&world), before, "its Services and the import stay as they were");
    }
    // Nor does an end of all the others' exports take anything but their endpoints.
    let nobody = Wanted {
        unheard: BTreeSet::from(["east".to_owned()]),
        ..Wanted::default()
    };
    world.keep(&nobody);
    assert_eq!(addresses(&world), ["10.1.0.1".to_owned()].into());
    assert_eq!(objects(&world), before);
    world.keep(&Wanted::default());
    assert_eq!(objects(&world), [None; 3], "it is heard, and exports nothing");
}

/// The names of the ports of the EndpointSlice that has an address, and their numbers.
fn ports_of(world: &World, address: &str) -> Value {
    let slices = world.shown.of_kind("EndpointSlice");
    let has = |slice: &&Arc<Object>| slice.raw["endpoints"][0]["addresses"][0] == address;
    let slice = slices.iter().find(has).expect("a slice");
    let ports = slice.raw["ports"].as_array().expect("ports").iter();
    ports.map(|port| json!([port["name"], port["port"]])).collect()
}

#[test]
fn while_a_peer_is_not_heard_the_ports_of_the_others_are_called_as_the_service_that_is_there_calls_them() {
    let mut world = World::new();
    let mut all = flat_of(&[("here", [10, 0, 0, 1]), ("east", [10, 1, 0, 1])]);
    all.imports[0].merged.ports.push(Port {
        name: "admin".to_owned(),
        port: 9000,
        protocol: Protocol::Tcp,
        app_protocol: None,
    });
    world.keep(&all);
    // What east has named and added is not known now: by itself this cluster would leave its one port without a name.
    let mut alone = flat_of(&[("here", [10, 0, 0, 2])]);
    alone.imports[0].merged.ports[0].name = String::new();
    alone.unheard = BTreeSet::from(["east".to_owned()]);
    world.keep(&alone);
    assert_eq!(ports_of(&world, "10.0.0.2"), json!([["http", 8080]]));
    // When east has ended, they are called as this cluster has it.
    alone.unheard.clear();
    world.keep(&alone);
    assert_eq!(ports_of(&world, "10.0.0.2"), json!([["", 8080]]));
}

#[test]
fn nothing_goes_while_it_is_not_known_whether_this_cluster_exports_it_and_another_import_does_not_wait() {
    let mut world = World::new();
    world.keep(&flat_of(&[("here", [10, 0, 0, 1])]));
    let nothing = |unclear: &[Name]| Wanted {
        cluster: "here".to_owned(),
        unclear: unclear.iter().cloned().collect(),
        ..Wanted::default()
    };
    assert!(world.plan(&nothing(&[reviews()])).deeds.is_empty());
    assert!(!world.plan(&nothing(&[Name::new("shop", "ratings")])).deeds.is_empty());
}

#[test]
fn an_import_that_does_not_say_yet_of_which_clusters_it_is_waits_for_all() {
    let mut world = World::new();
    for deed in world.plan(&flat()).deeds {
        world.act(deed);
    }
    let import = world.get("ServiceImport", "reviews").unwrap();
    assert!(
        import.raw["status"]["clusters"].is_null(),
        "the process ended before it said so"
    );
    let unheard = |cluster: &str| Wanted {
        unheard: BTreeSet::from([cluster.to_owned()]),
        ..Wanted::default()
    };
    assert!(world.plan(&unheard("west")).deeds.is_empty());
    // It is made on as soon as its clusters are heard, whoever else is not.
    let now = Wanted {
        unheard: unheard("east").unheard,
        ..flat()
    };
    world.keep(&now);
    let import = world.get("ServiceImport", "reviews").unwrap();
    assert_eq!(import.raw["status"]["clusters"], json!([{"cluster": "west"}]));
}

#[test]
fn in_a_flat_network_clients_outside_the_mesh_find_what_is_behind_it_and_are_told_when_they_do_not() {
    let mut world = World::new();
    world.keep(&flat());
    let slices = world.shown.of_kind("EndpointSlice");
    assert_eq!(slices.len(), 2);
    for service in [DERIVED, "reviews"] {
        let service = world.get("Service", service).unwrap();
        let owner = |slice: &Object| slice.raw["metadata"]["ownerReferences"][0]["uid"].clone();
        let slice = slices
            .iter()
            .find(|slice| owner(slice) == service.uid.as_str())
            .unwrap();
        assert_eq!(slice.labels["kubernetes.io/service-name"], service.name);
        assert_eq!(slice.raw["endpoints"][0]["addresses"], json!(["10.1.0.7"]));
    }
    let outside = |world: &World| {
        let import = world.get("ServiceImport", "reviews").unwrap();
        import.raw["status"]["conditions"][1]["status"].clone()
    };
    assert_eq!(outside(&world), "True");
    let done = world.keep(&wanted());
    assert!(
        done.iter().any(|done| done.starts_with("deleted EndpointSlice")),
        "{done:?}"
    );
    assert_eq!(outside(&world), "False");
}

#[test]
fn a_service_whose_kind_of_address_changes_is_made_anew() {
    let mut world = World::new();
    world.keep(&wanted());
    let before = world.get("Service", DERIVED).unwrap().uid.clone();
    let mut headless = wanted();
    headless.imports[0].merged.kind = ImportType::Headless;
    let done = world.keep(&headless);
    assert!(done.contains(&format!("deleted Service shop/{DERIVED}")), "{done:?}");
    let after = world.get("Service", DERIVED).unwrap();
    assert!(after.uid != before && after.raw["spec"]["clusterIP"] == "None");
}

fn deed(world: &World) -> Deed {
    world.plan(&wanted()).deeds.remove(0)
}

#[tokio::test(start_paused = true)]
async fn what_was_written_waits_until_it_is_shown_and_is_not_written_again_for_nothing() {
    let mut world = World::new();
    let mut done = Done::default();
    done.put(&deed(&world), Became::Written("u".to_owned(), 9));
    let count = |done: &mut Done, deed: Deed| done.due(vec![deed], Instant::now()).0.len();
    assert_eq!(count(&mut done, deed(&world)), 0, "it is not shown yet");

    // The API server has it otherwise: in that very version nothing is to be done, in the next there is.
    let there = |version: u64| {
        let mut deed = deed(&world);
        deed.seen = Some(("u".to_owned(), version));
        deed
    };
    assert_eq!(count(&mut done, there(8)), 0);
    assert_eq!(count(&mut done, there(9)), 0);
    assert_eq!(count(&mut done, there(10)), 1);
    tokio::time::advance(SHOWN * 2).await;
    assert_eq!(count(&mut done, there(9)), 0);
    assert_eq!(count(&mut done, there(8)), 1, "nothing is waited for for ever");

    done.put(&there(10), Became::Gone("u".to_owned()));
    assert_eq!(count(&mut done, there(10)), 0, "it is on its way out");
    world.version += 1;
    assert_eq!(count(&mut done, deed(&world)), 1, "it is gone, and may be made anew");
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_tried_ever_more_rarely_and_keeps_nothing_else_waiting() {
    let world = World::new();
    let mut done = Done::default();
    let (begun, mut tries) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(3600) {
        let deeds = world.plan(&wanted()).deeds;
        let (due, next) = done.due(deeds, Instant::now());
        for deed in due {
            let failures = done.failures(&deed) + 1;
            let is_first = deed.object.name == DERIVED;
            tries += usize::from(is_first);
            done.put(&deed, Became::Refused(failures));
        }
        assert!(next <= LOOK);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert!((15..30).contains(&tries), "{tries}");
    let mut other = world.plan(&wanted()).deeds.remove(0);
    other.object.name = "other".to_owned();
    assert_eq!(done.due(vec![other], Instant::now()).0.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_round_has_a_bound_and_the_next_comes_soon() {
    let world = World::new();
    let many = (0..100).map(|n| {
        let mut deed = world.plan(&wanted()).deeds.remove(0);
        deed.object.name = format!("s{n}");
        deed
    });
    let (due, next) = Done::default().due(many.collect(), Instant::now());
    assert_eq!((due.len(), next), (ROUND, SPACING));
}

/// What a peer flips all the time: its ports in another form each time, of an object that is there in this version.
fn flipped(world: &World, number: u64) -> Deed {
    let mut deed = deed(world);
    deed.seen = Some(("u".to_owned(), number));
    let Act::Make(document) = &mut deed.act else { panic!() };
    document["metadata"]["annotations"][plan::DIGEST] = number.to_string().into();
    deed
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_to_be_another_all_the_time_is_written_a_few_times_at_once_and_then_seldom() {
    let world = World::new();
    let (mut done, mut writes) = (Done::default(), Vec::new());
    let begun = Instant::now();
    for number in 1..=300 {
        let (due, _) = done.due(vec![flipped(&world, number)], Instant::now());
        for deed in due {
            writes.push(begun.elapsed());
            done.put(&deed, Became::Written("u".to_owned(), number));
        }
        tokio::time::advance(Duration::from_millis(200)).await;
    }
    let at_once = writes.iter().filter(|at| **at < Duration::from_secs(1)).count();
    assert_eq!(at_once, BURST as usize, "the first of them at once: {writes:?}");
    assert!((14..=17).contains(&writes.len()), "{writes:?}");

    // Another one does not wait for that, and neither does this one after a while.
    let mut other = flipped(&world, 1);
    other.object.name = "other".to_owned();
    assert_eq!(done.due(vec![other], Instant::now()).0.len(), 1);
    tokio::time::advance(SPARE * BURST).await;
    for number in 400..400 + u64::from(BURST) {
        let (due, _) = done.due(vec![flipped(&world, number)], Instant::now());
        assert_eq!(due.len(), 1, "{number}");
        done.put(&due[0], Became::Written("u".to_owned(), number));
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_object_has_cost_counts_also_while_it_is_gone() {
    let world = World::new();
    let mut done = Done::default();
    for number in 1..=u64::from(BURST) {
        done.put(&flipped(&world, number), Became::Gone("u".to_owned()));
    }
    // Nothing is to be done for a while.
    done.due(Vec::new(), Instant::now());
    let made = |done: &mut Done| done.due(vec![deed(&world)], Instant::now());
    let (due, next) = made(&mut done);
    assert_eq!((due.len(), next), (0, SPARE));
    tokio::time::advance(SPARE).await;
    assert_eq!(made(&mut done).0.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn many_objects_that_are_due_at_each_look_keep_no_import_behind_them_waiting() {
    let world = World::new();
    let named = |import: &str, act: Act| Deed {
        of: Name::new("shop", import),
        object: ObjectRef {
            kind: "Service".to_owned(),
            namespace: "shop".to_owned(),
            name: import.to_owned(),
        },
        path: String::new(),
        seen: None,
        act,
    };
    let make = || match deed(&world).act {
        Act::Make(document) => Act::Make(document),
        act => panic!("{act:?}"),
    };
    let mut done = Done::default();
    let mut tried = Vec::new();
    // Of each look as many as fit are tried, and all of them are due again: a hundred of one peer, and what comes behind.
    for _ in 0..2 {
        let many = (0..100).map(|n| named(&format!("a{n:03}"), make()));
        let all = many
            .chain([named("reviews", make()), named("z", Act::Delete)])
            .collect();
        let (due, _) = done.due(all, Instant::now());
        done.turns.took(due.last().unwrap().of.clone());
        tried.extend(due.into_iter().map(|deed| deed.of.name));
    }
    assert!(
        tried.contains(&"reviews".to_owned()) && tried.contains(&"z".to_owned()),
        "{tried:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_status_is_the_same_whenever_it_is_said_and_what_was_refused_is_not_waited_for_once_it_is_another() {
    let mut world = World::new();
    world.keep(&wanted());
    let mut raw = world.get("ServiceImport", "reviews").unwrap().raw.clone();
    raw["status"] = json!({});
    world.put("ServiceImport", raw);
    let status = |wanted: &Wanted, now: &str| {
        let deeds = plan::plan(wanted, &world.shown, now, 1000).deeds;
        deeds
            .into_iter()
            .find(|deed| matches!(deed.act, Act::Status(_)))
            .unwrap()
    };
    let first = status(&wanted(), "2026-01-01T00:00:00Z");
    let later = status(&wanted(), "2027-01-01T00:00:00Z");
    assert_eq!(first.digest(), later.digest());
    let (uid, version) = first.seen.clone().unwrap();
    let mut done = Done::default();
    done.put(&first, Became::Written(uid, version));
    let count = |done: &mut Done, deed: Deed| done.due(vec![deed], Instant::now()).0.len();
    assert_eq!(count(&mut done, later), 0, "it was written, and is there otherwise");

    let mut more = wanted();
    more.imports[0].merged.clusters.insert("north".to_owned());
    let other = || status(&more, "2027-01-01T00:00:00Z");
    let mut done = Done::default();
    done.put(&first, Became::Refused(9));
    assert_eq!(count(&mut done, other()), 0);
    tokio::time::advance(RETRY).await;
    assert_eq!(count(&mut done, status(&wanted(), "2027-01-01T00:00:00Z")), 0);
    assert_eq!(count(&mut done, other()), 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_logged_once_and_what_comes_and_goes_once_in_a_while() {
    let mut logged = Logged::default();
    let fault = |what: &str, why: &str| BTreeMap::from([(what.to_owned(), why.to_owned())]);
    let news = |logged: &mut Logged, faults: &BTreeMap<String, String>| logged.news(faults, Instant::now()).len();
    assert_eq!(news(&mut logged, &fault("a", "1")), 1);
    assert_eq!(news(&mut logged, &fault("a", "1")), 0);
    assert_eq!(news(&mut logged, &fault("a", "2")), 0, "for another reason each time");
    news(&mut logged, &BTreeMap::new());
    assert_eq!(news(&mut logged, &fault("a", "1")), 0, "it comes and goes");
    let many: BTreeMap<String, String> = (0..500).map(|n| (format!("s{n:03}"), String::new())).collect();
    assert_eq!(news(&mut logged, &many), FAILURES_MAX - 1);
    assert_eq!(news(&mut logged, &many), 0);
    tokio::time::advance(SILENCE).await;
    assert_eq!(news(&mut logged, &fault("a", "2")), 1);
    assert_eq!(news(&mut logged, &fault("a", "2")), 0);
}
