//! Services of an API server in the words of `weft status`. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use weft_control::objects::cluster::{OPAQUE_PORTS_ANNOTATION, opaque_ports_of};

use super::pods::{is_ready, is_selected, list, word};

/// A Service, with the pods of all namespaces that are shown. `namespace`: its own, as far as it is known. `declared`: what its
/// port of a number declares, and by what, if pods behind it say by annotation that it is opaque, or don't.
pub(super) fn service(
    service: &Value,
    pods: &[Value],
    namespace: Option<&Value>,
    declared: impl Fn(u16, bool) -> Option<Value>,
) -> Value {
    let (metadata, spec) = (&service["metadata"], &service["spec"]);
    let behind: Vec<&Value> = pods
        .iter()
        .filter(|pod| pod["metadata"]["namespace"] == metadata["namespace"] && is_selected(&spec["selector"], pod))
        .collect();
    let ready = behind.iter().filter(|pod| is_ready(pod)).count();
    let names: BTreeSet<&str> = behind.iter().map(|pod| word(&pod["metadata"]["name"])).collect();
    let is_external = spec["type"] == "ExternalName";
    let is_headless = spec["clusterIP"] == "None";
    let addresses: Vec<&Value> = match is_headless {
        true => Vec::new(),
        false => list(&spec["clusterIPs"]).iter().collect(),
    };
    let ports = list(&spec["ports"]).iter().map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let number = number(&port["port"]);
        let numbers: BTreeSet<u16> = behind.iter().filter_map(|pod| target(port, pod, protocol)).collect();
        let is_opaque = |pod: &&Value| {
            let ports = opaque_ports_of(annotation(pod), namespace.and_then(annotation));
            target(port, pod, protocol).is_some_and(|number| ports.contains(&number))
        };
        let told = |number| declared(number, behind.iter().any(&is_opaque));
        json!({
            "name": word(&port["name"]), "port": number, "protocol": protocol, "appProtocol": port["appProtocol"],
            "declared": number.filter(|_| protocol == "TCP").and_then(told), "podPorts": numbers,
        })
    });
    json!({
        "namespace": metadata["namespace"], "name": metadata["name"], "addresses": addresses, "headless": is_headless,
        "externalName": if is_external { spec["externalName"].clone() } else { Value::Null },
        "ports": ports.collect::<Vec<_>>(), "pods": {"ready": ready, "all": behind.len(), "names": names},
    })
}

fn annotation(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][OPAQUE_PORTS_ANNOTATION].as_str()
}

/// The port of a pod that a port of a Service leads to.
fn target(port: &Value, pod: &Value, protocol: &str) -> Option<u16> {
    match &port["targetPort"] {
        Value::String(name) => {
            let (init, main) = (list(&pod["spec"]["initContainers"]), list(&pod["spec"]["containers"]));
            let mut ports = init.iter().chain(main).flat_map(|container| list(&container["ports"]));
            let named = ports
                .find(|port| port["name"] == name.as_str() && port["protocol"].as_str().unwrap_or("TCP") == protocol);
            number(&named?["containerPort"])
        }
        Value::Null => number(&port["port"]),
        target => number(target),
    }
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_its_pods_and_the_ports_that_they_listen_on() {
        let pod = |name: &str, ready: &str| {
            json!({"metadata": {"namespace": "shop", "name": name, "labels": {"app": "web"}},
                "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        };
        let mut elsewhere = pod("other", "True");
        elsewhere["metadata"]["namespace"] = json!("street");
        let web = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {
            "selector": {"app": "web"}, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
            "ports": [{"port": 80, "targetPort": "http"}, {"port": 53, "protocol": "UDP", "targetPort": 5353}]}});
        let declared = |port: u16, _| (port == 80).then(|| json!({"protocol": "http", "by": "name"}));
        let told = service(&web, &[pod("b", "False"), pod("a", "True"), elsewhere], None, declared);
        assert_eq!(told["pods"], json!({"ready": 1, "all": 2, "names": ["a", "b"]}));
        assert_eq!(
            (&told["ports"][0]["podPorts"], &told["ports"][1]["podPorts"]),
            (&json!([8080]), &json!([5353]))
        );
        assert_eq!(
            (&told["ports"][0]["declared"]["by"], &told["ports"][1]["declared"]),
            (&json!("name"), &Value::Null)
        );
        assert_eq!(
            (&told["headless"], &told["addresses"][1]),
            (&json!(false), &json!("fd00::1"))
        );
    }

    #[test]
    fn a_port_is_annotated_if_one_of_its_pods_is_or_else_the_namespace() {
        let pod = |annotations: Value| {
            json!({"metadata": {"namespace": "shop", "name": "a", "labels": {"app": "web"}, "annotations": annotations},
                "spec": {"containers": [{"ports": [{"name": "redis", "containerPort": 6379}]}]}})
        };
        let web = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {
            "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "redis"}, {"port": 81}]}});
        let opaque = |ports: &str| json!({"config.weft.dev/opaque-ports": ports});
        let namespace = json!({"metadata": {"name": "shop", "annotations": opaque("6379")}});
        for (pods, namespace, want) in [
            (vec![pod(json!({}))], None, [false, false]),
            (vec![pod(json!({})), pod(opaque("6379"))], None, [true, false]),
            (vec![pod(json!({}))], Some(&namespace), [true, false]),
            (vec![pod(opaque("81"))], Some(&namespace), [false, true]),
            (vec![pod(opaque("odd"))], Some(&namespace), [true, false]),
        ] {
            let told = service(&web, &pods, namespace, |_, annotated| Some(json!(annotated)));
            let declared = |port: usize| told["ports"][port]["declared"].clone();
            assert_eq!(
                [declared(0), declared(1)],
                want.map(Value::from),
                "{pods:?} {namespace:?}"
            );
        }
    }

    #[test]
    fn a_headless_service_has_no_address_and_one_without_a_selector_no_pods() {
        let headless =
            json!({"metadata": {}, "spec": {"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}});
        let told = service(&headless, &[json!({"metadata": {}})], None, |_, _| None);
        assert_eq!(
            (&told["headless"], &told["addresses"], &told["pods"]["all"]),
            (&json!(true), &json!([]), &json!(0))
        );
    }
}
