//! Errors that name the field, and the limits that all fields keep.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The largest body, in bytes: a set of 10,000 endpoints has about 3 MiB.
pub const BODY_MAX: usize = 8 << 20;
/// The most endpoints in a set.
pub const ENDPOINTS_MAX: usize = 16_384;
/// The most groups of gateways that a set's endpoints are behind: one for each network.
pub const GATEWAY_GROUPS_MAX: usize = 64;
/// The most gateways of one network.
pub const GATEWAYS_MAX: usize = 16;
/// The most rules of a Service's port (Gateway API allows 16 rules of 8 matches per route).
pub const RULES_MAX: usize = 4096;
/// The most conditions on headers, and on query parameters, of a rule.
pub const CONDITIONS_MAX: usize = 64;
/// The most backends of a rule.
pub const BACKENDS_MAX: usize = 64;
/// The largest weight of a backend (Gateway API).
pub const WEIGHT_MAX: u32 = 1_000_000;
/// The most mirrors of a rule or a backend.
pub const MIRRORS_MAX: usize = 16;
/// The most tries beyond the first.
pub const ATTEMPTS_MAX: u32 = 100;
/// The most statuses after which is retried.
pub const CODES_MAX: usize = 256;
/// The longest interval of a retry budget: an hour.
pub const BUDGET_INTERVAL_MAX_MS: u32 = 3_600_000;
/// The most regions or shares in one list of places.
pub const PLACES_MAX: usize = 64;
/// The most declared ports of a pod, and names in one of its lists.
pub const PORTS_MAX: usize = 1024;
/// The most policies that are read one by one.
pub const POLICIES_MAX: usize = 1024;
/// The most trust bundles, and roots of one.
pub const BUNDLES_MAX: usize = 1024;
/// The most roots of one trust domain.
pub const ROOTS_MAX: usize = 16;
/// The most networks in one list.
pub const NETWORKS_MAX: usize = 16_384;
/// The most objects that one resource is made of.
pub const SOURCES_MAX: usize = 32_768;
/// The longest name of an object, in bytes (Kubernetes).
pub const NAME_MAX: usize = 253;
/// The longest label of a DNS name, in bytes.
pub const LABEL_MAX: usize = 63;
/// Labels: so many, and the longest value of one (Kubernetes allows 63 bytes).
pub(crate) const LABELS: (usize, usize) = (LABELS_MAX, LABEL_MAX);
/// The most labels of a pod or an export, and annotations of the latter.
pub const LABELS_MAX: usize = 64;
/// The same of exported annotations.
pub(crate) const ANNOTATIONS: (usize, usize) = (LABELS_MAX, VALUE_MAX);
/// The most selections of a list, and namespaces of one.
pub const SELECTIONS_MAX: usize = 64;
/// The most ports of exported Services of a cluster.
pub const EXPORTED_MAX: usize = 65_536;
/// The longest key of a resource.
pub const KEY_MAX: usize = 1024;
/// The longest path, header value or query parameter to match.
pub const VALUE_MAX: usize = 4096;

/// The longest reason, and the most features that are named: whoever is wrong chooses the words, and they are kept and told.
const REASON_MAX: usize = 1024;
const MISSING_MAX: usize = 16;

/// A field that is not valid, in the wire's names: `rules[2].match.path.regex`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field, as a path in the resource.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
    /// The features that this build lacks, if that is what is wrong.
    pub missing: Vec<String>,
}

impl FieldError {
    /// A field, and what is wrong with it.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: cut(reason.into()),
            missing: Vec::new(),
        }
    }

    /// A field that needs features which this build lacks.
    pub fn missing_features(field: impl Into<String>, missing: Vec<String>) -> Self {
        let mut missing: Vec<String> = missing.into_iter().take(MISSING_MAX).map(cut).collect();
        // They are collected where all that are missing were.
        missing.shrink_to_fit();
        let reason = format!("needs features that this proxy lacks: {}", missing.join(", "));
        Self {
            missing,
            ..Self::new(field, reason)
        }
    }

    /// The same error, seen from the message that has it in `field`.
    #[must_use]
    pub fn within(mut self, field: &str) -> Self {
        self.field = if self.field.is_empty() {
            field.to_owned()
        } else {
            format!("{field}.{}", self.field)
        };
        self
    }

    /// The same error, seen from the list `field` that has it in its element `index`.
    #[must_use]
    pub fn within_element(self, field: &str, index: usize) -> Self {
        self.within(&format!("{field}[{index}]"))
    }
}

/// As much of a text as is told.
fn cut(mut text: String) -> String {
    if text.len() > REASON_MAX {
        text.truncate(text.floor_char_boundary(REASON_MAX));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.reason)
    }
}

impl std::error::Error for FieldError {}

/// Reads each element of a list, which may have so many.
pub(crate) fn list<W, M>(
    field: &str,
    wire: Vec<W>,
    limit: usize,
    read: impl Fn(W) -> Result<M, FieldError>,
) -> Result<Vec<M>, FieldError> {
    at_most(field, wire.len(), limit)?;
    let element = |(index, element)| read(element).map_err(|error| error.within_element(field, index));
    wire.into_iter().enumerate().map(element).collect()
}

/// Checks a count or a length.
pub(crate) fn at_most(field: &str, count: usize, limit: usize) -> Result<(), FieldError> {
    if count > limit {
        return Err(FieldError::new(field, format!("has {count}, and {limit} is the limit")));
    }
    Ok(())
}

/// A message that must be there.
pub(crate) fn required<W>(field: &str, wire: Option<W>) -> Result<W, FieldError> {
    wire.ok_or_else(|| FieldError::new(field, "is missing"))
}

