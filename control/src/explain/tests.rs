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
    explained(SHOP, target).verdict
}

fn explained(shop: &str, target: &str) -> Explanation {
    let mut index = Index::new(Settings {
        trust_domain: TrustDomain::new("td").unwrap(),
        cluster: "one".to_owned(),
        network: "c".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        inside: vec!["10.96.0.0/16".parse().unwrap()],
        outside: Vec::new(),
    });
    index.replace(&parse(Path::new("shop.yaml"), shop, Writer::User, &Kinds::control()).unwrap());
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
    explain(&index, &question).unwrap()
}

#[test]
fn clusters_whose_exports_are_not_known_are_named_and_those_that_nothing_is_taken_from_are_not() {
    assert_eq!(explained(SHOP, "reviews").unheard, [""; 0]);
    let domain = TrustDomain::new("west.td").unwrap();
    let authority = weft_certs::authority::Authority::create(domain, std::time::SystemTime::now()).unwrap();
    let roots = authority.bundle(1).to_pem().replace('\n', "\n      ");
    let peer = |imports: &str| {
        format!(
            "{SHOP}---\napiVersion: weft.dev/v1alpha1\nkind: ClusterPeer\nmetadata: {{name: west}}\nspec:\n  trustDomain: west.td\n  \
             endpoints: ['west.example:15013']\n  imports: {imports}\n  trustBundle:\n    roots: |\n      {roots}\n"
        )
    };
    assert_eq!(explained(&peer("[{namespaces: [shop]}]"), "reviews").unheard, ["west"]);
    assert_eq!(explained(&peer("[]"), "reviews").unheard, [""; 0]);
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

const NAMES: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: site, namespace: shop}
spec: {type: ExternalName, externalName: Reviews.shop.svc.cluster.local.}
---
apiVersion: v1
kind: Service
metadata: {name: front, namespace: shop}
spec: {type: ExternalName, externalName: site.shop.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: round, namespace: shop}
spec: {type: ExternalName, externalName: round.shop.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: away, namespace: shop}
spec: {type: ExternalName, externalName: www.example.org}
---
apiVersion: v1
kind: Service
metadata: {name: gone, namespace: shop}
spec: {type: ExternalName, externalName: nobody.shop.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{port: 80}]
endpoints:
- {addresses: [10.244.0.3], targetRef: {kind: Pod, namespace: shop, name: db-1}}
- {addresses: [10.244.0.2], targetRef: {kind: Pod, namespace: shop, name: db-0}}
- {addresses: [10.244.0.4], conditions: {ready: false}, targetRef: {kind: Pod, namespace: shop, name: db-2}}
";

#[test]
fn an_external_name_is_followed_to_what_it_stands_for() {
    let shop = SHOP.to_owned() + NAMES;
    for (host, steps) in [("site", 1), ("front", 2), ("front.shop.svc.cluster.local", 2)] {
        let explanation = explained(&shop, host);
        assert!(matches!(explanation.verdict, Verdict::Forward(_)), "{explanation:?}");
        assert_eq!(explanation.service.as_deref(), Some("shop/reviews:80"));
        assert_eq!(explanation.aliases.len(), steps, "{explanation:?}");
    }
    for host in ["away", "round"] {
        assert!(matches!(explained(&shop, host).verdict, Verdict::Outside), "{host}");
    }
    let gone = explained(&shop, "gone").verdict;
    assert!(
        matches!(&gone, Verdict::NoSuchService { service, .. } if service == "shop/nobody"),
        "{gone:?}"
    );
}

#[test]
fn the_name_of_a_headless_service_leads_to_one_of_its_ready_pods_and_that_of_a_pod_to_it() {
    let shop = SHOP.to_owned() + NAMES;
    for (host, want) in [
        ("db", &["shop/db-0", "shop/db-1"][..]),
        ("db.shop.svc", &["shop/db-0", "shop/db-1"]),
        ("db-1.db", &["shop/db-1"]),
        ("db-1.db.shop.svc.cluster.local", &["shop/db-1"]),
        ("db-2.db", &[]),
    ] {
        let Verdict::OneOf { pods, number } = explained(&shop, host).verdict else {
            panic!("{host}")
        };
        assert_eq!(
            (&pods[..], number),
            (
                &want.iter().map(ToString::to_string).collect::<Vec<_>>()[..],
                want.len()
            ),
            "{host}"
        );
    }
}
