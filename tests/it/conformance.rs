//! The Gateway API's conformance cases for meshes, and those for gateways that mean something in one, on a local mesh.
//!
//! The cases are tables (`mesh.rs`, `beyond.rs`), their routes the parts of files beside `data/conformance/base.yaml`. All run
//! on one mesh: a case's routes replace those of the case before, and are asked when all proxies decide by them.

pub(crate) mod ask;
mod beyond;
mod mesh;

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};
use weft_tests::Mesh;
use weft_tests::host::until;

use ask::{Ask, Case, Who};

const BASE: &str = include_str!("../data/conformance/base.yaml");
const PROGRAMS: [(&str, &str); 2] = [
    ("echo.py", include_str!("../data/conformance/echo.py")),
    ("ask.py", include_str!("../data/conformance/ask.py")),
];
const MESH: &str = include_str!("../data/conformance/mesh.yaml");
const BEYOND: &str = include_str!("../data/conformance/beyond.yaml");

const NAMESPACE: &str = "gateway-conformance-mesh";
const CONSUMER: &str = "gateway-conformance-mesh-consumer";
/// Kinds whose objects a case brings.
const KINDS: [&str; 5] = ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "TrafficPolicy"];

/// A mesh with the suite's namespaces, apps and Services.
struct Stage {
    mesh: Mesh,
    v1: String,
    v2: String,
    far: String,
    address_of_v2: String,
}

/// The apps' programs and a certificate, as a ConfigMap `echo` of each namespace.
pub(crate) fn programs(namespaces: &[&str]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-subj", "/CN=echo", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem",
        ])
        .current_dir(dir.path())
        .output()
        .expect("openssl is missing: apt-get install openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |file| std::fs::read_to_string(dir.path().join(file)).expect("what openssl wrote");
    let (key, certificate) = (read("key.pem"), read("cert.pem"));
    let mut data = String::new();
    for (file, text) in PROGRAMS
        .into_iter()
        .chain([("key.pem", &*key), ("cert.pem", &certificate)])
    {
        let text: String = text.lines().map(|line| format!("    {line}\n")).collect();
        data += &format!("  {file}: |\n{text}");
    }
    let of = |namespace: &&str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: echo, namespace: {namespace}}}\ndata:\n{data}")
    };
    namespaces.iter().map(of).collect::<Vec<_>>().join("---\n")
}

impl Stage {
    fn up() -> Self {
        let mesh = Mesh::builder()
            .file("base.yaml", BASE)
            .file("programs.yaml", &programs(&[NAMESPACE, CONSUMER]))
            .file("case.yaml", "")
            .up();
        let pod = |prefix: &str, namespace: &str| {
            let pods = mesh.pods(prefix);
            let pod = pods.into_iter().find(|pod| pod["namespace"] == namespace);
            pod.expect("a pod of the suite")
        };
        let name = |pod: &Value| pod["name"].as_str().expect("a name").to_owned();
        let v2 = pod("echo-v2", NAMESPACE);
        Self {
            v1: name(&pod("echo-v1", NAMESPACE)),
            v2: name(&v2),
            far: name(&pod("echo-v1", CONSUMER)),
            address_of_v2: v2["addresses"][0].as_str().expect("an address").to_owned(),
            mesh,
        }
    }

    /// Has a case's routes replace those of the case before, and waits until every proxy decides by them alone.
    fn apply(&self, routes: &str) {
        self.mesh.write("case.yaml", routes);
        let wanted = names(routes);
        self.mesh.until(&format!("all proxies decide by {wanted:?}"), |status| {
            let list = |of: &'static str| status[of].as_array().map_or(&[][..], Vec::as_slice);
            let objects = || {
                list("objects")
                    .iter()
                    .filter(|o| KINDS.iter().any(|kind| o["kind"] == *kind))
            };
            let there: BTreeSet<&str> = objects().filter_map(|object| object["name"].as_str()).collect();
            let resources = list("proxies")
                .iter()
                .filter_map(|proxy| proxy["resources"].as_array())
                .flatten();
            there == wanted
                && objects().all(|object| has(object, ["Applied", "True", ""]))
                && resources.clone().all(|resource| resource["acked"] == true)
        });
    }

    /// Runs a case; each question with what was wrong of its answer.
    fn run(&self, case: &Case) -> Vec<(String, Vec<String>)> {
        let mut rows = Vec::new();
        for (who, namespace, pod) in [(Who::Mesh, NAMESPACE, &self.v1), (Who::Consumer, CONSUMER, &self.far)] {
            let asks: Vec<&Ask> = case.asks.iter().filter(|ask| ask.who == who).collect();
            if asks.is_empty() {
                continue;
            }
            let questions: Value = asks.iter().map(|ask| ask.question(&self.address_of_v2)).collect();
            let program = ["/usr/bin/python3", "/app/ask.py", &questions.to_string()];
            let said = self.mesh.exec_ok(namespace, pod, &program);
            let came: Value = serde_json::from_str(&said).expect("the client's JSON");
            let judged = (0..)
                .zip(&asks)
                .map(|(at, ask)| (ask.title(), ask.wrong(&came[at as usize])));
            rows.extend(judged);
        }
        for (pod, path, least, most) in &case.mirrored {
            let (namespace, name) = match *pod {
                "echo-v2" => (NAMESPACE, &self.v2),
                _ => (CONSUMER, &self.far),
            };
            let count = || -> u64 {
                let url = format!("http://127.0.0.1:8080/seen{path}");
                let said: Value = serde_json::from_str(&self.mesh.exec_ok(namespace, name, &["curl", "-sS", &url]))
                    .expect("the app's JSON");
                said["count"].as_u64().expect("a count")
            };
            // The last copies may still be on their way.
            until(&format!("{least} copies of {path} at {pod}"), || count() >= *least);
            let copies = count();
            let wrong = (copies > *most).then(|| format!("{copies} copies, {most} at most"));
            rows.push((format!("copies of {path} at {pod}"), wrong.into_iter().collect()));
        }
        if let Some(condition) = case.condition {
            let status = self.mesh.status();
            let objects = status["objects"].as_array().map_or(&[][..], Vec::as_slice);
            let there = objects.iter().any(|object| has(object, condition));
            let wrong = (!there).then(|| format!("not there: {objects:#?}"));
            rows.push((format!("condition {condition:?}"), wrong.into_iter().collect()));
        }
        rows
    }
}

