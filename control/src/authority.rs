//! The authority of this mesh, the control plane's own leaf, and what is published for proxies to trust.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use weft_certs::authority::{Authority, AuthorityError, IssuedLeaf};
use weft_certs::bundle::{BundleError, TrustBundles};
use weft_certs::credential::{Credential, CredentialError};
use weft_certs::key::{Key, KeyError, PublicKey};
use weft_certs::renew::Life;
use weft_daemon::file;
use weft_model::identity::{Identity, IdentityError, TrustDomain};

/// Issues certificates: to callers, and to the control plane itself.
pub(crate) struct Issuer {
    /// Locked to copy it in and out.
    authority: RwLock<Arc<Authority>>,
    identity: Identity,
    /// Our own trust domain's.
    bundles: Arc<TrustBundles>,
    /// Locked to copy it in and out.
    foreign: RwLock<Foreign>,
    lifetime: Duration,
    credential: watch::Sender<Arc<Credential>>,
}

/// Other clusters, whom our own identity is shown to.
#[derive(Clone)]
struct Foreign {
    bundles: Arc<TrustBundles>,
    /// Our own with theirs, for whoever is to trust both.
    all: Arc<TrustBundles>,
    /// The last that was made, and of which generation of ours.
    credential: Option<(u64, Arc<Credential>)>,
}

/// Why there is no issuer, or no leaf.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuerError {
    /// The authority could not be loaded, or did not issue.
    #[error("the authority")]
    Authority(#[source] AuthorityError),
    /// The roots are no bundle.
    #[error("the trust bundle")]
    Bundle(#[source] BundleError),
    /// The own identity is none.
    #[error("the control plane's own identity")]
    Identity(#[source] IdentityError),
    /// The own key could not be made.
    #[error("the control plane's own key")]
    Key(#[source] KeyError),
    /// The own leaf is of no use.
    #[error("the control plane's own certificate")]
    Credential(#[source] CredentialError),
    /// What proxies are to trust could not be written.
    #[error("writing {0}")]
    Publish(PathBuf, #[source] io::Error),
}

/// What came of an authority that is offered in the place of the one that issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// It is that one.
    Same,
    /// It issues from now on.
    Taken,
    /// Nobody would trust what it issues.
    OtherRoot,
}

impl Issuer {
    /// Loads or makes the authority in `STATE/authority`, and issues the first leaf of the control plane itself.
    pub(crate) fn open(
        state: &Path,
        trust_domain: &TrustDomain,
        namespace: &str,
        lifetime: Duration,
    ) -> Result<Self, IssuerError> {
        let authority = Authority::load_or_create(&state.join("authority"), trust_domain, SystemTime::now());
        Self::new(authority.map_err(IssuerError::Authority)?, namespace, lifetime)
    }

    /// Issues for an authority from elsewhere, and issues the first leaf of the control plane itself.
    pub(crate) fn new(authority: Authority, namespace: &str, lifetime: Duration) -> Result<Self, IssuerError> {
        let trust_domain = authority.trust_domain();
        let identity = Identity::control_plane(trust_domain.clone(), namespace).map_err(IssuerError::Identity)?;
        let bundles = Arc::new(TrustBundles::new([authority.bundle(1)]).map_err(IssuerError::Bundle)?);
        let first = own_leaf(&authority, &identity, &bundles, lifetime, 1)?;
        let foreign = RwLock::new(Foreign {
            bundles: Arc::default(),
            all: bundles.clone(),
            credential: None,
        });
        let credential = watch::Sender::new(Arc::new(first));
        Ok(Self {
            authority: RwLock::new(Arc::new(authority)),
            identity,
            bundles,
            foreign,
            lifetime,
            credential,
        })
    }

    /// Writes what proxies need in order to trust us: `STATE/trust/{roots.pem,trust-domain,control-namespace}`.
    pub(crate) fn publish(&self, state: &Path) -> Result<(), IssuerError> {
        let directory = state.join("trust");
        let failed = |error| IssuerError::Publish(directory.clone(), error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&directory)
            .map_err(failed)?;
        // The umask may have taken bits away, and others are to read this.
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).map_err(failed)?;
        for (name, text) in self.published() {
            let path = directory.join(name);
            file::replace(&path, 0o644, text.as_bytes()).map_err(|error| IssuerError::Publish(path.clone(), error))?;
        }
        Ok(())
    }

    /// What proxies need in order to trust us, as files: the roots, the trust domain, and the namespace of our identity.
    pub(crate) fn published(&self) -> [(&'static str, String); 3] {
        [
            (
                "roots.pem",
                self.bundles.iter().map(weft_certs::bundle::Bundle::to_pem).collect(),
            ),
            ("trust-domain", self.identity.trust_domain().to_string()),
            ("control-namespace", self.identity.namespace().to_owned()),
        ]
    }

    /// Issues a leaf. The caller has made sure that the key's holder is this identity.
    pub(crate) fn issue(
        &self,
        key: &PublicKey,
        identity: &Identity,
        now: SystemTime,
    ) -> Result<IssuedLeaf, AuthorityError> {
        self.authority().issue(key, identity, self.lifetime, now)
    }

    /// What issues now.
    pub(crate) fn authority(&self) -> Arc<Authority> {
        let authority = self.authority.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&authority)
    }

    /// Goes on with a renewed authority: another issuing certificate under the same root, which is what everybody trusts.
    pub(crate) fn renew(&self, authority: Authority) -> Renewal {
        let now = self.authority();
        if authority.root() != now.root() || authority.trust_domain() != now.trust_domain() {
            return Renewal::OtherRoot;
        }
        if authority.not_after() == now.not_after() {
            return Renewal::Same;
        }
        *self.authority.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(authority);
        Renewal::Taken
    }

    /// Our own roots.
    pub(crate) fn bundles(&self) -> &Arc<TrustBundles> {
        &self.bundles
    }

    /// Whom proxies are to trust: ourselves, and the peers, each for its own trust domain.
    pub(crate) fn all_bundles(&self) -> Arc<TrustBundles> {
        self.foreign.read().unwrap_or_else(PoisonError::into_inner).all.clone()
    }

    /// Trusts these other clusters from now on, and no others.
    pub(crate) fn link(&self, bundles: &TrustBundles) -> Result<(), BundleError> {
        let all = TrustBundles::new(self.bundles.iter().chain(bundles.iter()).cloned())?;
        *self.foreign.write().unwrap_or_else(PoisonError::into_inner) = Foreign {
            bundles: Arc::new(bundles.clone()),
            all: Arc::new(all),
            credential: None,
        };
        Ok(())
    }

    /// What is shown to other clusters now: our own leaf. Only their control planes' identities are proved by it, not those of
    /// our own trust domain.
    pub(crate) fn federation(&self) -> Arc<Credential> {
        let own = self.credential();
        let mut foreign = self.foreign.write().unwrap_or_else(PoisonError::into_inner);
        match &foreign.credential {
            Some((generation, credential)) if *generation == own.generation() => credential.clone(),
            _ => {
                let credential = Arc::new(own.with_bundles(foreign.bundles.clone(), own.generation()));
                foreign.credential = Some((own.generation(), credential.clone()));
                credential
            }
        }
    }

    /// Whose certificates it issues.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        self.identity.trust_domain()
    }

    /// What the control plane serves with now.
    pub(crate) fn credential(&self) -> Arc<Credential> {
        self.credential.borrow().clone()
    }

    /// Renews the control plane's own leaf, for ever.
    pub(crate) async fn keep_renewed(&self) {
        let mut received = Instant::now();
        loop {
            let left = self
                .credential()
                .not_after()
                .duration_since(SystemTime::now())
                .unwrap_or_default();
            let life = Life {
                received,
                valid_for: left,
            };
            // Nobody else renews this leaf at the same time, so nothing needs to be spread.
            tokio::time::sleep_until(life.renewal(0).into()).await;
            received = Instant::now();
            let generation = self.credential().generation() + 1;
            let authority = self.authority();
            match own_leaf(&authority, &self.identity, &self.bundles, self.lifetime, generation) {
                Ok(credential) => {
                    tracing::debug!(generation, "renewed the control plane's own certificate");
                    self.credential.send_replace(Arc::new(credential));
                }
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "renewing the control plane's own certificate failed")
                }
            }
        }
    }
}

