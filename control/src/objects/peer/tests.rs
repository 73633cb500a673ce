//! What a ClusterPeer means, and what each of its fields may be.

use std::time::SystemTime;

use serde_json::json;
use weft_certs::authority::Authority;

use super::*;
use crate::objects::host_port::Host;

fn pem(domain: &str) -> String {
    let domain = TrustDomain::new(domain).unwrap();
    Authority::create(domain, SystemTime::now()).unwrap().bundle(0).to_pem()
}

/// A peer that says no more than it must.
fn least() -> Value {
    json!({"trustDomain": "b.example", "trustBundle": {"roots": pem("b.example")}, "endpoints": ["control.b.example:15013"]})
}

fn object(name: &str, spec: &Value) -> Object {
    let raw = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "ClusterPeer", "metadata": {"name": name}, "spec": spec
    });
    Object {
        api_version: "weft.dev/v1alpha1".to_owned(),
        kind: "ClusterPeer".to_owned(),
        namespace: String::new(),
        name: name.to_owned(),
        uid: "u".to_owned(),
        resource_version: 1,
        generation: 1,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        raw,
        origin: None,
    }
}

/// The same with some fields set.
fn with(fields: Value) -> Value {
    let mut spec = least();
    let fields = fields.as_object().unwrap().clone();
    spec.as_object_mut().unwrap().extend(fields);
    spec
}

#[track_caller]
fn read(spec: &Value) -> Peer {
    Peer::of(&object("b", spec)).unwrap().0
}

