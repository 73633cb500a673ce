//! Identities on a cluster: whose tokens are good, and whose root it is.

use std::process::Command;

use weft_tests::kube::{Namespace, said, until};

use super::control::{APP, Control, Process, World, alone, world};

/// A token of the pod `app` of a namespace, as `kubectl` gets it from the API server.
fn token(namespace: &Namespace<'_>, audience: &str, bound: bool) -> String {
    let audience = format!("--audience={audience}");
    let mut args = vec!["create", "token", "default", &audience, "--duration=10m"];
    if bound {
        args.extend(["--bound-object-kind=Pod", "--bound-object-name=app"]);
    }
    namespace.kubectl(&args).trim().to_owned()
}

/// A proxy that shows this token to a control plane: what the control plane says of that.
fn shown(control: &Control, token: &str) -> String {
    let files = tempfile::tempdir().expect("a directory");
    let (token_file, trust) = (files.path().join("token"), control.trust());
    std::fs::write(&token_file, token).expect("the token is written");
    let text = |path: &std::path::Path| path.to_str().expect("a path of text").to_owned();
    let (token_file, trust) = (text(&token_file), text(&trust));
    let before = control.process.log().len();
    let proxy = Process::start(
        &[
            "proxy",
            "--outbound-port=0",
            "--inbound-port=0",
            "--admin-port=0",
            "--local-admin-port=0",
        ],
        &[
            ("WEFT_CONTROL_ADDRESS", &control.listen),
            ("WEFT_TOKEN_FILE", &token_file),
            ("WEFT_TRUST_DIR", &trust),
            ("WEFT_POD_IPS", "127.0.0.1"),
        ],
    );
    let said = || {
        let log = control.process.log();
        let mut lines = log[before..].lines();
        lines.find(|line| line.contains(" a certificate ")).map(str::to_owned)
    };
    until("the control plane answers the proxy", said, || {
        format!("{}\n{}", control.process.log(), proxy.log())
    })
}

#[track_caller]
fn refused(said: &str, reason: &str) {
    assert!(
        said.contains("refused a certificate") && said.contains(&format!("outcome=\"{reason}\"")),
        "{said}"
    );
}

/// The same token, of the past, signed with the key of the cluster: the API server itself makes none that ends sooner than
/// in ten minutes.
fn of_the_past(world: &World, token: &str) -> String {
    let script = r#"
import base64, json, subprocess, sys
key, token = sys.argv[1:]
plain = lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
coded = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
header, claims, _ = token.split(".")
claims = json.loads(plain(claims))
for claim in "exp", "iat", "nbf":
    claims[claim] -= 7200
signed = header + "." + coded(json.dumps(claims).encode())
der = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key], input=signed.encode(), capture_output=True, check=True).stdout
at, numbers = 2, b""
for _ in range(2):
    length = der[at + 1]
    numbers += der[at + 2:at + 2 + length].lstrip(b"\0").rjust(32, b"\0")
    at += 2 + length
print(signed + "." + coded(numbers))
"#;
    let key = world.cluster.kubeconfig().with_file_name("pki/tokens.key");
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(key)
        .arg(token)
        .output()
        .expect("python3 runs");
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_token_is_good_for_its_pod_its_audience_and_its_time() {
    let (world, _alone) = (world(), alone());
    let namespace = world.cluster.namespace(&[]);
    namespace.apply(APP);
    namespace.ready("app");
    // Callers here have this machine's address, which is none of a pod: where that is tolerated, all else counts.
    let lenient = Control::start(
        &world.cluster,
        &["--address-check", "warn", "--control-namespace", namespace.name()],
    );
    let good = token(&namespace, "weft", true);
    let issued = shown(&lenient, &good);
    let identity = format!(".weft.internal/ns/{}/sa/default", namespace.name());
    assert!(
        issued.contains("issued a certificate") && issued.contains(&identity),
        "{issued}"
    );

    // The same one, from elsewhere than its pod.
    refused(&shown(&world.control, &good), "address-mismatch");
    refused(&shown(&lenient, &token(&namespace, "vault", true)), "token-audience");
    refused(&shown(&lenient, &token(&namespace, "weft", false)), "token-unbound");
    refused(&shown(&lenient, &of_the_past(world, &good)), "token-expired");
    let mut forged = good.clone();
    let last = forged.pop().map_or('A', |last| if last == 'A' { 'Q' } else { 'A' });
    forged.push(last);
    refused(&shown(&lenient, &forged), "token-refused");
    namespace.kubectl(&["delete", "pod", "app", "--grace-period=0", "--force"]);
    let gone = || Some(shown(&lenient, &good)).filter(|said| said.contains("refused a certificate"));
    let gone = until("a token of a pod that is gone is refused", gone, || {
        lenient.get("/status")
    });
    refused(&gone, "pod-unknown");
    // One of its name that takes its place is another one.
    namespace.apply(APP);
    namespace.ready("app");
    let other = shown(&lenient, &good);
    // For some seconds the API server still takes a token that it has seen; then nobody vouches for what the token says, and
    // all that is told is that there is no such pod.
    let is_told = ["pod-mismatch", "pod-unknown"]
        .iter()
        .any(|reason| other.contains(&format!("outcome=\"{reason}\"")));
    assert!(other.contains("refused a certificate") && is_told, "{other}");
}

#[test]
fn root_epoch_and_trust_domain_are_the_clusters_and_replicas_share_them() {
    let (world, _alone) = (world(), alone());
    let own = world.cluster.namespace(&[]);
    let flags = ["--control-namespace", own.name()];
    let (one, two) = (
        Control::start(&world.cluster, &flags),
        Control::start(&world.cluster, &flags),
    );
    assert_eq!(one.root(), two.root());
    let uid = world.cluster.get(["namespace", "kube-system"])["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .replace('-', "");
    let domain = std::fs::read_to_string(one.trust().join("trust-domain")).expect("it is published");
    assert_eq!(domain, format!("{}.weft.internal", &uid[..12]));
    assert_eq!(own.get(&["configmap", "weft-state"])["data"]["epoch"], "1");
    assert_eq!(own.get(&["secret", "weft-authority"])["type"], "kubernetes.io/tls");

    let leads = |control: &Control| control.status()["cluster"]["leads"] == true;
    until("the first leads", || leads(&one).then_some(()), || one.get("/status"));
    assert!(!leads(&two));
    let root = one.root();
    drop(one); // Killed: it lets go of nothing.
    until("the second leads", || leads(&two).then_some(()), || two.get("/status"));
    drop(two);
    assert_eq!(Control::start(&world.cluster, &flags).root(), root, "the root is kept");
    // What is no authority is refused by name.
    own.kubectl(&[
        "patch",
        "secret",
        "weft-authority",
        "-p",
        "{\"data\": {\"tls.key\": \"aGVsbG8=\"}}",
    ]);
    let kubeconfig = world.cluster.kubeconfig().to_str().expect("a path of text");
    let mut bad = Process::start(
        &[&["control", "--kubernetes"], &flags[..]].concat(),
        &[("KUBECONFIG", kubeconfig)],
    );
    let ended = bad.child.wait().expect("it ends");
    let secret = format!("the Secret {}/weft-authority", own.name());
    assert!(
        !ended.success() && bad.log().contains(&secret) && bad.log().contains("PKCS #8"),
        "{}",
        bad.log()
    );
}
