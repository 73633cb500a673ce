//! `ClusterPeer` (group `weft.dev`): another cluster that this one is linked with. Its types are the source of its
//! CustomResourceDefinition; [`Peer`] is what a valid one means.
//!
//! What cannot be understood refuses the whole object, also a field that nobody knows: one that was meant to narrow what a
//! peer may do must not be left out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::Uri;
use serde::Deserialize;
use serde_json::Value;
use weft_certs::bundle::Bundle;
use weft_model::identity::{Identity, TrustDomain};

#[cfg(test)]
use super::crd;
use super::decode::{Decoded, Skip};
use super::host_port::HostPort;
use super::names::{is_label, is_label_key, is_label_value};
use super::near::near;
use super::{FieldError, Object, decode, duration};

/// The namespace of a control plane, where nothing is said of it.
const CONTROL_NAMESPACE: &str = "weft-system";
/// Federation endpoints of one peer.
const ENDPOINTS_MAX: usize = 8;
/// East-west gateways of one peer.
const GATEWAYS_MAX: usize = 16;
/// Entries of `imports`, and of `exports`.
const SELECTIONS_MAX: usize = 64;
/// Namespaces of one of them.
const NAMESPACES_MAX: usize = 64;
/// Labels of one of them.
const LABELS_MAX: usize = 16;
/// The roots as text, in bytes: sixteen of them with room to spare.
const ROOTS_MAX: usize = 64 * 1024;
/// The name of a network.
const NETWORK_MAX: usize = 63;
/// The URL of a bundle endpoint.
const URL_MAX: usize = 2048;
/// How long remote endpoints are kept while the link is broken, where nothing is said of it.
const KEEP_FOR: Duration = Duration::from_secs(24 * 3600);
/// The longest that may be said: after a month nobody can mean them.
const KEEP_FOR_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// How a PEM text begins.
const PEM_HEAD: &str = "-----BEGIN CERTIFICATE-----";
/// The fields of `spec`, and of a selection.
const FIELDS: [&str; 10] = [
    "trustDomain",
    "controlPlane",
    "trustBundle",
    "endpoints",
    "bundleEndpoint",
    "network",
    "gateways",
    "imports",
    "exports",
    "keepFor",
];
const SELECTION_FIELDS: [&str; 2] = ["namespaces", "labels"];

/// `ClusterPeer`: another cluster, with which this one shares Services. Its name is that cluster's name. Both sides have one
/// of the other; neither holds a key to the other.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(transform = crd::peer_name))]
pub struct ClusterPeer {
    /// `weft.dev/v1alpha1`.
    #[serde(rename = "apiVersion")]
    _api_version: Skip,
    /// `ClusterPeer`.
    #[serde(rename = "kind")]
    _kind: Skip,
    /// The object's metadata.
    #[serde(rename = "metadata")]
    _metadata: Skip,
    /// Who the peer is, where it is, and what is shared with it.
    pub spec: ClusterPeerSpec,
    /// What the control plane says of it.
    #[serde(default, rename = "status")]
    _status: Option<Skip>,
}

