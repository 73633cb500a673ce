//! What shows only when all objects are taken together: namespaces, service accounts and nodes that are not there, ports
//! that no pod has.
//!
//! In: what the manifests ask for, each object sound by itself. Out: the same without what can't be honoured, and
//! problems. A pod or Deployment that can't be honoured any more stays as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_control::objects::{Object, Problem, Severity};

use super::place::place;
use super::raw::NumberOrName;
use super::{DEFAULT_NAMESPACE, Desired, Key, Service, Template, pod};

/// Names of ports that are listed in a fix.
const MOST_NAMED: usize = 12;

/// Checks everything together. `last`: what was asked for before.
pub(super) fn check(desired: &mut Desired, last: &Desired, problems: &mut Vec<Problem>) {
    strangers(desired, problems);
    let sound = |object: &Arc<Object>, template: &Template, problems: &mut Vec<Problem>| {
        let found = homeless(object, template, desired);
        let sound = found.is_empty();
        problems.extend(found);
        sound
    };
    // The older form is no better if what it needs is gone, too: then nothing new is made of either.
    let better = |object: &Arc<Object>, template: &Template| homeless(object, template, desired).is_empty();
    let mut pods = BTreeMap::new();
    for (key, new) in &desired.pods {
        if !sound(&new.object, &new.template, problems)
            && let Some(old) = last.pods.get(key).filter(|old| better(&old.object, &old.template))
        {
            pods.insert(key.clone(), old.clone());
        }
    }
    let mut deployments = BTreeMap::new();
    for (key, new) in &desired.deployments {
        if !sound(&new.object, &new.template, problems)
            && let Some(old) = last
                .deployments
                .get(key)
                .filter(|old| better(&old.object, &old.template))
        {
            deployments.insert(key.clone(), old.clone());
        }
    }
    desired.pods.extend(pods);
    desired.deployments.extend(deployments);
    for service in desired.services.values() {
        problems.extend(lost_ports(service, desired));
    }
}

/// Leaves out what lies in namespaces that are not there, as an API server would.
fn strangers(desired: &mut Desired, problems: &mut Vec<Problem>) {
    let namespaces: BTreeSet<String> = desired.namespaces.keys().cloned().collect();
    let lost = |object: &Object, problems: &mut Vec<Problem>| {
        let lost = object.namespace != DEFAULT_NAMESPACE && !namespaces.contains(&object.namespace);
        if lost {
            let message = format!("there is no Namespace {:?}", object.namespace);
            let fix = "add a Namespace object of that name";
            problems.push(object.problem(Severity::Error, "metadata.namespace", message, fix));
        }
        !lost
    };
    desired.services.retain(|_, service| lost(&service.object, problems));
    desired.pods.retain(|_, pod| lost(&pod.object, problems));
    desired
        .deployments
        .retain(|_, deployment| lost(&deployment.object, problems));
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
    problems
}

/// Ports of a Service whose `targetPort` is a name that none of the pods that it selects has.
fn lost_ports(service: &Service, desired: &Desired) -> Vec<Problem> {
    let (here, selector) = (&service.object.namespace, &service.selector);
    let selects = |key: &Key, template: &Template| {
        let chosen = |(name, value)| template.labels.get(name) == Some(value);
        key.namespace == *here && !selector.is_empty() && selector.iter().all(chosen)
    };
    let deployments = desired
        .deployments
        .iter()
        .map(|(key, deployment)| (key, &deployment.template));
    let pods = desired.pods.iter().map(|(key, pod)| (key, &pod.template));
    let selected: Vec<&Template> = deployments
        .chain(pods)
        .filter(|(key, template)| selects(key, template))
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
