use std::collections::BTreeSet;

use super::*;
use crate::args::{Cli, Verb};
use clap::Parser as _;

fn run(args: &[&str]) -> Result<String> {
    let cli = Cli::try_parse_from(["weft", "install"].iter().chain(args))?;
    let Verb::Install(args) = cli.verb else { panic!() };
    text(&args)
}

fn objects(args: &[&str]) -> Vec<Value> {
    let text = run(args).unwrap();
    crate::install::documents(&text).unwrap()
}

fn find(objects: &[Value], kind: &str, name: &str) -> Value {
    let found = objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}")).clone()
}

#[test]
fn every_file_of_the_charts_is_in_the_program() {
    for chart in [CRDS, WEFT] {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../charts")
            .join(chart.name);
        let files = std::fs::read_dir(directory.join("templates")).unwrap();
        let files: BTreeSet<String> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut ours: BTreeSet<String> = chart.templates.iter().map(|(name, _)| (*name).to_owned()).collect();
        ours.insert("NOTES.txt".to_owned());
        assert_eq!(files, ours);
        let about = std::fs::read_to_string(directory.join("Chart.yaml")).unwrap();
        let about = chart::yaml_value(&about).unwrap();
        assert_eq!(about["name"], chart.name);
        assert_eq!(
            (&about["version"], &about["appVersion"]),
            (&env!("CARGO_PKG_VERSION").into(), &about["version"])
        );
        let faults = schema::faults(&chart.schema().unwrap(), &chart.defaults().unwrap()).unwrap();
        assert!(faults.is_empty(), "{faults:?}");
    }
}

#[test]
fn what_is_printed_is_everything_once() {
    let all = objects(&[]);
    let names: BTreeSet<String> = all
        .iter()
        .map(|o| format!("{}/{}", o["kind"], o["metadata"]["name"]))
        .collect();
    assert_eq!(names.len(), all.len());
    let namespace = find(&all, "Namespace", "weft-system");
    assert_eq!(
        namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "restricted"
    );
    assert!(names.contains("\"CustomResourceDefinition\"/\"trafficpolicies.weft.dev\""));
    let without = objects(&["--crds=false", "--create-namespace=false"]);
    assert_eq!(without.len(), all.len() - 4);
}

#[test]
fn pods_of_weft_are_restricted_and_what_is_disrupted_has_another_one() {
    let all = objects(&["--set", "control.replicas=2,gateways.enabled=true"]);
    for name in ["weft-control", "weft-injector", "weft-gateway"] {
        let pod = find(&all, "Deployment", name)["spec"]["template"]["spec"].clone();
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["runAsUser"], 1882);
        assert_eq!(pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(
            pod["containers"][0]["securityContext"]["capabilities"]["drop"][0],
            "ALL"
        );
        assert!(!pod.to_string().contains("hostPath"));
    }
    find(&all, "PodDisruptionBudget", "weft-control");
    find(&all, "PodDisruptionBudget", "weft-gateway");
    let budgets = all
        .iter()
        .filter(|object| object["kind"] == "PodDisruptionBudget")
        .count();
    assert_eq!(budgets, 2);
}

#[test]
fn nothing_listens_for_other_clusters_and_nothing_of_theirs_is_written_unless_it_is_asked_for() {
    let text = |set: &str| {
        let args: &[&str] = if set.is_empty() {
            &["--crds=false"]
        } else {
            &["--crds=false", "--set", set]
        };
        run(args).unwrap()
    };
    let writes = |text: &str| {
        let all = crate::install::documents(text).unwrap();
        let rules = all
            .iter()
            .flat_map(|object| object["rules"].as_array().cloned().unwrap_or_default());
        let of =
            |rule: &Value| rule["resources"] == json!(["services"]) && rule["verbs"].to_string().contains("create");
        rules.filter(of).count()
    };
    let (off, on) = (text(""), text("federation.enabled=true"));
    for word in [
        "15013",
        "weft-federation",
        "weft-gateway",
        "WEFT_FEDERATION",
        "WEFT_NETWORK\n",
    ] {
        assert!(!off.contains(word), "{word}");
    }
    for text in [&off, &on, &text("federation.bundleEndpoint.enabled=true")] {
        assert!(!text.contains("15016") && !text.contains("WEFT_BUNDLE"), "{text}");
    }
    assert_eq!((writes(&off), writes(&on)), (0, 1));
    let told = text(
        "federation.enabled=true,federation.endpoints={a.example:15013,b.example:1},gateways.addresses={[2001:db8::1]:15443},network=vpc",
    );
    for word in [
        "a.example:15013,b.example:1",
        "[2001:db8::1]:15443",
        "name: WEFT_NETWORK\n",
        "name: WEFT_FEDERATION_LISTEN",
    ] {
        assert!(told.contains(word), "{word}");
    }
}

