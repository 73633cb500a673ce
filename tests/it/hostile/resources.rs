//! Table. Resources that a peer may not say: each alone in a batch, with the field that it is refused for.

use std::net::IpAddr;

use prost::Message as _;
use weft_proto::discovery::{self, Endpoint, Kind, Resource, ResourceName, Source, Version, resource::State};
use weft_proto::federation::{Cluster, Export, Exported, ExportedEndpoint, Port, Type};
use weft_proto::parts::PARTS_MAX;
use weft_proto::resource::hash;

use super::{World, address};

/// The largest body, and the largest batch, that are read.
const BODY_MAX: usize = 8 << 20;
const BATCH_MAX: usize = 64 << 20;
/// Endpoints of a Service where there are many, and such Services.
const MANY: u32 = 16_000;
const SERVICES: u32 = 8;
/// Bodies of many labels in a batch.
const LABELLED: usize = 50;
/// Refusals of one batch.
const BOGUS: u32 = 5_000;

/// What is wrong with a resource, the resource, and its field.
type Shape = (&'static str, Resource, &'static str);

fn resource(kind: Kind, key: &str, body: Vec<u8>) -> Resource {
    Resource {
        name: Some(ResourceName {
            kind: kind.into(),
            key: key.to_owned(),
        }),
        version: Some(Version {
            hash: hash(&body).to_vec().into(),
            sources: Vec::new(),
        }),
        requires: Vec::new(),
        state: Some(State::Body(body.into())),
    }
}

fn cluster(change: impl FnOnce(&mut Cluster), world: &World<'_>) -> Resource {
    let root = &world.foreign.root;
    let mut said = Cluster {
        name: world.foreign.name.clone(),
        trust_domain: root.trust_domain.clone(),
        network: "wire".to_owned(),
        bundle: Some(discovery::Bundle {
            trust_domain: root.trust_domain.clone(),
            roots: vec![root.der().into()],
            sequence: 5,
        }),
        ..Cluster::default()
    };
    change(&mut said);
    resource(Kind::Cluster, "cluster", said.encode_to_vec())
}

/// What is exported of a Service, under the key of reviews.
fn export(change: impl FnOnce(&mut Export)) -> Resource {
    let mut said = Export {
        namespace: "shop".to_owned(),
        name: "reviews".to_owned(),
        r#type: Type::ClusterSetIp.into(),
        ports: vec![port("http", 80)],
        created_unix_ms: 1,
        ..Export::default()
    };
    change(&mut said);
    resource(Kind::Export, "shop/reviews", said.encode_to_vec())
}

/// The same under its own key.
fn export_of(namespace: &str, name: &str) -> Resource {
    let mut said = export(|said| (said.namespace, said.name) = (namespace.to_owned(), name.to_owned()));
    if let Some(named) = &mut said.name {
        named.key = format!("{namespace}/{name}");
    }
    said
}

fn port(name: &str, port: u32) -> Port {
    Port {
        name: name.to_owned(),
        port,
        transport: "TCP".to_owned(),
        ..Port::default()
    }
}

fn endpoint(id: u64, ip: IpAddr) -> ExportedEndpoint {
    let ip = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    ExportedEndpoint {
        endpoint: Some(Endpoint {
            id,
            ip: ip.into(),
            port: 8080,
            identity: "spiffe://hostile.weft.internal/ns/shop/sa/reviews".to_owned(),
            namespace: "shop".to_owned(),
            pod: "r".to_owned(),
            cluster: "hostile".to_owned(),
            source: Some(Source {
                uid: "u".to_owned(),
                ..Source::default()
            }),
            ..Endpoint::default()
        }),
        ..ExportedEndpoint::default()
    }
}

fn behind(namespace: &str, service: &str, port: u32, endpoints: Vec<ExportedEndpoint>) -> Resource {
    let said = Exported {
        namespace: namespace.to_owned(),
        service: service.to_owned(),
        port,
        endpoints,
    };
    resource(
        Kind::Exported,
        &format!("{namespace}/{service}:{port}"),
        said.encode_to_vec(),
    )
}

