//! The state of a mesh as text, in tables.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use rustix::termios::tcgetwinsize;
use serde_json::Value;
use weft_injector::sidecar::PROXY;

use crate::protocols;
use crate::table::{Table, clean};

/// The columns of the terminal that standard output is, if it is one.
pub(crate) fn width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    // A terminal that does not know its width has none.
    let columns = tcgetwinsize(&stdout).ok()?.ws_col;
    (columns > 0).then_some(usize::from(columns))
}

/// The state as text. `width`: of the terminal that it is for, if it is for one.
pub(crate) fn text(status: &Value, (title, traffic): (&str, Table), width: Option<usize>, wide: bool) -> String {
    let mut out = String::new();
    let control = &status["control"];
    let reason = match word(&control["reason"]) {
        reason if reason.is_empty() => reason,
        reason => format!(": {reason}"),
    };
    let state = match (control["ready"].as_bool(), control["answers"].as_bool()) {
        (Some(true), Some(true)) => "ready".to_owned(),
        (Some(true), _) => format!("ready, but it does not answer{reason}"),
        _ => format!("not ready{reason}"),
    };
    let place = match status["context"].as_str() {
        Some(context) => format!("context {context}"),
        None => format!("mesh {}", word(&status["mesh"])),
    };
    let trust_domain = match word(&status["trustDomain"]) {
        unknown if unknown.is_empty() => unknown,
        known => format!(" · trust domain {known}"),
    };
    // Of several clusters on one machine: by which the others reach it.
    let node = match list(&status["nodeAddresses"]).first() {
        Some(address) => format!(" · node {}", word(address)),
        None => String::new(),
    };
    // A String takes all that is written to it, here and below.
    let _ = writeln!(
        out,
        "{place}{trust_domain}{node} · control plane {}{}",
        clean(state.trim_end()),
        who(control)
    );
    let parts = [
        ("PODS", pods(status, wide)),
        ("JOBS", jobs(status)),
        ("SERVICES", services(status)),
        ("IMPORTS", imports(status)),
        (title, traffic),
        ("ROUTES AND POLICIES", objects(status)),
        ("PROXIES", proxies(status)),
    ];
    for (title, table) in parts.into_iter().filter(|(_, table)| !table.is_empty()) {
        let _ = write!(out, "\n{title}\n{}", table.text(width));
    }
    let refused = refusals(status);
    if !refused.is_empty() {
        let _ = write!(out, "\nREFUSED\n{refused}");
    }
    let problems = list(&status["problems"]);
    if !problems.is_empty() {
        let _ = writeln!(out, "\nPROBLEMS");
        for problem in problems {
            let said = clean(&word(&problem["text"]));
            let _ = writeln!(out, "{}: {said}", word(&problem["severity"]));
        }
    }
    out
}

/// Which processes the control plane is: `(pid 7)`, `(2 of 3 replicas answer)`.
fn who(control: &Value) -> String {
    match control["replicas"].as_array().map(Vec::as_slice) {
        None => format!(" (pid {})", number(&control["pid"])),
        Some([]) => String::new(),
        Some([only]) => format!(" (pod {})", word(&only["pod"])),
        Some(several) => {
            let answering = several.iter().filter(|replica| replica["answers"] == true).count();
            format!(" ({answering} of {} replicas answer)", several.len())
        }
    }
}

fn pods(status: &Value, wide: bool) -> Table {
    let mut headings = vec![
        "NAMESPACE",
        "NAME",
        "READY",
        "STATUS",
        "RESTARTS",
        "ADDRESSES",
        "REGION",
        "ZONE",
        "VERSION",
        "PROXY",
    ];
    // Of processes elsewhere nobody here needs the pids.
    let is_here = !status["context"].is_string();
    if is_here {
        headings.push("CONTAINERS");
    }
    if wide {
        headings.extend(["WORKLOAD", "SERVICE ACCOUNT", "NODE"]);
    }
    let spare = [
        "CONTAINERS",
        "ADDRESSES",
        "REGION",
        "PROXY",
        "RESTARTS",
        "VERSION",
        "ZONE",
    ];
    let mut table = Table::new(&headings).spare(&spare);
    for pod in list(&status["pods"]) {
        let containers = list(&pod["containers"]);
        let counted = || containers.iter().filter(|container| container["kind"] != "init");
        let ready = counted().filter(|container| container["ready"] == true).count();
        let apps = containers
            .iter()
            .filter(|container| container["name"] != PROXY && !container["pid"].is_null());
        let pids = apps.map(|container| format!("{} {}", word(&container["name"]), number(&container["pid"])));
        let mut cells = vec![
            word(&pod["namespace"]),
            word(&pod["name"]),
            format!("{ready}/{}", counted().count()),
            match word(&pod["reason"]) {
                reason if reason.is_empty() => word(&pod["phase"]),
                reason => reason,
            },
            number(&pod["restarts"]),
            words(&pod["addresses"]),
            word(&pod["region"]),
            word(&pod["zone"]),
            word(&pod["version"]),
            proxy(pod, is_here),
        ];
        if is_here {
            cells.push(pids.collect::<Vec<_>>().join(", "));
        }
        if wide {
            cells.extend(["workload", "serviceAccount", "node"].map(|field| word(&pod[field])));
        }
        table.row(cells);
    }
    table
}

