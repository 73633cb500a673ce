//! What is said of names and addresses that are nobody's.

use std::path::Path;

use weft_model::identity::TrustDomain;

use super::*;
use crate::index::Settings;
use crate::manifests::{Writer, parse};
use crate::objects::Kinds;

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: reviews}, ports: [{port: 80}]}
";

fn verdict(target: &str) -> Verdict {
    let mut index = Index::new(Settings {
        trust_domain: TrustDomain::new("td").unwrap(),
        cluster: "one".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        inside: vec!["10.96.0.0/16".parse().unwrap()],
        outside: Vec::new(),
    });
    index.replace(&parse(Path::new("shop.yaml"), SHOP, Writer::User, &Kinds::control()).unwrap());
    let target = match target.parse() {
        Ok(address) => Target::Address(address),
        Err(_) => Target::Host {
            host: target.to_owned(),
            port: 80,
        },
    };
    let question = Question {
        namespace: "shop".to_owned(),
        from: None,
        scheme: Scheme::Http,
        authority: target.to_string(),
        target,
        method: http::Method::GET,
        path: "/".to_owned(),
        query: None,
        headers: HeaderMap::new(),
        stream: false,
        server_name: None,
    };
    explain(&index, &question).unwrap().verdict
}

#[test]
fn a_mistyped_name_of_a_service_is_not_said_to_be_passed_on() {
    for host in [
        "revews",
        "revews.shop",
        "revews.shop.svc",
        "revews.shop.svc.cluster.local",
    ] {
        let Verdict::NoSuchService { service, has } = verdict(host) else {
            panic!("{host}: {:?}", verdict(host))
        };
        assert_eq!(
            (service.as_str(), &has[..]),
            ("shop/revews", &["reviews".to_owned()][..]),
            "{host}"
        );
    }
    assert!(matches!(verdict("reviews.shop.svc"), Verdict::Forward(_)));
}

#[test]
fn names_and_addresses_of_others_are_passed_on_and_unknown_ones_of_the_mesh_are_not() {
    for outside in ["example.com", "www.example.org", "203.0.113.9:80"] {
        assert!(matches!(verdict(outside), Verdict::Outside), "{outside}");
    }
    assert!(matches!(verdict("10.96.77.7:80"), Verdict::Unknown));
}