#[test]
fn the_trust_bundle_is_shown_beside_the_federation_listener_where_that_is_asked_for() {
    let set = "federation.enabled=true,federation.bundleEndpoint.enabled=true,federation.bundleEndpoint.nodePort=31016,\
               federation.bundleEndpoint.url=https://east.example/bundle,federation.service.type=NodePort,networkPolicy.own=true";
    let all = objects(&["--crds=false", "--set", set]);
    let port = json!({"name": "bundle", "port": 15016, "targetPort": "bundle", "nodePort": 31016});
    assert_eq!(find(&all, "Service", "weft-federation")["spec"]["ports"][1], port);
    let control = find(&all, "Deployment", "weft-control").to_string();
    for part in [
        json!({"name": "bundle", "containerPort": 15016}),
        json!({"name": "WEFT_BUNDLE_LISTEN", "value": "[::]:15016"}),
        json!({"name": "WEFT_BUNDLE_ENDPOINT", "value": "https://east.example/bundle"}),
    ] {
        assert!(control.contains(&part.to_string()), "{part} is not in {control}");
    }
    let policy = find(&all, "NetworkPolicy", "weft-control")["spec"]["ingress"][1].clone();
    assert_eq!(policy, json!({"ports": [{"port": "federation"}, {"port": "bundle"}]}));
    // Its URL is said where there is one to be said only.
    let unsaid = objects(&[
        "--crds=false",
        "--set",
        "federation.enabled=true,federation.bundleEndpoint.enabled=true",
    ]);
    assert!(
        !find(&unsaid, "Deployment", "weft-control")
            .to_string()
            .contains("WEFT_BUNDLE_ENDPOINT")
    );
}

#[test]
fn the_webhook_never_stands_in_the_way_of_the_cluster_or_of_itself() {
    let all = objects(&["--namespace", "mesh", "--set", "injector.failurePolicy=Ignore"]);
    let webhook = find(&all, "MutatingWebhookConfiguration", "weft-injector")["webhooks"][0].clone();
    let selector = webhook["namespaceSelector"].to_string();
    for name in ["kube-system", "kube-public", "kube-node-lease", "mesh"] {
        assert!(selector.contains(&format!("{name:?}")), "{selector}");
    }
    assert_eq!(webhook["failurePolicy"], "Ignore");
    assert_eq!(webhook["clientConfig"]["service"]["namespace"], "mesh");
    assert_eq!(webhook["clientConfig"]["caBundle"], Value::Null);
}