/// The proxy of a pod: its pid, elsewhere how it is.
fn proxy(pod: &Value, is_here: bool) -> String {
    let mut containers = list(&pod["containers"]).iter();
    let proxy = containers
        .find(|container| container["name"] == PROXY)
        .unwrap_or(&Value::Null);
    match (pod["meshed"] == true, is_here, proxy["ready"] == true) {
        (false, ..) => "none".to_owned(),
        (true, true, _) => number(&pod["proxyPid"]),
        (true, false, true) => "ready".to_owned(),
        (true, false, false) => word(&proxy["state"]),
    }
}

fn jobs(status: &Value) -> Table {
    let mut table = Table::new(&["NAMESPACE", "NAME", "STATUS", "COMPLETIONS", "FAILED", "DURATION"]);
    for job in list(&status["jobs"]) {
        let reason = word(&job["reason"]);
        table.row([
            word(&job["namespace"]),
            word(&job["name"]),
            match reason.is_empty() {
                true => word(&job["status"]),
                false => format!("{}: {reason}", word(&job["status"])),
            },
            match job["completions"].as_u64() {
                Some(completions) => format!("{}/{completions}", number(&job["succeeded"])),
                None => number(&job["succeeded"]),
            },
            number(&job["failed"]),
            format!("{} s", number(&job["seconds"])),
        ]);
    }
    table
}

/// A row for each port of a Service.
fn services(status: &Value) -> Table {
    let mut table = Table::new(&["NAMESPACE", "NAME", "ADDRESSES", "PORT", "PROTOCOL", "READY PODS"]);
    // What imports are called by is shown with them.
    let by_name = |service: &&Value| service["import"].is_null() || service["import"] == service["name"];
    for service in list(&status["services"]).iter().filter(by_name) {
        let external = word(&service["externalName"]);
        let addresses = match service["headless"] == true {
            true => "headless".to_owned(),
            false if !external.is_empty() => external,
            false => words(&service["addresses"]),
        };
        let pods = &service["pods"];
        let mut row = |port: String, protocol: String| {
            table.row([
                word(&service["namespace"]),
                word(&service["name"]),
                addresses.clone(),
                port,
                protocol,
                match service["import"].is_null() {
                    true => format!("{}/{}", number(&pods["ready"]), number(&pods["all"])),
                    false => "imported".to_owned(),
                },
            ]);
        };
        let ports = list(&service["ports"]);
        for port in ports {
            let transport = word(&port["protocol"]).to_ascii_lowercase();
            row(format!("{}/{transport}", number(&port["port"])), protocols::of(port));
        }
        if ports.is_empty() {
            row(String::new(), String::new());
        }
    }
    table
}

/// What other clusters share with this one.
fn imports(status: &Value) -> Table {
    let mut table = Table::new(&["NAMESPACE", "NAME", "TYPE", "ADDRESSES", "CLUSTERS", "STATUS"]);
    for import in list(&status["imports"]) {
        table.row([
            word(&import["namespace"]),
            word(&import["name"]),
            word(&import["type"]),
            words(&import["addresses"]),
            words(&import["clusters"]),
            word(&import["reason"]),
        ]);
    }
    table
}

/// Routes, subsets and policies: whether they act, and who has them.
fn objects(status: &Value) -> Table {
    let mut table = Table::new(&[
        "KIND",
        "NAMESPACE",
        "NAME",
        "STATUS",
        "APPLIED",
        "WAITING FOR",
        "WRITTEN AT",
    ]);
    let shown = list(&status["objects"]).iter().filter(|object| {
        !matches!(
            object["kind"].as_str(),
            Some("Service" | "Pod" | "EndpointSlice" | "Node" | "Namespace" | "ServiceAccount")
        )
    });
    for object in shown {
        let bad = list(&object["conditions"]).iter().filter(|condition| {
            // Of these two, True is what is wrong.
            let wanted = if condition["type"] == "PartiallyInvalid" || condition["type"] == "Conflict" {
                "False"
            } else {
                "True"
            };
            condition["type"] != "Applied" && condition["status"] != wanted
        });
        let said = bad.map(|condition| {
            let field = match word(&condition["field"]) {
                field if field.is_empty() => field,
                field => format!("{field}: "),
            };
            format!("{}: {field}{}", word(&condition["reason"]), word(&condition["message"]))
        });
        let said = said.collect::<Vec<_>>().join("; ");
        let line = object["line"]
            .as_u64()
            .map(|line| format!(":{line}"))
            .unwrap_or_default();
        table.row([
            word(&object["kind"]),
            word(&object["namespace"]),
            word(&object["name"]),
            if said.is_empty() { "accepted".to_owned() } else { said },
            format!("{}/{}", number(&object["applied"]), number(&object["subscribers"])),
            words(&object["waiting"]),
            format!("{}{line}", from_here(&word(&object["file"]))),
        ]);
    }
    table
}

