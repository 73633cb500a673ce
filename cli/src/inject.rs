//! `weft inject`: gives pods in manifests their sidecar, without a cluster.
//!
//! In: documents of YAML or JSON. Out: the same, with a sidecar in each pod template; what has none is handed on as it was
//! written. The webhook's own function decides.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Map, Value, json};
use weft_control::manifests;
use weft_daemon::exit;
use weft_injector::patch::{Decision, INJECT_LABEL, Skip, inject, warnings};
use weft_injector::review::is_exempt;
use weft_injector::security;
use weft_injector::settings::{InjectSettings, SidecarArgs};

use crate::{paper, yaml};

/// What is read of one file.
const FILE_MAX: u64 = 64 << 20;

/// Add the sidecar to pods in manifests, without a cluster.
///
/// What the webhook would do when the pods are made, done to manifests: Deployment, StatefulSet, DaemonSet, ReplicaSet,
/// ReplicationController, Job, CronJob, Pod, PodTemplate, and Lists of them. Other documents are handed on as they are
/// written; in those that change, comments are lost. A namespace counts as labelled unless its Namespace among the documents, or a flag, says otherwise. Standard error
/// says what was done to each object; where one must not run in the mesh, nothing is written to standard output.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft inject -f deployment.yaml | kubectl apply -f -
  helm template shop | weft inject -f - > meshed.yaml
  kubectl get deploy web -o yaml | weft inject -f - | kubectl apply -f -
  weft inject -f app.yaml --namespace-annotation config.weft.dev/inbound=strict

Exit codes: 0 done, 64 wrong usage, 65 what was read is no manifest, or a pod can't be in the mesh.")]
pub(crate) struct InjectArgs {
    /// A file, or - for standard input. Repeatable.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
    /// The namespace of objects that name none.
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// An annotation of the pods' Namespace, as key=value. Repeatable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    namespace_annotation: Vec<(String, String)>,
    /// A label of the pods' Namespace, as key=value. Repeatable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    namespace_label: Vec<(String, String)>,
    #[command(flatten)]
    sidecar: SidecarArgs,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not key=value")),
    }
}

/// Injects manifests.
pub(crate) fn main(args: &InjectArgs) -> Result<ExitCode> {
    let mut documents = Vec::new();
    for path in &args.files {
        let read = read(path).and_then(|text| split(path, &text));
        match read {
            Ok(read) => documents.extend(read),
            Err(error) => {
                eprintln!("weft inject: {error:#}");
                return Ok(ExitCode::from(exit::DATA));
            }
        }
    }
    let namespaces = Namespaces::new(args, &documents);
    let settings = args.sidecar.settings();
    let mut report = Report::default();
    let texts: Vec<String> = documents
        .into_iter()
        .map(|document| done(document, &namespaces, &settings, &mut report))
        .collect();
    for line in &report.lines {
        eprintln!("{line}");
    }
    if report.refused {
        eprintln!("weft inject: nothing is written, because not every pod can be in the mesh");
        return Ok(ExitCode::from(exit::DATA));
    }
    paper::print(&texts.join("---\n"));
    Ok(ExitCode::from(exit::OK))
}

/// A document as it was written, and what it says; nothing where it says nothing.
struct Document {
    text: String,
    value: Option<Value>,
}

fn read(path: &Path) -> Result<String> {
    let named = || format!("-f {}", path.display());
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(FILE_MAX + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).with_context(named)?;
        file.take(FILE_MAX + 1).read_to_string(&mut text)
    };
    let length = read.with_context(named)?;
    anyhow::ensure!(length as u64 <= FILE_MAX, "{}: more than 64 MiB", named());
    Ok(text)
}

