//! What is at an address, and what is behind a Service.

use super::*;

const READY: &str = "";
const NOT_READY: &str = ", conditions: {ready: false}";
const DRAINING: &str = ", conditions: {ready: false, serving: true, terminating: true}";
const GONE: &str = ", conditions: {ready: false, serving: false, terminating: true}";

#[test]
fn subsets_choose_by_label_and_region() {
    let world = World::new(&shop());
    for (key, want) in [
        (
            "shop/reviews:80",
            vec!["10.244.0.1:8080", "10.244.0.2:8080", "10.244.0.3:8080"],
        ),
        ("shop/reviews:80#v1", vec!["10.244.0.1:8080", "10.244.0.2:8080"]),
        ("shop/reviews:80#v2", vec!["10.244.0.3:8080"]),
        ("shop/reviews:80#in-b", vec!["10.244.0.2:8080"]),
        ("shop/reviews:80#v1-in-a", vec!["10.244.0.1:8080"]),
    ] {
        assert_eq!(world.set(key), want, "{key}");
    }
    for key in ["shop/reviews:80#nothing", "shop/reviews:81", "shop/nowhere:80", "x"] {
        assert!(endpoint_set(&world.index, key).is_none(), "{key}");
    }
}

#[test]
fn an_endpoint_says_who_and_where_it_is() {
    let world = World::new(&shop());
    let set = endpoint_set(&world.index, "shop/reviews:80#v2").unwrap();
    let endpoint = &set.value.endpoints[0];
    assert_eq!(
        endpoint.identity.as_ref().unwrap().to_string(),
        "spiffe://td/ns/shop/sa/sa-p3"
    );
    assert_eq!(
        (
            endpoint.pod.as_str(),
            endpoint.workload.as_str(),
            endpoint.version.as_str()
        ),
        ("p3", "shop-app", "v2")
    );
    assert_eq!(
        (
            endpoint.place.region.as_str(),
            endpoint.place.zone.as_str(),
            endpoint.place.cluster.as_str()
        ),
        ("a", "a1", "one")
    );
    // SHA-256 of `one/uid-p3`, its first eight bytes.
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"one/uid-p3");
    assert_eq!(endpoint.key.id.0.to_be_bytes(), hash.as_ref()[..8]);
    assert_eq!(endpoint.source.object, "Pod shop/p3");
    let objects: Vec<&str> = set
        .sources
        .iter()
        .map(|source| source.object.split(' ').next().unwrap())
        .collect();
    for kind in ["Service", "EndpointSlice", "ServiceSubset", "Pod"] {
        assert!(objects.contains(&kind), "{kind} in {objects:?}");
    }
}

#[test]
fn readiness_decides_and_what_terminates_but_serves_is_draining() {
    let pods: [(&str, &str, &str); 4] = [
        ("p1", "10.244.0.1", READY),
        ("p2", "10.244.0.2", DRAINING),
        ("p3", "10.244.0.3", NOT_READY),
        ("p4", "10.244.0.4", GONE),
    ];
    let mut world = World::new(&(shop() + &pod("shop", "p4", "10.244.0.4", "v1", "na", true)));
    world.edit(&slice("shop", "reviews", ("http", 8080), &pods));
    assert_eq!(world.set("shop/reviews:80"), ["10.244.0.1:8080", "10.244.0.2:8080~"]);
    let publish = service_of("shop", "reviews", "10.96.0.1", &[("http", 80)])
        .replace("spec: {", "spec: {publishNotReadyAddresses: true, ");
    world.edit(&publish);
    assert_eq!(
        world.set("shop/reviews:80"),
        ["10.244.0.1:8080", "10.244.0.2:8080~", "10.244.0.3:8080"]
    );
}

