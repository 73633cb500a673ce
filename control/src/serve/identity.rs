//! Certificates: a CSR and a token in, a leaf and the trust bundles out.
//!
//! Who the caller is follows from the token, which the cluster signed for one pod, and from the pod that this names: it
//! must exist, run as that service account, and have the caller's address. Of the CSR nothing counts but the key.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use weft_certs::csr;
use weft_certs::key::PublicKey;
use weft_certs::token::Bearer;
use weft_model::identity::Identity;
use weft_proto::identity::{IssueRequest, IssueResponse, identity_server};
use weft_proto::resource::bundles::to_identity;

use super::cache::trust_roots;
use super::desk::{Desk, PodFacts};
use super::listen::Peer;
use super::metrics::Metrics;
use super::outcome::Outcome;
use super::rate::{Buckets, Rate};
use super::tokens::{Tokens, Unverified};
use super::waits::Waits;
use crate::authority::{Chain, Issuer};
use crate::config::{AddressCheck, RenewByLeaf};

/// A CSR has about 300 bytes, a token 1.2 KiB.
pub(crate) const REQUEST_MAX: usize = 32 * 1024;
/// Callers at once whose tokens are looked at.
const AT_ONCE: usize = 512;
/// From one address, before anything is verified: a pod asks a few times when it starts; a node may masquerade for many.
const BY_ADDRESS: Rate = Rate {
    per_second: 50.0,
    burst: 500.0,
};
/// For one pod: leaves of seconds are renewed about each second.
const BY_POD: Rate = Rate {
    per_second: 2.0,
    burst: 10.0,
};
/// For one identity: as many pods as a large Deployment starts at once.
const BY_IDENTITY: Rate = Rate {
    per_second: 50.0,
    burst: 500.0,
};
/// Callers that are told apart at a time.
const CALLERS: usize = 16 * 1024;

/// The service.
pub(crate) struct Identities {
    desk: Desk,
    issuer: Arc<Issuer>,
    tokens: Tokens,
    rules: Rules,
    metrics: Arc<Metrics>,
    at_once: Semaphore,
    /// Those whose pods are waited for.
    waits: Waits,
    by_address: Mutex<Buckets<IpAddr>>,
    by_pod: Mutex<Buckets<(String, String)>>,
    by_identity: Mutex<Buckets<Identity>>,
}

/// What the operator has decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) address_check: AddressCheck,
    pub(crate) renew_by_leaf: RenewByLeaf,
    pub(crate) pod_wait: Duration,
}

/// A refusal: the word, and the sentence.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) outcome: Outcome,
    pub(crate) message: String,
}

impl Refusal {
    fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            outcome,
            message: message.into(),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        super::status_of(refusal.outcome.code(), refusal.outcome.word(), &refusal.message)
    }
}

/// Whom a request is for, and by what it is proven.
struct Caller {
    identity: Identity,
    /// The token's. `None`: the leaf alone.
    bearer: Option<Bearer>,
}

impl Identities {
    pub(crate) fn new(desk: Desk, issuer: Arc<Issuer>, tokens: Tokens, rules: Rules, metrics: Arc<Metrics>) -> Self {
        Self {
            desk,
            issuer,
            tokens,
            rules,
            metrics,
            at_once: Semaphore::new(AT_ONCE),
            waits: Waits::default(),
            by_address: Mutex::new(Buckets::new(BY_ADDRESS, CALLERS)),
            by_pod: Mutex::new(Buckets::new(BY_POD, CALLERS)),
            by_identity: Mutex::new(Buckets::new(BY_IDENTITY, CALLERS)),
        }
    }