/// Who a peer is, where it is, and what is shared with it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(transform = crd::peer))]
pub struct ClusterPeerSpec {
    /// The trust domain of the peer's identities: another than this cluster's, and than any other peer's.
    #[cfg_attr(test, schemars(regex(pattern = crd::TRUST_DOMAIN), length(min = 1, max = 90)))]
    pub trust_domain: String,
    /// The SPIFFE ID of the peer's control plane, of its trust domain. Default:
    /// `spiffe://<trustDomain>/ns/weft-system/sa/weft-control`.
    #[cfg_attr(test, schemars(regex(pattern = crd::IDENTITY), length(max = 613)))]
    pub control_plane: Option<String>,
    /// The roots that vouch for the peer's identities, and for nobody else's.
    pub trust_bundle: TrustBundleSpec,
    /// Where the peer's control plane answers other clusters: a DNS name or an address, and a port. By default that is 15013.
    #[cfg_attr(test, schemars(length(min = 1, max = 8), inner(regex(pattern = crd::HOST_PORT), length(max = 259))))]
    pub endpoints: Vec<String>,
    /// Where the peer shows its trust bundle to anybody: a SPIFFE bundle endpoint of the profile `https_spiffe`. Default:
    /// none, and the bundle comes through the link alone.
    #[cfg_attr(test, schemars(regex(pattern = crd::HTTPS), length(max = 2048)))]
    pub bundle_endpoint: Option<String>,
    /// The network of the peer's pods. Where it is this cluster's own, pods are dialled at their addresses, else through the
    /// peer's gateways. Default: a network of its own.
    #[serde(default)]
    #[cfg_attr(test, schemars(regex(pattern = crd::PLACE_OR_NONE), length(max = 63)))]
    pub network: String,
    /// The peer's east-west gateways: a DNS name or an address, and a port. By default that is 15443.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(max = 16), inner(regex(pattern = crd::HOST_PORT), length(max = 259))))]
    pub gateways: Vec<String>,
    /// What is taken from the peer: Services that one of the entries fits, by the labels that the peer exports with them.
    /// Default: nothing.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(max = 64)))]
    pub imports: Vec<SelectionSpec>,
    /// What the peer is told of, and what its workloads may reach: exported Services that one of the entries fits, by their
    /// own labels. Default: every exported Service; an empty list is none.
    // An API server drops a `null` that a schema does not allow, and what is meant by it must be asked.
    #[cfg_attr(test, schemars(length(max = 64), extend("nullable" = true)))]
    pub exports: Option<Vec<SelectionSpec>>,
    /// How long the peer's endpoints are kept while the link is broken, up to 720h. Default: 24h.
    #[cfg_attr(test, schemars(regex(pattern = crd::DURATION), length(max = 28), transform = crd::at_most_a_month))]
    pub keep_for: Option<String>,
}

/// A trust bundle, as it was when the object was written. What the peer says of it later, with a higher sequence number,
/// takes its place.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TrustBundleSpec {
    /// Rises with every change of the roots. Default: 0.
    #[serde(default)]
    pub sequence: u64,
    /// The CA certificates, as PEM text.
    #[cfg_attr(test, schemars(regex(pattern = crd::PEM), length(max = 65536), transform = crd::no_key))]
    pub roots: String,
}

/// Services, by namespace and label.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(transform = crd::selection))]
pub struct SelectionSpec {
    /// Names of namespaces, or `*` for all of them.
    #[cfg_attr(test, schemars(length(min = 1, max = 64), inner(regex(pattern = crd::NAMESPACE_OR_ALL), length(max = 63))))]
    pub namespaces: Vec<String>,
    /// Only Services with these labels, each with exactly this value. Default: all of them.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Another cluster, with which this one shares Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub cluster: String,
    /// The object's uid: another object is another peer, also where it has the same name.
    pub uid: String,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Who its control plane is, of that trust domain.
    pub control_plane: Identity,
    /// The roots of that trust domain, as the object has them.
    pub bundle: Bundle,
    /// Where its control plane answers other clusters; at least one.
    pub endpoints: Vec<HostPort>,
    /// Where it shows its trust bundle: an `https` URL.
    pub bundle_endpoint: Option<Uri>,
    /// The network of its pods: the cluster's name, where the object names none.
    pub network: String,
    /// Its east-west gateways.
    pub gateways: Vec<HostPort>,
    /// What is taken from it. Empty: nothing.
    pub imports: Vec<Selection>,
    /// What it is told of, of all that is exported. `None`: everything. Empty: nothing.
    pub exports: Option<Vec<Selection>>,
    /// How long its endpoints are kept while the link is broken.
    pub keep_for: Duration,
}

/// Services, by namespace and label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selection {
    /// `None`: all.
    namespaces: Option<BTreeSet<String>>,
    labels: BTreeMap<String, String>,
}

