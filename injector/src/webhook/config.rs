//! Every setting of the webhook: flag, variable, default, unit and meaning. Read once, here.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use weft_daemon::settings::duration;

use crate::settings::SidecarArgs;

/// The settings of `weft injector`.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "weft-injector",
    version,
    about = "Weft's admission webhook: gives the pods of labelled namespaces their sidecar"
)]
pub struct Settings {
    /// Where the API server's reviews arrive, by HTTPS.
    #[arg(long, env = "WEFT_LISTEN", value_name = "ADDR:PORT", default_value_t = any(15017))]
    pub listen: SocketAddr,
    /// Where /metrics, /ready and /live listen.
    #[arg(long, env = "WEFT_ADMIN", value_name = "ADDR:PORT", default_value_t = any(15014))]
    pub admin: SocketAddr,

    /// What is about the sidecar.
    #[command(flatten)]
    pub sidecar: SidecarArgs,

    /// The Service by which the API server reaches the webhook: the name in its certificate.
    #[arg(
        long,
        env = "WEFT_INJECTOR_SERVICE",
        value_name = "NAME",
        default_value = "weft-injector"
    )]
    pub service: String,
    /// The MutatingWebhookConfiguration whose caBundle is kept.
    #[arg(
        long,
        env = "WEFT_WEBHOOK_CONFIGURATION",
        value_name = "NAME",
        default_value = "weft-injector"
    )]
    pub configuration: String,
    /// The Secret in which certificate and key are kept, in Weft's own namespace.
    #[arg(
        long,
        env = "WEFT_WEBHOOK_SECRET",
        value_name = "NAME",
        default_value = "weft-webhook"
    )]
    pub secret: String,
    /// How long the webhook's certificate and its CA live. They are replaced after two thirds.
    #[arg(long, env = "WEFT_WEBHOOK_LIFETIME", value_name = "DURATION", default_value = "90d", value_parser = lifetime)]
    pub certificate_lifetime: Duration,
    /// How long the API server knows the new CA beside the old one before the certificate changes.
    #[arg(long, env = "WEFT_WEBHOOK_OVERLAP", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub certificate_overlap: Duration,
    /// A directory with `tls.crt` and `tls.key`, read again when they change, and perhaps `ca.crt`, which the caBundle is then
    /// kept at. Without it the webhook makes its own.
    #[arg(long, env = "WEFT_WEBHOOK_TLS_DIR", value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,

    /// Connections at once. More wait.
    #[arg(long, env = "WEFT_CONNECTIONS", value_name = "N", default_value_t = 1024)]
    pub connections: usize,
    /// Connections at once from one address, or from one /64 of IPv6. More are closed.
    #[arg(long, env = "WEFT_CONNECTIONS_PER_ADDRESS", value_name = "N", default_value_t = 128)]
    pub connections_per_address: usize,
    /// How long the webhook goes on after SIGTERM, until the API server knows another one.
    #[arg(long, env = "WEFT_DRAIN", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub drain: Duration,
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

/// Shorter ones could not be rotated with an overlap; a CA that lives for more than ten years is nobody's wish.
fn lifetime(value: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_secs(10);
    const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    let lifetime = duration(value).map_err(|error| error.to_string())?;
    match (SHORTEST..=LONGEST).contains(&lifetime) {
        true => Ok(lifetime),
        false => Err(format!("{value:?} is not between 10s and 3650d")),
    }
}

impl Settings {
    /// The names of the webhook's Service, as a certificate has them; the first is the one that the API server asks for.
    pub fn names(&self) -> [String; 2] {
        let name = format!("{}.{}.svc", self.service, self.sidecar.control_namespace);
        [name.clone(), format!("{name}.cluster.local")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[&str]) -> Result<Settings, clap::Error> {
        Settings::try_parse_from([&["weft-injector"], flags].concat())
    }

    #[test]
    fn nothing_needs_to_be_set() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.listen, "[::]:15017".parse().unwrap());
        assert_eq!(settings.names()[0], "weft-injector.weft-system.svc");
        let sidecar = settings.sidecar.settings();
        assert_eq!(
            sidecar.control_address,
            "weft-control.weft-system.svc.cluster.local:15012"
        );
        assert_eq!(sidecar.image, format!("weft.dev/weft:{}", env!("CARGO_PKG_VERSION")));
        assert_eq!(sidecar.resources.cpu_limit, None);
    }

    #[test]
    fn the_control_plane_is_looked_for_in_wefts_own_namespace() {
        let sidecar = read(&["--control-namespace", "mesh"]).unwrap().sidecar.settings();
        assert_eq!(sidecar.control_address, "weft-control.mesh.svc.cluster.local:15012");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for flags in [
            ["--certificate-lifetime", "1s"],
            ["--certificate-overlap", "5"],
            ["--proxy-memory-limit", "64MB"],
            ["--trace-sampling", "2"],
            ["--image-pull-policy", "sometimes"],
        ] {
            assert!(read(&flags).is_err(), "{flags:?}");
        }
    }
}
