//! Chains that have verified: a peer that connects again shows the same certificates, and they need not be verified again.
//!
//! That a chain leads to a root depends on its bytes, the bundles and the time, and on nothing else. The bundles are fixed
//! here: others begin with nothing seen. The time is compared at each look. That the peer holds the leaf's key is proved
//! anew in each handshake (RFC 8446 section 4.4.3), and never remembered.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rustls_pki_types::{CertificateDer, UnixTime};
use weft_model::identity::Identity;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::bundle::TrustBundles;
use crate::verify::{self, Side, VerifyError};

/// The most chains that are remembered. At about 200 bytes each; a proxy knows only those that it talks to.
const SEEN_MAX: usize = 4096;

/// Bundles, and the chains that have verified against them.
pub(crate) struct Seen {
    bundles: Arc<TrustBundles>,
    /// By the SHA-256 of the chain. Locked for a look-up per handshake; no request comes near it.
    chains: Mutex<HashMap<[u8; digest::SHA256_OUTPUT_LEN], Chain>>,
}

/// A chain that has verified.
struct Chain {
    identity: Identity,
    /// When all of its certificates are valid, both included, in seconds since 1970.
    valid: (u64, u64),
}

impl Seen {
    pub(crate) fn new(bundles: Arc<TrustBundles>) -> Self {
        Self {
            bundles,
            chains: Mutex::default(),
        }
    }

    pub(crate) fn bundles(&self) -> &Arc<TrustBundles> {
        &self.bundles
    }

    /// Verifies a chain, as [`verify::verify`] does, unless it has verified before and is valid still.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<Identity, VerifyError> {
        let key = key(leaf, intermediates, side);
        if let Some(identity) = self.known(&key, Some(now)) {
            return Ok(identity);
        }
        let identity = verify::verify_parts(leaf, intermediates, &self.bundles, side, now)?;
        self.remember(key, leaf, intermediates, &identity);
        Ok(identity)
    }

    fn remember(
        &self,
        key: [u8; digest::SHA256_OUTPUT_LEN],
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        identity: &Identity,
    ) {
        let valid = std::iter::once(leaf).chain(intermediates).map(validity);
        let valid = valid.reduce(|a, b| {
            let ((from, until), (later, sooner)) = (a?, b?);
            Some((from.max(later), until.min(sooner)))
        });
        if let Some(valid) = valid.flatten() {
            let identity = identity.clone();
            let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
            if chains.len() >= SEEN_MAX {
                // Leaves end, and others come: what is still in use is soon seen again.
                chains.clear();
            }
            chains.insert(key, Chain { identity, valid });
        }
    }

    /// The identity of a chain whose handshake one of this credential's configurations has completed: see
    /// [`verify::peer_identity`].
    pub(crate) fn peer_identity(&self, chain: &[CertificateDer<'_>], side: Side) -> Result<Identity, VerifyError> {
        let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::Missing)?;
        match self.known(&key(leaf, intermediates, side), None) {
            Some(identity) => Ok(identity),
            None => verify::peer_identity(chain),
        }
    }

    /// Whether these bundles vouch for a chain, as far as its time goes: that its leaf has ended does not matter.
    pub(crate) fn vouches_for(&self, chain: &[CertificateDer<'_>], side: Side, now: UnixTime) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return false;
        };
        let key = key(leaf, intermediates, side);
        if self.known(&key, None).is_some() {
            return true;
        }
        let Some((_, end)) = validity(leaf) else { return false };
        let last = Duration::from_secs(end.saturating_sub(1));
        let at = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()).min(last));
        // Remembered: where bundles change, many connections ask at once, and few chains are behind them.
        verify::verify_parts(leaf, intermediates, &self.bundles, side, at)
            .inspect(|identity| self.remember(key, leaf, intermediates, identity))
            .is_ok()
    }

    fn known(&self, key: &[u8; digest::SHA256_OUTPUT_LEN], now: Option<UnixTime>) -> Option<Identity> {
        let chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        let known = chains.get(key)?;
        let (from, until) = known.valid;
        now.is_none_or(|now| (from..=until).contains(&now.as_secs()))
            .then(|| known.identity.clone())
    }
}

fn key(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], side: Side) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[side as u8]);
    for certificate in std::iter::once(leaf).chain(intermediates) {
        // Each one's length first, so that no two chains are the same bytes.
        context.update(&certificate.len().to_be_bytes());
        context.update(certificate);
    }
    let mut key = [0; digest::SHA256_OUTPUT_LEN];
    key.copy_from_slice(context.finish().as_ref());
    key
}

fn validity(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .ok()
            .map(|since| since.as_secs())
    };
    let validity = certificate.validity();
    Some((
        seconds(verify::time(validity.not_before.timestamp()))?,
        seconds(verify::time(validity.not_after.timestamp()))?,
    ))
}

impl fmt::Debug for Seen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Seen")
            .field("bundles", &self.bundles)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
