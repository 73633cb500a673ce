//! `weft validate` says of manifests what a running mesh says of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use weft_tests::Mesh;
use weft_tests::mesh::weft_bin;

const BASE: &str = include_str!("../data/base.yaml");
const INVALID: &str = include_str!("../data/invalid.yaml");
/// The pages that people copy examples from.
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
/// All that `weft up` acts on.
const KINDS: [&str; 23] = [
    "ClusterPeer",
    "ConfigMap",
    "DaemonSet",
    "Deployment",
    "EndpointSlice",
    "GRPCRoute",
    "HTTPRoute",
    "Job",
    "List",
    "Namespace",
    "Node",
    "Pod",
    "Secret",
    "Service",
    "ServiceAccount",
    "ServiceExport",
    "ServiceImport",
    "ServiceSubset",
    "StatefulSet",
    "TCPRoute",
    "TLSRoute",
    "TrafficPolicy",
    "XBackendTrafficPolicy",
];

/// A manifest that is wrong, and where.
struct Case {
    title: &'static str,
    yaml: &'static str,
    line: u64,
    field: &'static str,
}

fn cases() -> Vec<Case> {
    let documents = INVALID.split("---\n").skip(1);
    let case = |text: &'static str| {
        let (title, yaml) = text.split_once('\n').expect("a title");
        let (number, line) = (1_u64..)
            .zip(yaml.lines())
            .find(|(_, line)| line.contains("# HERE"))
            .unwrap_or_else(|| panic!("{title}: no line is marked"));
        Case {
            title: title.trim_start_matches("# "),
            yaml,
            line: number,
            field: line.rsplit_once("# HERE").expect("the mark").1.trim(),
        }
    };
    documents.map(case).collect()
}

/// What `weft validate` finds in a directory, and its exit code.
fn validate(directory: &Path) -> (Value, Option<i32>) {
    let mut command = Command::new(weft_bin());
    command.arg("validate").arg("-f").arg(directory).args(["-o", "json"]);
    let output = command.output().expect("weft validate runs");
    let said = serde_json::from_slice(&output.stdout);
    let said = said.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (said, output.status.code())
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().map_or(&[], Vec::as_slice)
}

fn texts(problems: &[Value]) -> BTreeSet<&str> {
    problems.iter().filter_map(|problem| problem["text"].as_str()).collect()
}

fn file_of(number: usize) -> String {
    format!("bad-{number:02}.yaml")
}

#[test]
fn every_invalid_manifest_is_refused_with_its_file_line_field_and_fix() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("base.yaml"), BASE).expect("a file");
    assert_eq!(validate(directory.path()).1, Some(0));
    let cases = cases();
    for (number, case) in cases.iter().enumerate() {
        std::fs::write(directory.path().join(file_of(number)), case.yaml).expect("a file");
    }
    let (said, code) = validate(directory.path());
    assert_eq!(code, Some(65));
    let errors: Vec<&Value> = list(&said, "findings")
        .iter()
        .filter(|f| f["severity"] == "error")
        .collect();
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let of_file = |finding: &&&Value| {
            finding["file"]
                .as_str()
                .is_some_and(|file| file.ends_with(&file_of(number)))
        };
        let here: Vec<&Value> = errors.iter().filter(of_file).copied().collect();
        let named = here.iter().any(|finding| {
            let fixed = finding["fix"].as_str().is_some_and(|fix| !fix.is_empty());
            finding["line"] == case.line && finding["field"] == case.field && fixed
        });
        if !named {
            wrong.push(format!(
                "{} (line {}, {}): {here:#?}",
                case.title, case.line, case.field
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    let reasons: BTreeSet<&str> = errors
        .iter()
        .filter_map(|finding| finding["message"].as_str())
        .collect();
    println!("{} invalid manifests, {} reasons", cases.len(), reasons.len());
    assert!(
        cases.len() >= 60 && reasons.len() >= 40,
        "{} {}",
        cases.len(),
        reasons.len()
    );
    let without = KINDS.iter().filter(|kind| {
        let line = format!("kind: {kind}");
        let of_kind = |line_of: &str| line_of.split(" #").next().is_some_and(|text| text == line);
        !cases.iter().any(|case| case.yaml.lines().any(of_kind))
    });
    assert_eq!(
        without.collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "kinds of which none is wrong"
    );
}

/// The YAML examples of a page, in their order.
fn examples(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    let parts = text.split("```yaml\n").skip(1);
    let ends = parts.filter_map(|rest| rest.split("```").next());
    ends.map(str::to_owned).collect()
}

/// Every page that has examples, with them.
fn pages() -> Vec<(PathBuf, Vec<String>)> {
    let docs = std::fs::read_dir(DOCS)
        .expect("docs")
        .flatten()
        .map(|entry| entry.path());
    let pages = docs.filter(|page| page.extension().is_some_and(|end| end == "md"));
    let mut pages: Vec<_> = pages.chain([PathBuf::from(README)]).collect();
    pages.sort();
    let with = pages.into_iter().map(|page| {
        let examples = examples(&page);
        (page, examples)
    });
    with.filter(|(_, examples)| !examples.is_empty()).collect()
}

#[test]
fn validate_and_the_running_mesh_agree_on_what_is_wrong_and_on_what_is_right() {
    let mesh = Mesh::builder().file("base.yaml", BASE).up();
    for (number, case) in cases().iter().enumerate() {
        mesh.write(&file_of(number), case.yaml);
    }
    agree(&mesh, 65);
    for number in 0..cases().len() {
        mesh.remove(&file_of(number));
    }
    mesh.remove("base.yaml");
    let pages = pages();
    assert!(pages.len() >= 2, "docs/manifests.md and docs/routes.md have examples");
    // A page's examples are about one another; two pages may call things alike.
    for (page, examples) in &pages {
        let file = |number: usize| format!("example-{number:02}.yaml");
        for (number, example) in examples.iter().enumerate() {
            mesh.write(&file(number), example);
        }
        println!("{} examples of {}", examples.len(), page.display());
        agree(&mesh, 0);
        for number in 0..examples.len() {
            mesh.remove(&file(number));
        }
    }
}

/// Waits until the mesh has the same words as `weft validate` for its directory.
fn agree(mesh: &Mesh, code: i32) {
    let (said, exit) = validate(&mesh.manifests());
    assert_eq!(exit, Some(code), "{said:#}");
    let wanted = texts(list(&said, "findings"));
    let same = |status: &Value| texts(list(status, "problems")) == wanted;
    mesh.until(&format!("it says {wanted:#?}"), same);
}