/// The documents of a text. A line that begins with three dashes ends one, wherever it stands (YAML 1.2, section 9.1.2).
fn split(path: &Path, text: &str) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    let (mut part, mut begin) = (String::new(), 1);
    let mut end = |part: &mut String, begin: usize| -> Result<()> {
        let text = std::mem::take(part);
        let says = |line: &str| !line.trim().is_empty() && !line.starts_with(['#', '%']);
        let mut values = Vec::new();
        if text.lines().any(says) {
            values = manifests::values(&text).map_err(|(line, what)| {
                anyhow::anyhow!("{}:{}: {what}", path.display(), begin + line.saturating_sub(1) as usize)
            })?;
        }
        anyhow::ensure!(
            values.len() <= 1,
            "{}:{begin}: several documents without --- between them",
            path.display()
        );
        if !text.trim().is_empty() {
            let value = values.pop();
            documents.push(Document { text, value });
        }
        Ok(())
    };
    for (number, line) in text.lines().enumerate() {
        match line.strip_prefix("---") {
            Some(rest) if rest.is_empty() || rest.starts_with([' ', '\t']) => {
                end(&mut part, begin)?;
                begin = number + 1;
                // What stands behind the dashes belongs to the document.
                if !rest.trim().is_empty() {
                    part = format!("{}\n", rest.trim_start());
                }
            }
            _ => part.push_str(&format!("{line}\n")),
        }
    }
    end(&mut part, begin)?;
    Ok(documents)
}

/// The Namespaces as far as they are known here.
struct Namespaces {
    written: BTreeMap<String, Value>,
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
    default: String,
    /// Weft's own.
    own: String,
}

impl Namespaces {
    fn new(args: &InjectArgs, documents: &[Document]) -> Self {
        let map = |pairs: &[(String, String)]| {
            let pairs = pairs.iter();
            pairs.map(|(key, value)| (key.clone(), json!(value))).collect()
        };
        let written = documents.iter().filter_map(|document| document.value.as_ref());
        let items = written.flat_map(|value| match value["items"].as_array() {
            Some(items) if is_list(value) => items.iter().collect(),
            _ => vec![value],
        });
        let namespaces = items.filter(|value| value["kind"] == "Namespace");
        Self {
            written: namespaces
                .filter_map(|value| Some((value["metadata"]["name"].as_str()?.to_owned(), value.clone())))
                .collect(),
            labels: map(&args.namespace_label),
            annotations: map(&args.namespace_annotation),
            default: args.namespace.clone(),
            own: args.sidecar.control_namespace.clone(),
        }
    }

    fn of(&self, object: &Value) -> Value {
        let name = object["metadata"]["namespace"].as_str().unwrap_or(&self.default);
        let written = self.written.get(name);
        let own = |field: &str| {
            let own = written.and_then(|namespace| namespace["metadata"][field].as_object());
            own.cloned().unwrap_or_default()
        };
        // It is asked for: so a namespace that does not say anything is taken for one that is labelled.
        let mut labels = Map::from_iter([(INJECT_LABEL.to_owned(), json!("enabled"))]);
        labels.extend(own("labels"));
        labels.extend(self.labels.clone());
        let mut annotations = own("annotations");
        annotations.extend(self.annotations.clone());
        json!({"metadata": {"name": name, "labels": labels, "annotations": annotations}})
    }
}

/// What was done.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    refused: bool,
}

fn done(document: Document, namespaces: &Namespaces, settings: &InjectSettings, report: &mut Report) -> String {
    let Some(mut value) = document.value else {
        return document.text;
    };
    let mut changed = false;
    if is_list(&value) {
        for item in value["items"].as_array_mut().into_iter().flatten() {
            changed |= injected(item, namespaces, settings, report);
        }
    } else {
        changed = injected(&mut value, namespaces, settings, report);
    }
    if changed { yaml::text(&value) } else { document.text }
}

fn is_list(value: &Value) -> bool {
    value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && value["items"].is_array()
}

