//! What the control plane says of itself, and how it joins what the cluster says.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::cluster::Imports;
use crate::cluster::system::System;

/// A control plane that does not answer in this time is busy or gone; the rest of the status does not wait for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is imported is answered when it changes, or after 20 seconds.
const IMPORTS_PATIENCE: Duration = Duration::from_secs(30);
/// The most that is read of an answer.
const MOST_BYTES: u64 = 48 << 20;
/// Kinds that are routes.
const ROUTES: [&str; 4] = ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"];

/// `GET /status` on the control plane's admin socket. None: it does not answer.
pub(super) async fn ask(socket: &Path) -> Option<Value> {
    match timeout(PATIENCE, get(socket, "/status")).await {
        Ok(Ok(body)) => serde_json::from_slice(&body).ok(),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// `GET /imports`: what is imported, once it is another than `known`, or as it was after a while.
///
/// # Errors
/// The control plane does not answer, or does not know yet.
pub(crate) async fn imports(socket: &Path, known: &str) -> io::Result<Imports> {
    let body = timeout(IMPORTS_PATIENCE, get(socket, &format!("/imports?known={known}"))).await??;
    Ok(serde_json::from_slice(&body)?)
}

/// HTTP/1.0, so that the answer ends with the connection.
async fn get(socket: &Path, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nhost: weft\r\n\r\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer).await?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no end of the head"))?;
    let good = answer.split(|byte| *byte == b' ').nth(1) == Some(b"200");
    if !good {
        return Err(io::Error::other("the control plane did not answer with 200"));
    }
    Ok(answer.split_off(end + 4))
}

/// The whole state: of the mesh, of the cluster, of the control plane.
pub(super) fn merge(about: &Value, cluster: Value, control: Option<Value>, system: &System) -> Value {
    let mut all = about.clone();
    let (Some(whole), Value::Object(cluster)) = (all.as_object_mut(), cluster) else {
        return all;
    };
    whole.extend(cluster);
    let answered = control.is_some();
    let mut control = control.unwrap_or_default();
    let mut objects = control["objects"].take();
    for object in objects.as_array_mut().into_iter().flatten() {
        known(&mut object["file"], system);
    }
    let is_route = |object: &&Value| object["kind"].as_str().is_some_and(|kind| ROUTES.contains(&kind));
    let routes: Vec<&Value> = objects.as_array().into_iter().flatten().filter(is_route).collect();
    all["routes"] = json!(routes);
    all["objects"] = objects;
    all["proxies"] = control["proxies"].take();
    all["peers"] = control["peers"].take();
    all["federation"] = control["mesh"]["federation"].take();
    if all["control"].is_object() {
        all["control"]["answers"] = json!(answered);
        for field in ["epoch", "build"] {
            all["control"][field] = control[field].take();
        }
    }
    let mut problems = all["problems"].as_array().cloned().unwrap_or_default();
    for mut problem in control["problems"]
        .take()
        .as_array_mut()
        .map(std::mem::take)
        .unwrap_or_default()
    {
        known(&mut problem["file"], system);
        if made(&problem, system) && problems.iter().any(|other| other["message"] == problem["message"]) {
            continue; // of a pod, what is said of the object that it was made from
        }
        if !problems.iter().any(|other| same(other, &problem)) {
            problem["text"] = json!(text(&problem));
            problems.push(problem);
        }
    }
    all["problems"] = json!(problems);
    all
}

fn known(file: &mut Value, system: &System) {
    if let Some(path) = file.as_str() {
        *file = json!(system.as_the_user_knows(path));
    }
}

/// Whether a problem is one of an object that the cluster made.
fn made(problem: &Value, system: &System) -> bool {
    let file = problem["file"].as_str();
    file.is_some_and(|file| Path::new(file).starts_with(&system.objects))
}

/// Cluster and control plane read the same files, and say the same of what neither understands.
fn same(a: &Value, b: &Value) -> bool {
    ["file", "line", "field", "message"]
        .iter()
        .all(|key| a[*key] == b[*key])
}

/// A problem for people: where, what, and what to do.
pub fn text(problem: &Value) -> String {
    let part = |key: &str| problem[key].as_str().unwrap_or_default();
    let mut text = String::new();
    if !part("file").is_empty() {
        text.push_str(part("file"));
        if let Some(line) = problem["line"].as_u64() {
            text.push_str(&format!(":{line}"));
        }
        text.push_str(": ");
    }
    for key in ["object", "field"] {
        if !part(key).is_empty() {
            text.push_str(&format!("{}: ", part(key)));
        }
    }
    text.push_str(part("message"));
    if !part("fix").is_empty() {
        text.push_str(&format!(" (fix: {})", part("fix")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system() -> System {
        System {
            user: 0,
            manifests: crate::source::Sources::directory("/home/ada/shop"),
            objects: "/state/objects".into(),
            control: "/state/control".into(),
            flags: vec![],
            federated: false,
            gateways: false,
            env: vec![],
            dns: vec![],
            node: vec![],
            pods: vec![],
        }
    }

    #[test]
    fn what_both_say_is_said_once_and_files_are_those_of_the_user() {
        let seen = json!({"file": "/run/weft/mesh/manifests/a.yaml", "line": 3, "field": "spec", "message": "wrong", "fix": "right"});
        let control = json!({
            "epoch": 2, "build": "b",
            "objects": [
                {"kind": "HTTPRoute", "name": "reviews", "file": "/run/weft/mesh/manifests/r.yaml", "waiting": []},
                {"kind": "Service", "name": "reviews"},
            ],
            "proxies": [{"pod": "web-1"}],
            "peers": [{"cluster": "west"}], "mesh": {"federation": {"network": "wire"}},
            "problems": [seen, {"message": "another"}],
        });
        let cluster = json!({
            "pods": [], "control": {"pid": 7},
            "problems": [{"file": "/home/ada/shop/a.yaml", "line": 3, "field": "spec", "message": "wrong"}],
        });
        let all = merge(&json!({"mesh": "shop"}), cluster, Some(control), &system());
        assert_eq!(all["problems"].as_array().unwrap().len(), 2);
        assert_eq!(all["routes"][0]["file"], "/home/ada/shop/r.yaml");
        assert_eq!(all["routes"].as_array().unwrap().len(), 1);
        assert_eq!(
            all["control"],
            json!({"pid": 7, "answers": true, "epoch": 2, "build": "b"})
        );
        assert_eq!(all["proxies"][0]["pod"], "web-1");
        assert_eq!(
            (&all["peers"][0]["cluster"], &all["federation"]["network"]),
            (&json!("west"), &json!("wire"))
        );
        assert_eq!(all["mesh"], "shop", "the mesh is told by its name");
    }

    #[test]
    fn what_is_said_of_a_deployment_is_not_said_again_of_each_of_its_pods() {
        let of_pod =
            json!({"file": "/run/weft/mesh/objects/pod.json", "line": 1, "field": "metadata", "message": "wrong"});
        let problems = |of_user: Value| {
            let cluster = json!({"problems": of_user});
            let control = json!({"problems": [of_pod.clone()]});
            let all = merge(&json!({}), cluster, Some(control), &system());
            all["problems"].as_array().map(Vec::len)
        };
        assert_eq!(
            problems(json!([{"file": "/home/ada/shop/d.yaml", "field": "spec", "message": "wrong"}])),
            Some(1)
        );
        assert_eq!(problems(json!([])), Some(1), "nobody else said it");
    }

    #[test]
    fn a_control_plane_that_is_away_takes_nothing_else_away() {
        let all = merge(
            &json!({"mesh": "shop"}),
            json!({"pods": [1], "control": {"pid": null}}),
            None,
            &system(),
        );
        assert_eq!(all["pods"], json!([1]));
        assert_eq!(all["control"]["answers"], json!(false));
        assert_eq!(all["routes"], json!([]));
    }
}
