//! What shows only when all objects are taken together: namespaces, service accounts and nodes that are not there, ports
//! that no pod has.
//!
//! In: what the manifests ask for, each object sound by itself. Out: the same without what can't be honoured, and
//! problems. A pod or workload that can't be honoured any more stays as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_control::objects::{Object, Problem, Severity};

use super::place::place;
use super::raw::NumberOrName;
use super::{
    Address, BarePod, DEFAULT_NAMESPACE, DaemonSet, Deployment, Desired, Job, Key, Service, StatefulSet, Template,
    doubts, pod,
};

/// Names of ports that are listed in a fix.
const MOST_NAMED: usize = 12;

/// What pods are made from: a workload, or a Pod.
trait Made: Clone {
    /// The object, and what its pods are made from.
    fn made(&self) -> (&Arc<Object>, &Template);
}

macro_rules! made {
    ($($kind:ty),*) => {
        $(impl Made for $kind {
            fn made(&self) -> (&Arc<Object>, &Template) {
                (&self.object, &self.template)
            }
        })*
    };
}

made!(BarePod, Deployment, StatefulSet, DaemonSet, Job);

/// Checks everything together. `last`: what was asked for before.
pub(super) fn check(desired: &mut Desired, last: &Desired, problems: &mut Vec<Problem>) {
    strangers(desired, last, problems);
    let pods = older(&desired.pods, &last.pods, desired, problems);
    let deployments = older(&desired.deployments, &last.deployments, desired, problems);
    let stateful_sets = older(&desired.stateful_sets, &last.stateful_sets, desired, problems);
    let daemon_sets = older(&desired.daemon_sets, &last.daemon_sets, desired, problems);
    let jobs = older(&desired.jobs, &last.jobs, desired, problems);
    desired.pods.extend(pods);
    desired.deployments.extend(deployments);
    desired.stateful_sets.extend(stateful_sets);
    desired.daemon_sets.extend(daemon_sets);
    desired.jobs.extend(jobs);
    for service in desired.services.values() {
        problems.extend(lost_ports(service, desired));
    }
    for set in desired.stateful_sets.values() {
        problems.extend(nameless(set, desired));
    }
    // With one Node there is no choice that could be another.
    if desired.nodes.len() > 1 {
        let pods = desired.pods.values().map(BarePod::made);
        problems.extend(
            desired
                .workloads()
                .chain(pods)
                .flat_map(|(object, of)| astray(object, of)),
        );
    }
}

/// What a pod wishes of its Node that is not heard. To be apart from its like is what pods are anyhow.
fn astray(object: &Object, template: &Template) -> Vec<Problem> {
    let wishes = ["nodeAffinity", "podAffinity"].into_iter().filter(|name| {
        let wished = &template.spec["affinity"][name]["requiredDuringSchedulingIgnoredDuringExecution"];
        wished.as_object().is_some_and(|map| !map.is_empty()) || wished.as_array().is_some_and(|list| !list.is_empty())
    });
    let told = wishes.map(|name| {
        let field = format!("{}spec.affinity.{name}", template.prefix);
        let message = "is not honoured here: pods go to the Node with the fewest of their like";
        object.problem(
            Severity::Warning,
            &field,
            message,
            "write the Node's labels as nodeSelector",
        )
    });
    told.collect()
}

/// The older forms of what can't be honoured any more. The older form is no better if what it needs is gone, too: then
/// nothing new is made of either.
fn older<T: Made>(
    now: &BTreeMap<Key, T>,
    last: &BTreeMap<Key, T>,
    desired: &Desired,
    problems: &mut Vec<Problem>,
) -> BTreeMap<Key, T> {
    let mut kept = BTreeMap::new();
    for (key, new) in now {
        let (object, template) = new.made();
        let found = homeless(object, template, desired);
        if found.is_empty() {
            continue;
        }
        problems.extend(found);
        let sound = |old: &&T| homeless(old.made().0, old.made().1, desired).is_empty();
        if let Some(old) = last.get(key).filter(sound) {
            kept.insert(key.clone(), old.clone());
        }
    }
    kept
}

