//! Installing: our kinds as an API server knows them, and the charts, with Helm and without.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use weft_tests::golang;
use weft_tests::kube::{Cluster, Namespace, root, said, until};
use weft_tests::mesh::weft_bin;

const ROUTES: &str = include_str!("../../docs/routes.md");
const INVALID: &str = include_str!("../data/invalid.yaml");

const HELM: &str = "v4.3.1";

/// Values that change what is rendered: none, then each on its own or with others.
const VALUES: [&str; 19] = [
    "",
    "control.replicas=2,injector.replicas=3",
    "image.repository=registry.example/weft,image.tag=v9,image.pullPolicy=Always",
    "image.pullSecrets[0].name=registry",
    "trustDomain=mesh.example,cluster=east,leafLifetime=1h30m,addressCheck=warn",
    "authority.supplied=true",
    "networks.inside={10.0.0.0/8,fd00::/8},networks.outside={192.0.2.0/24}",
    "log.level=weft_control=debug\\,info,log.format=text",
    "traces.endpoint=http://jaeger-collector.observability:4317,traces.sampling=0.25",
    "traces.sampling=0",
    "proxy.resources.limits.cpu=500m,proxy.resources.requests.memory=,proxy.logLevel=warn",
    "control.nodeSelector.disk=ssd,control.tolerations[0].operator=Exists,control.priorityClassName=high",
    "control.podLabels.team=mesh,injector.podAnnotations.note=a b: \"c\"",
    "injector.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1,\
     injector.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key=disk,\
     injector.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].operator=Exists",
    "injector.failurePolicy=Ignore,injector.timeoutSeconds=3,injector.resources.limits.memory=512Mi",
    "networkPolicy.own=true,networkPolicy.egressNamespaces={shop,stage-2},networkPolicy.collectorPort=4318,\
     networkPolicy.collectorNamespace=observability,traces.endpoint=http://collector:4318",
    "cluster=east,network=vpc-1,federation.enabled=true,federation.endpoints={weft.east.example:15013,[2001:db8::1]:15013},\
     federation.service.type=LoadBalancer,federation.service.annotations.tier=edge,networkPolicy.own=true,\
     federation.bundleEndpoint.enabled=true,federation.bundleEndpoint.url=https://weft.east.example/bundle",
    "federation.enabled=true,federation.service.type=NodePort,federation.service.nodePort=31013,gateways.enabled=true,\
     federation.bundleEndpoint.enabled=true,federation.bundleEndpoint.nodePort=31016,\
     gateways.service.type=NodePort,gateways.service.nodePort=31443,gateways.addresses={192.0.2.7:31443},networkPolicy.own=true",
    "gateways.enabled=true,gateways.replicas=1,gateways.podLabels.team=mesh,gateways.priorityClassName=high,gateways.nodeSelector.edge=yes,\
     gateways.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1,\
     gateways.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key=disk,\
     gateways.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].operator=Exists",
];

/// Values that are wrong: mistyped, of another type, or out of bounds.
const WRONG: [&str; 17] = [
    "control.replcias=2",
    "control.replicas=two",
    "control.replicas=0",
    "image=weft",
    "image.pullPolicy=Sometimes",
    "authority.supplied=perhaps",
    "networks.inside={10.0.0.0}",
    "traces.endpoint=https://jaeger:4317",
    "traces.sampling=2",
    "leafLifetime=forever",
    "proxy.resources.limits.memory=64MB",
    "network=two words",
    "federation.endpoints={east.example}",
    "federation.service.nodePort=70000",
    "federation.bundleEndpoint.url=http://east.example/bundle",
    "gateways.service.type=Public",
    "nonsense=1",
];

fn chart(name: &str) -> PathBuf {
    root().join("charts").join(name)
}

/// A namespace called shop, of a cluster that has our kinds.
fn with_kinds(cluster: &Cluster) -> Namespace<'_> {
    static APPLIED: OnceLock<()> = OnceLock::new();
    APPLIED.get_or_init(|| {
        let crds = chart("weft-crds").join("templates");
        cluster.kubectl(["apply", "--server-side", "-f", &crds.to_string_lossy()]);
        let names = [
            "crd/servicesubsets.weft.dev",
            "crd/trafficpolicies.weft.dev",
            "crd/clusterpeers.weft.dev",
        ];
        cluster.kubectl(
            ["wait", "--for=condition=Established", "--timeout=30s"]
                .iter()
                .chain(&names),
        );
    });
    cluster.namespace(&[])
}