/// A port, which is never 0.
pub(crate) fn port(field: &str, port: u32) -> Result<u16, FieldError> {
    match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(FieldError::new(
            field,
            format!("must be a port from 1 to 65535, and is {port}"),
        )),
    }
}

/// An address of 4 or 16 bytes. A v4 address in v6 clothes becomes what it is.
pub(crate) fn ip(field: &str, bytes: &[u8]) -> Result<IpAddr, FieldError> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(bytes).into());
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(bytes) => Ok(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()),
        Err(_) => Err(FieldError::new(
            field,
            format!("must have 4 or 16 bytes, and has {}", bytes.len()),
        )),
    }
}

/// An address that can be dialled.
pub(crate) fn address(ip_bytes: &[u8], port_number: u32) -> Result<SocketAddr, FieldError> {
    let ip = ip("ip", ip_bytes)?;
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(FieldError::new(
            "ip",
            format!("must be an address of one machine, and is {ip}"),
        ));
    }
    Ok(SocketAddr::new(ip, port("port", port_number)?))
}

/// An address's bytes.
pub(crate) fn ip_bytes(ip: IpAddr) -> bytes::Bytes {
    match ip.to_canonical() {
        IpAddr::V4(ip) => bytes::Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes::Bytes::copy_from_slice(&ip.octets()),
    }
}

/// The name of an object as Kubernetes has them (RFC 1123 subdomain): it becomes a part of SNI names.
pub(crate) fn name(field: &str, name: String) -> Result<String, FieldError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    if bytes.len() > NAME_MAX || !bytes.iter().all(|&b| inner(b)) || !edge(bytes.first()) || !edge(bytes.last()) {
        let reason = format!("must be a name of 1 to {NAME_MAX} characters of a-z, 0-9, '-' and '.', and is {name:?}");
        return Err(FieldError::new(field, reason));
    }
    Ok(name)
}

/// A name of one DNS label, as those of Services and namespaces are (RFC 1123).
pub(crate) fn label(field: &str, text: String) -> Result<String, FieldError> {
    match name(field, text) {
        Ok(text) if text.len() <= LABEL_MAX && !text.contains('.') => Ok(text),
        Ok(text) => {
            let reason = format!("must be a DNS label of 1 to {LABEL_MAX} characters, and is {text:?}");
            Err(FieldError::new(field, reason))
        }
        Err(error) => Err(error),
    }
}

/// Labels or annotations: so many, each with a key and a value of so many bytes.
pub(crate) fn labels(
    field: &str,
    labels: BTreeMap<String, String>,
    (count, value): (usize, usize),
) -> Result<BTreeMap<String, String>, FieldError> {
    at_most(field, labels.len(), count)?;
    for (key, text) in &labels {
        // A prefix of 253, a slash and a name of 63 (Kubernetes).
        let fits =
            !key.is_empty() && key.len() <= NAME_MAX + 1 + LABEL_MAX && key.bytes().all(|b| b.is_ascii_graphic());
        if !fits {
            return Err(FieldError::new(
                field,
                format!("has the key {:?}, which is none", words(key.clone())),
            ));
        }
        at_most(&format!("{field}[{key}]"), text.len(), value)?;
    }
    Ok(labels)
}

/// A name, or nothing.
pub(crate) fn name_or_empty(field: &str, text: String) -> Result<String, FieldError> {
    if text.is_empty() { Ok(text) } else { name(field, text) }
}

/// A word of telemetry, or nothing: label values and the like.
pub(crate) fn word(field: &str, word: String) -> Result<String, FieldError> {
    if word.len() > NAME_MAX || !word.bytes().all(|b| b.is_ascii_graphic()) {
        let reason = format!("must have at most {NAME_MAX} visible ASCII characters, and is {word:?}");
        return Err(FieldError::new(field, reason));
    }
    Ok(word)
}

/// A qualified name as Kubernetes has it: a name, or a DNS subdomain, a slash and a name.
pub(crate) fn qualified(field: &str, text: String) -> Result<String, FieldError> {
    let (prefix, part) = match text.split_once('/') {
        Some((prefix, part)) => (Some(prefix), part),
        None => (None, text.as_str()),
    };
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = part.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let fits = part.len() <= LABEL_MAX && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(inner);
    let prefixed = prefix.is_none_or(|prefix| name(field, prefix.to_owned()).is_ok());
    if fits && prefixed {
        return Ok(text);
    }
    let reason = format!("must be a qualified name (kubernetes.io/h2c, say), and is {text:?}");
    Err(FieldError::new(field, reason))
}

/// The key of a resource.
pub(crate) fn key(field: &str, key: String) -> Result<String, FieldError> {
    if key.is_empty() || key.len() > KEY_MAX || !key.bytes().all(|b| b.is_ascii_graphic()) {
        let reason = format!("must be a key of 1 to {KEY_MAX} visible ASCII characters");
        return Err(FieldError::new(field, reason));
    }
    Ok(key)
}

/// Text for people: shortened and without control characters, never refused.
pub(crate) fn words(text: String) -> String {
    if text.len() <= VALUE_MAX && !text.chars().any(char::is_control) {
        return text;
    }
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(VALUE_MAX / 4)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_in_so_many_words_whatever_was_said() {
        let long = "ä".repeat(REASON_MAX);
        let error = FieldError::new("name", format!("is {long:?}"));
        assert!(error.reason.starts_with("is \"ää") && error.reason.ends_with("ä…"));
        assert!(error.reason.len() <= REASON_MAX + "…".len());
        let error = FieldError::missing_features("requires", vec![long; 1000]);
        assert_eq!(error.missing.len(), MISSING_MAX);
        assert!(error.missing.iter().all(|one| one.len() <= REASON_MAX + "…".len()));
        assert!(error.reason.len() <= REASON_MAX + "…".len());
    }
}