/// Leaves out what lies in namespaces that are not there, as an API server would. What was there before stays as it was, and
/// keeps its Namespace as that was: an API server, too, ends a namespace last of all.
fn strangers(desired: &mut Desired, last: &Desired, problems: &mut Vec<Problem>) {
    let mut sieve = Sieve {
        namespaces: desired.namespaces.keys().cloned().collect(),
        before: &last.namespaces,
        held: BTreeMap::new(),
        problems,
    };
    sieve.sift(&mut desired.services, &last.services, |service| &service.object);
    sieve.sift(&mut desired.pods, &last.pods, |pod| &pod.object);
    sieve.sift(&mut desired.deployments, &last.deployments, |of| &of.object);
    sieve.sift(&mut desired.stateful_sets, &last.stateful_sets, |of| &of.object);
    sieve.sift(&mut desired.daemon_sets, &last.daemon_sets, |of| &of.object);
    sieve.sift(&mut desired.jobs, &last.jobs, |of| &of.object);
    desired.namespaces.extend(sieve.held);
}

/// Which objects have a namespace.
struct Sieve<'a> {
    namespaces: BTreeSet<String>,
    before: &'a BTreeMap<String, Arc<Object>>,
    /// Namespaces that are gone, and still have objects that were there with them.
    held: BTreeMap<String, Arc<Object>>,
    problems: &'a mut Vec<Problem>,
}

impl Sieve<'_> {
    fn sift<T: Clone>(
        &mut self,
        now: &mut BTreeMap<Key, T>,
        last: &BTreeMap<Key, T>,
        object: impl Fn(&T) -> &Arc<Object>,
    ) {
        now.retain(|key, value| {
            let name = &key.namespace;
            if name == DEFAULT_NAMESPACE || self.namespaces.contains(name) {
                return true;
            }
            let mut message = format!("there is no Namespace {name:?}");
            let old = last.get(key).zip(self.before.get(name));
            if let Some((old, namespace)) = old {
                message.push_str(" any more; what was there with it stays as it was");
                *value = old.clone();
                // Nobody writes it any more, so it is told to the control plane as one of ours.
                let namespace = Object {
                    origin: None,
                    ..Object::clone(namespace)
                };
                self.held.entry(name.clone()).or_insert_with(|| Arc::new(namespace));
            }
            let fix = match old {
                Some(_) => "add it again, or remove this object as well",
                None => "add a Namespace object of that name",
            };
            let problem = object(value).problem(Severity::Error, "metadata.namespace", message, fix);
            self.problems.push(problem);
            old.is_some()
        });
    }
}

/// A StatefulSet whose pods have no names of their own, because the Service that would give them is none that does.
fn nameless(set: &StatefulSet, desired: &Desired) -> Option<Problem> {
    if set.service.is_empty() {
        return None;
    }
    let key = Key::new(&set.object.namespace, &set.service);
    let (message, fix) = match desired.services.get(&key) {
        None => (format!("there is no Service {key}"), "add one with clusterIP: None"),
        Some(service) if service.address != Address::Headless => {
            (format!("the Service {key} is not headless"), "give it clusterIP: None")
        }
        Some(_) => return None,
    };
    let message = format!(
        "{message}, so the pods have no names such as {}-{}.{}",
        set.object.name, set.start, set.service
    );
    Some(set.object.problem(Severity::Warning, "spec.serviceName", message, fix))
}

/// What keeps pods from being made of a template: no service account, no node.
fn homeless(object: &Object, template: &Template, desired: &Desired) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut wrong = |field: &str, message: String, fix: String| {
        let field = format!("{}{field}", template.prefix);
        problems.push(object.problem(Severity::Error, &field, message, fix));
    };
    let account = template.service_account();
    if !desired.has_account(&object.namespace, account) {
        let namespace = &object.namespace;
        let message = format!("there is no ServiceAccount {account:?} in the namespace {namespace}");
        wrong(
            "spec.serviceAccountName",
            message,
            "add a ServiceAccount object of that name".to_owned(),
        );
    }
    if let Err((field, message, fix)) = place(template, &desired.nodes, |_| (0, 0)) {
        wrong(field, message, fix);
    }
    for (field, message, fix) in doubts::lost_variables(object, template, desired) {
        wrong(&field, message, fix);
    }
    problems
}