/// Whether an object has a condition: type, status, and reason unless it is empty.
pub(crate) fn has(object: &Value, [kind, status, reason]: [&str; 3]) -> bool {
    let conditions = object["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().any(|condition| {
        condition["type"] == kind
            && condition["status"] == status
            && (reason.is_empty() || condition["reason"] == reason)
    })
}

/// The names of a case's objects, as far as they have conditions.
fn names(routes: &str) -> BTreeSet<&str> {
    let documents = routes.split("---\n");
    let name = |document: &&str| KINDS.iter().any(|kind| document.contains(&format!("kind: {kind}\n")));
    let names = documents
        .filter(name)
        .filter_map(|text| text.split_once("metadata: {name: "));
    names.filter_map(|(_, rest)| rest.split(',').next()).collect()
}

/// The part of a file that has the routes of a case.
#[track_caller]
fn part(file: &'static str, case: &str) -> &'static str {
    let parts = file.split("# case ").skip(1);
    let named = parts.filter_map(|part| part.split_once('\n'));
    let mut of_case = named.filter(|(title, _)| title.split(", ").any(|name| name == case));
    of_case.next().unwrap_or_else(|| panic!("no routes for {case}")).1
}

#[test]
fn an_answer_that_is_wrong_in_one_thing_is_told_from_one_that_is_right() {
    let right = json!({
        "status": 200,
        "headers": [["location", "http://a/"], ["x-got", "1"], ["x-got", "2"]],
        "seen": {"pod": "echo-v1-x", "path": "/p", "host": "h", "headers": [["x-seen", "1"]]},
        "pods": {"echo-v1-x": 50, "echo-v2-y": 50},
        "all": [],
    });
    let ask = ask::get("/p")
        .backend("echo-v1")
        .redirect(200, "http://a/")
        .sees_path("/p")
        .sees_host("h")
        .sees("X-Seen", "1")
        .sees_no("x-unseen")
        .gets("X-Got", "1,2")
        .gets_no("x-absent")
        .shares(100, &[("echo-v1", 0.5), ("echo-v2", 0.5)]);
    assert_eq!(ask.wrong(&right), Vec::<String>::new());
    for (at, value) in [
        ("/status", json!(503)),
        ("/headers/0/1", json!("http://b/")),
        ("/headers/2/1", json!("3")),
        ("/headers/0/0", json!("x-absent")),
        ("/seen/pod", json!("echo-v2-y")),
        ("/seen/path", json!("/q")),
        ("/seen/host", json!("other")),
        ("/seen/headers/0/1", json!("2")),
        ("/seen/headers", json!([["x-seen", "1"], ["X-Unseen", "1"]])),
        ("/pods/echo-v1-x", json!(10)),
        ("/seen", json!(null)),
    ] {
        let mut came = right.clone();
        *came.pointer_mut(at).expect("a part") = value;
        assert!(!ask.wrong(&came).is_empty(), "{at}");
    }
    let named = ask::get("/").times(2).names_backend("backend");
    let call = |pod: &str| json!([200, {"pod": pod, "headers": [["backend", "echo-v1"]]}]);
    let came = |calls: [Value; 2]| json!({"status": 200, "headers": [], "seen": null, "pods": {}, "all": calls});
    assert!(named.wrong(&came([call("echo-v1-x"), call("echo-v1-x")])).is_empty());
    assert!(!named.wrong(&came([call("echo-v1-x"), call("echo-v2-y")])).is_empty());
}

#[test]
fn all_22_mesh_cases_and_27_of_those_for_gateways_pass() {
    let stage = Stage::up();
    let mesh: Vec<_> = mesh::cases().into_iter().map(|case| (MESH, case)).collect();
    let beyond: Vec<_> = beyond::cases().into_iter().map(|case| (BEYOND, case)).collect();
    assert_eq!((mesh.len(), beyond.len()), (22, 27));
    let mut applied = "";
    let (mut table, mut asked, mut failed) = (String::new(), 0, 0);
    for (file, case) in mesh.iter().chain(&beyond) {
        let routes = part(file, case.name);
        if routes != applied {
            stage.apply(routes);
            applied = routes;
        }
        let rows = stage.run(case);
        let wrong: Vec<_> = rows.iter().filter(|(_, wrong)| !wrong.is_empty()).collect();
        let word = if wrong.is_empty() { "pass" } else { "FAIL" };
        table += &format!(
            "{word}  {:<48} {} of {}\n",
            case.name,
            rows.len() - wrong.len(),
            rows.len()
        );
        for (title, wrong) in &wrong {
            table += &format!("        {title}\n            {}\n", wrong.join("\n            "));
        }
        asked += rows.len();
        failed += usize::from(!wrong.is_empty());
    }
    println!(
        "{} cases of conformance, {asked} questions:\n{table}",
        mesh.len() + beyond.len()
    );
    assert_eq!(failed, 0, "cases of conformance failed:\n{table}");
}