#[test]
fn a_pod_without_the_proxy_is_plaintext_and_one_that_is_not_known_is_left_out() {
    let mut world = World::new(&shop());
    world.edit(&pod("shop", "p1", "10.244.0.1", "v1", "na", false));
    world.delete("Pod", "shop", "p2");
    assert_eq!(world.set("shop/reviews:80"), ["10.244.0.1:8080!", "10.244.0.3:8080"]);
    // Another pod of the same name, and one at another address, are not the pod that the slice means.
    world.edit(&pod("shop", "p3", "10.244.0.3", "v2", "na", true).replace("uid-p3", "uid-other"));
    assert_eq!(world.set("shop/reviews:80"), ["10.244.0.1:8080!"]);
    world.edit(&pod("shop", "p1", "10.244.0.99", "v1", "na", true));
    assert_eq!(world.set("shop/reviews:80"), Vec::<String>::new());
}

#[test]
fn an_address_without_a_pod_is_outside_of_the_mesh_unless_a_pod_has_it() {
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {namespace: shop, name: reviews-1, labels: {kubernetes.io/service-name: reviews}}\nports: [{name: http, port: 8080}]\nendpoints: [{addresses: ['198.51.100.7']}, {addresses: ['fd00::7']}, {addresses: ['10.244.0.3']}]\n";
    let mut world = World::new(&shop());
    world.edit(slice);
    assert_eq!(
        world.set("shop/reviews:80"),
        ["10.244.0.3:8080", "198.51.100.7:8080!", "[fd00::7]:8080!"]
    );
    let topics = endpoint_set(&world.index, "shop/reviews:80").unwrap().topics;
    let changed = world.edit(&pod("shop", "late", "198.51.100.7", "v1", "na", true));
    assert!(changed.topics.intersection(&topics).next().is_some());
    assert_eq!(
        world.set("shop/reviews:80"),
        ["10.244.0.3:8080", "198.51.100.7:8080", "[fd00::7]:8080!"]
    );
}

#[test]
fn a_pod_of_two_families_is_one_endpoint_at_its_first_address() {
    let dual = pod("shop", "p1", "10.244.0.1", "v1", "na", true).replace(
        "podIPs: [{ip: 10.244.0.1}]",
        "podIPs: [{ip: 10.244.0.1}, {ip: 'fd00::1'}]",
    );
    let six = slice("shop", "reviews", ("http", 8080), &[("p1", "fd00::1", "")]).replace("reviews-1", "reviews-6");
    let world = World::new(&(shop() + &dual + &six));
    assert_eq!(world.set("shop/reviews:80#v1-in-a"), ["10.244.0.1:8080"]);
    assert!(matches!(world.lookup("[fd00::1]:8080", "web"), Lookup::Direct { .. }));
}

#[test]
fn what_is_at_an_address() {
    let dual = "---\napiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: dual}\nspec: {clusterIP: 10.96.0.2, clusterIPs: [10.96.0.2, 'fd00:96::2'], ports: [{port: 80, name: http}, {port: 53, name: dns, protocol: UDP}]}\n";
    let external = "---\napiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: ext}\nspec: {type: ExternalName, externalName: example.org, ports: [{port: 80}]}\n";
    let host =
        pod("shop", "hostly", "192.168.0.1", "v1", "na", false).replace("nodeName", "hostNetwork: true, nodeName");
    let ended = pod("shop", "ended", "10.244.0.8", "v1", "na", true).replace("Running", "Succeeded");
    let world = World::new(&(shop() + dual + external + &host + &ended));
    let service = |key: &str| format!("Service({key:?})");
    let no_port = |name: &str, port: u16| {
        let service = Some(weft_model::name::ServicePort {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            port,
        });
        let reason = format!("the Service shop/{name} has no TCP port {port}");
        format!("NoSuchPort {{ reason: {reason:?}, service: {service:?}, ttl: 5s }}")
    };
    for (target, client, want) in [
        ("10.96.0.1:80", "web", service("shop/reviews:80")),
        ("10.96.0.2:80", "web", service("shop/dual:80")),
        ("[fd00:96::2]:80", "web", service("shop/dual:80")),
        ("[::ffff:10.96.0.2]:80", "web", service("shop/dual:80")),
        ("10.96.0.1:81", "web", no_port("reviews", 81)),
        ("10.96.0.2:53", "web", no_port("dual", 53)),
        ("name:reviews:80", "shop", service("shop/reviews:80")),
        ("name:reviews:80", "web", "Outside { ttl: 5s }".to_owned()),
        (
            "name:reviews.shop.svc.cluster.local:80",
            "web",
            service("shop/reviews:80"),
        ),
        ("name:ext.shop:80", "web", "Outside { ttl: 5s }".to_owned()),
        ("192.0.2.1:80", "web", "Outside { ttl: 5s }".to_owned()),
        ("192.168.0.1:80", "web", "Outside { ttl: 5s }".to_owned()),
        ("10.244.0.8:80", "web", "Outside { ttl: 5s }".to_owned()),
    ] {
        assert_eq!(format!("{:?}", world.lookup(target, client)), want, "{target}");
    }
}

