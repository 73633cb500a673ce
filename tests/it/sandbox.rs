//! An app can't get round its proxy.

use weft_tests::Mesh;
use weft_tests::host;
use weft_tests::shop::shop;

/// Sets the proxy's mark on a socket and calls an address past the proxy.
const FORGE: &str = "
import socket
s = socket.socket()
try:
    s.setsockopt(socket.SOL_SOCKET, 36, 0x5745)
    print('marked')
except PermissionError:
    print('refused')
";

#[test]
fn an_app_can_neither_forge_the_mark_nor_edit_the_rules() {
    neither_forges_nor_edits(&shop().up());
}

/// What an app must not be able to do, whoever runs the mesh.
#[track_caller]
pub(crate) fn neither_forges_nor_edits(mesh: &Mesh) {
    let forged = mesh.exec_ok("shop", "visitor", &["/usr/bin/python3", "-c", FORGE]);
    assert_eq!(forged, "refused\n");
    for command in [
        &["iptables", "-t", "nat", "-F"][..],
        &["iptables", "-t", "nat", "-I", "OUTPUT", "-j", "RETURN"],
        &["ip6tables", "-t", "nat", "-F"],
        &["nft", "flush", "ruleset"],
        &["unshare", "-n", "true"],
        &["nsenter", "-t", "1", "-n", "true"],
        &["ip", "link", "set", "eth0", "down"],
    ] {
        let output = mesh.exec("shop", "visitor", command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{command:?} succeeded");
        assert!(
            !matches!(output.status.code(), Some(126 | 127)),
            "{command:?} was not even run: {said}"
        );
    }
    // In a user namespace of its own an app is root of nothing that counts.
    let nested = mesh.exec("shop", "visitor", &["unshare", "-Ur", "/usr/bin/python3", "-c", FORGE]);
    assert_ne!(String::from_utf8_lossy(&nested.stdout), "marked\n");
    mesh.visit("shop", "visitor", "http://reviews/reviews/1", &["--count", "20"])
        .none_failed();
}

#[test]
fn an_app_has_no_capability_no_new_privileges_and_its_own_places() {
    has_no_rights_and_its_own_places(&shop().up());
}

/// What an app has, whoever runs the mesh.
#[track_caller]
pub(crate) fn has_no_rights_and_its_own_places(mesh: &Mesh) {
    let status = mesh.exec_ok("shop", "visitor", &["cat", "/proc/self/status"]);
    for line in [
        "CapInh:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line:?} is not in {status}");
    }
    mesh.exec_ok("shop", "visitor", &["sh", "-c", "touch /tmp/mine /dev/shm/mine"]);
    let web = mesh.pods("web-")[0]["name"].as_str().expect("a name").to_owned();
    let other = mesh.exec_ok("shop", &web, &["sh", "-c", "ls /tmp /dev/shm"]);
    assert!(!other.contains("mine"), "{other}");
    assert!(!std::path::Path::new("/tmp/mine").exists());
    assert_eq!(mesh.exec_ok("shop", "visitor", &["hostname"]), "visitor\n");
}

#[test]
fn an_app_does_not_see_the_proxys_key_nor_the_meshs() {
    sees_no_keys(&shop().up());
}

/// What an app must not see, whoever runs the mesh.
#[track_caller]
pub(crate) fn sees_no_keys(mesh: &Mesh) {
    let found = mesh.exec_ok(
        "shop",
        "visitor",
        &[
            "sh",
            "-c",
            "ls -A /var/run/weft/state /var/run/secrets/weft 2>/dev/null; true",
        ],
    );
    assert_eq!(found, "");
    let state = format!("{}/state", mesh.manifests().parent().expect("a parent").display());
    let listed = mesh.exec(
        "shop",
        "visitor",
        &["sh", "-c", &format!("ls -AR {state} | grep -c key")],
    );
    assert!(!listed.status.success(), "{}", String::from_utf8_lossy(&listed.stdout));
}

#[test]
fn a_pod_cannot_reach_the_host() {
    let mesh = shop().up();
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a port of the host");
    let port = listener.local_addr().expect("an address").port().to_string();
    let own: Vec<String> = host::addresses();
    for address in own {
        let dial = format!("import socket; socket.create_connection(({address:?}, {port}), 2)");
        let output = mesh.exec("street", "stranger", &["/usr/bin/python3", "-c", &dial]);
        assert!(!output.status.success(), "{address}:{port} was reached");
    }
}

#[test]
fn a_manifest_that_asks_for_what_no_pod_gets_here_is_refused_by_line() {
    for (field, fix) in [
        ("hostNetwork: true", "hostNetwork"),
        ("securityContext: {runAsUser: 1882}", "1882"),
        ("nodeName: nowhere", "take the only Node, local"),
        ("nodeSelector: {disk: ssd}", "disk=ssd"),
    ] {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  {field}\n  containers: [{{name: c, command: [sleep, infinity]}}]\n"
        );
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("pod.yaml"), pod).expect("the manifest");
        let output = std::process::Command::new(weft_tests::mesh::weft_bin())
            .args(["up", "--name", "refused", "-f"])
            .arg(dir.path())
            .env("XDG_STATE_HOME", dir.path().join("state"))
            .output()
            .expect("weft up runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{said}");
        assert!(said.contains("pod.yaml:5") && said.contains(fix), "{said}");
    }
}

#[test]
fn weft_up_without_a_directory_says_how() {
    let output = std::process::Command::new(weft_tests::mesh::weft_bin())
        .args(["up"])
        .output()
        .expect("weft up runs");
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("-f"));
}