    async fn answer(&self, peer: &Peer, request: &IssueRequest) -> Result<(Outcome, IssueResponse), Refusal> {
        let Ok(one) = self.at_once.try_acquire() else {
            return Err(Refusal::new(
                Outcome::Overloaded,
                "too many requests at once; ask again",
            ));
        };
        let now = Instant::now();
        limited(&self.by_address, peer.address.ip(), now)?;
        let caller = self.caller(peer, &request.token).await?;
        limited(&self.by_identity, caller.identity.clone(), now)?;
        // A pod may be waited for: others' turns do not wait for that.
        drop(one);
        match &caller.bearer {
            Some(bearer) => {
                limited(&self.by_pod, (bearer.namespace.clone(), bearer.pod.uid.clone()), now)?;
                self.check_pod(peer, bearer).await?;
            }
            None => self.check_address(peer, &caller.identity).await?,
        }
        let key =
            csr::check(&request.csr).map_err(|error| Refusal::new(Outcome::CsrInvalid, Chain(&error).to_string()))?;
        let outcome = match (&caller.bearer, &peer.leaf) {
            (Some(_), None) => Outcome::Issued,
            (Some(_), Some(_)) => Outcome::Renewed,
            (None, _) => Outcome::RenewedByLeaf,
        };
        let response = self.issue(&key, &caller.identity)?;
        tracing::info!(identity = %caller.identity, address = %peer.address, outcome = outcome.word(), "issued a certificate");
        Ok((outcome, response))
    }

    /// Who calls: by the token, and by the leaf too where one is shown.
    async fn caller(&self, peer: &Peer, token: &str) -> Result<Caller, Refusal> {
        let now = SystemTime::now();
        if let Some(leaf) = &peer.leaf {
            if leaf.not_after <= now {
                return Err(Refusal::new(
                    Outcome::LeafMismatch,
                    "the certificate of this connection has ended",
                ));
            }
            if leaf.identity.trust_domain() != self.issuer.trust_domain() {
                return Err(Refusal::new(
                    Outcome::LeafMismatch,
                    format!("{} is not of this mesh", leaf.identity),
                ));
            }
        }
        if token.is_empty() {
            return self.caller_by_leaf(peer, "there is no token");
        }
        let bearer = match self.tokens.verify(token, now).await {
            Ok(bearer) => bearer,
            Err(Unverified::Refused {
                outcome,
                message,
                claimed,
            }) => {
                let gone = self.gone(claimed.as_deref()).await;
                return Err(gone.unwrap_or_else(|| Refusal::new(outcome, message)));
            }
            Err(Unverified::NoKeys(why)) => return self.caller_by_leaf(peer, &why),
            Err(Unverified::Busy) => {
                return Err(Refusal::new(
                    Outcome::Overloaded,
                    "too many tokens are checked at once; ask again",
                ));
            }
        };
        let identity = Identity::new(
            self.issuer.trust_domain().clone(),
            &bearer.namespace,
            &bearer.service_account.name,
        )
        .map_err(|error| Refusal::new(Outcome::TokenRefused, error.to_string()))?;
        match &peer.leaf {
            Some(leaf) if leaf.identity != identity => {
                let message = format!("the certificate is of {} and the token of {identity}", leaf.identity);
                Err(Refusal::new(Outcome::LeafMismatch, message))
            }
            _ => Ok(Caller {
                identity,
                bearer: Some(bearer),
            }),
        }
    }

    /// Whether a token was refused because its pod is gone: an API server takes no token of such a one. Nobody has proven
    /// what it claims, so nothing is told but that there is no pod of its uid, which nobody guesses.
    async fn gone(&self, claimed: Option<&Bearer>) -> Option<Refusal> {
        let claimed = claimed?;
        let facts = self.desk.pod(&claimed.namespace, &claimed.pod.name).await.ok()?;
        let is_there = facts.is_some_and(|facts| facts.uid == claimed.pod.uid);
        (!is_there).then(|| Refusal::new(Outcome::PodUnknown, "the pod that the token names is gone"))
    }

    /// The leaf alone counts only while no token can be checked, and where the operator lets it.
    fn caller_by_leaf(&self, peer: &Peer, why: &str) -> Result<Caller, Refusal> {
        let verifiable = self.tokens.available();
        match (&peer.leaf, self.rules.renew_by_leaf) {
            (Some(leaf), RenewByLeaf::Unverifiable) if !verifiable => Ok(Caller {
                identity: leaf.identity.clone(),
                bearer: None,
            }),
            _ if verifiable => Err(Refusal::new(Outcome::TokenMissing, why)),
            _ => Err(Refusal::new(
                Outcome::TokenUnverifiable,
                format!("{why}; no token can be checked now"),
            )),
        }
    }