#[test]
fn no_rule_reads_all_secrets_and_every_rule_has_its_reason() {
    let all = objects(&[]);
    let rules = all
        .iter()
        .flat_map(|object| object["rules"].as_array().cloned().unwrap_or_default());
    for rule in rules.filter(|rule| rule["resources"].to_string().contains("secrets")) {
        let only_makes = rule["verbs"] == json!(["create"]);
        assert!(only_makes || rule["resourceNames"].is_array(), "{rule}");
    }
    let supplied = objects(&["--set", "authority.supplied=true"]);
    let role = find(&supplied, "Role", "weft-control");
    assert!(
        !role["rules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| { rule["resources"] == json!(["secrets"]) && rule["verbs"] == json!(["create"]) })
    );
    let is_told = |all: &[Value]| {
        let control = find(all, "Deployment", "weft-control");
        let env = control["spec"]["template"]["spec"]["containers"][0]["env"].clone();
        let told = json!({"name": "WEFT_SUPPLIED_AUTHORITY", "value": "true"});
        env.as_array().unwrap().contains(&told)
    };
    assert!(
        is_told(&supplied) && !is_told(&all),
        "who may not make one waits for it"
    );
    let text = run(&[]).unwrap();
    let mut before = "";
    for line in text.lines() {
        if line.trim_start().starts_with("- apiGroups:") && line.starts_with("  - ") {
            let told = before.trim_start().starts_with('#') || before.trim_start().starts_with("verbs:");
            assert!(told, "{before}\n{line}");
        }
        before = line;
    }
}

#[test]
fn what_peers_have_said_may_be_kept_in_exactly_the_config_maps_that_the_control_plane_has_for_it() {
    let role = find(&objects(&["--crds=false"]), "Role", "weft-control");
    let names: Vec<String> = weft_control::peer_maps().collect();
    let mut rules = role["rules"].as_array().unwrap().iter();
    let of_peers = rules.find(|rule| rule["resourceNames"] == json!(names));
    let rule = of_peers.unwrap_or_else(|| panic!("no rule names just {names:?}: {role}"));
    assert_eq!(
        (&rule["resources"], &rule["verbs"]),
        (&json!(["configmaps"]), &json!(["get", "patch"]))
    );
}

#[test]
fn mistakes_name_the_key_and_the_nearest_one() {
    for (set, said) in [
        (
            "control.replcias=2",
            "control.replcias: there is no such value; did you mean control.replicas?",
        ),
        ("traces.endpont=x", "did you mean traces.endpoint?"),
        (
            "control.replicas=two",
            "control.replicas: \"two\" is not of the type integer",
        ),
        ("control.replicas=0", "control.replicas: 0 is not from 1 to 16"),
        ("injector.failurePolicy=fail", "none of Fail, Ignore"),
        ("leafLifetime=forever", "leafLifetime: \"forever\" is not of the form"),
        ("image=null", "image: is missing"),
        (
            "networks.inside={10.0.0.0}",
            "networks.inside[0]: \"10.0.0.0\" is not of the form",
        ),
        (
            "federation.endpoints={east.example}",
            "federation.endpoints[0]: \"east.example\" is not of the form",
        ),
        (
            "gateways.service.type=Public",
            "none of ClusterIP, NodePort, LoadBalancer",
        ),
        ("nonsense=1", "there are addressCheck, authority"),
        ("control", "write KEY=VALUE"),
    ] {
        let error = format!("{:#}", run(&["--set", set]).unwrap_err());
        assert!(error.contains(said), "{set}: {error}");
    }
}

#[test]
fn files_count_in_their_order_and_set_before_all_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("a.yaml"), directory.path().join("b.yaml"));
    std::fs::write(
        &first,
        "cluster: a\nleafLifetime: 1h\nnetworks: {inside: [10.0.0.0/8]}\n",
    )
    .unwrap();
    std::fs::write(&second, "cluster: b\nnetworks: {inside: []}\n").unwrap();
    let files = [
        "-f",
        first.to_str().unwrap(),
        "-f",
        second.to_str().unwrap(),
        "--set",
        "cluster=c",
    ];
    let control = find(&objects(&files), "Deployment", "weft-control").to_string();
    assert!(control.contains("\"1h\"") && control.contains("\"c\"") && !control.contains("WEFT_NETWORKS"));
    std::fs::write(&first, "a: [").unwrap();
    let error = format!("{:#}", run(&files).unwrap_err());
    assert!(error.contains("a.yaml") && error.contains("line"), "{error}");
}

/// Every value with its default and its meaning, as a table.
fn table() -> String {
    fn write(schema: &Value, defaults: &Value, key: &str, out: &mut String) {
        let Some(properties) = schema["properties"]
            .as_object()
            .filter(|_| schema["description"].is_null())
        else {
            let default = match defaults {
                Value::String(text) if text.is_empty() => "empty".to_owned(),
                Value::String(text) => format!("`{text}`"),
                other if other == &json!({}) || other == &json!([]) => "none".to_owned(),
                other => format!("`{other}`"),
            };
            let words = schema["enum"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str);
            let words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
            let kind = if words.is_empty() {
                schema::types(&schema["type"])
            } else {
                words.join(", ")
            };
            let meaning = schema["description"].as_str().unwrap_or_default();
            assert!(!meaning.is_empty(), "{key} has no description");
            out.push_str(&format!("| `{key}` | {kind} | {default} | {meaning} |\n"));
            return;
        };
        let mut names: Vec<&String> = properties.keys().filter(|name| *name != "global").collect();
        names.sort();
        for name in names {
            let below = if key.is_empty() {
                name.clone()
            } else {
                format!("{key}.{name}")
            };
            write(&properties[name], &defaults[name], &below, out);
        }
    }
    let mut out = "| value | is | default | meaning |\n|---|---|---|---|\n".to_owned();
    write(&WEFT.schema().unwrap(), &WEFT.defaults().unwrap(), "", &mut out);
    out
}

#[test]
fn the_page_has_every_value() {
    const BEGIN: &str = "<!-- Written from charts/weft: WEFT_WRITE_DOCS=1 cargo test -p weft install -->\n\n";
    const END: &str = "\n<!-- The end of what is written. -->";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/install.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the beginning of the table");
    let (kept, after) = rest.split_once(END).expect("the end of the table");
    let table = table();
    if std::env::var_os("WEFT_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert!(
            kept == table,
            "docs/install.md is not what the chart says: WEFT_WRITE_DOCS=1 cargo test -p weft install"
        );
    }
}
