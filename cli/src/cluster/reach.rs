//! Where a Service is reached from other clusters: by its load balancer, by its nodes' ports, or not at all. And where the
//! control plane and the gateways are, for those who say nothing of it themselves.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::api::Answer;
use super::pods::{is_ready, list, word};
use super::{Cluster, NODES};

/// The Service of the federation listener.
pub(crate) const FEDERATION: &str = "weft-federation";
/// The Service of the east-west gateways.
pub(crate) const GATEWAY: &str = "weft-gateway";
/// What of a control plane's word on itself is looked up where it says none: the field, the Service, and how many addresses
/// a ClusterPeer takes.
const LOOKED_UP: [(&str, &str, usize); 2] = [("endpoints", FEDERATION, 8), ("gateways", GATEWAY, 16)];
/// The port of the federation listener's Service that shows the trust bundle, where there is one.
const BUNDLE: &str = "bundle";

impl Cluster {
    /// Adds to what the control plane says of this cluster where others reach it, if it does not say that itself. Where they do
    /// not, `unreached` has the reason, by field.
    pub(super) async fn add_reach(&self, status: &mut Value) {
        for (field, service, most) in LOOKED_UP {
            if !list(&status["federation"][field]).is_empty() {
                continue;
            }
            let namespace = &self.control_namespace;
            let path = format!("/api/v1/namespaces/{namespace}/services/{service}");
            let told = match self.api.get(&path).await {
                Ok(Answer::Is(object)) => self.reached(&object, &object["spec"]["ports"][0], most).await,
                Ok(Answer::Missing) => Err("is not there".to_owned()),
                Ok(Answer::Forbidden(why)) => Err(format!("can't be read: {why}")),
                Err(why) => Err(format!("can't be read: {why:#}")),
            };
            match told {
                Ok(addresses) => status["federation"][field] = json!(addresses),
                Err(why) => status["unreached"][field] = json!(format!("Service {namespace}/{service} {why}")),
            }
        }
        self.add_bundle_endpoint(status).await;
    }

    /// The same for the URL at which the trust bundle is shown, of which a ClusterPeer takes one. Roots come without it as well: where
    /// it is not, nothing is missing.
    async fn add_bundle_endpoint(&self, status: &mut Value) {
        if !status["federation"].is_object() || status["federation"]["bundleEndpoint"].is_string() {
            return;
        }
        let path = format!("/api/v1/namespaces/{}/services/{FEDERATION}", self.control_namespace);
        let Ok(Answer::Is(service)) = self.api.get(&path).await else {
            return;
        };
        let Some(port) = list(&service["spec"]["ports"])
            .iter()
            .find(|port| port["name"] == BUNDLE)
        else {
            return;
        };
        if let Ok(at) = self.reached(&service, port, 1).await {
            status["federation"]["bundleEndpoint"] = json!(at.first().map(|at| format!("https://{at}/")));
        }
    }

    /// Where others reach a port of a Service.
    async fn reached(&self, service: &Value, port: &Value, most: usize) -> Result<Vec<String>, String> {
        if let Some(why) = unreached(service) {
            return Err(why);
        }
        let nodes = match service["spec"]["type"] == "NodePort" {
            true => self.list(&NODES, None).await.map_err(|why| {
                format!("is of the type NodePort, and the nodes' addresses can't be looked up: {why:#}")
            })?,
            false => Vec::new(),
        };
        let mut addresses = addresses(service, port, &nodes);
        addresses.truncate(most);
        match addresses.is_empty() {
            true => Err("is of the type NodePort, and has no node port yet, or no node is ready".to_owned()),
            false => Ok(addresses),
        }
    }
}

/// Why other clusters do not reach a Service, as far as it says itself.
pub(crate) fn unreached(service: &Value) -> Option<String> {
    if !list(&service["spec"]["externalIPs"]).is_empty() {
        return None;
    }
    match word(&service["spec"]["type"]) {
        "LoadBalancer" => balancers(service)
            .next()
            .is_none()
            .then(|| "is of the type LoadBalancer, and no load balancer has given it an address yet".to_owned()),
        "NodePort" => None,
        other => Some(format!("is of the type {other}, which only this cluster reaches")),
    }
}

/// Where a port of a Service is reached.
fn addresses(service: &Value, port: &Value, nodes: &[Value]) -> Vec<String> {
    let external = list(&service["spec"]["externalIPs"]).iter().map(word);
    let mut all: Vec<String> = external
        .chain(balancers(service))
        .map(|host| at(host, &port["port"]))
        .collect();
    if all.is_empty() && !port["nodePort"].is_null() {
        let ready = nodes.iter().filter(|node| is_ready(node));
        all = ready.filter_map(node).map(|host| at(host, &port["nodePort"])).collect();
    }
    all
}

