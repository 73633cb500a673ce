//! Random edits: an index that was edited step by step equals one made from the result, and whatever the topics did not
//! touch did not change.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use weft_proto::resource::{self, Body};

use super::*;

/// What one step does.
#[derive(Clone, Debug)]
enum Step {
    Put(String),
    Delete(&'static str, &'static str, String),
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..3u8;
    let condition = prop::sample::select(vec![
        "",
        ", conditions: {ready: false}",
        ", conditions: {serving: true, terminating: true}",
    ]);
    let address = |n: u8| format!("10.244.0.{n}");
    prop_oneof![
        (number.clone(), 0..4u8, any::<bool>(), 0..2u8).prop_map(move |(n, ip, mesh, node)| {
            Step::Put(pod("shop", &format!("p{n}"), &address(ip), &format!("v{}", n % 2), &format!("n{node}"), mesh))
        }),
        (number.clone(), 0..4u8, annotation()).prop_map(move |(n, ip, ports)| {
            let pod = pod("shop", &format!("p{n}"), &address(ip), &format!("v{}", n % 2), "n0", true);
            Step::Put(pod.replace("labels: {app", &format!("annotations: {{config.weft.dev/opaque-ports: '{ports}'}}, labels: {{app")))
        }),
        (number.clone(), prop::sample::select(vec![("http", 80), ("x", 80), ("tcp", 81)]), 1..4u8).prop_map(|(n, port, ip)| {
            Step::Put(service_of("shop", &format!("s{n}"), &format!("10.96.0.{ip}"), &[port]))
        }),
        (number.clone(), prop::collection::vec((0..3u8, 0..4u8, condition), 0..3), prop::sample::select(vec!["http", "x", "tcp"])).prop_map(
            move |(n, pods, port)| {
                let pods: Vec<(String, String, &str)> =
                    pods.into_iter().map(|(pod, ip, more)| (format!("p{pod}"), address(ip), more)).collect();
                let pods: Vec<(&str, &str, &str)> = pods.iter().map(|(name, ip, more)| (&**name, &**ip, *more)).collect();
                Step::Put(slice("shop", &format!("s{n}"), (port, 8080), &pods))
            }
        ),
        (number.clone(), 0..3u8, prop::sample::select(vec!["shop", "web"]), prop::sample::select(vec!["HTTPRoute", "GRPCRoute"]), any::<bool>(), any::<bool>())
            .prop_map(|(n, parent, namespace, kind, subset, port)| {
                let backend = if subset { "{group: weft.dev, kind: ServiceSubset, name: b1, namespace: shop, port: 80}".to_owned() } else { format!("{{name: s{}, namespace: shop, port: 80}}", (n + 1) % 3) };
                let port = if port { ", port: 80" } else { "" };
                let text = route(kind, namespace, &format!("r{n}"), &format!("  - backendRefs: [{backend}]\n"));
                Step::Put(text.replace("name: reviews}]", &format!("name: s{parent}{port}}}]")))
            }),
        (number.clone(), number.clone(), any::<bool>()).prop_map(|(n, of, region)| {
            let spec = if region { "regions: [a]" } else { "selector: {version: v1}" };
            Step::Put(format!("---\napiVersion: weft.dev/v1alpha1\nkind: ServiceSubset\nmetadata: {{namespace: shop, name: b{n}}}\nspec: {{service: s{of}, {spec}}}\n"))
        }),
        (number.clone(), number.clone(), 1..100u32).prop_map(|(n, of, spill)| {
            Step::Put(format!("---\napiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{namespace: shop, name: t{n}}}\nspec: {{targetRefs: [{{kind: Service, name: s{of}}}], locality: {{spillBelowPercent: {spill}}}}}\n"))
        }),
        (0..2u8, prop::sample::select(vec!["a", "b"])).prop_map(|(n, region)| {
            Step::Put(format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: n{n}, labels: {{topology.kubernetes.io/region: {region}}}}}\n"))
        }),
        (prop::sample::select(vec!["strict", "permissive", "odd"]), annotation()).prop_map(|(mode, ports)| {
            Step::Put(format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, annotations: {{config.weft.dev/inbound: {mode}, config.weft.dev/opaque-ports: '{ports}'}}}}\n"))
        }),
        (prop::sample::select(vec![("Pod", "p"), ("Service", "s"), ("ServiceSubset", "b"), ("TrafficPolicy", "t"), ("HTTPRoute", "r"), ("GRPCRoute", "r")]), number)
            .prop_map(|((kind, prefix), n)| Step::Delete(kind, "shop", format!("{prefix}{n}"))),
        (0..3u8).prop_map(|n| Step::Delete("EndpointSlice", "shop", format!("s{n}-1"))),
        (0..2u8).prop_map(|n| Step::Delete("Node", "", format!("n{n}"))),
        (0..3u8).prop_map(|n| Step::Delete("HTTPRoute", "web", format!("r{n}"))),
        Just(Step::Delete("Namespace", "", "shop".to_owned())),
    ]
}

/// Values of the annotation of opaque ports.
fn annotation() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "8080", "8080,9090", "odd"])
}