fn fine() -> IpAddr {
    [11, 0, 0, 1].into()
}

/// An endpoint behind reviews that is fine but for this.
fn one(change: impl FnOnce(&mut Endpoint)) -> Resource {
    let mut said = endpoint(7, fine());
    change(said.endpoint.as_mut().expect("an endpoint"));
    behind("shop", "reviews", 80, vec![said])
}

fn at(ip: IpAddr) -> Resource {
    behind("shop", "reviews", 80, vec![endpoint(7, ip)])
}

/// What the peer says of itself.
fn of_itself(world: &World<'_>) -> Vec<Shape> {
    let (a, b) = (world.clusters.name("a").to_owned(), world.clusters.name("b").to_owned());
    let domain = |of: &str| format!("{of}.weft.internal");
    let bundle = |change: fn(&mut discovery::Bundle, String), of: &str| {
        cluster(
            |said| change(said.bundle.as_mut().expect("a bundle"), domain(of)),
            world,
        )
    };
    let both = |of: &str| {
        cluster(
            |said| {
                said.trust_domain = domain(of);
                said.bundle.as_mut().expect("a bundle").trust_domain = domain(of);
            },
            world,
        )
    };
    let another = weft_tests::foreign::root::Root::new(&world.foreign.root.trust_domain).der();
    let others = cluster(
        |said| said.bundle.as_mut().expect("a bundle").roots = vec![another.into()],
        world,
    );
    vec![
        (
            "it is the honest peer",
            cluster(|said| said.name = b.clone(), world),
            "name",
        ),
        ("it is ourselves", cluster(|said| said.name = a.clone(), world), "name"),
        (
            "it is nobody",
            cluster(|said| said.name = "No Body".to_owned(), world),
            "name",
        ),
        ("roots of our own trust domain", both(&a), "trust_domain"),
        ("roots of the honest peer's", both(&b), "trust_domain"),
        (
            "a bundle of another",
            bundle(|bundle, of| bundle.trust_domain = of, &b),
            "trust_domain",
        ),
        (
            "roots that are none",
            bundle(|bundle, _| bundle.roots = vec![vec![1, 2, 3].into()], &a),
            "bundle.roots",
        ),
        ("no roots", bundle(|bundle, _| bundle.roots.clear(), &a), "bundle.roots"),
        (
            "a bundle that goes back",
            bundle(|bundle, _| bundle.sequence = 4, &a),
            "bundle.sequence",
        ),
        ("other roots under the same number", others, "bundle.sequence"),
    ]
}

/// Resources that are not for peers.
fn of_proxies() -> Vec<Shape> {
    let mesh = discovery::Mesh {
        trust_domain: "hostile.weft.internal".to_owned(),
        cluster: "hostile".to_owned(),
        networks: vec!["0.0.0.0/0".to_owned()],
        ..discovery::Mesh::default()
    };
    let lookup = discovery::Lookup {
        result: Some(discovery::lookup::Result::Outside(discovery::Outside {})),
        ..discovery::Lookup::default()
    };
    let of = |what, kind, key: &str, body: Vec<u8>| (what, resource(kind, key, body), "name.kind");
    vec![
        of("the mesh's networks", Kind::Mesh, "mesh", mesh.encode_to_vec()),
        of(
            "what is at an address",
            Kind::Lookup,
            "10.96.0.7:80",
            lookup.encode_to_vec(),
        ),
        of("what a gateway passes", Kind::Gateway, "gateway", Vec::new()),
        of("what a pod lets in", Kind::Inbound, "inbound", Vec::new()),
        of("all trust bundles", Kind::Bundles, "bundles", Vec::new()),
    ]
}