/// The names or addresses of a Service's load balancers. One that is only being made has neither.
fn balancers(service: &Value) -> impl Iterator<Item = &str> {
    let all = list(&service["status"]["loadBalancer"]["ingress"]).iter();
    all.filter_map(|ingress| {
        let mut known = [&ingress["hostname"], &ingress["ip"]].into_iter().map(word);
        known.find(|host| !host.is_empty())
    })
}

/// How others reach a node: from outside where it has such an address.
fn node(node: &Value) -> Option<&str> {
    let of = |kind: &str| {
        let mut all = list(&node["status"]["addresses"]).iter();
        all.find(|address| address["type"] == kind)
            .map(|address| word(&address["address"]))
    };
    of("ExternalIP").or_else(|| of("InternalIP"))
}

fn at(host: &str, port: &Value) -> String {
    match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(kind: &str) -> Value {
        json!({"spec": {"type": kind, "ports": [{"port": 15013, "nodePort": 31013}]}, "status": {"loadBalancer": {}}})
    }

    /// Where its first port is reached.
    fn at_first(service: &Value, nodes: &[Value]) -> Vec<String> {
        addresses(service, &service["spec"]["ports"][0], nodes)
    }

    fn node(ready: &str, addresses: &[(&str, &str)]) -> Value {
        let addresses = addresses
            .iter()
            .map(|(kind, address)| json!({"type": kind, "address": address}));
        json!({"status": {
            "conditions": [{"type": "Ready", "status": ready}], "addresses": addresses.collect::<Vec<_>>(),
        }})
    }

    #[test]
    fn a_load_balancer_is_reached_by_its_name_or_its_addresses() {
        let mut balanced = service("LoadBalancer");
        balanced["status"]["loadBalancer"]["ingress"] =
            json!([{"ip": "192.0.2.7"}, {"hostname": "lb.example"}, {"ip": "2001:db8::7"}]);
        assert_eq!(unreached(&balanced), None);
        let want = ["192.0.2.7:15013", "lb.example:15013", "[2001:db8::7]:15013"];
        assert_eq!(at_first(&balanced, &[]), want);
    }

    #[test]
    fn a_node_port_is_reached_at_each_node_that_is_ready_from_outside_where_it_has_such_an_address() {
        let nodes = [
            node(
                "True",
                &[
                    ("Hostname", "n1"),
                    ("InternalIP", "10.0.0.1"),
                    ("InternalIP", "fd00::1"),
                ],
            ),
            node("False", &[("InternalIP", "10.0.0.2")]),
            node("True", &[("InternalIP", "10.0.0.3"), ("ExternalIP", "198.51.100.3")]),
        ];
        let want = ["10.0.0.1:31013", "198.51.100.3:31013"];
        assert_eq!(at_first(&service("NodePort"), &nodes), want);
        let bundle = json!({"port": 15016, "nodePort": 31016});
        let want = ["10.0.0.1:31016", "198.51.100.3:31016"];
        assert_eq!(addresses(&service("NodePort"), &bundle, &nodes), want);
    }

    #[test]
    fn what_is_only_being_made_is_left_out_and_where_nothing_else_is_it_says_so() {
        let mut balanced = service("LoadBalancer");
        balanced["status"]["loadBalancer"]["ingress"] = json!([{"ipMode": "VIP"}]);
        assert!(unreached(&balanced).is_some_and(|why| why.contains("no load balancer")));
        balanced["status"]["loadBalancer"]["ingress"] = json!([{"ipMode": "VIP"}, {"hostname": "", "ip": "192.0.2.7"}]);
        assert_eq!(unreached(&balanced), None);
        assert_eq!(at_first(&balanced, &[]), ["192.0.2.7:15013"]);

        let mut without = service("NodePort");
        without["spec"]["ports"] = json!([{"port": 15013}]);
        let nodes = [node("True", &[("InternalIP", "10.0.0.1")])];
        assert_eq!(at_first(&without, &nodes), Vec::<String>::new());
    }

    #[test]
    fn what_only_this_cluster_reaches_or_has_no_address_yet_says_so() {
        assert!(unreached(&service("ClusterIP")).is_some_and(|why| why.contains("only this cluster reaches")));
        assert!(unreached(&service("LoadBalancer")).is_some_and(|why| why.contains("no load balancer")));
        assert_eq!(unreached(&service("NodePort")), None);
        let mut external = service("ClusterIP");
        external["spec"]["externalIPs"] = json!(["192.0.2.9"]);
        assert_eq!(unreached(&external), None);
        assert_eq!(at_first(&external, &[]), ["192.0.2.9:15013"]);
    }
}