/// Documents of our kinds.
fn ours(text: &'static str) -> Vec<&'static str> {
    let ours = |document: &&str| document.contains("apiVersion: weft.dev/v1alpha1\n");
    text.split("---\n").filter(ours).collect()
}

/// What an API server says of a document, and whether it takes it.
fn dry_run(namespace: &Namespace<'_>, document: &str) -> (bool, String) {
    let document = document.replace("namespace: shop", &format!("namespace: {}", namespace.name()));
    let output = Cluster::shared().try_apply(&["--dry-run=server", "--validate=strict"], &document);
    (output.status.success(), said(&output))
}

#[test]
fn every_example_of_our_kinds_is_taken_by_an_api_server() {
    let namespace = with_kinds(Cluster::shared());
    let blocks = ROUTES.split("```").filter_map(|block| block.strip_prefix("yaml\n"));
    let examples: Vec<&str> = blocks.flat_map(ours).collect();
    assert!(examples.len() >= 8, "{} examples", examples.len());
    for example in examples {
        let (taken, said) = dry_run(&namespace, example);
        assert!(taken, "{said}\nof\n{example}");
    }
}

#[test]
fn what_the_index_refuses_of_our_kinds_an_api_server_refuses_too() {
    let namespace = with_kinds(Cluster::shared());
    let known = ["kind: ServiceSubset\n", "kind: TrafficPolicy\n", "kind: ClusterPeer\n"];
    let mut wrong = ours(INVALID);
    wrong.retain(|document| known.iter().any(|kind| document.contains(kind)));
    assert!(wrong.len() >= 28, "{} documents", wrong.len());
    for document in wrong {
        let (taken, said) = dry_run(&namespace, document);
        assert!(
            !taken && !said.contains("no matches for kind"),
            "{said}\nof\n{document}"
        );
    }
}

#[test]
fn policies_that_only_rules_over_several_fields_can_tell_are_refused_with_the_fix() {
    let namespace = with_kinds(Cluster::shared());
    let policy = |targets: &str, rest: &str| {
        format!(
            "{{apiVersion: weft.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: p, namespace: shop}}, \
             spec: {{targetRefs: [{targets}]{rest}}}}}"
        )
    };
    let service = "{kind: Service, name: reviews}";
    let cases = [
        (
            policy(service, ", timeouts: {request: 1s, backendRequest: 1m}"),
            "backendRequest must not be longer",
        ),
        (
            policy(service, ", retryConstraint: {budget: {interval: 10ms}}"),
            "from 1s to 1h",
        ),
        (policy(service, ", retry: {grpcStatuses: [0]}"), "a number from 1 to 16"),
        (
            policy(service, ", locality: {prefer: None, failover: [a]}"),
            "prefer Zone or Region",
        ),
        (
            policy("{kind: Service, name: reviews, sectionName: x}", ""),
            "sectionName is of routes",
        ),
        (policy(&format!("{service}, {service}"), ""), "names a target twice"),
    ];
    for (document, fix) in cases {
        let (taken, said) = dry_run(&namespace, &document);
        assert!(!taken && said.contains(fix), "{said}\nof\n{document}");
    }
    let (taken, said) = dry_run(
        &namespace,
        &policy(service, ", timeouts: {request: 0s, backendRequest: 1m}"),
    );
    assert!(taken, "no limit is none to be longer than: {said}");
}

#[test]
fn kubectl_shows_and_explains_our_kinds() {
    let cluster = Cluster::shared();
    let namespace = with_kinds(cluster);
    namespace.apply(
        "{apiVersion: weft.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: busy}, \
         spec: {targetRefs: [{kind: Service, name: reviews}], balancer: Random}}",
    );
    namespace.apply(
        "{apiVersion: weft.dev/v1alpha1, kind: ServiceSubset, metadata: {name: reviews-v1}, \
         spec: {service: reviews, selector: {version: v1}}}",
    );
    let condition = r#"{"status": {"conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#;
    let patch = [
        "patch",
        "trafficpolicy",
        "busy",
        "--subresource=status",
        "--type=merge",
        "-p",
        condition,
    ];
    namespace.kubectl(&patch);
    let shown = namespace.kubectl(&["get", "weft"]);
    for words in ["TARGET", "ACCEPTED", "reviews", "Random", "True", r#"{"version":"v1"}"#] {
        assert!(shown.contains(words), "no {words} in\n{shown}");
    }
    let explain = || cluster.kubectl(["explain", "trafficpolicy.spec"]);
    until(
        "kubectl explains every field",
        || {
            ["targetRefs", "-required-", "enum: PeakEwma"]
                .iter()
                .all(|words| explain().contains(words))
                .then_some(())
        },
        explain,
    );
    let status: Value = namespace.get(&["trafficpolicy", "busy"]);
    assert_eq!(status["status"]["conditions"][0]["reason"], "Accepted");
}

fn helm(args: &[&str]) -> Output {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let install = |to: &std::path::Path| golang::install(&["helm.sh/helm/v4/cmd/helm"], HELM, to);
    let program = PROGRAM.get_or_init(|| golang::built("helm", HELM, &["helm"], install).join("helm"));
    // Without a home it has no plugins and repositories of whoever runs the tests.
    let home = std::env::temp_dir().join(format!("weft-helm-{}", std::process::id()));
    let mut command = Command::new(program);
    command
        .args(args)
        .env("HELM_CACHE_HOME", &home)
        .env("HELM_CONFIG_HOME", &home)
        .env("HELM_DATA_HOME", &home);
    command.output().expect("helm runs")
}

/// `helm template` of a chart.
fn by_helm(name: &str, namespace: &str, set: &str) -> Output {
    let chart = chart(name);
    let mut args = vec![
        "template",
        name,
        chart.to_str().expect("a path"),
        "--namespace",
        namespace,
    ];
    args.extend(if set.is_empty() { vec![] } else { vec!["--set", set] });
    helm(&args)
}

/// `weft install`, without the Namespace, which Helm makes of itself.
fn by_weft(namespace: &str, set: &str, more: &[&str]) -> Output {
    let mut command = Command::new(weft_bin());
    command
        .args(["install", "--create-namespace=false", "--namespace", namespace])
        .args(more);
    command.args(if set.is_empty() { vec![] } else { vec!["--set", set] });
    command.output().expect("weft runs")
}

#[track_caller]
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The objects of a text, by kind, namespace and name.
#[track_caller]
fn objects(text: &str) -> BTreeMap<String, Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let count = all.len();
    let key = |object: &Value| {
        let metadata = &object["metadata"];
        format!("{} {}/{}", object["kind"], metadata["namespace"], metadata["name"])
    };
    let all: BTreeMap<String, Value> = all.into_iter().map(|object| (key(&object), object)).collect();
    assert_eq!(all.len(), count, "an object twice");
    all
}

