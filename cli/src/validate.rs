//! `weft validate`: what is wrong with manifests, without a mesh or beside what a cluster has.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use weft_control::objects::{ObjectRef, Problem, Severity};
use weft_daemon::exit;
use weft_local::cluster::offline::Offline;
use weft_local::cluster::{is_fatal, problem};

use crate::args::Output;
use crate::mesh::{Mesh, Scope};
use crate::paper::{self, PathArgs};
use crate::target::{self, TargetArgs};
use crate::yaml;

/// Check manifests without a mesh, or with what a cluster has, or what a cluster has.
///
/// What `weft up` and the control plane would say of them, from the same code: each finding with file, line, object, field,
/// what is wrong and what would be right. Errors keep an object from acting; warnings and notices do not. With a cluster
/// (--context, --kubeconfig) manifests are checked as if they were applied there, beside its Services, namespaces and routes; with
/// a cluster and without -f, its own objects are.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft validate -f ./manifests
  weft validate -f ./base -f ./overlay.yaml -o json | jq '.findings[].text'
  helm template shop | weft validate -f -
  weft validate --context staging -n shop -f new-route.yaml
  weft validate --context staging -A

Exit codes: 0 no errors, 1 the cluster cannot be asked or has no such namespace, 64 wrong usage, 65 errors were found.")]
pub(crate) struct ValidateArgs {
    #[command(flatten)]
    pub(crate) paths: PathArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// On a cluster: the namespace of manifests that name none, or the only one that is checked. [default: that of the context]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// On a cluster: check the objects of all namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "paths"])]
    pub(crate) all_namespaces: bool,
    /// As text for people, or as JSON or YAML for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Output,
}

/// Checks manifests. Findings go to standard output: they are what was asked for.
pub(crate) async fn main(args: ValidateArgs) -> Result<ExitCode> {
    let offline = !args.paths.paths.is_empty() && !target::means_cluster(&args.target.way);
    if offline && args.namespace.is_some() {
        eprintln!(
            "weft validate: -n goes with a cluster (--context, --kubeconfig); manifests alone name their namespaces themselves"
        );
        return Ok(ExitCode::from(exit::USAGE));
    }
    let read = match offline {
        true => paper::read(&args.paths, &target::name(&args.target)?),
        false => match target::mesh(&args.target).await? {
            Mesh::Local(_) => {
                eprintln!("weft validate: give what to check: -f DIR, -f FILE or -f -; or a cluster, by --context");
                return Ok(ExitCode::from(exit::USAGE));
            }
            mesh => on_cluster(&mesh, &args).await?,
        },
    };
    let paper = match read {
        Ok(paper) => paper,
        Err(error) => {
            eprintln!("weft validate: {error:#}");
            return Ok(ExitCode::from(exit::USAGE));
        }
    };
    match args.output {
        Output::Json => paper::print(&format!("{:#}\n", as_json(&paper))),
        Output::Yaml => paper::print(&yaml::text(&as_json(&paper))),
        Output::Text | Output::Wide => paper::print(&as_text(&paper)),
    }
    let bad = paper.problems.iter().any(is_fatal);
    Ok(ExitCode::from(if bad { exit::DATA } else { exit::OK }))
}

/// Manifests as if they were applied to a cluster, or what is there within the scope. The error within: the manifests.
async fn on_cluster(mesh: &Mesh, args: &ValidateArgs) -> Result<Result<Offline>> {
    let Mesh::Cluster(cluster) = mesh else {
        bail!("it is no cluster");
    };
    let namespace = mesh.namespace(args.namespace.as_deref());
    // Manifests may bring it along.
    if args.paths.paths.is_empty() && !args.all_namespaces {
        cluster.expect_namespace(namespace).await?;
    }
    let knowledge = cluster.knowledge().await?;
    let mut paper = match paper::beside(&args.paths, namespace, knowledge) {
        Ok(paper) => paper,
        Err(error) => return Ok(Err(error)),
    };
    if let (Scope::Namespace(namespace), true) = (
        mesh.scope(args.namespace.as_deref(), args.all_namespaces),
        args.paths.paths.is_empty(),
    ) {
        let within = |object: &ObjectRef| is_within(&namespace, object);
        paper
            .problems
            .retain(|problem| problem.object.as_ref().is_some_and(within));
        paper.read = paper
            .finished
            .iter()
            .filter(|object| within(&object.reference()))
            .count();
    }
    Ok(Ok(paper))
}

/// What is in a namespace, and the Namespace itself: what its annotations say is about all that is in it.
fn is_within(namespace: &str, object: &ObjectRef) -> bool {
    object.namespace == namespace || (object.kind == "Namespace" && object.name == namespace)
}

