//! Every setting of the control plane: flag, variable, default, unit and meaning. Read once, here.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser, ValueEnum};
use ipnet::IpNet;
use weft_daemon::settings::duration;
use weft_model::identity::TrustDomain;

use crate::objects::peer::read_url;

/// The settings of `weft control`.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "weft-control",
    version,
    about = "Weft's control plane: objects in, certificates and configuration out",
    group(ArgGroup::new("source").required(true).args(["manifests", "kubernetes"]))
)]
pub struct Settings {
    /// A directory or file of Kubernetes manifests, watched. Repeatable (in the variable: separated by commas).
    #[arg(long, env = "WEFT_MANIFESTS", value_name = "PATH", value_delimiter = ',')]
    pub manifests: Vec<PathBuf>,
    /// Objects from the API server instead: the one that KUBECONFIG leads to, else that of the cluster which this pod is in.
    /// Tokens are reviewed by it; root and epoch are kept in it.
    #[arg(long, env = "WEFT_KUBERNETES")]
    pub kubernetes: bool,
    /// Read the subdirectories of those directories as well.
    #[arg(long, env = "WEFT_MANIFESTS_RECURSIVE")]
    pub recursive: bool,
    /// The control plane's own directory: the authority's key, versions, epoch. Only this user may read it, but for `trust/`.
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR")]
    pub state_dir: PathBuf,

    /// Where identity and discovery listen.
    #[arg(long, env = "WEFT_LISTEN", value_name = "ADDR:PORT", default_value_t = any(15012))]
    pub listen: SocketAddr,
    /// Where the control planes of other clusters call, usually port 15013. Without it, none can follow what is exported here.
    #[arg(long, env = "WEFT_FEDERATION_LISTEN", value_name = "ADDR:PORT")]
    pub federation_listen: Option<SocketAddr>,
    /// Where other clusters reach that, for their ClusterPeers: host:port. Separated by commas.
    #[arg(
        long,
        env = "WEFT_FEDERATION_ENDPOINTS",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub federation_endpoints: Vec<String>,
    /// Where the trust bundle is shown to anybody, as SPIFFE Federation has it (profile https_spiffe), usually port 15016. Without
    /// it, other clusters hear of new roots by their links only.
    #[arg(long, env = "WEFT_BUNDLE_LISTEN", value_name = "ADDR:PORT")]
    pub bundle_listen: Option<SocketAddr>,
    /// Where other clusters reach that, for their ClusterPeers: an https URL, with any path.
    #[arg(long, env = "WEFT_BUNDLE_ENDPOINT", value_name = "URL", value_parser = https_url)]
    pub bundle_endpoint: Option<String>,
    /// Where /status, /metrics, /ready and /live listen.
    #[arg(long, env = "WEFT_ADMIN", value_name = "ADDR:PORT", default_value_t = any(15014))]
    pub admin: SocketAddr,
    /// A unix socket, for this user only, that serves the same.
    #[arg(long, env = "WEFT_ADMIN_SOCKET", value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,

