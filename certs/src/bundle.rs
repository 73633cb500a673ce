//! Trust bundles: which roots vouch for which trust domain. Kept apart by trust domain and never merged, so that no
//! domain's root can vouch for another's identities.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use weft_model::identity::TrustDomain;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The most roots that one trust domain may have. Rotation needs two or three.
pub const ROOTS_MAX: usize = 16;
/// The most trust domains.
pub const BUNDLES_MAX: usize = 1024;
/// The largest root, in bytes.
const ROOT_BYTES_MAX: usize = 16 * 1024;

/// The roots of one trust domain.
#[derive(Clone)]
pub struct Bundle {
    trust_domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    sequence: u64,
}

/// The bundles of all trust domains that are known here.
#[derive(Clone, Default)]
pub struct TrustBundles {
    bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
}

/// Why a bundle was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A bundle without roots, or with too many.
    #[error("the bundle of {trust_domain} has {count} roots: 1 to {ROOTS_MAX} are allowed")]
    Count {
        /// Whose.
        trust_domain: TrustDomain,
        /// How many.
        count: usize,
    },
    /// A root that is none.
    #[error("root {index} of the bundle of {trust_domain}: {reason}")]
    Root {
        /// Whose.
        trust_domain: TrustDomain,
        /// Which, from 0.
        index: usize,
        /// Why.
        reason: &'static str,
    },
    /// The PEM text is broken.
    #[error("the bundle of {0} is no PEM text of certificates")]
    Pem(TrustDomain),
    /// Two bundles of one trust domain, or too many.
    #[error("trust domain {0} has two bundles")]
    Twice(TrustDomain),
    /// More bundles than [`BUNDLES_MAX`].
    #[error("{0} trust bundles, and {BUNDLES_MAX} is the limit")]
    TooMany(usize),
    /// The sequence number went back, or stayed while the roots changed.
    #[error("the bundle of {trust_domain} has sequence {offered}, and sequence {held} is held")]
    Sequence {
        /// Whose.
        trust_domain: TrustDomain,
        /// The sequence number that is held.
        held: u64,
        /// The one that came.
        offered: u64,
    },
}

impl Bundle {
    /// Takes a trust domain's roots, DER. Each must be a CA's certificate. They are put in a stable order.
    pub fn new(
        trust_domain: TrustDomain,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
        sequence: u64,
    ) -> Result<Self, BundleError> {
        let mut roots: Vec<_> = roots.into_iter().take(ROOTS_MAX + 1).collect();
        if roots.is_empty() || roots.len() > ROOTS_MAX {
            return Err(BundleError::Count {
                trust_domain,
                count: roots.len(),
            });
        }
        let mut anchors = Vec::with_capacity(roots.len());
        for (index, root) in roots.iter().enumerate() {
            match anchor(root) {
                Ok(anchor) => anchors.push(anchor),
                Err(reason) => {
                    return Err(BundleError::Root {
                        trust_domain,
                        index,
                        reason,
                    });
                }
            }
        }
        roots.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
        roots.dedup();
        Ok(Self {
            trust_domain,
            roots,
            anchors,
            sequence,
        })
    }