impl Selection {
    /// Services of these namespaces, where `*` is all of them, that have all these labels.
    pub(crate) fn new(namespaces: BTreeSet<String>, labels: BTreeMap<String, String>) -> Self {
        let namespaces = (!namespaces.contains("*")).then_some(namespaces);
        Self { namespaces, labels }
    }

    /// The namespaces; `*` is all of them.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        let all = || vec!["*".to_owned()];
        self.namespaces
            .as_ref()
            .map_or_else(all, |names| names.iter().cloned().collect())
    }

    /// The labels that a Service has to have.
    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Whether a Service of this namespace with these labels is meant.
    pub fn takes(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.namespaces.as_ref().is_none_or(|names| names.contains(namespace))
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl Peer {
    /// Reads a ClusterPeer object. Returns with it the fields beside `spec` that nothing understands.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn of(object: &Object) -> Result<(Self, Vec<String>), Vec<FieldError>> {
        let Decoded { value, unknown } =
            decode::<ClusterPeer>(&object.raw).map_err(|error| vec![FieldError::from(error)])?;
        let spec = value.spec;
        let mut reader = Reader::default();
        reader.name(&object.name);
        reader.unknown(&unknown);
        let trust_domain = reader.trust_domain(&spec.trust_domain);
        let of_domain = trust_domain.as_ref().and_then(|domain| {
            let control_plane = reader.control_plane(spec.control_plane.as_deref(), domain);
            let bundle = reader.bundle(&spec.trust_bundle, domain);
            Some((control_plane?, bundle?))
        });
        let endpoints = reader.host_ports("spec.endpoints", &spec.endpoints, 1, ENDPOINTS_MAX);
        let gateways = reader.host_ports("spec.gateways", &spec.gateways, 0, GATEWAYS_MAX);
        let bundle_endpoint = spec.bundle_endpoint.and_then(|url| reader.url(&url));
        let network = reader.network(spec.network, &object.name);
        let imports = reader.selections("spec.imports", spec.imports);
        if object.raw.pointer("/spec/exports") == Some(&Value::Null) {
            let message = "is empty, which may mean everything or nothing";
            let fix = "write [] to tell the peer nothing, or leave the field out to tell it of every exported Service";
            reader.refuse("spec.exports", message, fix);
        }
        let exports = spec.exports.map(|all| reader.selections("spec.exports", all));
        let keep_for = reader.keep_for(spec.keep_for.as_deref());
        match (trust_domain, of_domain) {
            (Some(trust_domain), Some((control_plane, bundle))) if reader.wrong.is_empty() => {
                let peer = Self {
                    cluster: object.name.clone(),
                    uid: object.uid.clone(),
                    trust_domain,
                    control_plane,
                    bundle,
                    endpoints,
                    bundle_endpoint,
                    network,
                    gateways,
                    imports,
                    exports,
                    keep_for,
                };
                Ok((peer, unknown))
            }
            _ => Err(reader.wrong),
        }
    }

    /// Whether a Service that the peer exports with these labels is taken from it.
    pub fn is_imported(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.imports.iter().any(|selection| selection.takes(namespace, labels))
    }

    /// Whether the peer is told of an exported Service that has these labels, and may reach it.
    pub fn is_told(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let all = self.exports.as_deref();
        all.is_none_or(|all| all.iter().any(|selection| selection.takes(namespace, labels)))
    }
}

/// Reads fields, and remembers what is wrong with them.
#[derive(Default)]
struct Reader {
    wrong: Vec<FieldError>,
}

impl Reader {
    fn refuse(&mut self, field: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) {
        self.wrong.push(FieldError {
            field: field.into(),
            message: message.into(),
            fix: fix.into(),
        });
    }

    fn name(&mut self, name: &str) {
        if !is_label(name) {
            let message = format!("{name:?} is no name of a cluster");
            let fix = "at most 63 of a-z, 0-9 and '-'; first and last no '-' (RFC 1123), as KEP-1645 has it";
            self.refuse("metadata.name", message, fix);
        }
    }