/// A path as it is written from the current directory, if it lies below.
fn from_here(path: &str) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let below = std::path::Path::new(path).strip_prefix(here).ok();
    let below = below
        .and_then(std::path::Path::to_str)
        .filter(|below| !below.is_empty());
    below.unwrap_or(path).to_owned()
}

/// Which proxies have acknowledged which version.
fn proxies(status: &Value) -> Table {
    let mut table = Table::new(&[
        "NAMESPACE",
        "POD",
        "CONNECTED",
        "SINCE",
        "RESOURCES",
        "NOT ACKNOWLEDGED",
    ])
    .spare(&["SINCE", "RESOURCES"]);
    for proxy in list(&status["proxies"]) {
        let resources = list(&proxy["resources"]);
        let acked = resources.iter().filter(|resource| resource["acked"] == true).count();
        let waiting = resources.iter().filter(|resource| resource["acked"] != true);
        let waiting = waiting.map(|r| format!("{} {} ({})", word(&r["kind"]), word(&r["key"]), word(&r["version"])));
        table.row([
            word(&proxy["namespace"]),
            word(&proxy["pod"]),
            if proxy["connected"] == true {
                "yes".to_owned()
            } else {
                "no".to_owned()
            },
            word(&proxy["since"]),
            format!("{acked}/{}", resources.len()),
            waiting.collect::<Vec<_>>().join(", "),
        ]);
    }
    table
}

