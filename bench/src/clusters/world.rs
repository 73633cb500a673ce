//! Clusters that are nothing but their objects, and a control plane over each: of any size, on one machine.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_certs::key::Key;
use weft_certs::token::Signer;

use super::Size;

/// Who signs the tokens of pods.
const ISSUER: &str = "https://issuer.bench";
/// The namespace of everything.
pub const NAMESPACE: &str = "shop";
/// The port of every Service.
pub const PORT: u16 = 80;
/// A control plane that does not do something by then never will.
pub const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// A cluster: its objects in a directory, and its control plane.
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Which one it is: its pods have addresses of its own.
    number: u8,
    directory: TempDir,
    /// Where its identity and discovery answer.
    pub discovery: SocketAddr,
    federation: SocketAddr,
    /// Signs the tokens of its pods.
    pub signer: Signer,
    control: Child,
    size: Size,
}

impl Cluster {
    /// Writes the objects and starts a control plane over them.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(weft: &Path, number: u8, size: Size) -> Result<Self> {
        let name = format!("c{number}");
        let directory = tempfile::Builder::new().prefix("weft-bench-").tempdir_in("/var/tmp")?;
        let path = |part: &str| directory.path().join(part);
        fs::create_dir(path("objects"))?;
        let signer = Signer::new(ISSUER, &Key::generate()?)?;
        fs::write(path("jwks.json"), signer.jwks().to_json())?;
        let (discovery, federation) = (free_port()?, free_port()?);
        let log = fs::File::create(path("log"))?;
        let control = Command::new(weft)
            .args(["control", "--listen", &discovery.to_string(), "--admin", "127.0.0.1:0"])
            .args(["--federation-listen", &federation.to_string(), "--network", "wire"])
            .args(["--cluster", &name, "--trust-domain", &format!("{name}.bench")])
            .args(["--token-issuer", ISSUER])
            .args([&"--token-jwks".into(), &path("jwks.json")])
            .args([&"--manifests".into(), &path("objects")])
            .args([&"--state-dir".into(), &path("state")])
            .args([&"--admin-socket".into(), &path("admin.sock")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("weft control")?;
        let cluster = Self {
            name,
            number,
            directory,
            discovery,
            federation,
            signer,
            control,
            size,
        };
        cluster.write_objects()?;
        Ok(cluster)
    }

    /// The control plane's process.
    pub fn pid(&self) -> u32 {
        self.control.id()
    }

    fn path(&self, part: &str) -> PathBuf {
        self.directory.path().join(part)
    }

    fn write_objects(&self) -> Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        // The caller's pod: it is where the caller is.
        let caller = pod("caller", "caller", "127.0.0.1");
        self.write("mesh", &[namespace, caller])?;
        for service in 0..self.size.services {
            let account = service_name(service);
            let pods = (0..self.size.endpoints).map(|at| {
                let address = self.address(service, at).to_string();
                pod(&format!("{account}-{at}"), &account, &address)
            });
            self.write(&format!("pods-{account}"), &pods.collect::<Vec<_>>())?;
            let ip = cluster_ip(service).to_string();
            let object = json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": account, "namespace": NAMESPACE},
                "spec": {"clusterIP": ip, "clusterIPs": [ip], "selector": {"app": account},
                    "ports": [{"name": "http", "port": PORT, "targetPort": 8080}]},
            });
            let export = json!({
                "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
                "metadata": {"name": account, "namespace": NAMESPACE},
            });
            self.write(&format!("service-{account}"), &[object, export])?;
            self.endpoints(service, 0)?;
        }
        Ok(())
    }

    /// Says which endpoints a Service has: all but the first `without`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn endpoints(&self, service: usize, without: usize) -> Result<()> {
        let account = service_name(service);
        let endpoint = |at: usize| {
            let name = format!("{account}-{at}");
            json!({
                "addresses": [self.address(service, at).to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": name, "uid": format!("uid-{name}")},
            })
        };
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": account, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": account}},
            "addressType": "IPv4",
            "endpoints": (without..self.size.endpoints).map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        });
        self.write(&format!("slice-{account}"), &[slice])
    }

    /// Each cluster's pods lie in a range of its own; a Service's together.
    fn address(&self, service: usize, endpoint: usize) -> Ipv4Addr {
        let at = u32::try_from(service * self.size.endpoints + endpoint + 256).unwrap_or(u32::MAX);
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 100 + self.number, 0, 0)) + at)
    }

    /// Replaces a file in one step, as whoever edits an object does.
    fn write(&self, file: &str, objects: &[Value]) -> Result<()> {
        let text: Vec<String> = objects.iter().map(Value::to_string).collect();
        let next = self.path("next");
        fs::write(&next, text.join("\n---\n"))?;
        Ok(fs::rename(&next, self.path("objects").join(format!("{file}.yaml")))?)
    }

    /// Writes the ClusterPeer by which this cluster knows another one, and takes all that it exports.
    ///
    /// # Errors
    /// The other one has no roots yet.
    pub fn link(&self, other: &Self) -> Result<()> {
        let peer = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "ClusterPeer", "metadata": {"name": other.name},
            "spec": {
                "trustDomain": format!("{}.bench", other.name), "network": "wire",
                "endpoints": [other.federation.to_string()], "imports": [{"namespaces": [NAMESPACE]}],
                "trustBundle": {"sequence": 1, "roots": String::from_utf8(other.roots()?)?},
            },
        });
        self.write(&format!("peer-{}", other.name), &[peer])
    }

    /// Its roots, once there are some, as PEM text.
    ///
    /// # Errors
    /// The control plane has ended, or never has any.
    pub fn roots(&self) -> Result<Vec<u8>> {
        let began = Instant::now();
        loop {
            match fs::read(self.path("state/trust/roots.pem")) {
                Ok(roots) if !roots.is_empty() => return Ok(roots),
                _ if began.elapsed() < PATIENCE => thread::sleep(POLL),
                _ => bail!("{} has no roots:\n{}", self.name, self.log()),
            }
        }
    }

    /// How many Services and endpoints it has of others.
    ///
    /// # Errors
    /// The control plane does not answer.
    pub fn imported(&self) -> Result<(usize, usize)> {
        let status = self.status()?;
        let peers = status["peers"].as_array().context("peers")?;
        let imported = peers.iter().filter_map(|peer| peer["imported"].as_array()).flatten();
        let (services, endpoints): (Vec<_>, Vec<_>) = imported.map(|one| ((), &one["endpoints"])).unzip();
        let endpoints = endpoints.iter().filter_map(|count| count.as_u64()).sum::<u64>();
        Ok((services.len(), usize::try_from(endpoints)?))
    }

    fn status(&self) -> Result<Value> {
        let mut stream = UnixStream::connect(self.path("admin.sock")).with_context(|| self.log())?;
        stream.write_all(b"GET /status HTTP/1.0\r\nhost: admin\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
        ensure!(head.contains(" 200"), "{head}");
        Ok(serde_json::from_str(body)?)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It has no one to say goodbye to, and is not measured any more.
        let _ = self.control.kill();
        let _ = self.control.wait();
    }
}

/// A Service's name, and that of its pods' account.
pub fn service_name(service: usize) -> String {
    format!("s{service:04}")
}

/// The address of a Service; the same in every cluster.
pub fn cluster_ip(service: usize) -> Ipv4Addr {
    let at = u32::try_from(service + 256).unwrap_or(u32::MAX);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + at)
}

fn pod(name: &str, account: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": format!("uid-{name}"), "resourceVersion": "1", "labels": {"app": account}},
        "spec": {"serviceAccountName": account,
            "initContainers": [{"name": "weft-proxy", "image": "weft", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "app"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

/// A port of loopback that nobody listens on. Somebody may take it before it is used; then the control plane says so.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