#[test]
fn a_pod_dialled_directly_keeps_its_identity_on_every_port() {
    use weft_model::destination::Protocol;
    let world = World::new(&(shop() + &pod("shop", "plain", "10.244.0.9", "v1", "na", false)));
    for (target, want, identity) in [
        ("10.244.0.1:8080", Protocol::Http, Some("spiffe://td/ns/shop/sa/sa-p1")),
        (
            "10.244.0.1:9999",
            Protocol::Undeclared,
            Some("spiffe://td/ns/shop/sa/sa-p1"),
        ),
        ("10.244.0.9:8080", Protocol::Undeclared, None),
    ] {
        let Lookup::Direct { endpoint, protocol } = world.lookup(target, "web") else {
            panic!("{target}")
        };
        assert_eq!(protocol, want, "{target}");
        assert_eq!(endpoint.identity.as_ref().map(ToString::to_string).as_deref(), identity);
        assert_eq!(endpoint.address.to_string(), target);
    }
}

#[test]
fn a_change_of_one_slice_touches_the_sets_of_its_service_only() {
    let other = service_of("shop", "other", "10.96.0.2", &[("http", 80)])
        + &slice("shop", "other", ("http", 8080), &[("p1", "10.244.0.1", "")]);
    let mut world = World::new(&(shop() + &other + &route("HTTPRoute", "shop", "r", &rule(""))));
    let changed = world.edit(&slice(
        "shop",
        "reviews",
        ("http", 8080),
        &[("p1", "10.244.0.1", ""), ("p2", "10.244.0.2", NOT_READY)],
    ));
    let topics = |key: &str| endpoint_set(&world.index, key).unwrap().topics;
    let touched = |topics: &BTreeSet<Topic>| topics.intersection(&changed.topics).next().is_some();
    assert!(touched(&topics("shop/reviews:80")) && touched(&topics("shop/reviews:80#v1")));
    assert!(!touched(&topics("shop/other:80")));
    assert!(
        !touched(&world.service(REVIEWS, "web").topics),
        "rules refer to the set by key"
    );
    // Of the pods, only the one that left is asked for its ports again.
    let pods: Vec<&Topic> = changed
        .topics
        .iter()
        .filter(|topic| matches!(topic, Topic::Pod(_)))
        .collect();
    assert_eq!(pods, [&Topic::Pod(Name::new("shop", "p3"))]);
}

#[test]
fn addresses_outside_the_private_ranges_count_as_inside_once_they_are_seen() {
    let mut world = World::new(&shop());
    assert!(networks(&world.index).value.inside.is_empty());
    let changed = world.edit(&pod("shop", "global", "2001:db8::5", "v1", "na", true));
    assert!(changed.topics.contains(&Topic::Networks));
    assert_eq!(
        networks(&world.index).value.inside,
        ["2001:db8::5/128".parse::<IpNet>().unwrap()]
    );
    let changed = world.edit(&pod("shop", "private", "10.244.0.77", "v1", "na", true));
    assert!(!changed.topics.contains(&Topic::Networks));
    world.index = Index::new(Settings {
        inside: vec!["203.0.113.0/24".parse().unwrap()],
        outside: vec!["10.9.0.0/16".parse().unwrap()],
        ..settings()
    });
    let value = networks(&world.index).value;
    assert_eq!((value.inside.len(), value.outside.len()), (1, 1));
}