/// What proxies refused.
fn refusals(status: &Value) -> String {
    let mut out = String::new();
    for proxy in list(&status["proxies"]) {
        for refusal in list(&proxy["refusals"]) {
            let pod = format!("{}/{}", word(&proxy["namespace"]), word(&proxy["pod"]));
            let (object, field, reason) = (
                word(&refusal["object"]),
                word(&refusal["field"]),
                word(&refusal["reason"]),
            );
            let _ = writeln!(out, "{}", clean(&format!("{pod} refused {object}: {field}: {reason}")));
        }
    }
    out
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

pub(crate) fn words(value: &Value) -> String {
    list(value).iter().map(word).collect::<Vec<_>>().join(", ")
}

pub(crate) fn number(value: &Value) -> String {
    value.as_u64().map(|number| number.to_string()).unwrap_or_default()
}
#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::told;
    use super::*;
    use crate::scrape::Traffic;

    fn plain(status: &Value) -> String {
        text(status, ("TRAFFIC", told(&Traffic::default(), None)), None, false)
    }

    #[test]
    fn wide_has_more_of_each_pod() {
        let status =
            json!({"pods": [{"namespace": "shop", "name": "web-1", "serviceAccount": "web", "node": "west-1"}]});
        let none = || told(&Traffic::default(), None);
        let wide = text(&status, ("TRAFFIC", none()), None, true);
        assert!(wide.contains("SERVICE ACCOUNT") && wide.contains("west-1"), "{wide}");
        assert!(!plain(&status).contains("west-1"));
    }

    #[test]
    fn a_cluster_is_told_by_its_context_with_how_its_proxies_are_and_which_replicas_answer() {
        let status = json!({
            "context": "staging", "trustDomain": "td",
            "control": {"ready": true, "answers": true, "replicas": [{"answers": true}, {"answers": false}]},
            "pods": [
                {"namespace": "shop", "name": "web", "meshed": true, "containers": [{"name": "weft-proxy", "ready": true}]},
                {"namespace": "shop", "name": "late", "meshed": true,
                    "containers": [{"name": "weft-proxy", "ready": false, "state": "waiting"}]},
            ],
        });
        let said = plain(&status);
        assert!(
            said.starts_with("context staging · trust domain td · control plane ready (1 of 2 replicas answer)\n"),
            "{said}"
        );
        assert!(!said.contains("CONTAINERS"), "{said}");
        let row = |name: &str| {
            said.lines()
                .find(|line| line.contains(name))
                .unwrap_or_default()
                .to_owned()
        };
        assert!(
            row("web").ends_with("ready") && row("late").ends_with("waiting"),
            "{said}"
        );
        let silent = json!({"context": "staging", "control": {"ready": false, "answers": false, "reason": "no such Service",
            "replicas": []}});
        assert_eq!(
            plain(&silent),
            "context staging · control plane not ready: no such Service\n"
        );
    }

    #[test]
    fn one_of_several_clusters_says_where_the_others_reach_it() {
        let control = json!({"ready": true, "answers": true, "pid": 7});
        let beside = json!({"mesh": "east", "nodeAddresses": ["172.30.0.1", "fd00:172:30::1"], "control": control});
        assert_eq!(
            plain(&beside),
            "mesh east · node 172.30.0.1 · control plane ready (pid 7)\n"
        );
        let alone = json!({"mesh": "east", "control": control});
        assert_eq!(plain(&alone), "mesh east · control plane ready (pid 7)\n");
    }

    #[test]
    fn what_is_imported_is_told_once_and_not_by_the_services_that_it_is_called_by() {
        let service = |name: &str| json!({"namespace": "shop", "name": name, "import": "web", "ports": [{"port": 80, "protocol": "TCP"}]});
        let said = plain(&json!({
            "services": [service("weft-import-0123456789"), service("web")],
            "imports": [{"namespace": "shop", "name": "web", "type": "ClusterSetIP", "addresses": ["10.96.0.17"],
                "clusters": ["east", "west"], "reason": "Ready"}],
        }));
        assert!(!said.contains("weft-import-"), "{said}");
        for wanted in ["imported", "10.96.0.17", "east, west", "Ready"] {
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
    }

    #[test]
    fn a_route_that_was_refused_says_field_reason_and_place() {
        let status = json!({
            "mesh": "shop", "control": {"ready": true, "answers": true, "pid": 7},
            "objects": [{
                "kind": "HTTPRoute", "namespace": "shop", "name": "reviews", "file": "/m/routes.yaml", "line": 4,
                "conditions": [{"type": "Accepted", "status": "False", "reason": "UnsupportedValue",
                    "field": "spec.rules[0].filters[0].type", "message": "the filter CORS is not honoured"}],
                "subscribers": 3, "applied": 2, "waiting": ["shop/web-1"],
            }],
        });
        let said = plain(&status);
        for part in [
            "UnsupportedValue: spec.rules[0].filters[0].type: the filter CORS is not honoured",
            "2/3",
            "shop/web-1",
            "/m/routes.yaml:4",
        ] {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
    }

    #[test]
    fn a_condition_that_is_bad_when_true_is_told_when_true() {
        let route = |status: &str| {
            json!({"objects": [{"kind": "HTTPRoute", "name": "r", "conditions": [
                {"type": "PartiallyInvalid", "status": status, "reason": "Dropped", "message": "one rule"}]}]})
        };
        assert!(plain(&route("True")).contains("Dropped: one rule"));
        assert!(plain(&route("False")).contains("accepted"));
        let export = |status: &str| {
            json!({"objects": [{"kind": "ServiceExport", "name": "web", "conditions": [
                {"type": "Valid", "status": "True", "reason": "Valid", "message": "m"},
                {"type": "Conflict", "status": status, "reason": "TypeConflict", "message": "type differs"}]}]})
        };
        assert!(plain(&export("True")).contains("TypeConflict: type differs"));
        assert!(plain(&export("False")).contains("accepted"));
    }

    #[test]
    fn pods_show_their_pids_and_what_is_wrong() {
        let status = json!({"pods": [{
            "namespace": "shop", "name": "web-1", "phase": "Running", "reason": "container web: CrashLoopBackOff",
            "addresses": ["10.244.0.2", "fd00::2"], "meshed": true, "proxyPid": 41, "restarts": 3,
            "containers": [
                {"name": "weft-init", "kind": "init", "ready": true},
                {"name": "weft-proxy", "kind": "sidecar", "ready": true, "pid": 41},
                {"name": "web", "kind": "main", "ready": false, "pid": null},
            ],
        }]});
        let said = plain(&status);
        for part in ["1/2", "CrashLoopBackOff", "10.244.0.2, fd00::2", "41"] {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
    }

    #[test]
    fn an_error_of_several_lines_is_one_line_of_the_problems() {
        let status =
            json!({"problems": [{"severity": "error", "text": "route.yaml:7: no regular expression:\n  a(\n   ^"}]});
        let said = plain(&status);
        assert!(
            said.ends_with("error: route.yaml:7: no regular expression: a( ^\n"),
            "{said}"
        );
    }
}