fn labels(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    all.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn a_peer_that_says_little_is_trusted_with_nothing_and_told_of_all_that_is_exported() {
    let peer = read(&least());
    assert_eq!((peer.cluster.as_str(), peer.network.as_str()), ("b", "b"));
    assert_eq!(
        peer.control_plane.to_string(),
        "spiffe://b.example/ns/weft-system/sa/weft-control"
    );
    assert_eq!((peer.bundle.sequence(), peer.bundle.roots().len()), (0, 1));
    assert_eq!(peer.bundle.trust_domain(), &peer.trust_domain);
    assert_eq!(peer.endpoints[0].host, Host::Name("control.b.example".to_owned()));
    assert_eq!(peer.keep_for, Duration::from_secs(86_400));
    assert!(peer.gateways.is_empty() && peer.bundle_endpoint.is_none());
    assert!(!peer.is_imported("shop", &BTreeMap::new()), "nothing is taken from it");
    assert!(peer.is_told("shop", &BTreeMap::new()), "it is told of everything");
}

#[test]
fn a_peer_that_says_everything_means_it() {
    let peer = read(&with(json!({
        "controlPlane": "spiffe://b.example/ns/mesh/sa/weft-control",
        "trustBundle": {"sequence": 7, "roots": pem("b.example") + &pem("b.example")},
        "endpoints": ["192.0.2.7:15013", "[2001:db8::7]:15013"],
        "bundleEndpoint": "https://b.example:8443/bundle",
        "network": "shared.1",
        "gateways": ["gateway.b.example:15443"],
        "imports": [{"namespaces": ["shop"]}],
        "exports": [],
        "keepFor": "1h30m"
    })));
    assert_eq!(peer.control_plane.namespace(), "mesh");
    assert_eq!((peer.bundle.sequence(), peer.bundle.roots().len()), (7, 2));
    assert_eq!((peer.endpoints.len(), peer.gateways.len()), (2, 1));
    assert_eq!(peer.bundle_endpoint.as_ref().unwrap().path(), "/bundle");
    assert_eq!(peer.network, "shared.1");
    assert_eq!(peer.keep_for, Duration::from_secs(5400));
    assert!(peer.is_imported("shop", &BTreeMap::new()));
    assert!(!peer.is_imported("bank", &BTreeMap::new()));
    assert!(!peer.is_told("shop", &BTreeMap::new()), "an empty list is nothing");
}

#[test]
fn a_selection_takes_what_has_its_namespace_and_all_of_its_labels() {
    let peer = read(&with(json!({
        "imports": [
            {"namespaces": ["shop", "bank"], "labels": {"tier": "front", "team": "a"}},
            {"namespaces": ["*"], "labels": {"public": ""}}
        ],
        "exports": [{"namespaces": ["shop", "*"]}]
    })));
    let imported = |namespace: &str, all: &[(&str, &str)]| peer.is_imported(namespace, &labels(all));
    assert!(imported("shop", &[("tier", "front"), ("team", "a"), ("more", "x")]));
    assert!(!imported("shop", &[("tier", "front")]));
    assert!(!imported("shop", &[("tier", "front"), ("team", "b")]));
    assert!(!imported("mail", &[("tier", "front"), ("team", "a")]));
    assert!(imported("mail", &[("public", "")]));
    assert!(!imported("mail", &[("public", "yes")]) && !imported("mail", &[]));
    assert!(
        peer.is_told("mail", &BTreeMap::new()),
        "* is every namespace, whatever stands beside it"
    );
}

#[track_caller]
fn refused(spec: &Value, field: &str, words: &str) {
    let wrong = Peer::of(&object("b", spec)).unwrap_err();
    let named = wrong.iter().find(|wrong| wrong.field == field);
    let named = named.unwrap_or_else(|| panic!("{field} is not named: {wrong:?}"));
    assert!(named.message.contains(words), "{field}: {}", named.message);
    assert!(!named.fix.is_empty(), "{field} has no fix");
}

#[test]
fn who_the_peer_is_must_be_of_its_trust_domain() {
    refused(
        &with(json!({"trustDomain": "B.example"})),
        "spec.trustDomain",
        "must be",
    );
    refused(&with(json!({"trustDomain": "10.0.0.1"})), "spec.trustDomain", "must be");
    let other = "spiffe://c.example/ns/weft-system/sa/weft-control";
    refused(
        &with(json!({"controlPlane": other})),
        "spec.controlPlane",
        "not of the peer's trust domain",
    );
    refused(
        &with(json!({"controlPlane": "weft-control"})),
        "spec.controlPlane",
        "not of the form",
    );
    for name in ["b.c", "B", "", &"b".repeat(64)] {
        let wrong = Peer::of(&object(name, &least())).unwrap_err();
        assert_eq!(wrong[0].field, "metadata.name", "{name:?}");
    }
}

#[test]
fn a_bundle_is_certificates_of_authorities_and_no_key() {
    let bundle = |roots: String| with(json!({"trustBundle": {"roots": roots}}));
    let field = "spec.trustBundle.roots";
    refused(&bundle(String::new()), field, "does not begin");
    refused(&bundle("MIIB".to_owned()), field, "does not begin");
    refused(
        &bundle(format!("{PEM_HEAD}\nnot base64\n")),
        field,
        "bundle of b.example",
    );
    let key = format!("{}-----BEGIN PRIVATE KEY-----\n", pem("b.example"));
    refused(&bundle(key), field, "holds a private key");
    refused(&bundle(pem("b.example").repeat(17)), field, "17 roots");
    refused(&bundle("x".repeat(ROOTS_MAX + 1)), field, "is the limit");
    let sequence = with(json!({"trustBundle": {"sequence": -1, "roots": pem("b.example")}}));
    refused(&sequence, "spec.trustBundle.sequence", "expected u64");
}

#[test]
fn a_leaf_is_no_root_of_a_peer() {
    let leaf = rcgen::generate_simple_self_signed(["b.example".to_owned()]).unwrap();
    let text = leaf.cert.pem();
    refused(
        &with(json!({"trustBundle": {"roots": text}})),
        "spec.trustBundle.roots",
        "not a CA's",
    );
}

#[test]
fn where_the_peer_is_must_be_dialled_and_bounded() {
    refused(&with(json!({"endpoints": []})), "spec.endpoints", "0 entries");
    refused(
        &with(json!({"endpoints": vec!["a:1"; 9]})),
        "spec.endpoints",
        "9 entries",
    );
    refused(
        &with(json!({"endpoints": ["a:1", "a"]})),
        "spec.endpoints[1]",
        "port from 1 to 65535",
    );
    refused(
        &with(json!({"endpoints": ["2001:db8::7:15013"]})),
        "spec.endpoints[0]",
        "brackets",
    );
    refused(
        &with(json!({"gateways": vec!["a:1"; 17]})),
        "spec.gateways",
        "17 entries",
    );
    refused(
        &with(json!({"gateways": ["a:0"]})),
        "spec.gateways[0]",
        "port from 1 to 65535",
    );
    refused(&with(json!({"network": "a b"})), "spec.network", "no name of a network");
    refused(
        &with(json!({"network": "n".repeat(64)})),
        "spec.network",
        "no name of a network",
    );
    for good in [
        "https://b.example",
        "https://b.example/",
        "https://[2001:db8::7]:8443/a/b?c",
    ] {
        assert!(
            read(&with(json!({"bundleEndpoint": good}))).bundle_endpoint.is_some(),
            "{good}"
        );
    }
    for bad in [
        "",
        "b.example",
        "/bundle",
        "http://b.example",
        "https://",
        "https://me@b.example/",
        "https://b.example:0/",
        "https://b.example:99999/",
        "https://b.example/#a",
        "https://B_.example/",
    ] {
        refused(
            &with(json!({"bundleEndpoint": bad})),
            "spec.bundleEndpoint",
            "no https URL",
        );
    }
    for bad in ["1d", "721h", "-1h", ""] {
        refused(&with(json!({"keepFor": bad})), "spec.keepFor", "no duration");
    }
    assert_eq!(read(&with(json!({"keepFor": "0s"}))).keep_for, Duration::ZERO);
}

#[test]
fn what_is_shared_must_be_said_exactly() {
    let one = |selection: Value| with(json!({"imports": [selection]}));
    refused(
        &one(json!({"namespaces": []})),
        "spec.imports[0].namespaces",
        "0 entries",
    );
    refused(
        &one(json!({"labels": {}})),
        "spec.imports[0]",
        "missing field `namespaces`",
    );
    refused(
        &one(json!({"namespaces": ["Shop"]})),
        "spec.imports[0].namespaces[0]",
        "no name of a namespace",
    );
    refused(
        &one(json!({"namespaces": ["shop-*"]})),
        "spec.imports[0].namespaces[0]",
        "no name of a namespace",
    );
    let labels = json!({"namespaces": ["*"], "labels": {"a": "b c"}});
    refused(&one(labels), "spec.imports[0].labels[a]", "no label");
    let many: BTreeMap<String, String> = (0..17).map(|i| (format!("k{i}"), String::new())).collect();
    refused(
        &one(json!({"namespaces": ["*"], "labels": many})),
        "spec.imports[0].labels",
        "17 entries",
    );
    let namespaces: Vec<String> = (0..65).map(|i| format!("n{i}")).collect();
    refused(
        &one(json!({"namespaces": namespaces})),
        "spec.imports[0].namespaces",
        "65 entries",
    );
    let all = vec![json!({"namespaces": ["*"]}); 65];
    refused(&with(json!({"imports": all.clone()})), "spec.imports", "65 entries");
    refused(&with(json!({"exports": all})), "spec.exports", "65 entries");
    refused(
        &with(json!({"exports": Value::Null})),
        "spec.exports",
        "everything or nothing",
    );
}

/// A mistyped `exports` would tell the peer everything, a mistyped `labels` take everything from it.
#[test]
fn a_mistyped_field_refuses_the_peer_and_names_the_field_that_was_meant() {
    let fix = |spec: &Value, field: &str| {
        let wrong = Peer::of(&object("b", spec)).unwrap_err();
        let named = wrong.into_iter().find(|wrong| wrong.field == field).unwrap();
        named.fix
    };
    assert!(fix(&with(json!({"export": []})), "spec.export").contains("exports"));
    let import = with(json!({"imports": [{"namespaces": ["*"], "label": {"a": "b"}}]}));
    assert!(fix(&import, "spec.imports[0].label").contains("labels"));
    assert!(fix(&with(json!({"colour": 1})), "spec.colour").contains("check the spelling"));
    let mut beside = object("b", &least());
    beside.raw["extra"] = 1.into();
    assert_eq!(
        Peer::of(&beside).unwrap().1,
        ["extra"],
        "beside the spec it only is told"
    );
}