/// A new key with a new leaf.
fn own_leaf(
    authority: &Authority,
    identity: &Identity,
    bundles: &Arc<TrustBundles>,
    lifetime: Duration,
    generation: u64,
) -> Result<Credential, IssuerError> {
    let key = Key::generate().map_err(IssuerError::Key)?;
    let leaf = authority
        .issue(key.public(), identity, lifetime, SystemTime::now())
        .map_err(IssuerError::Authority)?;
    Credential::new(leaf.chain, key, bundles.clone(), generation).map_err(IssuerError::Credential)
}

/// An error with its causes, in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(state: &Path) -> Issuer {
        let trust_domain = TrustDomain::new("shop.weft.internal").unwrap();
        Issuer::open(state, &trust_domain, "weft-system", Duration::from_secs(6)).unwrap()
    }

    #[test]
    fn the_root_survives_a_restart_and_is_published_for_all_to_read() {
        let state = tempfile::tempdir().unwrap();
        let first = open(state.path());
        first.publish(state.path()).unwrap();
        let second = open(state.path());
        second.publish(state.path()).unwrap();
        assert_eq!(first.authority().root(), second.authority().root());
        let trust = state.path().join("trust");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&trust), 0o755);
        for (name, text) in [
            ("trust-domain", "shop.weft.internal"),
            ("control-namespace", "weft-system"),
        ] {
            assert_eq!(fs::read_to_string(trust.join(name)).unwrap(), text);
            assert_eq!(mode(&trust.join(name)), 0o644);
        }
        let pem = fs::read(trust.join("roots.pem")).unwrap();
        let read = weft_certs::bundle::Bundle::from_pem(first.trust_domain().clone(), &pem, 1).unwrap();
        assert_eq!(read.roots(), [first.authority().root().clone()]);
        assert_eq!(mode(&state.path().join("authority")), 0o700);
    }

    #[tokio::test]
    async fn the_own_leaf_is_renewed_before_it_ends() {
        let state = tempfile::tempdir().unwrap();
        let issuer = open(state.path());
        let first = issuer.credential();
        assert_eq!(
            first.identity().to_string(),
            "spiffe://shop.weft.internal/ns/weft-system/sa/weft-control"
        );
        let mut changed = issuer.credential.subscribe();
        tokio::select! {
            () = issuer.keep_renewed() => {}
            renewed = tokio::time::timeout(Duration::from_secs(6), changed.changed()) => renewed.unwrap().unwrap(),
        }
        assert_eq!(issuer.credential().generation(), 2);
        assert!(SystemTime::now() < first.not_after());
    }
}
