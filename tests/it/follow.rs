//! The mesh follows its manifests, and what it was like before does not matter.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use weft_tests::diff::diff;
use weft_tests::edits::{DESTINATIONS, Edit, Editor};
use weft_tests::host::until;
use weft_tests::{Mesh, MeshBuilder};

const EDITS: usize = 200;
/// Two meshes that do not agree by then never will.
const PATIENCE: Duration = Duration::from_secs(30);

/// Written last of all: once this is known, all that was written before is.
const LAST: &str = "
apiVersion: v1
kind: Service
metadata: {name: last, namespace: shop}
spec:
  clusterIP: 10.96.9.9
  selector: {app: reviews}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: weft.dev/v1alpha1
kind: ServiceSubset
metadata: {name: last, namespace: shop}
spec: {service: last}
";

#[test]
fn after_two_hundred_edits_proxies_believe_what_a_fresh_mesh_believes() {
    let seed = std::env::var("WEFT_SEED").map_or(1, |seed| seed.parse().expect("WEFT_SEED is a number"));
    println!("WEFT_SEED={seed} tells this story again");
    let mut editor = Editor::new(seed);
    let mesh = |editor: &Editor| {
        editor
            .files()
            .fold(Mesh::builder(), |mesh, (file, text)| mesh.file(file, text))
            .arg("--trust-domain=follow.test")
    };
    let old = mesh(&editor).up();
    call_everything(&old);
    for number in 0..EDITS {
        let edit = editor.edit();
        apply(&old, edit);
        if [EDITS / 3, EDITS / 2].contains(&number) {
            until("the control plane runs", || !old.control_pids().is_empty());
            old.signal_control(Signal::SIGKILL);
            editor.story.push("the control plane is killed".to_owned());
        }
        std::thread::sleep(editor.pause());
    }
    editor.tidy().into_iter().for_each(|edit| apply(&old, edit));
    old.write("z-last.yaml", LAST);

    let fresh = mesh(&editor).file("z-last.yaml", LAST).up();
    for mesh in [&old, &fresh] {
        settled(mesh);
        call_everything(mesh);
        call_pods(mesh);
    }
    let began = Instant::now();
    while let Some(difference) = difference(&old, &fresh) {
        assert!(
            began.elapsed() < PATIENCE,
            "seed {seed}: after {EDITS} edits (-) the mesh differs from a fresh one (+):\n{difference}\nthe edits:\n{}\n{}",
            editor.story.join("\n"),
            old.log(),
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn apply(mesh: &Mesh, edit: Edit) {
    match edit {
        Edit::Write(file, text) => mesh.write(&file, &text),
        Edit::InPlace(file, text, cut, pause) => mesh.write_in_place(&file, &text, cut, pause),
        Edit::Remove(file) => mesh.remove(&file),
        Edit::Rename(from, to) => {
            let path = |file| mesh.manifests().join(file);
            std::fs::rename(path(from), path(to)).expect("the manifest under its new name");
        }
    }
}

/// The pods that have a proxy.
fn meshed(status: &Value) -> Vec<String> {
    let pods = status["pods"].as_array().into_iter().flatten();
    pods.filter(|pod| pod["meshed"] == true && pod["phase"] != "Terminating")
        .map(|pod| pod["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// Waits until all manifests are read, all pods are as they say and ready, and every proxy has acknowledged everything.
fn settled(mesh: &Mesh) {
    mesh.until("everything is read, ready and acknowledged", |status| {
        let list = |name: &str| status[name].as_array().into_iter().flatten();
        let read = list("services").any(|service| service["name"] == "last")
            && list("objects").any(|object| object["kind"] == "ServiceSubset" && object["name"] == "last");
        let ready = list("pods").all(|pod| pod["ready"] == true && pod["phase"] == "Running");
        read && ready && list("problems").all(|problem| problem["severity"] != "error") && acknowledged(status)
    });
}

fn acknowledged(status: &Value) -> bool {
    let list = |name: &str| status[name].as_array().into_iter().flatten();
    let has_all = |proxy: &Value| {
        let resources = proxy["resources"].as_array().expect("resources");
        proxy["connected"] == true
            && !resources.is_empty()
            && resources.iter().all(|resource| resource["acked"] == true)
    };
    let uids: Vec<&Value> = list("pods")
        .filter(|pod| pod["meshed"] == true)
        .map(|pod| &pod["uid"])
        .collect();
    uids.iter()
        .all(|uid| list("proxies").any(|proxy| proxy["uid"] == **uid && has_all(proxy)))
}

/// Makes every proxy ask for every destination. Whether an answer comes is of no interest here.
fn call_everything(mesh: &Mesh) {
    let urls: Vec<String> = DESTINATIONS
        .iter()
        .map(|address| format!("http://{address}/headers"))
        .collect();
    call(mesh, |_| urls.clone());
}

/// Makes every proxy ask for every other pod by its addresses.
fn call_pods(mesh: &Mesh) {
    let status = mesh.status();
    let pods = status["pods"].as_array().expect("pods");
    let url = |address: &Value| match address.as_str().expect("an address") {
        v6 if v6.contains(':') => format!("http://[{v6}]:8080/headers"),
        v4 => format!("http://{v4}:8080/headers"),
    };
    call(mesh, |name| {
        let others = pods.iter().filter(|pod| pod["name"] != *name);
        others
            .flat_map(|pod| pod["addresses"].as_array().expect("addresses").iter().map(url))
            .collect()
    });
}

fn call(mesh: &Mesh, urls: impl Fn(&str) -> Vec<String>) {
    let calls: Vec<_> = meshed(&mesh.status())
        .into_iter()
        .map(|pod| {
            let quiet = "curl -s -g -m 2 -o /dev/null";
            let each: String = urls(&pod).iter().map(|url| format!("{quiet} '{url}' & ")).collect();
            mesh.spawn("shop", &pod, &["sh", "-c", &format!("{each} wait")])
        })
        .collect();
    calls.into_iter().for_each(|call| drop(call.output()));
}

/// How the proxies of two meshes differ, if they do.
fn difference(old: &Mesh, fresh: &Mesh) -> Option<String> {
    let beliefs = |mesh: &Mesh| {
        let status = mesh.status();
        let mut all = serde_json::Map::new();
        all.insert("acknowledged".to_owned(), acknowledged(&status).into());
        for pod in meshed(&status) {
            let mut config = mesh.config_by_names("shop", &pod);
            // Each mesh has roots of its own.
            config["bundles"][0]["roots"] = config["bundles"][0]["roots"].as_array().map_or(0, Vec::len).into();
            all.insert(pod, config);
        }
        let text = format!("{:#}", Value::from(all));
        text.replace(&format!("\"{}\"", mesh.name()), "\"this mesh\"")
    };
    let difference = diff(&beliefs(old), &beliefs(fresh));
    (!difference.is_empty()).then_some(difference)
}

const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {weft.dev/inject: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: shop}
spec: {containers: [{name: app, command: [visitor]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: r1, namespace: shop, labels: {app: reviews, version: v1}}
spec: {containers: [{name: app, command: [web]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: r2, namespace: shop, labels: {app: reviews, version: v2}}
spec: {containers: [{name: app, command: [web]}]}
";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec:
  selector: {app: reviews}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

/// Only this path has a route, to version 2; anything else is 404.
const ROUTE: &str = "
apiVersion: weft.dev/v1alpha1
kind: ServiceSubset
metadata: {name: v2, namespace: shop}
spec: {service: reviews, selector: {version: v2}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews}]
  rules:
    - matches: [{path: {value: /headers}}]
      backendRefs: [{group: weft.dev, kind: ServiceSubset, name: v2, port: 80}]
";

fn small() -> MeshBuilder {
    Mesh::builder()
        .file("pods.yaml", PODS)
        .file("service.yaml", SERVICE)
        .file("route.yaml", ROUTE)
}

/// The first object says something else now, and what follows can't be read.
fn unreadable(text: &str) -> String {
    text.replacen("name: shop, labels", "name: shop, annotations", 1)
        .replacen("kind: ServiceSubset", "kind: Service", 1)
        + "---\nspec: [\n"
}

/// The status of one call.
fn called(mesh: &Mesh, path: &str) -> String {
    let url = format!("http://reviews{path}");
    let curl = ["curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", &url];
    String::from_utf8_lossy(&mesh.exec("shop", "caller", &curl).stdout).into_owned()
}

#[track_caller]
fn soon(mesh: &Mesh, path: &str, wanted: &str) {
    let began = Instant::now();
    while called(mesh, path) != wanted {
        assert!(
            began.elapsed() < PATIENCE,
            "{path} is never {wanted}: {}",
            called(mesh, path)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_file_that_cannot_be_parsed_keeps_its_objects() {
    let mesh = small().up();
    assert_eq!(
        (called(&mesh, "/headers"), called(&mesh, "/healthz")),
        ("200".to_owned(), "404".to_owned())
    );
    let uids = || mesh.pods("").iter().map(|pod| pod["uid"].clone()).collect::<Vec<_>>();
    let before = uids();
    let load = mesh.visit_beside(
        "shop",
        "caller",
        "http://reviews/headers",
        &["--rate", "200", "--count", "100000", "--seconds", "3"],
    );
    for (file, text) in [("pods.yaml", PODS), ("service.yaml", SERVICE), ("route.yaml", ROUTE)] {
        mesh.write(file, &unreadable(text));
        mesh.until("the file's fault is named", |status| {
            let problems = status["problems"].as_array().into_iter().flatten();
            problems
                .into_iter()
                .any(|problem| problem["file"].as_str().is_some_and(|path| path.ends_with(file)))
        });
        assert_eq!(called(&mesh, "/healthz"), "404", "{file}: the route acts");
    }
    load.tally().none_failed();
    assert_eq!(uids(), before);
    for (file, text) in [
        ("pods.yaml", PODS),
        ("service.yaml", SERVICE),
        ("route.yaml", &ROUTE.replace("/headers", "/healthz")),
    ] {
        mesh.write(file, text);
    }
    mesh.until("nothing is wrong any more", |status| {
        status["problems"].as_array().is_some_and(Vec::is_empty)
    });
    soon(&mesh, "/healthz", "200");
    soon(&mesh, "/headers", "404");
    assert_eq!(uids(), before);
}

#[test]
fn what_is_deleted_is_gone_and_what_is_added_again_is_back() {
    let mesh = small().up();
    assert_eq!(
        (called(&mesh, "/headers"), called(&mesh, "/healthz")),
        ("200".to_owned(), "404".to_owned())
    );
    let load = mesh.visit_beside(
        "shop",
        "caller",
        "http://reviews/headers",
        &["--rate", "200", "--count", "100000", "--seconds", "4"],
    );
    for _ in 0..2 {
        mesh.remove("route.yaml");
        soon(&mesh, "/healthz", "200");
        mesh.write("route.yaml", ROUTE);
        soon(&mesh, "/healthz", "404");
    }
    load.tally().none_failed();
    mesh.remove("service.yaml");
    soon(&mesh, "/headers", "000");
    mesh.write("service.yaml", SERVICE);
    soon(&mesh, "/headers", "200");
}

#[test]
fn a_file_that_is_written_slowly_never_costs_a_request() {
    let mesh = small().up();
    assert_eq!(called(&mesh, "/headers"), "200");
    let load = mesh.visit_beside(
        "shop",
        "caller",
        "http://reviews/headers",
        &["--rate", "200", "--count", "100000", "--seconds", "8"],
    );
    for (file, text) in [("pods.yaml", PODS), ("service.yaml", SERVICE), ("route.yaml", ROUTE)].repeat(8) {
        // Half of it is valid too, and says that the second half is not wanted; nothing at all is valid as well.
        let cut = text.find("\n---\n").unwrap_or(0);
        mesh.write_in_place(file, text, cut, Duration::from_millis(60));
        std::thread::sleep(Duration::from_millis(120));
    }
    load.tally().none_failed();
    // Left so, the first half counts.
    let half = &PODS[..PODS.rfind("\n---\n").expect("several objects")];
    mesh.write_in_place("pods.yaml", half, half.len(), Duration::ZERO);
    mesh.until("the pod of the second half is gone", |status| {
        status["pods"]
            .as_array()
            .is_some_and(|pods| pods.iter().all(|pod| pod["name"] != "r2"))
    });
}
