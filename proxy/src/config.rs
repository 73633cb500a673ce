//! Every setting of the proxy: flag, variable, default, unit and meaning. Read once, here.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use weft_daemon::settings::duration;

/// The settings of `weft proxy`. Each flag has a variable of the same name in capitals.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "weft-proxy",
    version,
    about = "Weft's data plane: runs beside one pod",
    after_help = "`weft proxy list` and `weft proxy config` ask a mesh for its proxies, and a proxy for what it knows."
)]
pub struct Settings {
    /// The pod's name.
    #[arg(long, env = "WEFT_POD_NAME", value_name = "NAME", default_value = "")]
    pub pod_name: String,
    /// The pod's namespace.
    #[arg(long, env = "WEFT_POD_NAMESPACE", value_name = "NAME", default_value = "default")]
    pub pod_namespace: String,
    /// The pod's uid.
    #[arg(long, env = "WEFT_POD_UID", value_name = "UID", default_value = "")]
    pub pod_uid: String,
    /// The pod's own addresses (status.podIPs), separated by commas.
    #[arg(
        long,
        env = "WEFT_POD_IPS",
        value_name = "ADDR",
        value_delimiter = ',',
        required = true
    )]
    pub pod_ips: Vec<IpAddr>,
    /// The node's name.
    #[arg(long, env = "WEFT_NODE_NAME", value_name = "NAME", default_value = "")]
    pub node_name: String,
    /// The pod's service account.
    #[arg(long, env = "WEFT_SERVICE_ACCOUNT", value_name = "NAME", default_value = "default")]
    pub service_account: String,
    /// The name of the pod's owner as the injector knew it; the control plane's word counts.
    #[arg(long, env = "WEFT_WORKLOAD", value_name = "NAME", default_value = "")]
    pub workload: String,

    /// Where the control plane's identity and discovery services listen: host and port.
    #[arg(
        long,
        env = "WEFT_CONTROL_ADDRESS",
        value_name = "HOST:PORT",
        default_value = "weft-control.weft-system.svc.cluster.local:15012"
    )]
    pub control_address: String,
    /// Directory with `roots.pem`, `trust-domain` and `control-namespace`; read again on every use.
    #[arg(
        long,
        env = "WEFT_TRUST_DIR",
        value_name = "DIR",
        default_value = "/var/run/weft/trust"
    )]
    pub trust_dir: PathBuf,
    /// The projected service-account token with audience `weft`; read again on every use.
    #[arg(
        long,
        env = "WEFT_TOKEN_FILE",
        value_name = "FILE",
        default_value = "/var/run/secrets/weft/token"
    )]
    pub token_file: PathBuf,
    /// Where leaf, key and the last good snapshot lie: a tmpfs that only the proxy's container mounts.
    #[arg(
        long,
        env = "WEFT_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/run/weft/state"
    )]
    pub state_dir: PathBuf,

    /// Be an east-west gateway, in the place of a sidecar: pass connections of other clusters' proxies on to what is exported,
    /// by their SNI and unopened. `weft gateway` is this.
    #[arg(long, env = "WEFT_GATEWAY")]
    pub gateway: bool,
    /// Port on which a gateway listens.
    #[arg(long, env = "WEFT_GATEWAY_PORT", value_name = "PORT", default_value_t = 15443)]
    pub gateway_port: u16,

    /// The packet mark (SO_MARK) of every socket that the proxy opens. Unset: the redirect rules exempt the proxy's uid.
    #[arg(long, env = "WEFT_MARK", value_name = "N")]
    pub mark: Option<u32>,
    /// The app's own probes, as JSON: `{"<container>": {"readiness": {…}}}`.
    #[arg(long, env = "WEFT_PROBES", value_name = "JSON", default_value = "{}", value_parser = masked)]
    pub probes: Masked,
    /// The app's own lifecycle hooks over HTTP, as JSON: `{"token": "…", "hooks": {"<container>": {"preStop": {…}}}}`.
    #[arg(long, env = "WEFT_HOOKS", value_name = "JSON", default_value = "{}", value_parser = masked)]
    pub hooks: Masked,
    /// Worker threads. Each owns its listeners, connections and pools.
    #[arg(long, env = "WEFT_WORKERS", value_name = "N", default_value_t = 1)]
    pub workers: usize,

    /// Port of the outbound listeners on 127.0.0.1 and ::1, where the redirect sends what the app dials.
    #[arg(long, env = "WEFT_OUTBOUND_PORT", value_name = "PORT", default_value_t = 15001)]
    pub outbound_port: u16,
    /// Port of the inbound listener, where the redirect sends what others dial here.
    #[arg(long, env = "WEFT_INBOUND_PORT", value_name = "PORT", default_value_t = 15006)]
    pub inbound_port: u16,
    /// Port of the admin server on the pod's address: /ready, /live, /metrics, /probe/….
    #[arg(long, env = "WEFT_ADMIN_PORT", value_name = "PORT", default_value_t = 15020)]
    pub admin_port: u16,
    /// Port of the loopback-only admin server: /config, POST /shutdown.
    #[arg(long, env = "WEFT_LOCAL_ADMIN_PORT", value_name = "PORT", default_value_t = 15021)]
    pub local_admin_port: u16,

    /// How long connections may finish after SIGTERM.
    #[arg(long, env = "WEFT_DRAIN", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub drain: Duration,
    /// How long the proxy goes on to accept and to answer after SIGTERM, even if nothing is left: that long it takes until the
    /// pod is withdrawn everywhere, and a pod that vanishes before tells nobody. Within WEFT_DRAIN.
    #[arg(long, env = "WEFT_DRAIN_MIN", value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub drain_min: Duration,
    /// How long a connection may wait for discovery, until the control plane says otherwise.
    #[arg(long, env = "WEFT_DISCOVERY_WAIT", value_name = "DURATION", default_value = "3s", value_parser = duration)]
    pub discovery_wait: Duration,
    /// How long a client may be silent before the destination is dialled as well, to see whether it speaks first.
    #[arg(long, env = "WEFT_DETECT_WAIT", value_name = "DURATION", default_value = "50ms", value_parser = duration)]
    pub detect_wait: Duration,
    /// How long one connection attempt may take. A gateway's to an endpoint: at most seven tenths of WEFT_PEER_HANDSHAKE_TIMEOUT,
    /// so that peers hear of it before they give up.
    #[arg(long, env = "WEFT_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// How long the TLS handshake with an endpoint may take, per attempt: then another endpoint is tried.
    #[arg(long, env = "WEFT_PEER_HANDSHAKE_TIMEOUT", value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub peer_handshake_timeout: Duration,
    /// How long a TLS handshake that others begin, or the arrival of a ClientHello, may take.
    #[arg(long, env = "WEFT_HANDSHAKE_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub handshake_timeout: Duration,
    /// How long an app's keep-alive connection may be idle between requests.
    #[arg(long, env = "WEFT_IDLE_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub idle_timeout: Duration,
    /// Connections held at once by one worker, per direction; a gateway's workers share theirs. 0: from the limit on open files.
    #[arg(long, env = "WEFT_CONNECTIONS", value_name = "N", default_value_t = 0)]
    pub connections: usize,
    /// Destinations that the proxy follows at once.
    #[arg(long, env = "WEFT_SUBSCRIPTIONS", value_name = "N", default_value_t = 4096)]
    pub subscriptions: usize,

    /// Whether the access log is written to standard output when the proxy starts: on or off. Switched at run time by
    /// `POST /access-log/on` and `/access-log/off` on the loopback's admin server.
    #[arg(long, env = "WEFT_ACCESS_LOG", value_name = "SWITCH", default_value = "off", value_parser = switch, action = ArgAction::Set)]
    pub access_log: bool,

    /// Where traces go: an OTLP/gRPC endpoint, `http://host:4317`. Unset: nowhere.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// The service's name in traces. Unset: the workload's.
    #[arg(long, env = "OTEL_SERVICE_NAME", value_name = "NAME", default_value = "")]
    pub service_name: String,
    /// More attributes of the service in traces: `key=value,key=value`, percent-encoded.
    #[arg(long, env = "OTEL_RESOURCE_ATTRIBUTES", value_name = "LIST", default_value = "")]
    pub resource_attributes: String,
    /// Which traces are kept: as OpenTelemetry's OTEL_TRACES_SAMPLER.
    #[arg(
        long,
        env = "OTEL_TRACES_SAMPLER",
        value_name = "SAMPLER",
        default_value = "parentbased_always_on"
    )]
    pub traces_sampler: String,
    /// The sampler's argument.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", value_name = "ARG", default_value = "")]
    pub traces_sampler_arg: String,
}