#[test]
fn odd_words_in_files_never_make_a_proxy_refuse_a_set() {
    use weft_proto::resource::{Body, decode, encode};
    let odd = pod("shop", "p1", "10.244.0.1", "'v 1\u{e9}'", "na", true).replace(
        "uid: uid-p1",
        "uid: uid-p1, ownerReferences: [{kind: ReplicaSet, name: 'a b'}]",
    );
    let bare = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {namespace: shop, name: bare, labels: {kubernetes.io/service-name: reviews}}\nports: [{name: http, port: 8080}]\nendpoints: [{addresses: ['fd00::'], zone: 'z z'}, {addresses: ['224.0.0.1']}, {addresses: ['0.0.0.0']}, {addresses: ['nonsense']}, {addresses: []}]\n";
    let world = World::new(&(shop() + &odd + bare));
    let set = endpoint_set(&world.index, "shop/reviews:80").unwrap().value;
    assert_eq!(set.endpoints.len(), 4);
    let body = Body::Endpoints(set);
    decode(body.kind(), &encode(&body).bytes).unwrap();
}

/// A pod whose spec cannot be read.
fn broken(name: &str, ip: &str) -> String {
    pod("shop", name, ip, "v1", "na", true).replace("serviceAccountName: sa-", "serviceAccountName: 7, x: ")
}

#[test]
fn a_pod_of_the_mesh_without_a_usable_identity_is_refused_and_not_outside() {
    let odd = pod("shop", "p4", "10.244.0.4", "v1", "na", true).replace("sa-p4", "'Bad Account'");
    let mut world = World::new(&(shop() + &odd));
    let Lookup::NoSuchPort { reason, .. } = world.lookup("10.244.0.4:8080", "web") else {
        panic!()
    };
    assert!(
        reason.contains("Pod shop/p4") && reason.contains("Bad Account"),
        "{reason}"
    );
    world.edit(&pod("shop", "p4", "10.244.0.4", "v1", "na", true));
    let Lookup::Direct { endpoint, .. } = world.lookup("10.244.0.4:8080", "web") else {
        panic!()
    };
    assert!(endpoint.identity.is_some());
}

#[test]
fn the_address_of_a_pod_that_cannot_be_read_is_refused_and_no_plaintext_endpoint() {
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {namespace: shop, name: reviews-1, labels: {kubernetes.io/service-name: reviews}}\nports: [{name: http, port: 8080}]\nendpoints: [{addresses: ['10.244.0.8']}]\n";
    let mut world = World::new(&shop());
    world.edit(slice);
    assert_eq!(world.set("shop/reviews:80"), ["10.244.0.8:8080!"]);
    let set = endpoint_set(&world.index, "shop/reviews:80").unwrap().topics;
    let at = lookup(&world.index, &"10.244.0.8:8080".parse().unwrap(), "web").topics;
    let changed = world.edit(&broken("bad", "10.244.0.8"));
    assert!(changed.topics.intersection(&set).next().is_some());
    assert!(changed.topics.intersection(&at).next().is_some());
    assert_eq!(world.set("shop/reviews:80"), Vec::<String>::new());
    let lookup = world.lookup("10.244.0.8:8080", "web");
    assert!(
        matches!(&lookup, Lookup::NoSuchPort { reason, .. } if reason.contains("Pod shop/bad is invalid")),
        "{lookup:?}"
    );
    // Held on the wire, where it may have been valid before.
    let started = World::new(&(shop() + &broken("bad", "10.244.0.8")));
    let compiled = super::lookup(&started.index, &"10.244.0.8:8080".parse().unwrap(), "web");
    assert!(compiled.hold.is_some());
    world.delete("Pod", "shop", "bad");
    assert_eq!(world.set("shop/reviews:80"), ["10.244.0.8:8080!"]);
}

