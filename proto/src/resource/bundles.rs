//! Trust bundles: `weft.discovery.v1.Bundles`, and the same roots in an answer of the identity service.

use std::collections::HashSet;

use bytes::Bytes;
use weft_model::identity::TrustDomain;

use super::field::{self, FieldError};
use crate::{discovery, identity};

/// The roots of one trust domain, as they travel. Whether each is a CA's certificate is for `certs` to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRoots {
    /// Whose.
    pub trust_domain: TrustDomain,
    /// DER certificates.
    pub roots: Vec<Bytes>,
    /// Never goes back.
    pub sequence: u64,
}

/// The largest root, in bytes.
const ROOT_MAX: usize = 16 * 1024;

/// Reads bundles. Two of one trust domain are refused: they are never merged.
pub fn decode(wire: discovery::Bundles) -> Result<Vec<TrustRoots>, FieldError> {
    let bundles = field::list("bundles", wire.bundles, field::BUNDLES_MAX, |bundle| {
        roots(bundle.trust_domain, bundle.roots, bundle.sequence)
    })?;
    each_once(bundles)
}

/// Writes bundles.
pub fn encode(bundles: &[TrustRoots]) -> discovery::Bundles {
    discovery::Bundles {
        bundles: bundles.iter().map(encode_one).collect(),
    }
}

/// Writes a bundle.
pub(crate) fn encode_one(bundle: &TrustRoots) -> discovery::Bundle {
    discovery::Bundle {
        trust_domain: bundle.trust_domain.to_string(),
        roots: bundle.roots.clone(),
        sequence: bundle.sequence,
    }
}

/// Reads the bundles of an answer of the identity service.
pub fn from_identity(wire: Vec<identity::TrustBundle>) -> Result<Vec<TrustRoots>, FieldError> {
    let bundles = field::list("bundles", wire, field::BUNDLES_MAX, |bundle| {
        roots(bundle.trust_domain, bundle.roots, bundle.sequence)
    })?;
    each_once(bundles)
}

/// Writes the bundles of an answer of the identity service.
pub fn to_identity(bundles: &[TrustRoots]) -> Vec<identity::TrustBundle> {
    let bundle = |bundle: &TrustRoots| identity::TrustBundle {
        trust_domain: bundle.trust_domain.to_string(),
        roots: bundle.roots.clone(),
        sequence: bundle.sequence,
    };
    bundles.iter().map(bundle).collect()
}

pub(crate) fn roots(trust_domain: String, roots: Vec<Bytes>, sequence: u64) -> Result<TrustRoots, FieldError> {
    let trust_domain = TrustDomain::new(&trust_domain)
        .map_err(|error| FieldError::new("trust_domain", format!("is none: {error}")))?;
    if roots.is_empty() {
        return Err(FieldError::new("roots", "is empty"));
    }
    let roots = field::list("roots", roots, field::ROOTS_MAX, |root| {
        field::at_most("", root.len(), ROOT_MAX)?;
        if root.is_empty() {
            Err(FieldError::new("", "is empty"))
        } else {
            Ok(root)
        }
    })?;
    Ok(TrustRoots {
        trust_domain,
        roots,
        sequence,
    })
}

fn each_once(bundles: Vec<TrustRoots>) -> Result<Vec<TrustRoots>, FieldError> {
    let mut seen = HashSet::new();
    match bundles.iter().position(|bundle| !seen.insert(&bundle.trust_domain)) {
        Some(index) => Err(FieldError::new(
            format!("bundles[{index}].trust_domain"),
            "is there twice",
        )),
        None => Ok(bundles),
    }
}