    fn unknown(&mut self, fields: &[String]) {
        for field in fields.iter().filter(|field| field.starts_with("spec")) {
            let (parent, word) = field.rsplit_once('.').unwrap_or(("", field));
            let known: &[&str] = match parent {
                "spec" => &FIELDS,
                "spec.trustBundle" => &["sequence", "roots"],
                _ => &SELECTION_FIELDS,
            };
            let fix = match near(word, known.iter().copied()) {
                Some(meant) => format!("did you mean {meant}? Else remove it"),
                None => "check the spelling, or remove it".to_owned(),
            };
            let message = "is not understood, and the link must not act as if it were not written";
            self.refuse(field.as_str(), message, fix);
        }
    }

    fn trust_domain(&mut self, written: &str) -> Option<TrustDomain> {
        let read = TrustDomain::new(written);
        let fix = "the one that the peer's identities have, as weft.example in spiffe://weft.example/ns/…";
        read.map_err(|error| self.refuse("spec.trustDomain", error.to_string(), fix))
            .ok()
    }

    fn control_plane(&mut self, written: Option<&str>, domain: &TrustDomain) -> Option<Identity> {
        let usual = Identity::control_plane(domain.clone(), CONTROL_NAMESPACE);
        let read = match written {
            Some(written) => written.parse(),
            None => usual.clone(),
        };
        let fix = usual.map(|usual| usual.to_string()).unwrap_or_default();
        match read {
            Ok(identity) if identity.trust_domain() == domain => Some(identity),
            Ok(identity) => {
                let message =
                    format!("{identity} is not of the peer's trust domain {domain}, so its roots cannot vouch for it");
                self.refuse("spec.controlPlane", message, fix);
                None
            }
            Err(error) => {
                self.refuse("spec.controlPlane", error.to_string(), fix);
                None
            }
        }
    }

    fn bundle(&mut self, written: &TrustBundleSpec, domain: &TrustDomain) -> Option<Bundle> {
        let TrustBundleSpec { sequence, roots } = written;
        let field = "spec.trustBundle.roots";
        let fix = format!("the peer's CA certificates as PEM text, beginning with {PEM_HEAD}");
        if roots.contains("PRIVATE KEY") {
            let message = "holds a private key, which is nobody's but the peer's";
            let fix = "remove it here, and give the peer another root: this one's key is known now";
            self.refuse(field, message, fix);
            return None;
        }
        if roots.len() > ROOTS_MAX {
            let message = format!("has {} bytes, and {ROOTS_MAX} is the limit", roots.len());
            self.refuse(field, message, "leave out roots that nothing was issued by any more");
            return None;
        }
        if !roots.trim_start().starts_with(PEM_HEAD) {
            self.refuse(field, "does not begin as a certificate does", fix);
            return None;
        }
        let read = Bundle::from_pem(domain.clone(), roots.as_bytes(), *sequence);
        read.map_err(|error| self.refuse(field, error.to_string(), fix)).ok()
    }

    fn host_ports(&mut self, field: &str, written: &[String], least: usize, most: usize) -> Vec<HostPort> {
        if !(least..=most).contains(&written.len()) {
            let message = format!("has {} entries: {least} to {most} are allowed", written.len());
            self.refuse(field, message, "host:port, as gateway.example:15443");
        }
        let mut all = Vec::new();
        for (i, text) in written.iter().enumerate().take(most) {
            match text.parse::<HostPort>() {
                Ok(read) => all.push(read),
                Err(error) => {
                    let fix = "host:port, as gateway.example:15443, 192.0.2.7:15443 or [2001:db8::7]:15443";
                    self.refuse(format!("{field}[{i}]"), error.to_string(), fix);
                }
            }
        }
        all
    }

    fn url(&mut self, written: &str) -> Option<Uri> {
        let read = read_url(written);
        if read.is_none() {
            let message = format!("{written:?} is no https URL of a host, with no user and no fragment");
            let fix = "as https://weft.example:8443/bundle, or leave it out: the bundle comes through the link as well";
            self.refuse("spec.bundleEndpoint", message, fix);
        }
        read
    }