#[test]
fn weft_install_prints_what_helm_renders_object_by_object() {
    let crds = printed(&by_helm("weft-crds", "weft-system", ""));
    for set in VALUES {
        let mut wanted = objects(&printed(&by_helm("weft", "weft-system", set)));
        wanted.extend(objects(&crds));
        let ours = objects(&printed(&by_weft("weft-system", set, &[])));
        for (key, object) in &wanted {
            assert_eq!(ours.get(key), Some(object), "{key} with {set:?}");
        }
        assert_eq!(ours.len(), wanted.len(), "with {set:?}");
        assert!(ours.len() >= 15, "{} objects", ours.len());
    }
}

#[test]
fn helm_and_weft_install_refuse_the_same_values() {
    for set in WRONG {
        let (helm, weft) = (by_helm("weft", "weft-system", set), by_weft("weft-system", set, &[]));
        assert!(!helm.status.success(), "Helm takes {set}");
        assert_eq!(weft.status.code(), Some(64), "{set}: {}", said(&weft));
        let key = set.split(['=', '[']).next().unwrap_or_default();
        assert!(said(&weft).contains(key), "{set}: {}", said(&weft));
    }
}

#[test]
fn helm_finds_nothing_wrong_with_the_charts() {
    for name in ["weft", "weft-crds"] {
        let output = helm(&["lint", "--strict", chart(name).to_str().expect("a path")]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(!said(&output).contains("[WARNING]"), "{}", said(&output));
    }
}

#[test]
fn an_api_server_takes_everything_that_is_printed_with_any_values() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace(&[("pod-security.kubernetes.io/enforce", "restricted")]);
    for (number, set) in VALUES.into_iter().enumerate() {
        // The namespaces of egress policies are nobody's here. The CRDs are the same each time.
        let set = set.replace("shop,stage-2", namespace.name());
        let more: &[&str] = if number == 0 { &[] } else { &["--crds=false"] };
        let text = printed(&by_weft(namespace.name(), &set, more));
        let args = [
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
        ];
        let output = cluster.try_apply(&args, &text);
        assert!(output.status.success(), "{set}: {}", said(&output));
        // A Deployment is made whatever its pods are; only a warning says that none will start.
        assert!(!said(&output).contains("Warning"), "{set}: {}", said(&output));
    }
}

/// `weft check ARGS` against the cluster.
fn check(cluster: &Cluster, args: &[&str]) -> (Value, Option<i32>) {
    let mut command = Command::new(weft_bin());
    command
        .arg("check")
        .args(args)
        .args(["-o", "json"])
        .env("KUBECONFIG", cluster.kubeconfig());
    let output = command.output().expect("weft runs");
    let report = serde_json::from_slice(&output.stdout);
    (
        report.unwrap_or_else(|error| panic!("{error}: {}", said(&output))),
        output.status.code(),
    )
}

#[test]
fn weft_check_finds_a_cluster_ready_for_weft() {
    let (report, code) = check(Cluster::shared(), &["--pre"]);
    assert_eq!(code, Some(0), "{report:#}");
    assert!(report["checks"].to_string().contains("standard channel"), "{report:#}");
}

#[test]
fn weft_check_says_that_nothing_is_installed_and_how_to_install_it() {
    let (report, code) = check(Cluster::shared(), &["-n", "nobody-is-here"]);
    assert_eq!(code, Some(79), "{report:#}");
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    assert!(
        findings
            .iter()
            .any(|finding| finding["fix"].to_string().contains("weft install")),
        "{report:#}"
    );
}