    /// The trust domain of this mesh: at most 90 characters of a-z, 0-9, '.', '-' and '_'. Without it local.weft.internal; on an
    /// API server the first 12 digits of the uid of its Namespace kube-system, and .weft.internal.
    #[arg(long, env = "WEFT_TRUST_DOMAIN", value_name = "NAME", value_parser = trust_domain)]
    pub trust_domain: Option<TrustDomain>,
    /// This cluster's name.
    #[arg(long, env = "WEFT_CLUSTER", value_name = "NAME", default_value = "local")]
    pub cluster: String,
    /// The network that this cluster's pods are in: pods of clusters that name the same one reach each other directly. Without
    /// it the cluster's name, and a network of its own.
    #[arg(long, env = "WEFT_NETWORK", value_name = "NAME")]
    pub network: Option<String>,
    /// This cluster's east-west gateways, as others reach them: host:port. Separated by commas.
    #[arg(long, env = "WEFT_GATEWAYS", value_name = "HOST:PORT", value_delimiter = ',')]
    pub gateways: Vec<String>,
    /// Services that other clusters export and this one does not, and that become objects here: each takes an address or two of the
    /// range for Services. Half of it is in equal shares, one for each peer, the other half for whoever comes first; what is there
    /// stays.
    #[arg(long, env = "WEFT_IMPORTS", value_name = "N", default_value_t = 1000)]
    pub imports: usize,
    /// The namespace of the control plane itself: part of the identity that proxies require of it.
    #[arg(
        long,
        env = "WEFT_CONTROL_NAMESPACE",
        value_name = "NAME",
        default_value = "weft-system"
    )]
    pub control_namespace: String,

    /// On an API server: the Secret weft-authority is supplied (kubernetes.io/tls, as cert-manager lays it out), and waited for.
    /// Without this it is made if it is not there.
    #[arg(long, env = "WEFT_SUPPLIED_AUTHORITY")]
    pub supplied_authority: bool,
    /// How long a leaf lives. Proxies renew after two thirds.
    #[arg(long, env = "WEFT_LEAF_LIFETIME", value_name = "DURATION", default_value = "24h", value_parser = leaf_lifetime)]
    pub leaf_lifetime: Duration,
    /// The JWK set that service-account tokens are checked with. Read again when it changes.
    #[arg(long, env = "WEFT_TOKEN_JWKS", value_name = "FILE")]
    pub token_jwks: Option<PathBuf>,
    /// The issuer that tokens must name.
    #[arg(
        long,
        env = "WEFT_TOKEN_ISSUER",
        value_name = "URL",
        default_value = "https://kubernetes.default.svc.cluster.local"
    )]
    pub token_issuer: String,
    /// What happens when a caller's address is not that of its pod, which its token names or its stream. `warn` is for networks that
    /// masquerade; who renews without a token needs a running pod of its account all the same.
    #[arg(long, env = "WEFT_ADDRESS_CHECK", value_name = "WHAT", default_value = "enforce")]
    pub address_check: AddressCheck,
    /// Whether a leaf may be renewed with itself alone. It never is while tokens can be checked. While they cannot, and addresses are
    /// only warned of, a stolen one is renewed from anywhere for as long as a pod of its account runs: `never` is against that.
    #[arg(
        long,
        env = "WEFT_RENEW_BY_LEAF",
        value_name = "WHEN",
        default_value = "unverifiable"
    )]
    pub renew_by_leaf: RenewByLeaf,

    /// The networks of the mesh's pods and services. A destination there of which nothing is known is not reached: connections
    /// wait for it, and are refused. Separated by commas.
    #[arg(long, env = "WEFT_NETWORKS", value_name = "CIDR", value_delimiter = ',')]
    pub networks: Vec<IpNet>,
    /// Networks that never belong to the mesh: passed through untouched. Separated by commas.
    #[arg(long, env = "WEFT_OUTSIDE", value_name = "CIDR", value_delimiter = ',')]
    pub outside: Vec<IpNet>,
    /// How long a connection in a proxy may wait for discovery.
    #[arg(long, env = "WEFT_DISCOVERY_WAIT", value_name = "DURATION", default_value = "3s", value_parser = duration)]
    pub discovery_wait: Duration,

    /// Connections to identity and discovery at once.
    #[arg(long, env = "WEFT_CONNECTIONS", value_name = "N", default_value_t = 8192)]
    pub connections: usize,
    /// Connections at once from one address.
    #[arg(long, env = "WEFT_CONNECTIONS_PER_ADDRESS", value_name = "N", default_value_t = 512)]
    pub connections_per_address: usize,
    /// Destinations that one proxy may subscribe to.
    #[arg(long, env = "WEFT_SUBSCRIPTIONS", value_name = "N", default_value_t = 4096)]
    pub subscriptions: usize,
    /// How long a proxy may leave a batch unacknowledged before its stream is cut.
    #[arg(long, env = "WEFT_ACK_WAIT", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub ack_wait: Duration,
    /// How long a caller waits for its pod to be known.
    #[arg(long, env = "WEFT_POD_WAIT", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub pod_wait: Duration,
    /// How long streams may finish after SIGTERM.
    #[arg(long, env = "WEFT_DRAIN", value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub drain: Duration,
}