    fn network(&mut self, written: String, cluster: &str) -> String {
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if written.len() > NETWORK_MAX || !written.bytes().all(valid) {
            let message = format!("{written:?} is no name of a network");
            let fix = format!("at most {NETWORK_MAX} letters, digits, '-', '_' and '.'");
            self.refuse("spec.network", message, fix);
        }
        match written.is_empty() {
            true => cluster.to_owned(),
            false => written,
        }
    }

    fn selections(&mut self, field: &str, written: Vec<SelectionSpec>) -> Vec<Selection> {
        if written.len() > SELECTIONS_MAX {
            let message = format!("has {} entries, and {SELECTIONS_MAX} is the limit", written.len());
            self.refuse(field, message, "name several namespaces in one entry, or * for all");
        }
        let all = written.into_iter().take(SELECTIONS_MAX).enumerate();
        all.map(|(i, written)| self.selection(&format!("{field}[{i}]"), written))
            .collect()
    }

    fn selection(&mut self, field: &str, written: SelectionSpec) -> Selection {
        let SelectionSpec { namespaces, labels } = written;
        if !(1..=NAMESPACES_MAX).contains(&namespaces.len()) {
            let message = format!("has {} entries: 1 to {NAMESPACES_MAX} are allowed", namespaces.len());
            self.refuse(
                format!("{field}.namespaces"),
                message,
                "names of namespaces, or '*' for all",
            );
        }
        for (i, name) in namespaces.iter().enumerate() {
            if name != "*" && !is_label(name) {
                let message = format!("{name:?} is no name of a namespace");
                self.refuse(format!("{field}.namespaces[{i}]"), message, "a name, or '*' for all");
            }
        }
        if labels.len() > LABELS_MAX {
            let message = format!("has {} entries, and {LABELS_MAX} is the limit", labels.len());
            self.refuse(format!("{field}.labels"), message, "a label or two tell Services apart");
        }
        for (key, value) in &labels {
            if !is_label_key(key) || !is_label_value(value) {
                let message = format!("{key:?}: {value:?} is no label that an object could have");
                let fix =
                    "letters, digits, '-', '_' and '.', at most 63; a key may have a DNS name and a slash before it";
                self.refuse(format!("{field}.labels[{key}]"), message, fix);
            }
        }
        let all = namespaces.iter().any(|name| name == "*");
        Selection {
            namespaces: (!all).then(|| namespaces.into_iter().collect()),
            labels,
        }
    }

    fn keep_for(&mut self, written: Option<&str>) -> Duration {
        let Some(text) = written else {
            return KEEP_FOR;
        };
        let read = duration::parse(text).filter(|read| *read <= KEEP_FOR_MAX);
        read.unwrap_or_else(|| {
            let message = format!("{text:?} is no duration from 0s to 720h");
            self.refuse(
                "spec.keepFor",
                message,
                "a number with its unit h, m, s or ms, as in 24h (GEP-2257)",
            );
            KEEP_FOR
        })
    }
}

pub(crate) fn read_url(text: &str) -> Option<Uri> {
    // A URI of an HTTP request has no fragment: what reads one drops it.
    let read: Uri = text
        .parse()
        .ok()
        .filter(|_| text.len() <= URL_MAX && !text.contains('#'))?;
    let authority = read.authority().filter(|_| read.scheme_str() == Some("https"))?;
    let port = authority.port_u16().unwrap_or(443);
    let at: Result<HostPort, _> = format!("{}:{port}", authority.host()).parse();
    let whole = match authority.port() {
        Some(port) => format!("{}:{port}", authority.host()),
        None => authority.host().to_owned(),
    };
    // With a user before it, or with a port that is none, the authority is more than the host and the port.
    (at.is_ok() && authority.as_str() == whole).then_some(read)
}

#[cfg(test)]
mod tests;