fn of_services() -> Vec<Shape> {
    let many = |count: u32| (0..count).map(|n| (format!("k{n}"), "v".to_owned())).collect();
    let key = |key: &str| resource(Kind::Export, key, Vec::new());
    vec![
        ("Kubernetes' own", export_of("kube-system", "kube-dns"), "namespace"),
        ("the mesh's own", export_of("weft-system", "weft-control"), "namespace"),
        ("what is not imported", export_of("default", "kubernetes"), "namespace"),
        (
            "another than it is called",
            export(|said| said.name = "ratings".to_owned()),
            "name",
        ),
        (
            "a namespace with a way out",
            export(|said| said.namespace = "../shop".to_owned()),
            "namespace",
        ),
        (
            "a port of none",
            export(|said| said.ports = vec![port("http", 0)]),
            "ports[0].port",
        ),
        (
            "a port beyond all",
            export(|said| said.ports = vec![port("http", 65_616)]),
            "ports[0].port",
        ),
        (
            "a port twice",
            export(|said| said.ports = vec![port("http", 80); 2]),
            "ports[1]",
        ),
        (
            "more ports than there may be",
            export(|said| said.ports = vec![port("p", 1); 1025]),
            "ports",
        ),
        ("a type of none", export(|said| said.r#type = 9), "type"),
        (
            "an affinity of none",
            export(|said| said.session_affinity = "Sticky".to_owned()),
            "session_affinity",
        ),
        ("labels without end", export(|said| said.labels = many(65)), "labels"),
        (
            "annotations without end",
            export(|said| said.annotations = many(65)),
            "annotations",
        ),
        ("a key of no Service", key("shop"), "name.key"),
        ("a key with a way out", key("shop/../reviews"), "name.key"),
        ("a key of a port", key("shop/reviews:80"), "name.key"),
    ]
}

/// Addresses that no pod of another cluster has.
fn of_addresses(world: &World<'_>) -> Vec<Shape> {
    let clusters = world.clusters;
    let status = clusters.weft("a", "status", &["-n", "shop", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("status is JSON");
    let named = |list: &str, name: &str| {
        let mut all = status[list].as_array().expect("a list").iter();
        let found = all.find(|one| one["name"].as_str().is_some_and(|found| found.starts_with(name)));
        address(&found.expect("it is there")["addresses"][0])
    };
    let text = |text: &str| text.parse::<IpAddr>().expect("an address");
    let network = status["podNetworks"][0]
        .as_str()
        .expect("a network")
        .replace(".0.0/16", ".0.1");
    let field = "endpoints[0].endpoint.ip";
    vec![
        ("loopback", at(text("127.0.0.1")), field),
        ("another loopback", at(text("127.8.8.8")), field),
        ("loopback of IPv6", at(text("::1")), field),
        ("loopback in the other family", at(text("::ffff:127.0.0.1")), field),
        ("the cloud's metadata", at(text("169.254.169.254")), field),
        ("link-local of IPv6", at(text("fe80::1")), field),
        ("no address", at(text("0.0.0.0")), field),
        ("this network", at(text("0.1.2.3")), field),
        ("all machines", at(text("255.255.255.255")), field),
        ("many machines", at(text("224.0.0.1")), field),
        ("our own Service", at(named("services", "reviews")), field),
        ("our own pod", at(named("pods", "reviews-")), field),
        ("our own client", at(named("pods", "client")), field),
        ("our own node, among its pods", at(text(&network)), field),
        (
            "our own control plane",
            at(address(&status["control"]["addresses"][0])),
            field,
        ),
        ("our API server", at(text("192.0.2.9")), field),
        ("three bytes", one(|said| said.ip = vec![1, 2, 3].into()), field),
        ("no port", one(|said| said.port = 0), "endpoints[0].endpoint.port"),
    ]
}

/// Whose endpoints they are, and of what.
fn of_endpoints(world: &World<'_>) -> Vec<Shape> {
    let domain = |cluster: &str| format!("{}.weft.internal", world.clusters.name(cluster));
    let identity = |of: String| one(|said| said.identity = of);
    let (whose, field) = (
        |of: &str| format!("spiffe://{of}/ns/shop/sa/reviews"),
        "endpoints[0].endpoint.identity",
    );
    let control = "spiffe://hostile.weft.internal/ns/weft-system/sa/weft-control".to_owned();
    let namespace = "endpoints[0].endpoint.namespace";
    let cluster = |name: &str| one(|said| said.cluster = name.to_owned());
    let twice = vec![endpoint(7, fine()), endpoint(7, [11, 0, 0, 2].into())];
    vec![
        ("nobody", identity(String::new()), field),
        ("ourselves", identity(whose(&domain("a"))), field),
        ("the honest peer", identity(whose(&domain("b"))), field),
        ("a part of it", identity(whose("sub.hostile.weft.internal")), field),
        (
            "no identity",
            identity("https://hostile.weft.internal".to_owned()),
            field,
        ),
        ("its own control plane", identity(control), namespace),
        (
            "of another namespace",
            one(|said| said.namespace = "other".to_owned()),
            namespace,
        ),
        (
            "of our cluster",
            cluster(world.clusters.name("a")),
            "endpoints[0].endpoint.cluster",
        ),
        (
            "of the honest peer's",
            cluster(world.clusters.name("b")),
            "endpoints[0].endpoint.cluster",
        ),
        (
            "through a gateway of none",
            one(|said| said.gateway = 3),
            "endpoints[0].endpoint.gateway",
        ),
        (
            "one twice",
            behind("shop", "reviews", 80, twice),
            "endpoints[1].endpoint.id",
        ),
        (
            "behind what it does not export",
            behind("shop", "ratings", 80, Vec::new()),
            "namespace",
        ),
        (
            "behind what is not imported",
            behind("default", "kubernetes", 443, Vec::new()),
            "namespace",
        ),
        (
            "behind a port that it does not export",
            behind("shop", "reviews", 81, Vec::new()),
            "port",
        ),
    ]
}

/// What is too much, and what is broken.
fn of_form() -> Vec<Shape> {
    let tiny = |count| vec![ExportedEndpoint::default(); count];
    let changed = |change: fn(&mut Resource)| {
        let mut said = export(|_| ());
        change(&mut said);
        said
    };
    let deep = resource(Kind::Export, "shop/reviews", vec![0x7b; 100_000]);
    let large = resource(Kind::Export, "shop/reviews", vec![0; BODY_MAX + 1]);
    vec![
        (
            "one endpoint too many",
            behind("shop", "reviews", 80, tiny(16_385)),
            "endpoints",
        ),
        (
            "a million endpoints",
            behind("shop", "reviews", 80, tiny(1_000_000)),
            "body",
        ),
        ("a body that is too large", large, "body"),
        ("groups in groups, 100,000 deep", deep, "body"),
        (
            "no message",
            resource(Kind::Export, "shop/reviews", vec![0xff; 64]),
            "body",
        ),
        (
            "a kind that there is not",
            changed(|said| said.name.as_mut().expect("a name").kind = 99),
            "name.kind",
        ),
        (
            "the hash of something else",
            changed(|said| version(said).hash = vec![1; 16].into()),
            "version.hash",
        ),
        (
            "a hash that is too short",
            changed(|said| version(said).hash = vec![1; 5].into()),
            "version.hash",
        ),
        ("nothing", changed(|said| said.state = None), "state"),
        (
            "a feature that there is not",
            changed(|said| said.requires = vec!["telepathy/1".to_owned()]),
            "requires",
        ),
    ]
}

fn version(said: &mut Resource) -> &mut Version {
    said.version.as_mut().expect("a version")
}

/// Says all of it.
pub(super) fn all(world: &mut World<'_>) {
    // At once: a peer that says nothing is left. To put the rest together takes a while.
    well(world);
    let shapes = [
        of_itself(world),
        of_proxies(),
        of_services(),
        of_addresses(world),
        of_endpoints(world),
        of_form(),
    ];
    let mut wrong = Vec::new();
    for (what, said, field) in shapes.into_iter().flatten() {
        well(world);
        let name = said.name.clone();
        // What has no name that can be read is no object to be told of.
        let named = weft_proto::resource::Name::from_wire(name.clone()).ok();
        let ack = world
            .session
            .say(vec![said])
            .unwrap_or_else(|| panic!("{what}: {}", world.reason()));
        let found: Vec<_> = ack
            .refusals
            .iter()
            .map(|one| (one.name.clone(), one.field.as_str()))
            .collect();
        let told = world.status()["refused"].as_array().cloned().unwrap_or_default();
        let is_told = named.is_none_or(|named| {
            let is_it = |one: &serde_json::Value| one["object"] == named.to_string() && one["field"] == field;
            told.iter().any(is_it)
        });
        if found != [(name, field)] || ack.refusals[0].reason.is_empty() || !is_told {
            wrong.push(format!("{what}: {:?}, told: {told:?}", ack.refusals));
        }
        world.took_nothing(what);
        world.shapes += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    in_order(world);
    too_much(world);
    too_much_in_memory(world);
}

/// Says what is fine: who it is, and a Service that is imported.
fn well(world: &mut World<'_>) {
    let said = vec![cluster(|_| (), world), export(|_| ())];
    let ack = world.session.say(said).unwrap_or_else(|| panic!("{}", world.reason()));
    assert_eq!(ack.refusals, []);
}

/// Things that are said again, in another order, or that take away what is another's.
fn in_order(world: &mut World<'_>) {
    let state = |state| {
        let mut said = behind("shop", "reviews", 80, Vec::new());
        said.state = Some(state);
        said
    };
    let removed = || state(State::Removed(discovery::Removed {}));
    let hold = || state(State::Hold(discovery::Hold::default()));
    let gone = || {
        let mut said = export(|_| ());
        said.state = Some(State::Removed(discovery::Removed {}));
        said
    };
    // The honest peer exports just that: what is taken away is one's own.
    let batches = [
        ("what it never said is gone", vec![removed()]),
        ("what it never said is held", vec![hold()]),
        ("its Service is gone, twice", vec![gone(), gone()]),
    ];
    for (what, said) in batches {
        well(world);
        assert!(world.session.say(said).is_some(), "{what}: {}", world.reason());
        world.took_nothing(what);
        world.shapes += 1;
    }
    // Endpoints before the Service that they are behind, and again after it has gone.
    world.session.say(vec![gone()]).expect("an answer");
    for what in ["endpoints before their Service", "the same again"] {
        let ack = world.session.say_as(7, vec![at(fine())]).expect("an answer");
        assert_eq!(ack.refusals.len(), 1, "{what}");
        world.took_nothing(what);
        world.shapes += 1;
    }
}

/// More than is read, than is kept, and than is told.
fn too_much(world: &mut World<'_>) {
    well(world);
    let bogus = |n: u32| export_of("other", &format!("s{n}"));
    let ack = world.session.say((0..BOGUS).map(bogus).collect()).expect("an answer");
    assert_eq!(ack.refusals.len(), BOGUS as usize);
    assert!(
        world.status()["refused"]
            .as_array()
            .is_some_and(|told| told.len() <= 64)
    );
    world.took_nothing("many Services that are not imported");

    // Many endpoints, each of them fine: those beyond the limit are not taken, and all go with the peer's word.
    let mut refused = 0;
    for service in 0..SERVICES {
        let name = format!("s{service}");
        let first = 0x0b00_0000 + service * MANY;
        let each = (first..first + MANY).map(|ip| endpoint(u64::from(ip), IpAddr::V4(ip.into())));
        let said = vec![export_of("shop", &name), behind("shop", &name, 80, each.collect())];
        refused += world.session.say(said).expect("an answer").refusals.len();
    }
    assert_eq!(refused, SERVICES as usize - 6, "100,000 are taken of one peer");
    let gone = |n: u32| {
        let mut said = export_of("shop", &format!("s{n}"));
        said.state = Some(State::Removed(discovery::Removed {}));
        said
    };
    let ended = |n: u32| {
        let mut said = behind("shop", &format!("s{n}"), 80, Vec::new());
        said.state = Some(State::Removed(discovery::Removed {}));
        said
    };
    world
        .session
        .say((0..SERVICES).flat_map(|n| [ended(n), gone(n)]).collect())
        .expect("an answer");
    world.took_nothing("more endpoints than are taken");

    // More than is read at once: the stream is ended, and begun anew.
    let large = |n: usize| resource(Kind::Export, &format!("shop/s{n}"), vec![0; BODY_MAX - 1024]);
    let ack = world.session.say((0..=BATCH_MAX / BODY_MAX).map(large).collect());
    assert_eq!(ack, None);
    world.session = world.foreign.session();
    well(world);
    world.took_nothing("a batch that is too large");

    world.shapes += 3;
}

/// Bodies and batches that are little on the wire and much in memory.
fn too_much_in_memory(world: &mut World<'_>) {
    // Two bytes on the wire are an endpoint in memory, or a resource: neither is decoded.
    let endpoints = resource(Kind::Exported, "shop/reviews:80", [0x22, 0].repeat(PARTS_MAX));
    let ack = world.session.say(vec![endpoints]).expect("an answer");
    assert_eq!(ack.refusals.len(), 1);
    assert_eq!(ack.refusals[0].field, "body");
    world.took_nothing("a million empty endpoints");
    let nameless = vec![Resource::default(); 5000];
    let ack = world.session.say(nameless).expect("an answer");
    assert_eq!(ack.refusals.len(), 100, "enough to know");
    assert_eq!(world.session.say(vec![Resource::default(); PARTS_MAX]), None);
    world.is_broken_by("a million empty resources", "that is not read here");
    world.session = world.foreign.session();
    well(world);
    world.took_nothing("a million empty resources");

    // Each of these bodies is read, and nothing is wrong with them but that their Services are not exported. All of them at once would be
    // more than the control plane may need.
    let labels = (0..64_u8).map(|n| {
        (
            String::from_utf8_lossy(&[b'a' + n / 8, b'a' + n % 8]).into_owned(),
            String::new(),
        )
    });
    let labelled = ExportedEndpoint {
        labels: labels.collect(),
        ..endpoint(1, IpAddr::V4([11, 0, 0, 1].into()))
    };
    let bodies = (0..LABELLED).map(|n| {
        let each = (0..2000_u64).map(|id| {
            let mut one = labelled.clone();
            one.endpoint.as_mut().expect("it has one").id = id;
            one
        });
        behind("shop", &format!("m{n}"), 80, each.collect())
    });
    let ack = world.session.say(bodies.collect()).expect("an answer");
    assert_eq!(ack.refusals.len(), LABELLED);
    for refusal in &ack.refusals {
        assert!(refusal.reason.contains("is not imported"), "{}", refusal.reason);
    }
    world.took_nothing("bodies of many labels");
    // A length that runs over the endpoint that it is in: what comes behind it would be read as labels.
    let body = [&[0x22, 2, 0x1a, 0x80, 0x87, 0x01][..], &[0x0a, 0].repeat(10_000)].concat();
    let ack = world
        .session
        .say(vec![resource(Kind::Exported, "shop/reviews:80", body)])
        .expect("an answer");
    assert_eq!(ack.refusals[0].field, "body");
    assert!(ack.refusals[0].reason.starts_with("is broken"), "it was decoded");
    world.took_nothing("a length that runs over");
    world.shapes += 5;
}
