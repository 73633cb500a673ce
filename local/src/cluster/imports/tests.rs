use super::*;
use crate::cluster::addresses::ServiceAddresses;
use crate::manifest::Reader;
use crate::manifest::tests::object;
use crate::slices::backends;

/// What the control plane of `here` says of one Service of the namespace shop, exported by these clusters.
fn told(name: &str, clusters: &[&str], ready: &str) -> (Value, Vec<Value>) {
    let service = |own: &str| {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "shop", "name": own, "labels": {(SERVICE_NAME_LABEL): name, "weft.dev/import": "true"}},
            "spec": {"type": "ClusterIP", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "s", "port": 9, "protocol": "SCTP"}]}})
    };
    let clusters: Vec<Value> = clusters.iter().map(|cluster| json!({"cluster": cluster})).collect();
    let import = json!({"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"type": "ClusterSetIP", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "s", "port": 9, "protocol": "SCTP"}]},
        "status": {"clusters": clusters, "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": ""}]}});
    (import, vec![service(&format!("weft-import-{name}")), service(name)])
}

fn answer(all: Vec<(Value, Vec<Value>)>, endpoints: Value) -> Imports {
    let (imports, services): (Vec<Value>, Vec<Vec<Value>>) = all.into_iter().unzip();
    let answer = json!({"version": "1", "imports": imports, "services": services.concat(), "endpoints": endpoints});
    serde_json::from_value(answer).unwrap()
}

/// A pod of another cluster.
fn there(service: &str, address: &str) -> Value {
    json!({"namespace": "shop", "service": service, "port": 80, "cluster": "there", "pod": "p", "hostname": "",
        "address": address})
}

struct World {
    taken: Taken,
    reader: Reader,
    files: Vec<Arc<Object>>,
    desired: Desired,
}

impl World {
    fn new(files: &[Value]) -> Self {
        let mut world = Self {
            taken: Taken::default(),
            reader: Reader::default(),
            files: Vec::new(),
            desired: Desired::default(),
        };
        world.write(files);
        world
    }

    fn write(&mut self, files: &[Value]) -> usize {
        self.files = files.iter().cloned().map(object).collect();
        self.desired = self.reader.read(&self.files).0;
        self.taken.begin_anew();
        self.review()
    }

    fn hear(&mut self, told: Imports) -> usize {
        self.taken.hear(told);
        self.review()
    }

    fn review(&mut self) -> usize {
        let (added, problems) = self.taken.put_beside(&mut self.desired, "here", &self.files);
        assert_eq!(added.len(), self.taken.services.len());
        problems.len()
    }

    fn services(&self) -> Vec<&str> {
        self.desired.services.keys().map(|key| key.name.as_str()).collect()
    }

    fn import(&self) -> Value {
        self.taken.objects(&self.files).next().expect("a ServiceImport")
    }

    fn backends(&self, service: &str, own: &BTreeMap<Key, Vec<Endpoint>>) -> Vec<String> {
        let behind = self.taken.behind(&self.desired, own);
        let endpoints = &behind[&Key::new("shop", service)];
        let all = backends(endpoints, 0, true).into_iter();
        all.map(|(ip, port)| format!("{ip}:{port}")).collect()
    }
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn web(port_name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"ports": [{"name": "first", "port": 1}, {"name": port_name, "port": 80}]}})
}

#[test]
fn a_service_of_another_cluster_is_here_by_both_names_until_somebody_writes_it_and_again_when_he_takes_it_away() {
    let mut world = World::new(&[namespace("shop")]);
    assert!(world.services().is_empty());
    let both = ["web", "weft-import-web"];
    world.hear(answer(vec![told("web", &["there"], "True")], json!([])));
    assert_eq!(world.services(), both);
    assert!(world.taken.of(&Key::new("shop", "web")).is_some());

    world.write(&[namespace("shop"), web("http")]);
    assert_eq!(world.services(), both);
    assert!(world.taken.of(&Key::new("shop", "web")).is_none(), "it is the user's");
    assert_eq!(world.desired.services[&Key::new("shop", "web")].ports.len(), 2);
    // The control plane's next word has it no more, or does still: it came late.
    world.hear(answer(vec![told("web", &["there"], "True")], json!([])));
    assert_eq!(world.desired.services[&Key::new("shop", "web")].ports.len(), 2);

    world.write(&[namespace("shop")]);
    assert_eq!(world.services(), both);
    assert!(world.taken.of(&Key::new("shop", "web")).is_some());
    world.hear(Imports::default());
    assert!(world.services().is_empty() && world.taken.objects(&[]).next().is_none());
}

