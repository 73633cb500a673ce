//! What the node serves to other clusters: Services of type LoadBalancer, at its own addresses on the wire.
//!
//! In: Services with their endpoints. Out: rules in the node's network namespace, as pods have them for the Services' own
//! addresses; and the Services whose port another one has already.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use weft_control::objects::{Problem, Severity};

use super::record::{Event, Rules};
use super::{Cluster, RETRY, system};
use crate::manifest::{Family, Key, Service};
use crate::services::{self, Table};
use crate::slices::Endpoint;

/// The node's side of load balancing.
#[derive(Default)]
pub(super) struct NodeSide {
    /// The Services that are served, with their addresses here.
    served: BTreeMap<Key, Vec<IpAddr>>,
    wanted: Arc<Table>,
    rules: Rules,
}

impl NodeSide {
    /// The addresses at which the node serves a Service; none: it does not.
    pub(super) fn addresses(&self, service: &Key) -> Option<&[IpAddr]> {
        self.served.get(service).map(Vec::as_slice)
    }

    /// When rules that failed are tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.rules.retry.filter(|_| !self.rules.busy)
    }

    /// Takes in that rules are in place, or can't be.
    pub(super) fn applied(&mut self, applied: std::io::Result<()>, table: Arc<Table>) {
        self.rules.busy = false;
        self.rules.retry = None;
        match applied {
            Ok(()) => {
                self.rules.applied = Some(table);
                self.rules.jumps = true;
            }
            Err(error) => {
                tracing::warn!(%error, "the node's rules for load balancers");
                self.rules.retry = Some(Instant::now() + RETRY);
            }
        }
    }
}

impl Cluster {
    /// Says which rules the node is to have.
    pub(super) fn balance(&mut self, behind: &BTreeMap<Key, Vec<Endpoint>>) {
        let on_wire = self.parts.net.on_wire();
        if on_wire.is_empty() {
            return;
        }
        let (served, wrong) = served(&self.desired.services, &on_wire);
        self.problems.extend(wrong);
        let table = Table::new(served.iter().map(|(key, addresses)| {
            let endpoints = behind.get(key).map_or(&[][..], Vec::as_slice);
            (&self.desired.services[key], addresses.as_slice(), endpoints)
        }));
        self.node.served = served;
        if *self.node.wanted != table {
            self.node.wanted = Arc::new(table);
        }
    }

    /// Brings the node's rules up to date. Whether they are.
    pub(super) fn apply_node_rules(&mut self) -> bool {
        let node = &mut self.node;
        let current = match &node.rules.applied {
            Some(applied) => *applied == node.wanted,
            None => *node.wanted == Table::default(),
        };
        // Where they failed it is told, and nobody waits for the next try.
        self.rules_due |= !current && node.rules.retry.is_none();
        let late = node.rules.retry.is_none_or(|retry| Instant::now() >= retry);
        if current || node.rules.busy || !late {
            return current;
        }
        node.rules.busy = true;
        let (table, jumps) = (node.wanted.clone(), !node.rules.jumps);
        let (events, v6) = (self.events.0.clone(), self.parts.net.gateway_v6().is_some());
        self.tasks.spawn(async move {
            let applied = services::apply_on_node(&table, jumps, v6).await;
            // The cluster may have ended.
            let _ = events.send(Event::NodeRules(applied, table)).await;
        });
        false
    }
}

/// The Services that the node serves, with those of its addresses that are of their families. A port is the first one's
/// that wants it, and the mesh's own come first.
fn served(services: &BTreeMap<Key, Service>, on_wire: &[IpAddr]) -> (BTreeMap<Key, Vec<IpAddr>>, Vec<Problem>) {
    let mut all: Vec<_> = services.iter().filter(|(_, service)| service.load_balancer).collect();
    all.sort_by_key(|(key, _)| key.namespace != system::NAMESPACE);
    let (mut served, mut wrong) = (BTreeMap::new(), Vec::new());
    let mut taken = BTreeMap::new();
    for (key, service) in all {
        let ports: BTreeSet<_> = service.ports.iter().map(|port| (port.port, port.protocol)).collect();
        if let Some((port, other)) = ports.iter().find_map(|port| Some((port.0, *taken.get(port)?))) {
            let message =
                format!("port {port} of the node is the Service {other}'s: this one is not served to other clusters");
            let fix = "take another port, or type ClusterIP";
            wrong.push(service.object.problem(Severity::Warning, "spec.ports", message, fix));
            continue;
        }
        taken.extend(ports.into_iter().map(|port| (port, key)));
        let fits = |ip: &&IpAddr| service.families.contains(&Family::of(**ip));
        served.insert(key.clone(), on_wire.iter().filter(fits).copied().collect());
    }
    (served, wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::tests::object;

    fn service(namespace: &str, name: &str, kind: &str, port: u16) -> (Key, Service) {
        let raw = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"type": kind, "selector": {"app": name}, "ports": [{"port": port}]}});
        let service = Service::read(&object(raw), &mut Vec::new()).unwrap();
        (Key::new(namespace, name), service)
    }

    fn on_wire() -> [IpAddr; 2] {
        crate::net::wire::node(0)
    }

    #[test]
    fn a_load_balancer_has_the_node_s_address_of_its_family_and_a_cluster_ip_has_none() {
        let all = BTreeMap::from([
            service("shop", "gateway", "LoadBalancer", 15443),
            service("shop", "web", "ClusterIP", 80),
        ]);
        let (served, wrong) = served(&all, &on_wire());
        assert_eq!(
            served,
            BTreeMap::from([(Key::new("shop", "gateway"), vec![on_wire()[0]])])
        );
        assert_eq!(wrong, []);
    }

    #[test]
    fn a_port_that_another_one_has_is_refused_by_name_and_the_mesh_s_own_come_first() {
        let all = BTreeMap::from([
            service("shop", "thief", "LoadBalancer", 15013),
            service(system::NAMESPACE, system::FEDERATION_SERVICE, "LoadBalancer", 15013),
        ]);
        let (served, wrong) = served(&all, &on_wire());
        assert_eq!(served.len(), 1);
        assert!(served.contains_key(&Key::new(system::NAMESPACE, system::FEDERATION_SERVICE)));
        let said = wrong[0].to_string();
        assert!(
            said.contains("15013") && said.contains("weft-system/weft-federation"),
            "{said}"
        );
    }
}
