//! Tells connections that this process is ending.
//!
//! In: one [`Closing::begin`] per worker. Out: each connection's [`Watch`] wakes its task, which then answers what it has
//! and closes: HTTP/1.1 with `connection: close`, HTTP/2 with GOAWAY. Single-threaded: no locks, and nothing to pay per
//! request, because a connection registers its waker once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// One per worker; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Closing {
    shared: Rc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    begun: Cell<bool>,
    /// Slots of the watches that live; `None`: a free slot, or one that has not been polled.
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

/// One connection's view. Dropped with it.
#[derive(Debug)]
pub struct Watch {
    shared: Rc<Shared>,
    slot: usize,
}

impl Closing {
    /// Nobody has to close yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every connection of this worker is to end when it can. May be called more than once.
    pub fn begin(&self) {
        self.shared.begun.set(true);
        let wakers: Vec<Waker> = self
            .shared
            .wakers
            .borrow_mut()
            .iter_mut()
            .filter_map(Option::take)
            .collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether [`Closing::begin`] was called.
    pub fn has_begun(&self) -> bool {
        self.shared.begun.get()
    }

    /// For one connection.
    pub fn watch(&self) -> Watch {
        let mut wakers = self.shared.wakers.borrow_mut();
        let slot = self.shared.free.borrow_mut().pop().unwrap_or_else(|| {
            wakers.push(None);
            wakers.len() - 1
        });
        Watch {
            shared: self.shared.clone(),
            slot,
        }
    }
}

impl Watch {
    /// Whether it is time to close.
    pub fn has_begun(&self) -> bool {
        self.shared.begun.get()
    }

    /// Ready when it is time to close.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_begun() {
            return Poll::Ready(());
        }
        if let Some(slot) = self.shared.wakers.borrow_mut().get_mut(self.slot) {
            match slot {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *slot = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }

    /// Returns when it is time to close. Cancel safe.
    pub async fn begun(&self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(slot) = self.shared.wakers.borrow_mut().get_mut(self.slot) {
            *slot = None;
        }
        self.shared.free.borrow_mut().push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_watch_hears_it_once_it_has_begun() {
        let closing = Closing::new();
        let (early, dropped, late) = (closing.watch(), closing.watch(), closing.clone());
        drop(dropped);
        let heard = tokio::join!(early.begun(), async { late.begin() });
        assert_eq!(heard, ((), ()));
        late.watch().begun().await;
    }

    #[test]
    fn a_watch_says_nothing_before() {
        let closing = Closing::new();
        let watch = closing.watch();
        assert!(watch.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    #[test]
    fn slots_are_used_again() {
        let closing = Closing::new();
        for _ in 0..100 {
            drop(closing.watch());
        }
        assert_eq!(closing.shared.wakers.borrow().len(), 1);
    }
}