/// What happens when a caller's address is not that of its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AddressCheck {
    /// Refused.
    Enforce,
    /// Logged and counted: for networks that masquerade. A stolen token then works from elsewhere, and pods of one
    /// service account can speak for each other.
    Warn,
}

/// Whether a leaf may be renewed with itself alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RenewByLeaf {
    /// While no token can be checked (no key set could be read; the API server is away, or does not let the control plane
    /// review tokens): availability over one check. A pod of the leaf's account must be at the caller's address; where that
    /// is only warned of, be anywhere.
    Unverifiable,
    /// Never: without a token no leaf, whatever is away.
    Never,
}

impl Settings {
    /// The network that this cluster's pods are in.
    pub(crate) fn network(&self) -> &str {
        self.network.as_deref().unwrap_or(&self.cluster)
    }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

fn trust_domain(value: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(value).map_err(|error| error.to_string())
}

fn https_url(value: &str) -> Result<String, String> {
    let read = read_url(value).map(|_| value.to_owned());
    read.ok_or_else(|| "is no https URL of a host, with no user and no fragment".to_owned())
}

/// Leaves shorter than this would be renewed faster than proxies may ask.
const SHORTEST_LEAF: Duration = Duration::from_secs(2);
/// The authority issues none that live longer.
const LONGEST_LEAF: Duration = weft_certs::authority::LEAF_LIFETIME_MAX;

/// Reads how long a leaf lives.
///
/// # Errors
/// It is none that proxies can renew in time, or that the authority issues; for people.
pub fn leaf_lifetime(value: &str) -> Result<Duration, String> {
    let lifetime = duration(value).map_err(|error| error.to_string())?;
    if (SHORTEST_LEAF..=LONGEST_LEAF).contains(&lifetime) {
        Ok(lifetime)
    } else {
        Err(format!("{value:?} is not between 2s and 30d"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[&str]) -> Result<Settings, clap::Error> {
        Settings::try_parse_from([&["weft-control", "--manifests", "m", "--state-dir", "s"], flags].concat())
    }

    #[test]
    fn defaults_are_those_of_the_design() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.listen, "[::]:15012".parse().unwrap());
        assert_eq!(settings.admin, "[::]:15014".parse().unwrap());
        assert_eq!(settings.leaf_lifetime, Duration::from_secs(24 * 3600));
        assert_eq!(settings.control_namespace, "weft-system");
        assert_eq!(settings.address_check, AddressCheck::Enforce);
        assert_eq!(settings.ack_wait, Duration::from_secs(30));
        assert_eq!(settings.imports, 1000);
    }

    #[test]
    fn objects_come_from_directories_or_from_an_api_server_but_not_from_both() {
        let read = |flags: &[&str]| {
            Settings::try_parse_from([&["weft-control", "--state-dir", "s"], flags].concat())
                .map(|settings| settings.kubernetes)
                .map_err(|error| error.to_string())
        };
        assert!(read(&["--kubernetes"]).unwrap());
        assert!(!read(&["--manifests", "m"]).unwrap());
        let neither = read(&[]).unwrap_err();
        assert!(neither.contains("<--manifests <PATH>|--kubernetes>"), "{neither}");
        let both = read(&["--manifests", "m", "--kubernetes"]).unwrap_err();
        assert!(both.contains("cannot be used with"), "{both}");
    }

    #[test]
    fn lists_may_be_repeated_or_separated() {
        let settings = read(&["--manifests", "n,o", "--networks", "10.0.0.0/8,fd00::/8"]).unwrap();
        assert_eq!(settings.manifests, ["m", "n", "o"].map(PathBuf::from));
        assert_eq!(settings.networks.len(), 2);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for flags in [
            ["--leaf-lifetime", "1s"],
            ["--leaf-lifetime", "31d"],
            ["--leaf-lifetime", "60"],
            ["--trust-domain", "Shop"],
            ["--networks", "10.0.0.0"],
            ["--address-check", "off"],
            ["--bundle-endpoint", "http://east.example:15016"],
            ["--bundle-endpoint", "east.example:15016"],
        ] {
            assert!(read(&flags).is_err(), "{flags:?}");
        }
    }
}