fn count(paper: &Offline, severity: Severity) -> usize {
    paper.problems.iter().filter(|p| p.severity == severity).count()
}

fn as_json(paper: &Offline) -> Value {
    json!({
        "findings": paper.problems.iter().map(problem).collect::<Vec<_>>(),
        "summary": {
            "objects": paper.read,
            "errors": count(paper, Severity::Error),
            "warnings": count(paper, Severity::Warning),
            "notices": count(paper, Severity::Notice),
        },
    })
}

fn as_text(paper: &Offline) -> String {
    let mut out = String::new();
    for problem in &paper.problems {
        // A String takes all that is written to it.
        let _ = writeln!(out, "{}: {}", problem.severity, line(problem));
    }
    let counted = |severity, one: &str| match count(paper, severity) {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    };
    let objects = match paper.read {
        1 => "1 object".to_owned(),
        n => format!("{n} objects"),
    };
    let _ = writeln!(
        out,
        "{objects}: {}, {}, {}",
        counted(Severity::Error, "error"),
        counted(Severity::Warning, "warning"),
        counted(Severity::Notice, "notice")
    );
    out
}

fn line(problem: &Problem) -> String {
    problem.to_string()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn paths<const N: usize>(paths: [PathBuf; N]) -> PathArgs {
        PathArgs {
            paths: paths.to_vec(),
            recursive: false,
        }
    }

    fn check(yaml: &str) -> Offline {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.yaml"), yaml).unwrap();
        paper::read(&paths([directory.path().to_owned()]), "test").unwrap()
    }

    const GOOD: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\nspec: {ports: [{port: 80}]}\n";

    #[test]
    fn good_manifests_have_no_findings_and_are_counted() {
        let paper = check(GOOD);
        assert_eq!(as_text(&paper), "1 object: 0 errors, 0 warnings, 0 notices\n");
        assert_eq!(as_json(&paper)["summary"]["objects"], 1);
    }

    #[test]
    fn a_finding_has_its_file_line_object_field_and_fix() {
        let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  parentRefs: \
                     [{group: '', kind: Service, name: reviews}]\n  rules:\n    - timeouts: {request: soon}\n      \
                     backendRefs: [{name: reviews, port: 80}]\n";
        let paper = check(&format!("{GOOD}{route}"));
        let said = &as_json(&paper)["findings"][0];
        assert_eq!(said["line"], 12, "{said:#}");
        assert!(said["file"].as_str().unwrap().ends_with("a.yaml"));
        assert_eq!(said["object"], "HTTPRoute default/r");
        assert_eq!(said["field"], "spec.rules[0].timeouts.request");
        assert!(said["fix"].as_str().unwrap().contains("GEP-2257"));
        assert_eq!(said["severity"], "error");
        assert!(as_text(&paper).ends_with("2 objects: 1 error, 0 warnings, 0 notices\n"));
    }

    #[test]
    fn a_mistyped_name_of_a_service_is_told_with_the_one_that_was_meant() {
        let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  parentRefs: \
                     [{group: '', kind: Service, name: revews}]\n  rules:\n    - backendRefs: [{name: review, port: 80}]\n";
        let text = as_text(&check(&format!("{GOOD}{route}")));
        assert_eq!(
            text.matches("(fix: did you mean reviews? Else name a").count(),
            2,
            "{text}"
        );
    }

    #[test]
    fn an_object_in_two_places_is_found_across_files_and_directories() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.yaml"), GOOD).unwrap();
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(file.path(), GOOD).unwrap();
        let paths = paths([directory.path().to_owned(), file.path().to_owned()]);
        let paper = paper::read(&paths, "test").unwrap();
        assert_eq!(paper.problems.len(), 1, "{:?}", paper.problems);
        assert!(paper.problems[0].message.contains("written twice"));
        assert_eq!(paper.problems[0].file.as_deref(), Some(file.path()));
    }

    #[test]
    fn a_namespace_is_within_itself_and_so_is_what_is_in_it() {
        let named = |kind: &str, namespace: &str, name: &str| ObjectRef {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        assert!(is_within("shop", &named("Namespace", "", "shop")));
        assert!(is_within("shop", &named("Service", "shop", "web")));
        assert!(!is_within("shop", &named("Namespace", "", "edge")));
        assert!(!is_within("shop", &named("Node", "", "shop")));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = paper::read(&paths(["/nowhere/at/all".into()]), "test").unwrap_err();
        assert_eq!(
            error.to_string(),
            "-f /nowhere/at/all: there is no such file or directory"
        );
    }
}