/// Ports of a Service whose `targetPort` is a name that none of the pods that it selects has.
fn lost_ports(service: &Service, desired: &Desired) -> Vec<Problem> {
    let (here, selector) = (&service.object.namespace, &service.selector);
    let selects = |namespace: &str, template: &Template| {
        let chosen = |(name, value)| template.labels.get(name) == Some(value);
        namespace == here && !selector.is_empty() && selector.iter().all(chosen)
    };
    let pods = desired.pods.values().map(|pod| (&pod.object, &pod.template));
    let selected: Vec<&Template> = desired
        .workloads()
        .chain(pods)
        .filter(|(object, template)| selects(&object.namespace, template))
        .map(|(_, template)| template)
        .collect();
    let mut problems = Vec::new();
    for (i, port) in service.ports.iter().enumerate() {
        let NumberOrName::Name(name) = &port.target else {
            continue;
        };
        let has = |template: &&Template| pod::resolve_port(&template.view, &port.target, port.protocol).is_some();
        if selected.is_empty() || selected.iter().any(has) {
            continue;
        }
        let protocol = port.protocol.as_str();
        let message = format!("no pod that the Service selects has a {protocol} port named {name:?}");
        let names: BTreeSet<&str> = selected
            .iter()
            .flat_map(|template| &template.view.containers)
            .flat_map(|container| &container.ports)
            .filter(|other| other.protocol == port.protocol && !other.name.is_empty())
            .map(|port| port.name.as_str())
            .collect();
        let fix = match names.len() {
            0 => {
                format!("name a container's port {name:?}: none of their {protocol} ports has a name; or take a number")
            }
            _ => {
                let names: Vec<&str> = names.into_iter().take(MOST_NAMED).collect();
                format!(
                    "their ports are named {}; take one of them, or a number",
                    names.join(", ")
                )
            }
        };
        let field = format!("spec.ports[{i}].targetPort");
        problems.push(service.object.problem(Severity::Warning, &field, message, fix));
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::manifest::Reader;
    use crate::manifest::tests::object;

    /// A Reader's word on a pod with this `spec`, a Deployment of one port and a Service that leads to `target`.
    fn together(reader: &mut Reader, spec: &str, target: &str) -> (Desired, Vec<String>) {
        let yaml = |value: Value| object(value);
        let mut pod = json!({"containers": [{"name": "c", "command": ["c"]}]});
        if !spec.is_empty() {
            pod["nodeName"] = json!(spec);
        }
        let ports =
            json!([{"name": "web", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]);
        let objects = [
            yaml(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "east-1"}})),
            yaml(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "west-1"}})),
            yaml(
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": pod}),
            ),
            yaml(
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "default"},
                "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}},
                    "spec": {"containers": [{"name": "c", "command": ["c"], "ports": ports}]}}}}),
            ),
            yaml(
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"},
                "spec": {"selector": {"app": "d"}, "ports": [{"port": 80, "targetPort": target}]}}),
            ),
        ];
        let (desired, problems) = reader.read(&objects);
        (
            desired,
            problems
                .iter()
                .map(|problem| format!("{}: {problem}", problem.severity))
                .collect(),
        )
    }

    #[test]
    fn a_pod_without_a_node_is_an_error_and_an_edited_one_keeps_its_old_form() {
        let mut reader = Reader::default();
        let (first, said) = together(&mut reader, "nowhere", "web");
        assert_eq!(
            said,
            [
                "error: Pod default/p: spec.nodeName: there is no Node \"nowhere\" (fix: take one of the Nodes east-1, west-1, or \
              add a Node object of that name)"
            ]
        );
        // Nothing is there yet that could be kept.
        let key = Key::new("default", "p");
        assert_eq!(first.pods[&key].template.view.node_name.as_deref(), Some("nowhere"));
        assert_eq!(together(&mut reader, "west-1", "web").1, [""; 0]);
        for _ in 0..2 {
            let (edited, said) = together(&mut reader, "nowhere", "web");
            assert_eq!(said.len(), 1, "{said:?}");
            assert_eq!(edited.pods[&key].template.view.node_name.as_deref(), Some("west-1"));
        }
    }

    #[test]
    fn a_wish_for_a_node_that_is_not_heard_is_a_warning_where_there_are_several() {
        let node = |name: &str| object(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}));
        let pod = |affinity: Value| {
            object(
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
                "spec": {"affinity": affinity, "containers": [{"name": "c", "command": ["c"]}]}}),
            )
        };
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}});
        let said = |affinity: Value, nodes: &[&str]| {
            let mut objects = vec![pod(affinity)];
            objects.extend(nodes.iter().map(|name| node(name)));
            let problems = Reader::default().read(&objects).1;
            problems
                .iter()
                .map(|problem| format!("{} {}", problem.severity, problem.field))
                .collect::<Vec<_>>()
        };
        let wish = json!({"nodeAffinity": required});
        assert_eq!(said(wish.clone(), &["a", "b"]), ["warning spec.affinity.nodeAffinity"]);
        assert_eq!(said(wish, &["a"]), [""; 0]);
        let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}});
        assert_eq!(said(apart, &["a", "b"]), [""; 0]);
    }

    #[test]
    fn what_keeps_pods_from_a_node_in_a_cluster_and_not_here_is_a_warning() {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"},
            "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}], "unschedulable": false}});
        let problems = Reader::default().read(&[object(node)]).1;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(
            (problems[0].severity, problems[0].field.as_str()),
            (Severity::Warning, "spec.taints")
        );
    }

    #[test]
    fn what_runs_in_a_namespace_that_vanishes_stays_as_it_was_and_nothing_new_is_made_there() {
        let metadata = |name: &str| json!({"name": name, "namespace": "shop"});
        let namespace = object(json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shop", "annotations": {"config.weft.dev/inbound": "strict"}}}));
        let pod = |name: &str, command: &str| {
            object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata(name),
                "spec": {"containers": [{"name": "c", "command": [command]}]}}))
        };
        let mut reader = Reader::default();
        let whole = [namespace, pod("old", "one")];
        assert!(reader.read(&whole).1.is_empty());
        let edited = [pod("old", "two"), pod("new", "one")];
        for _ in 0..2 {
            let (desired, problems) = reader.read(&edited);
            let pods: Vec<&Key> = desired.pods.keys().collect();
            assert_eq!(pods, [&Key::new("shop", "old")]);
            assert_eq!(desired.pods[pods[0]].template.view.containers[0].command, ["one"]);
            assert_eq!(
                desired.namespaces["shop"].annotations["config.weft.dev/inbound"],
                "strict"
            );
            let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert_eq!(
                said,
                [
                    "Pod shop/new: metadata.namespace: there is no Namespace \"shop\" (fix: add a Namespace object of that name)",
                    "Pod shop/old: metadata.namespace: there is no Namespace \"shop\" any more; what was there with it stays as it \
                 was (fix: add it again, or remove this object as well)",
                ]
            );
        }
        let (desired, _) = reader.read(&edited[1..]);
        assert!(
            desired.pods.is_empty() && desired.namespaces.is_empty(),
            "with the last object the Namespace goes"
        );
        assert!(reader.read(&whole).1.is_empty());
    }

    #[test]
    fn a_named_port_that_no_selected_pod_has_is_a_warning_with_the_names_that_there_are() {
        let said = |target: &str| together(&mut Reader::default(), "", target).1;
        assert_eq!(said("web"), [""; 0]);
        assert_eq!(
            said("http"),
            [
                "warning: Service default/s: spec.ports[0].targetPort: no pod that the Service selects has a TCP port named \
              \"http\" (fix: their ports are named web; take one of them, or a number)"
            ]
        );
        // A port of the other protocol is another port.
        assert_eq!(said("dns").len(), 1);
    }
}