/// Clients send bytes, and no requests, to a pod's port that takes bytes by annotation, whichever Service they dial.
#[track_caller]
fn both_sides_agree(index: &Index) {
    let is_opaque = |protocol| matches!(protocol, Protocol::Opaque | Protocol::Tls);
    for (name, kept) in &index.pods {
        let pod = kept.form().unwrap();
        let inbound = inbound(index, &name.namespace, &name.name).unwrap().value;
        for number in index.opaque_ports(name, pod) {
            let port = inbound.port(number).unwrap();
            for name_of in port.services.iter().filter(|_| is_opaque(port.protocol)) {
                for key in ["80", "81", "80@web", "81@web"].map(|port| format!("shop/{name_of}:{port}")) {
                    let led = |service: &Compiled<Service>| {
                        let set = endpoint_set(index, &service.value.endpoints).unwrap().value;
                        set.endpoints
                            .iter()
                            .any(|endpoint| endpoint.pod == name.name && endpoint.address.port() == number)
                    };
                    if let Some(service) = service(index, &key).filter(led) {
                        assert!(is_opaque(service.value.protocol), "{key} and {name}:{number}");
                    }
                }
            }
        }
    }
}

/// Whatever is compiled, a proxy takes: its own reader of the wire says so.
#[track_caller]
fn taken(body: Body) {
    let bytes = resource::encode(&body).bytes;
    let read = resource::decode(body.kind(), &bytes).unwrap_or_else(|error| panic!("{error}: {body:?}"));
    assert_eq!(resource::encode(&read).bytes, bytes);
}

/// Everything that can be asked, as text, and what it depends on.
fn all(index: &Index) -> BTreeMap<String, (String, BTreeSet<Topic>)> {
    let mut answers = BTreeMap::new();
    let mut targets: Vec<String> = (1..4)
        .flat_map(|ip| [format!("10.96.0.{ip}:80"), format!("10.96.0.{ip}:81")])
        .collect();
    targets.extend((0..4).map(|ip| format!("10.244.0.{ip}:8080")));
    targets.extend((0..3).map(|n| format!("name:s{n}.shop:80")));
    for target in &targets {
        for client in ["shop", "web"] {
            let Closure {
                lookup,
                service,
                endpoints,
            } = closure(index, &target.parse().unwrap(), client);
            lookup
                .value
                .iter()
                .for_each(|lookup| taken(Body::Lookup(lookup.clone())));
            answers.insert(
                format!("{target} {client}"),
                (format!("{:?} {:?}", lookup.value, lookup.sources), lookup.topics),
            );
            if let Some((key, service)) = service {
                taken(Body::Service(service.value.clone()));
                answers.insert(
                    format!("service {key}"),
                    (format!("{:?} {:?}", service.value, service.sources), service.topics),
                );
            }
            for (key, set) in endpoints {
                taken(Body::Endpoints(set.value.clone()));
                answers.insert(
                    format!("set {key}"),
                    (format!("{:?} {:?}", set.value, set.sources), set.topics),
                );
            }
        }
    }
    for n in 0..3 {
        if let Some(inbound) = inbound(index, "shop", &format!("p{n}")) {
            taken(Body::Inbound(inbound.value.clone()));
            answers.insert(
                format!("inbound p{n}"),
                (format!("{:?}", inbound.value), inbound.topics),
            );
        }
    }
    answers.insert(
        "statuses".to_owned(),
        (format!("{:?}", index.statuses()), BTreeSet::new()),
    );
    answers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn edits_step_by_step_equal_the_result_from_scratch(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::with(closed(), "");
        let mut there: HashMap<ObjectRef, Arc<Object>> = HashMap::new();
        let mut before = all(&world.index);
        for step in steps {
            let changed = match step {
                Step::Put(yaml) => {
                    let upserts = world.objects(&yaml);
                    there.extend(upserts.iter().map(|object| (object.reference(), Arc::clone(object))));
                    world.index.apply(&Changes { upserts, ..Changes::default() })
                }
                Step::Delete(kind, namespace, name) => {
                    there.remove(&reference(kind, namespace, &name));
                    world.delete(kind, namespace, &name)
                }
            };
            both_sides_agree(&world.index);
            let after = all(&world.index);
            for (question, (answer, topics)) in &before {
                let touched = topics.is_empty() || topics.intersection(&changed.topics).next().is_some();
                if let Some((now, _)) = after.get(question).filter(|_| !touched) {
                    prop_assert_eq!(now, answer, "{} changed, and no topic of it was touched: {:?}", question, changed);
                }
            }
            before = after;
        }
        let mut scratch = Index::new(closed());
        scratch.replace(&Snapshot { objects: there.into_values().collect(), ..Snapshot::default() });
        let texts = |answers: BTreeMap<String, (String, BTreeSet<Topic>)>| answers.into_iter().map(|(question, (answer, _))| (question, answer)).collect::<BTreeMap<_, _>>();
        prop_assert_eq!(texts(before), texts(all(&scratch)));
    }
}