    /// Reads the roots from the `CERTIFICATE` sections of a PEM text.
    pub fn from_pem(trust_domain: TrustDomain, text: &[u8], sequence: u64) -> Result<Self, BundleError> {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).take(ROOTS_MAX + 1).collect();
        match roots {
            Ok(roots) => Self::new(trust_domain, roots, sequence),
            Err(_) => Err(BundleError::Pem(trust_domain)),
        }
    }

    /// The roots as a PEM text.
    pub fn to_pem(&self) -> String {
        certificates_to_pem(&self.roots)
    }

    /// Whose roots they are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, DER.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The sequence number: never goes back.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether each root of another one is in this one as well.
    pub fn has_all_of(&self, other: &Self) -> bool {
        other.roots.iter().all(|root| self.roots.contains(root))
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

/// A root as a trust anchor. webpki takes any certificate for one, so what a root must be is checked here.
pub(crate) fn anchor(root: &CertificateDer<'static>) -> Result<TrustAnchor<'static>, &'static str> {
    if root.len() > ROOT_BYTES_MAX {
        return Err("the certificate is larger than 16 KiB");
    }
    let (rest, parsed) = X509Certificate::from_der(root).map_err(|_| "not an X.509 certificate")?;
    if !rest.is_empty() {
        return Err("bytes follow the certificate");
    }
    may_issue(&parsed)?;
    webpki::anchor_from_trusted_cert(root)
        .map(|anchor| anchor.to_owned())
        .map_err(|_| "not a certificate to trust")
}

/// Whether a certificate is one that others may be issued with.
pub(crate) fn may_issue(certificate: &X509Certificate<'_>) -> Result<(), &'static str> {
    let constraints = certificate.basic_constraints().ok().flatten();
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err("the certificate is not a CA's");
    }
    match certificate.key_usage() {
        Ok(usage) if usage.as_ref().is_none_or(|usage| usage.value.key_cert_sign()) => Ok(()),
        _ => Err("the certificate's key may not sign certificates"),
    }
}

impl TrustBundles {
    /// Takes bundles of different trust domains.
    pub fn new(bundles: impl IntoIterator<Item = Bundle>) -> Result<Self, BundleError> {
        let mut all = BTreeMap::new();
        for bundle in bundles {
            if all.len() == BUNDLES_MAX {
                return Err(BundleError::TooMany(BUNDLES_MAX + 1));
            }
            let trust_domain = bundle.trust_domain.clone();
            if all.insert(trust_domain.clone(), Arc::new(bundle)).is_some() {
                return Err(BundleError::Twice(trust_domain));
            }
        }
        Ok(Self { bundles: all })
    }

    /// The state that follows this one: exactly the new bundles, unless one of them is older than what is held of its
    /// trust domain. Then nothing changes.
    pub fn updated(&self, bundles: impl IntoIterator<Item = Bundle>) -> Result<Self, BundleError> {
        self.follow(bundles, |_| false)
    }

    /// The same as whoever writes down other trust domains' roots tells it: the same sequence number with other roots is a
    /// mistake that was mended, of any trust domain but `own`; where that is not known, of none. What is older never is.
    pub fn corrected(
        &self,
        bundles: impl IntoIterator<Item = Bundle>,
        own: Option<&TrustDomain>,
    ) -> Result<Self, BundleError> {
        self.follow(bundles, |trust_domain| own.is_some_and(|own| own != trust_domain))
    }

    fn follow(
        &self,
        bundles: impl IntoIterator<Item = Bundle>,
        may_mend: impl Fn(&TrustDomain) -> bool,
    ) -> Result<Self, BundleError> {
        let new = Self::new(bundles)?;
        for (trust_domain, offered) in &new.bundles {
            let Some(held) = self.bundles.get(trust_domain) else {
                continue;
            };
            let same = held.roots == offered.roots || may_mend(trust_domain);
            if offered.sequence < held.sequence || (offered.sequence == held.sequence && !same) {
                let trust_domain = trust_domain.clone();
                return Err(BundleError::Sequence {
                    trust_domain,
                    held: held.sequence,
                    offered: offered.sequence,
                });
            }
        }
        Ok(new)
    }

    /// The bundle of a trust domain.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Bundle> {
        self.bundles.get(trust_domain).map(|bundle| &**bundle)
    }

    /// All bundles, by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &Bundle> {
        self.bundles.values().map(|bundle| &**bundle)
    }

    /// How many trust domains there are.
    pub fn len(&self) -> usize {
        self.bundles.len()
    }

    /// Whether no trust domain is known.
    pub fn is_empty(&self) -> bool {
        self.bundles.is_empty()
    }
}

/// Certificates as a PEM text (RFC 7468), in their order.
pub(crate) fn certificates_to_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|der| pem("CERTIFICATE", der)).collect()
}

fn pem(label: &str, der: &[u8]) -> String {
    let line = pem::LineEnding::LF;
    pem::encode_config(
        &pem::Pem::new(label, der),
        pem::EncodeConfig::new().set_line_ending(line),
    )
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        // The anchors follow from the roots.
        (&self.trust_domain, &self.roots, self.sequence) == (&other.trust_domain, &other.roots, other.sequence)
    }
}

impl Eq for Bundle {}

impl PartialEq for TrustBundles {
    fn eq(&self, other: &Self) -> bool {
        self.bundles == other.bundles
    }
}

impl Eq for TrustBundles {}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Bundle({}, {} roots, sequence {})",
            self.trust_domain,
            self.roots.len(),
            self.sequence
        )
    }
}