#[test]
fn nothing_is_said_of_an_unknown_address_of_the_meshs_networks_until_something_is_there() {
    let mut world = World::with(closed(), &shop());
    for target in ["10.244.9.9:80", "10.96.9.9:80"] {
        assert_eq!(world.answer(target, "web"), None, "{target}");
    }
    for target in ["10.1.2.3:80", "198.51.100.7:80", "name:www.example.org:80"] {
        assert!(
            matches!(world.lookup(target, "web"), Lookup::Outside { .. }),
            "{target}"
        );
    }
    let topics = lookup(&world.index, &"10.244.9.9:80".parse().unwrap(), "web").topics;
    let changed = world.edit(&pod("shop", "late", "10.244.9.9", "v1", "na", true));
    assert!(changed.topics.intersection(&topics).next().is_some());
    assert!(matches!(world.lookup("10.244.9.9:80", "web"), Lookup::Direct { .. }));
    world.delete("Pod", "shop", "late");
    assert_eq!(world.answer("10.244.9.9:80", "web"), None);
    // What the settings take out of the mesh is out.
    let outside = vec!["10.244.9.0/24".parse().unwrap()];
    let world = World::with(Settings { outside, ..closed() }, &shop());
    assert!(matches!(world.lookup("10.244.9.9:80", "web"), Lookup::Outside { .. }));
}

#[test]
fn the_nodes_side_of_the_meshs_networks_is_positively_outside() {
    let dns = service_of("weft-system", "weft-dns", "10.96.0.10", &[("tcp-dns", 53)])
        + "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {namespace: weft-system, name: weft-dns-ipv4-0, labels: {kubernetes.io/service-name: weft-dns}}\nports: [{name: tcp-dns, port: 53}]\nendpoints: [{addresses: ['10.244.0.254']}]\n";
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: nx}\nstatus: {addresses: [{type: InternalIP, address: 10.244.7.1}, {type: Hostname, address: nx}]}\n";
    let control = pod("weft-system", "weft-control", "10.244.0.253", "", "na", false);
    let mut world = World::with(closed(), &shop());
    let topics = |world: &World, target: &str| lookup(&world.index, &target.parse().unwrap(), "web").topics;
    for (target, yaml) in [("10.244.0.254:4318", &dns), ("10.244.7.1:9100", &node.to_owned())] {
        assert_eq!(world.answer(target, "web"), None, "{target}");
        let topics = topics(&world, target);
        let changed = world.edit(yaml);
        assert!(changed.topics.intersection(&topics).next().is_some(), "{target}");
        assert!(
            matches!(world.lookup(target, "web"), Lookup::Outside { .. }),
            "{target}"
        );
    }
    assert!(matches!(world.lookup("10.96.0.10:53", "web"), Lookup::Service(_)));
    assert_eq!(world.set("weft-system/weft-dns:53"), ["10.244.0.254:53!"]);
    world.edit(&control);
    let Lookup::Direct { endpoint, .. } = world.lookup("10.244.0.253:15014", "web") else {
        panic!()
    };
    assert!(endpoint.identity.is_none());
}

#[test]
fn a_port_that_is_not_behind_its_pods_proxy_has_no_identity_and_the_others_have() {
    let mut world = World::new(&shop());
    for (skipped, wanted) in [("8080", "10.244.0.1:8080!"), ("9090", "10.244.0.1:8080")] {
        let init = format!("{{name: weft-init, args: [init, '--skip-inbound-ports=9091,{skipped}']}}");
        let pod = pod("shop", "p1", "10.244.0.1", "v1", "na", true).replace("{name: weft-init}", &init);
        world.edit(&pod);
        assert_eq!(world.set("shop/reviews:80")[0], wanted, "{skipped}");
    }
    // The app's own container may have whatever arguments it likes.
    let app = "{name: app, args: ['--skip-inbound-ports=8080']}";
    world.edit(&pod("shop", "p1", "10.244.0.1", "v1", "na", true).replace("{name: app}", app));
    assert_eq!(world.set("shop/reviews:80")[0], "10.244.0.1:8080");
}
