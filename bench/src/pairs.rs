//! What is compared: pairs of pods, a client and a server, which differ in what stands between them.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::envoy;
use crate::lab::Lab;

/// The server's port for HTTP/1.1.
pub const HTTP1: u16 = 8080;
/// The server's port for HTTP/2 without TLS.
pub const HTTP2: u16 = 8081;
/// The server's port for bytes.
pub const BYTES: u16 = 9000;

/// What stands between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// Nothing.
    Direct,
    /// Weft's sidecars.
    Weft,
    /// Envoy, configured as Istio configures its sidecars.
    Envoy,
}

/// Which of the two pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that calls.
    Client,
    /// The one that answers.
    Server,
}

/// Both sides.
pub const SIDES: [Side; 2] = [Side::Client, Side::Server];

impl Side {
    /// Its pod's name.
    pub fn pod(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.namespace())
    }
}

impl Pair {
    /// The namespace that it lives in.
    pub fn namespace(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Weft => "weft",
            Self::Envoy => "envoy",
        }
    }

    /// Where the client dials a port of the server.
    pub fn address(self, lab: &Lab, port: u16) -> Result<String> {
        match self {
            // Through the Service, as apps do: a route is looked up and an endpoint chosen.
            Self::Weft => Ok(format!("server:{port}")),
            // Envoy's listeners for these ports do the same; a Service's address is not theirs.
            Self::Direct | Self::Envoy => Ok(format!("{}:{port}", lab.address(self.namespace(), "server")?)),
        }
    }

    /// The sidecar's process. `None`: there is none.
    pub fn sidecar(self, lab: &Lab, side: Side) -> Result<Option<u32>> {
        let (container, program) = match self {
            Self::Direct => return Ok(None),
            Self::Weft => ("weft-proxy", "weft"),
            Self::Envoy => ("envoy", "envoy"),
        };
        lab.pid(self.namespace(), side.pod(), container, program)
            .with_context(|| format!("the {} of {self}", side.pod()))
            .map(Some)
    }

    /// The manifests of the pair. `scratch`: where the programs lie.
    pub fn manifests(self, scratch: &Path, secrets: Option<&envoy::Secrets>) -> String {
        let namespace = self.namespace();
        let labels = match self {
            Self::Weft => "{weft.dev/inject: enabled}",
            Self::Direct | Self::Envoy => "{}",
        };
        let sidecar = |side| secrets.map(|_| envoy::container(scratch, side)).unwrap_or_default();
        let volume = |side| secrets.map(|_| envoy::volume(side)).unwrap_or_default();
        let configs = secrets.map(envoy::config_maps).unwrap_or_default();
        // Only HTTP is counted: that goes without this program.
        let bench = scratch.join("weft-bench");
        let bytes = match bench.exists() {
            true => format!(
                "\n    - {{name: bytes, command: [{}, load, serve, --port, '{BYTES}']}}",
                bench.display()
            ),
            false => String::new(),
        };
        let (client, server) = (sidecar(Side::Client), sidecar(Side::Server));
        let (client_volume, server_volume) = (volume(Side::Client), volume(Side::Server));
        let nginx = NGINX.replace("BODY", &"x".repeat(1024)).replace('\n', "\n          ");
        format!(
            "---
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}, labels: {labels}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: {namespace}}}
spec:
  containers:
    - {{name: client, command: [sleep, infinity]}}{client}
  volumes: [{client_volume}]
---
apiVersion: v1
kind: Pod
metadata: {{name: server, namespace: {namespace}, labels: {{app: server}}}}
spec:
  containers:
    - name: nginx
      command:
        - sh
        - -c
        - |
          cat > /tmp/nginx.conf <<'END'{nginx}
          END
          exec /usr/sbin/nginx -e /dev/stderr -c /tmp/nginx.conf{bytes}{server}
  volumes: [{server_volume}]
---
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: {namespace}}}
spec:
  selector: {{app: server}}
  ports:
    - {{name: http, port: {HTTP1}, appProtocol: http}}
    - {{name: h2c, port: {HTTP2}, appProtocol: kubernetes.io/h2c}}
    - {{name: bytes, port: {BYTES}, appProtocol: tcp}}
{configs}"
        )
    }

    /// What is done after the pods run and before anything is measured.
    pub fn prepare(self, lab: &Lab) -> Result<()> {
        if self == Self::Envoy {
            envoy::redirect(lab)?;
        }
        for side in SIDES {
            let status = lab.pod(self.namespace(), side.pod())?;
            let pid = status["containers"]
                .as_array()
                .and_then(|all| all.iter().find(|container| container["kind"] == "main"))
                .and_then(|container| container["pid"].as_u64())
                .context("a container's pid")?;
            // Many short connections: their remains must neither hold ports for a minute nor fill tables; nor may they take
            // the ports of a second sidecar.
            for setting in [
                "net.ipv4.ip_local_port_range=26000 65535",
                "net.ipv4.tcp_tw_reuse=1",
                "net.netfilter.nf_conntrack_tcp_timeout_time_wait=1",
            ] {
                crate::lab::inside(u32::try_from(pid)?, &["sysctl", "-q", "-w", setting], "")?;
            }
        }
        Ok(())
    }
}

const NGINX: &str = "
daemon off;
pid /tmp/nginx.pid;
worker_processes 1;
events { worker_connections 16384; }
http {
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
  server { listen 8080 reuseport; return 200 'BODY'; }
  server { listen 8081 http2 reuseport; return 200 'BODY'; }
}";