/// Where the pod of an object of this kind stands, as a JSON pointer.
fn place(object: &Value) -> Option<&'static str> {
    let group = object["apiVersion"]
        .as_str()?
        .split_once('/')
        .map_or("", |(group, _)| group);
    match (group, object["kind"].as_str()?) {
        ("", "Pod") => Some(""),
        ("", "PodTemplate") => Some("/template"),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// Injects one object, and says whether it has changed.
fn injected(object: &mut Value, namespaces: &Namespaces, settings: &InjectSettings, report: &mut Report) -> bool {
    let kind = object["kind"].as_str().unwrap_or("(no kind)").to_owned();
    let name = object["metadata"]["name"].as_str().unwrap_or("(no name)").to_owned();
    let mut say = |what: &str| report.lines.push(format!("{kind} {name}: {what}"));
    let Some(place) = place(object) else {
        say("has no pods, left as it is");
        return false;
    };
    let (own, namespace) = (&namespaces.own, namespaces.of(object));
    if let Some(exempt) = namespace["metadata"]["name"]
        .as_str()
        .filter(|name| is_exempt(name, own))
    {
        say(&format!("left as it is: pods of {exempt} are never meshed"));
        return false;
    }
    let Some(template) = object.pointer_mut(place) else {
        say(&format!(
            "{}: is missing",
            place.trim_start_matches('/').replace('/', ".")
        ));
        report.refused = true;
        return false;
    };
    let pod = as_pod(template, place, &kind, &name);
    match inject(&pod, &namespace, settings) {
        Decision::Inject(mut after) if *after != pod => {
            for warning in warnings(&pod, &namespace)
                .into_iter()
                .chain(security::refusal(&namespace).map(|refusal| refusal.to_string()))
            {
                say(&format!("warning: {warning}"));
            }
            say("the sidecar was added");
            if let Some(metadata) = after["metadata"].as_object_mut().filter(|_| !place.is_empty()) {
                metadata.remove("ownerReferences");
            }
            *template = *after;
            return true;
        }
        Decision::Inject(_) => say("has this sidecar already"),
        Decision::Skip(Skip::NamespaceNotLabelled) => say("left as it is: its Namespace is not labelled"),
        Decision::Skip(Skip::OptedOut) => say("left as it is: it opts out by its label"),
        Decision::Skip(Skip::Mirror) => say("left as it is: it mirrors a static pod"),
        Decision::Refuse(why) => {
            say(&format!("refused: {why}"));
            report.refused = true;
        }
    }
    false
}

/// A template as the pod that it makes: of its owner, which gives the workload its name.
fn as_pod(template: &Value, place: &str, kind: &str, name: &str) -> Value {
    let mut pod = template.clone();
    if !pod["metadata"].is_object() {
        pod["metadata"] = json!({});
    }
    if !place.is_empty() {
        pod["metadata"]["ownerReferences"] = json!([{"kind": kind, "name": name, "controller": true}]);
    }
    pod
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Typed {
        #[command(flatten)]
        inject: InjectArgs,
    }

    const WEB: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec:\n  \
                       template:\n    spec: {containers: [{name: app, image: app}]}\n";
    const SERVICE: &str = "# as it was written\napiVersion: v1\nkind: Service\nmetadata: {name:   web}\n";

    /// What comes out, and what is said.
    fn run(text: &str, flags: &[&str]) -> (String, Report) {
        let args = [&["weft", "-f", "-"], flags].concat();
        let args = Typed::try_parse_from(args).unwrap().inject;
        let documents = split(Path::new("-"), text).unwrap();
        let namespaces = Namespaces::new(&args, &documents);
        let (settings, mut report) = (args.sidecar.settings(), Report::default());
        let done = documents
            .into_iter()
            .map(|document| done(document, &namespaces, &settings, &mut report));
        let texts: Vec<String> = done.collect();
        (texts.join("---\n"), report)
    }

    #[test]
    fn workloads_get_a_sidecar_and_other_documents_stay_as_they_are_written() {
        let (out, report) = run(&format!("{SERVICE}---\n{WEB}---\n# nothing\n"), &[]);
        assert!(out.starts_with(SERVICE) && out.ends_with("---\n# nothing\n"), "{out}");
        let documents = split(Path::new("-"), &out).unwrap();
        let template = &documents[1].value.as_ref().unwrap()["spec"]["template"];
        assert_eq!(template["spec"]["initContainers"][1]["name"], "weft-proxy");
        assert_eq!(template["metadata"].get("ownerReferences"), None);
        let env = template["spec"]["initContainers"][1]["env"].to_string();
        assert!(env.contains(r#"{"name":"WEFT_WORKLOAD","value":"web"}"#), "{env}");
        assert_eq!(
            report.lines,
            [
                "Service web: has no pods, left as it is",
                "Deployment web: the sidecar was added"
            ]
        );
        let (again, report) = run(&out, &[]);
        assert_eq!(again, out, "a second time changes nothing");
        assert_eq!(report.lines[1], "Deployment web: has this sidecar already");
    }

    #[test]
    fn every_kind_of_workload_is_known_also_in_a_list() {
        let template = "template: {spec: {containers: [{name: app}]}}";
        let item = |version: &str, kind: &str, spec: &str| {
            format!("- {{apiVersion: {version}, kind: {kind}, metadata: {{name: x}}, spec: {{{spec}}}}}\n")
        };
        let mut list = "apiVersion: v1\nkind: List\nitems:\n".to_owned();
        for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"] {
            list += &item("apps/v1", kind, template);
        }
        list += &item("batch/v1", "Job", template);
        list += &item("batch/v1", "CronJob", &format!("jobTemplate: {{spec: {{{template}}}}}"));
        list += &item("v1", "Pod", "containers: [{name: app}]");
        list += &item("v1", "ReplicationController", template);
        list += "- {apiVersion: v1, kind: PodTemplate, metadata: {name: x}, template: {spec: {containers: [{name: app}]}}}\n";
        list += &item("example.com/v1", "Deployment", template);
        let (out, report) = run(&list, &[]);
        assert_eq!(out.matches("name: weft-proxy").count(), 9, "{:?}", report.lines);
        assert!(report.lines[9].contains("no pods"), "{:?}", report.lines);
    }

    #[test]
    fn what_the_namespace_says_counts() {
        let strict = "config.weft.dev/inbound=strict";
        let skip = WEB.replace(
            "    spec:",
            "    metadata: {annotations: {config.weft.dev/skip-inbound-ports: '9090'}}\n    spec:",
        );
        assert!(!run(&skip, &[]).1.refused);
        let (_, report) = run(&skip, &["--namespace-annotation", strict]);
        assert!(
            report.refused && report.lines[0].contains("skip-inbound-ports"),
            "{:?}",
            report.lines
        );
        let namespace =
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {weft.dev/inject: disabled}}\n";
        let (out, _) = run(&format!("{WEB}---\n{namespace}"), &[]);
        assert!(!out.contains("weft-proxy"), "{out}");
        let (out, _) = run(
            &format!("{WEB}---\n{namespace}"),
            &["--namespace-label", "weft.dev/inject=enabled"],
        );
        assert!(out.contains("weft-proxy"), "{out}");
        let (_, report) = run(
            WEB,
            &["--namespace-label", "pod-security.kubernetes.io/enforce=baseline"],
        );
        assert!(report.lines[0].contains("NET_ADMIN"), "{:?}", report.lines);
    }

    #[test]
    fn what_is_in_a_namespace_that_is_never_meshed_stays_as_it_is() {
        let of = |namespace: &str| WEB.replace("namespace: shop", &format!("namespace: {namespace}"));
        for (text, flags) in [
            (of("kube-system"), &[][..]),
            (of("weft-system"), &[]),
            (of("mesh"), &["--control-namespace", "mesh"]),
        ] {
            let (out, report) = run(&text, flags);
            assert!(out == text && !report.refused, "{out}");
            assert!(report.lines[0].contains("never meshed"), "{:?}", report.lines);
        }
        assert!(
            run(&of("weft-system"), &["--control-namespace", "mesh"])
                .0
                .contains("weft-proxy")
        );
    }

    #[test]
    fn a_pod_that_cannot_be_in_the_mesh_is_named() {
        let (_, report) = run(&WEB.replace("{containers", "{hostNetwork: true, containers"), &[]);
        assert!(report.refused && report.lines[0].contains("Deployment web: refused: spec.hostNetwork"));
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        let error = split(Path::new("a.yaml"), &format!("{WEB}---\na: [\n")).err().unwrap();
        assert!(error.to_string().starts_with("a.yaml:"), "{error}");
        let line: usize = error.to_string().split(':').nth(1).unwrap().parse().unwrap();
        assert!((7..=9).contains(&line), "{error}");
    }
}
