//! Trust: whether a root still vouches for who is on the other side, for as long as a connection lasts.
//!
//! In: the certificates that a peer has shown, and our own credential with its bundles as they change. Out: the moment from
//! which the connection must not be used any more. Where nothing has changed, asking costs a comparison.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustls_pki_types::CertificateDer;
use slab::Slab;
use weft_certs::credential::Credential;
use weft_certs::verify::Side;

/// Whom one worker trusts now, and who waits for that to change.
#[derive(Default)]
pub struct Trust {
    credential: RefCell<Option<Arc<Credential>>>,
    /// Rises with every other set of bundles.
    changes: Cell<u64>,
    waiting: RefCell<Slab<Option<Waker>>>,
}

/// The certificates that a peer has shown in a handshake.
#[derive(Clone, Debug)]
pub struct Chain {
    certificates: Box<[CertificateDer<'static>]>,
    /// Which side the peer is.
    side: Side,
}

/// What proves who is on the other side of one connection. Bundles may be taken away while that lasts: it proves nothing then.
pub struct Proof(Box<Inner>);

/// Boxed: the future of a connection holds it more than once.
struct Inner {
    trust: Rc<Trust>,
    chain: Chain,
    /// At which change it was found to be good.
    good: Option<u64>,
    /// Where it waits for the next.
    place: Option<usize>,
}

impl Trust {
    /// Decides by this credential from now on.
    pub fn set(&self, credential: Option<Arc<Credential>>) {
        let bundles = |of: &Option<Arc<Credential>>| of.as_ref().map(|credential| Arc::as_ptr(credential.bundles()));
        let same = bundles(&self.credential.borrow()) == bundles(&credential);
        *self.credential.borrow_mut() = credential;
        if same {
            return;
        }
        self.changes.set(self.changes.get() + 1);
        // Woken after the list is left: to wake is to run others' code.
        let waiting: Vec<Waker> = self
            .waiting
            .borrow_mut()
            .iter_mut()
            .filter_map(|(_, waker)| waker.take())
            .collect();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether it vouches for a chain. As long as there is no credential, nothing is taken back.
    fn vouches_for(&self, chain: &Chain) -> bool {
        let credential = self.credential.borrow();
        credential
            .as_ref()
            .is_none_or(|credential| credential.vouches_for(&chain.certificates, chain.side))
    }
}

impl Chain {
    /// What a peer on this side has shown.
    pub fn new(certificates: Box<[CertificateDer<'static>]>, side: Side) -> Self {
        Self { certificates, side }
    }
}

impl Proof {
    /// For a connection whose handshake is over. Whether the bundles have changed since it began is looked at with the first
    /// question.
    pub fn new(trust: &Rc<Trust>, chain: Chain) -> Self {
        Self(Box::new(Inner {
            trust: trust.clone(),
            chain,
            good: None,
            place: None,
        }))
    }

    /// Whether it proves nothing any more. That the leaf has ended does not matter (design, section 5).
    pub fn is_void(&mut self) -> bool {
        let this = &mut *self.0;
        let now = this.trust.changes.get();
        if this.good == Some(now) {
            return false;
        }
        let good = this.trust.vouches_for(&this.chain);
        if good {
            this.good = Some(now);
        }
        !good
    }

    /// Ready when it proves nothing any more; else the task is woken when that may be so.
    pub fn poll_void(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.is_void() {
            return Poll::Ready(());
        }
        let this = &mut *self.0;
        let mut waiting = this.trust.waiting.borrow_mut();
        let place = *this.place.get_or_insert_with(|| waiting.insert(None));
        if let Some(waker) = waiting.get_mut(place) {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }

    /// Nobody waits any more; somebody may again.
    pub fn rest(&mut self) {
        if let Some(place) = self.0.place
            && let Some(waker) = self.0.trust.waiting.borrow_mut().get_mut(place)
        {
            *waker = None;
        }
    }
}

/// Returns once a proof is void; never, where there is none. Cancel safe.
pub async fn void(proof: &mut Option<Proof>) {
    poll_fn(|cx| proof.as_mut().map_or(Poll::Pending, |proof| proof.poll_void(cx))).await;
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.trust.waiting.borrow_mut().try_remove(place);
        }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("changes", &self.changes)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof")
            .field("chain", &self.0.chain)
            .field("good", &self.0.good)
            .finish_non_exhaustive()
    }
}