impl fmt::Debug for TrustBundles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::authority::Authority;
    use crate::key::Key;

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::new(name).unwrap()
    }

    fn root(name: &str) -> CertificateDer<'static> {
        Authority::create(domain(name), SystemTime::now())
            .unwrap()
            .bundle(0)
            .roots()[0]
            .clone()
    }

    #[test]
    fn a_bundle_comes_back_from_pem() {
        let bundle = Bundle::new(domain("a"), [root("a"), root("a")], 7).unwrap();
        let text = bundle.to_pem();
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2);
        assert_eq!(Bundle::from_pem(domain("a"), text.as_bytes(), 7).unwrap(), bundle);
    }

    #[test]
    fn the_order_of_roots_says_nothing() {
        let (one, two) = (root("a"), root("a"));
        let there = Bundle::new(domain("a"), [one.clone(), two.clone()], 1).unwrap();
        assert_eq!(there, Bundle::new(domain("a"), [two, one], 1).unwrap());
    }

    #[test]
    fn an_empty_or_huge_bundle_is_refused() {
        assert!(matches!(
            Bundle::new(domain("a"), [], 1),
            Err(BundleError::Count { count: 0, .. })
        ));
        let one = root("a");
        let many = std::iter::repeat_with(|| one.clone());
        assert!(matches!(
            Bundle::new(domain("a"), many, 1),
            Err(BundleError::Count { .. })
        ));
        assert!(matches!(
            Bundle::from_pem(domain("a"), b"nothing", 1),
            Err(BundleError::Count { count: 0, .. })
        ));
    }

    #[test]
    fn a_leaf_is_no_root() {
        let authority = Authority::create(domain("a"), SystemTime::now()).unwrap();
        let identity = "spiffe://a/ns/shop/sa/web".parse().unwrap();
        let key = Key::generate().unwrap();
        let leaf = authority
            .issue(key.public(), &identity, Duration::from_secs(60), SystemTime::now())
            .unwrap();
        let refused = Bundle::new(domain("a"), leaf.chain, 1).unwrap_err();
        assert!(refused.to_string().contains("not a CA's"), "{refused}");
        assert!(matches!(
            Bundle::new(domain("a"), [vec![1, 2, 3].into()], 1),
            Err(BundleError::Root { .. })
        ));
    }

    #[test]
    fn two_bundles_of_one_domain_are_refused_and_never_merged() {
        let two = [
            Bundle::new(domain("a"), [root("a")], 1).unwrap(),
            Bundle::new(domain("a"), [root("a")], 2).unwrap(),
        ];
        assert!(matches!(TrustBundles::new(two), Err(BundleError::Twice(_))));
    }

    #[test]
    fn a_sequence_cannot_go_back() {
        let (one, two) = (root("a"), root("a"));
        let at = |root: &CertificateDer<'static>, sequence| Bundle::new(domain("a"), [root.clone()], sequence).unwrap();
        let held = TrustBundles::new([at(&one, 5)]).unwrap();
        assert!(matches!(
            held.updated([at(&two, 4)]),
            Err(BundleError::Sequence {
                held: 5,
                offered: 4,
                ..
            })
        ));
        assert!(
            matches!(held.updated([at(&two, 5)]), Err(BundleError::Sequence { .. })),
            "same number, other roots"
        );
        assert!(held.updated([at(&one, 5)]).is_ok(), "the same again");
        assert_eq!(
            held.updated([at(&two, 6)])
                .unwrap()
                .get(&domain("a"))
                .unwrap()
                .sequence(),
            6
        );
    }

    #[test]
    fn roots_that_were_written_wrongly_are_mended_at_the_same_sequence_but_for_our_own() {
        let (one, two) = (root("a"), root("a"));
        let at = |root: &CertificateDer<'static>, sequence| Bundle::new(domain("a"), [root.clone()], sequence).unwrap();
        let held = TrustBundles::new([at(&one, 5)]).unwrap();
        let mended = held.corrected([at(&two, 5)], Some(&domain("b"))).unwrap();
        assert_eq!(mended.get(&domain("a")), Some(&at(&two, 5)));
        let (a, b) = (domain("a"), domain("b"));
        for (own, sequence) in [(Some(&a), 5), (None, 5), (Some(&b), 4)] {
            let refused = held.corrected([at(&two, sequence)], own);
            assert!(
                matches!(refused, Err(BundleError::Sequence { .. })),
                "{own:?} {sequence}"
            );
        }
    }

    #[test]
    fn a_domain_that_is_not_named_any_more_is_gone() {
        let a = Bundle::new(domain("a"), [root("a")], 1).unwrap();
        let b = Bundle::new(domain("b"), [root("b")], 1).unwrap();
        let held = TrustBundles::new([a.clone(), b]).unwrap();
        let next = held.updated([a]).unwrap();
        assert!(next.get(&domain("a")).is_some() && next.get(&domain("b")).is_none());
    }
}