    /// Without a token there must be a pod of the leaf's account at the caller's address, as far as is known.
    async fn check_address(&self, peer: &Peer, identity: &Identity) -> Result<(), Refusal> {
        let address = peer.address.ip();
        let at = self.desk.pod_at(address).await;
        let at = at.map_err(|error| Refusal::new(Outcome::Overloaded, error.to_string()))?;
        let fits = at.is_some_and(|(namespace, facts)| {
            !facts.finished && namespace == identity.namespace() && facts.service_account == identity.service_account()
        });
        if fits {
            return Ok(());
        }
        // Only where the address alone refuses nobody: the desk looks through all pods of the namespace.
        if self.rules.address_check == AddressCheck::Warn {
            let known = self.desk.runs(identity.namespace(), identity.service_account()).await;
            if !known.map_err(|error| Refusal::new(Outcome::Overloaded, error.to_string()))? {
                let message = format!("no pod of {identity} is known");
                return Err(Refusal::new(Outcome::PodUnknown, message));
            }
        }
        let refusal = Refusal::new(
            Outcome::AddressMismatch,
            format!("no pod of {identity} is known at {address}"),
        );
        self.tolerated(refusal, peer)
    }

    /// A refusal because of the caller's address, which the operator may have it be a warning.
    fn tolerated(&self, refusal: Refusal, peer: &Peer) -> Result<(), Refusal> {
        if refusal.outcome != Outcome::AddressMismatch || self.rules.address_check != AddressCheck::Warn {
            return Err(refusal);
        }
        tracing::warn!(address = %peer.address, reason = refusal.message, "issuing to another address");
        self.metrics.tolerated_address();
        Ok(())
    }

    /// The pod that the token names must be the one that calls.
    async fn check_pod(&self, peer: &Peer, bearer: &Bearer) -> Result<(), Refusal> {
        let Some(_turn) = self.waits.enter(&bearer.namespace) else {
            let message = format!("too many pods of {} are waited for; ask again", bearer.namespace);
            return Err(Refusal::new(Outcome::Overloaded, message));
        };
        let fits = |facts: Option<PodFacts>| fits(bearer, peer.address.ip(), facts.as_ref());
        let checked = self
            .desk
            .wait_for_pod(&bearer.namespace, &bearer.pod.name, self.rules.pod_wait, fits)
            .await;
        let checked = checked.map_err(|error| Refusal::new(Outcome::Overloaded, error.to_string()))?;
        checked.or_else(|refusal| self.tolerated(refusal, peer))
    }

    fn issue(&self, key: &PublicKey, identity: &Identity) -> Result<IssueResponse, Refusal> {
        let now = SystemTime::now();
        let leaf = self.issuer.issue(key, identity, now).map_err(|error| {
            tracing::error!(error = %Chain(&error), %identity, "issuing a certificate failed");
            Refusal::new(Outcome::Failed, "the authority did not issue; its log says why")
        })?;
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Ok(IssueResponse {
            chain: leaf
                .chain
                .iter()
                .map(|der| bytes::Bytes::copy_from_slice(der))
                .collect(),
            bundles: to_identity(&trust_roots(self.issuer.all_bundles().iter())),
            valid_for_ms: millis(leaf.not_after.duration_since(now).unwrap_or_default()),
            now_unix_ms: millis(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()),
        })
    }
}

/// Whether this is the pod of the token, at the caller's address. Outer error: not yet, but a little later perhaps.
fn fits(bearer: &Bearer, address: IpAddr, facts: Option<&PodFacts>) -> Result<Result<(), Refusal>, Refusal> {
    let pod = format!("Pod {}/{}", bearer.namespace, bearer.pod.name);
    let facts = fits_uid(bearer, facts)?;
    if facts.service_account != bearer.service_account.name {
        let message = format!(
            "{pod} runs as {}, and the token is of {}",
            facts.service_account, bearer.service_account.name
        );
        return Ok(Err(Refusal::new(Outcome::PodMismatch, message)));
    }
    if facts.finished {
        return Ok(Err(Refusal::new(Outcome::PodMismatch, format!("{pod} has ended"))));
    }
    if facts.ips.is_empty() {
        return Err(Refusal::new(
            Outcome::AddressMismatch,
            format!("no address of {pod} is known"),
        ));
    }
    if !facts.ips.contains(&address) {
        let known: Vec<String> = facts.ips.iter().map(ToString::to_string).collect();
        let message = format!("{pod} has the address {}, and the caller {address}", known.join(" or "));
        return Ok(Err(Refusal::new(Outcome::AddressMismatch, message)));
    }
    Ok(Ok(()))
}