#[test]
fn a_service_that_somebody_wrote_wrongly_is_not_replaced() {
    let mut wrong = web("http");
    wrong["spec"]["ports"] = json!("many");
    let mut world = World::new(&[namespace("shop"), wrong]);
    world.hear(answer(vec![told("web", &["there"], "True")], json!([])));
    assert_eq!(world.services(), ["weft-import-web"]);
}

#[test]
fn an_import_waits_for_its_namespace() {
    let mut world = World::new(&[namespace("bank")]);
    world.hear(answer(vec![told("web", &["there"], "True")], json!([])));
    assert!(world.services().is_empty() && world.taken.status().is_empty());
    world.write(&[namespace("bank"), namespace("shop")]);
    assert_eq!(world.services().len(), 2);
    world.write(&[namespace("bank")]);
    assert!(world.services().is_empty());
}

#[test]
fn an_address_is_kept_as_long_as_the_import_lives_and_given_back_when_it_returns() {
    let mut world = World::new(&[namespace("shop")]);
    let mut addresses = ServiceAddresses::new("10.96.0.0/16".parse().unwrap(), None);
    let derived = Key::new("shop", "weft-import-web");
    let mut of = |world: &World| addresses.assign(world.desired.services.iter()).ips[&derived].clone();
    world.hear(answer(vec![told("web", &["there"], "True")], json!([])));
    let first = of(&world);
    assert_eq!(first.len(), 1);
    let other = told("api", &["there"], "True");
    world.hear(answer(vec![told("web", &["here", "there"], "True"), other], json!([])));
    assert_eq!(of(&world), first);
    world.hear(Imports::default());
    world.hear(answer(vec![told("web", &["there"], "True")], json!([])));
    assert_eq!(of(&world), first);
}

#[test]
fn behind_an_import_are_the_pods_of_all_who_export_it_each_by_the_number_of_its_port() {
    // What a port is called differs, and does not count.
    let mut world = World::new(&[namespace("shop"), web("web")]);
    let own = Endpoint {
        cluster: String::new(),
        ips: vec!["10.244.0.5".parse().unwrap()],
        ports: vec![Some(1), Some(8080)],
        ..endpoint(&[], &[])
    };
    let own = BTreeMap::from([(Key::new("shop", "web"), vec![own])]);
    let endpoints = json!([there("web", "10.245.0.7:8080"), there("other", "10.245.0.8:8080")]);
    world.hear(answer(vec![told("web", &["here", "there"], "True")], endpoints.clone()));
    assert_eq!(
        world.backends("weft-import-web", &own),
        ["10.244.0.5:8080", "10.245.0.7:8080"]
    );
    // This cluster does not export it: only the other's are of the import.
    world.hear(answer(vec![told("web", &["there"], "True")], endpoints));
    assert_eq!(world.backends("weft-import-web", &own), ["10.245.0.7:8080"]);
    // Nor is anything there that has another number.
    let mut other = there("web", "10.245.0.7:8080");
    other["port"] = json!(81);
    world.hear(answer(vec![told("web", &["there"], "True")], json!([other])));
    assert!(world.backends("weft-import-web", &own).is_empty());
}

#[test]
fn the_time_of_a_condition_changes_with_it_and_with_nothing_else() {
    let mut world = World::new(&[namespace("shop")]);
    let since = |world: &World| world.import()["status"]["conditions"][0]["lastTransitionTime"].clone();
    world.hear(answer(vec![told("web", &["there"], "False")], json!([])));
    assert!(since(&world).as_str().unwrap().ends_with('Z'));
    let mark = json!("2026-01-01T00:00:00Z");
    let key = Key::new("shop", "web");
    world.taken.imports.get_mut(&key).unwrap().object["status"]["conditions"][0]["lastTransitionTime"] = mark.clone();
    world.hear(answer(vec![told("web", &["here", "there"], "False")], json!([])));
    assert_eq!(since(&world), mark);
    world.hear(answer(vec![told("web", &["here", "there"], "True")], json!([])));
    assert_ne!(since(&world), mark);
}

#[test]
fn more_imports_than_a_local_mesh_takes_are_told_of() {
    let mut world = World::new(&[namespace("shop")]);
    let many = |count: usize| {
        (0..count)
            .map(|i| told(&format!("s{i:04}"), &["there"], "True"))
            .collect()
    };
    assert_eq!(world.hear(answer(many(MOST), json!([]))), 0);
    assert_eq!(world.hear(answer(many(MOST + 1), json!([]))), 1);
    assert_eq!(world.services().len(), 2 * MOST);
}
