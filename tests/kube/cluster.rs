//! The cluster that `./x cluster` makes is a real one: nodes, scheduling, Services, names.

use std::collections::BTreeSet;

use serde_json::Value;
use weft_tests::kube::{Cluster, Namespace, image, said, until};

const SHOP: &str = include_str!("shop.yaml");

fn shop(cluster: &Cluster) -> Namespace<'_> {
    let namespace = cluster.namespace(&[]);
    namespace.apply(
        &SHOP
            .replace("SHOP_IMAGE", &image("shop"))
            .replace("TOOLS_IMAGE", &image("tools")),
    );
    for app in ["ratings", "reviews", "web"] {
        namespace.rolled_out(&format!("deployment/{app}"));
    }
    namespace.ready("tools");
    namespace
}

#[test]
fn two_nodes_are_ready_in_two_regions() {
    let nodes = Cluster::made().nodes();
    let ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|each| each["type"] == "Ready" && each["status"] == "True")
    };
    let region = |node: &Value| {
        node["metadata"]["labels"]["topology.kubernetes.io/region"]
            .clone()
            .to_string()
    };
    let regions: BTreeSet<String> = nodes.iter().filter(ready).map(region).collect();
    assert!(
        nodes.len() >= 2 && regions.len() >= 2,
        "{regions:?} of {} nodes",
        nodes.len()
    );
}

#[test]
fn the_shop_runs_on_every_node_and_answers_by_its_services_names() {
    let namespace = shop(Cluster::made());
    let node = |pod: &Value| pod["spec"]["nodeName"].clone().to_string();
    let nodes: BTreeSet<String> = namespace.pods("app=web").iter().map(node).collect();
    assert_eq!(nodes.len(), 2, "web is on {nodes:?}");

    let url = format!("http://web.{}.svc.cluster.local/products/1", namespace.name());
    let ask = || {
        let output = namespace.exec("tools", &["curl", "-sS", "-m", "5", &url]);
        let page = serde_json::from_slice::<Value>(&output.stdout).ok();
        page.filter(|page| page.to_string().contains("stars"))
            .ok_or_else(|| said(&output))
    };
    // Rules for a new Service take a moment to reach every node.
    until(
        "web answers with what reviews and ratings say",
        || ask().ok(),
        || format!("{:?}", ask()),
    );
}

#[test]
fn a_pod_of_one_node_reaches_one_of_another_by_both_families() {
    let namespace = shop(Cluster::made());
    for pod in namespace.pods("app=web") {
        let addresses = pod["status"]["podIPs"].as_array().cloned().unwrap_or_default();
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        for address in addresses {
            let address = address["ip"].as_str().expect("an address");
            let host = if address.contains(':') {
                format!("[{address}]")
            } else {
                address.to_owned()
            };
            let url = format!("http://{host}:8080/healthz");
            let output = namespace.exec("tools", &["curl", "-sS", "-m", "5", "-g", &url]);
            assert!(output.status.success(), "{url}: {}", said(&output));
        }
    }
}