/// Whether there is the pod of the token at all.
fn fits_uid<'a>(bearer: &Bearer, facts: Option<&'a PodFacts>) -> Result<&'a PodFacts, Refusal> {
    let pod = format!("Pod {}/{}", bearer.namespace, bearer.pod.name);
    let Some(facts) = facts else {
        return Err(Refusal::new(Outcome::PodUnknown, format!("{pod} is not known")));
    };
    if facts.uid != bearer.pod.uid {
        // One of the same name that took its place, and that we have not heard of yet; or the other way round.
        let message = format!(
            "{pod} has the uid {}, and the token names {}",
            facts.uid, bearer.pod.uid
        );
        return Err(Refusal::new(Outcome::PodMismatch, message));
    }
    Ok(facts)
}

fn limited<K: Eq + std::hash::Hash>(buckets: &Mutex<Buckets<K>>, key: K, now: Instant) -> Result<(), Refusal> {
    let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
    buckets.take(key, now).map_err(|wait| {
        Refusal::new(
            Outcome::RateLimited,
            format!("too often; ask again in {} ms", wait.as_millis()),
        )
    })
}

#[tonic::async_trait] // the generated trait asks for it
impl identity_server::Identity for Identities {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let peer = super::peer(request.extensions())?;
        let _call = peer.call();
        match self.answer(&peer, request.get_ref()).await {
            Ok((outcome, response)) => {
                self.metrics.issuance(outcome);
                Ok(Response::new(response))
            }
            Err(refusal) => {
                self.metrics.issuance(refusal.outcome);
                let Refusal { outcome, message } = &refusal;
                tracing::info!(address = %peer.address, outcome = outcome.word(), message, "refused a certificate");
                Err(refusal.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_certs::token::NamedObject;

    fn bearer() -> Bearer {
        let named = |name: &str, uid: &str| NamedObject {
            name: name.to_owned(),
            uid: uid.to_owned(),
        };
        let (service_account, pod) = (named("web", "s"), named("web-1", "u"));
        Bearer {
            namespace: "shop".to_owned(),
            service_account,
            pod,
            node: None,
        }
    }

    fn facts() -> PodFacts {
        let ips = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        PodFacts {
            uid: "u".to_owned(),
            service_account: "web".to_owned(),
            ips,
            finished: false,
        }
    }

    fn check(facts: Option<PodFacts>, address: &str) -> Result<Result<(), Outcome>, Outcome> {
        let fitted = fits(&bearer(), address.parse().unwrap(), facts.as_ref());
        fitted
            .map(|now| now.map_err(|refusal| refusal.outcome))
            .map_err(|refusal| refusal.outcome)
    }

    #[test]
    fn the_tokens_pod_must_be_the_caller() {
        assert_eq!(check(Some(facts()), "10.0.0.1"), Ok(Ok(())));
        assert_eq!(check(Some(facts()), "fd00::1"), Ok(Ok(())));
        assert_eq!(check(Some(facts()), "10.0.0.2"), Ok(Err(Outcome::AddressMismatch)));
        assert_eq!(
            check(
                Some(PodFacts {
                    service_account: "db".to_owned(),
                    ..facts()
                }),
                "10.0.0.1"
            ),
            Ok(Err(Outcome::PodMismatch))
        );
        assert_eq!(
            check(
                Some(PodFacts {
                    finished: true,
                    ..facts()
                }),
                "10.0.0.1"
            ),
            Ok(Err(Outcome::PodMismatch))
        );
    }

    #[test]
    fn what_may_come_is_waited_for() {
        assert_eq!(check(None, "10.0.0.1"), Err(Outcome::PodUnknown));
        assert_eq!(
            check(
                Some(PodFacts {
                    ips: Vec::new(),
                    ..facts()
                }),
                "10.0.0.1"
            ),
            Err(Outcome::AddressMismatch)
        );
        assert_eq!(
            check(
                Some(PodFacts {
                    uid: "old".to_owned(),
                    ..facts()
                }),
                "10.0.0.1"
            ),
            Err(Outcome::PodMismatch)
        );
    }
}