/// A text that is never shown.
#[derive(Clone)]
pub struct Masked(pub String);

impl std::fmt::Debug for Masked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(not shown)")
    }
}

#[expect(clippy::unnecessary_wraps, reason = "clap asks for a result")]
fn masked(value: &str) -> Result<Masked, std::convert::Infallible> {
    Ok(Masked(value.to_owned()))
}

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" | "" => Ok(false),
        _ => Err("it is on or off".to_owned()),
    }
}

impl Settings {
    /// The ports of the proxy's own listeners: a connection whose original destination is one of them is closed.
    pub fn own_ports(&self) -> [u16; 4] {
        [
            self.outbound_port,
            self.inbound_port,
            self.admin_port,
            self.local_admin_port,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_log_is_off_unless_it_is_switched_on() {
        let with = |more: &[&str]| Settings::try_parse_from([&["weft-proxy", "--pod-ips", "10.0.0.1"], more].concat());
        assert!(!with(&[]).unwrap().access_log);
        assert!(with(&["--access-log", "on"]).unwrap().access_log);
        assert!(
            with(&["--access-log", "yes"])
                .unwrap_err()
                .to_string()
                .contains("on or off")
        );
    }

    #[test]
    fn what_probes_and_hooks_send_is_not_shown() {
        let typed = "weft-proxy --pod-ips 10.0.0.1 --probes {\"bearer\":{}} --hooks {\"bearer\":{}}";
        let settings = Settings::try_parse_from(typed.split(' ')).unwrap();
        assert!(settings.probes.0.contains("bearer"));
        assert!(!format!("{settings:?}").contains("bearer"));
    }

    #[test]
    fn a_pod_needs_only_its_addresses() {
        let settings = Settings::try_parse_from(["weft-proxy", "--pod-ips", "10.0.0.1,fd00::1"]).unwrap();
        assert_eq!(settings.pod_ips.len(), 2);
        assert_eq!(settings.drain, Duration::from_secs(30));
        assert!(
            Settings::try_parse_from(["weft-proxy"])
                .unwrap_err()
                .to_string()
                .contains("--pod-ips")
        );
    }
}
