//! Named gates: a process is ready when all are open, and says which are not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use tokio::sync::Notify;

use crate::admin::{self, Response};

/// All gates of a process. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The gates in the order in which they were made. Only locked to add and to list.
    gates: Mutex<Vec<(&'static str, Arc<AtomicBool>)>>,
    changed: Notify,
}

/// One thing that must hold before the process is ready. Made closed.
#[derive(Clone, Debug)]
pub struct Gate {
    open: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Ready {
    /// No gates yet: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a closed gate. The name is a noun that people understand: it completes "waiting for: …".
    pub fn gate(&self, name: &'static str) -> Gate {
        let open = Arc::new(AtomicBool::new(false));
        self.gates().push((name, open.clone()));
        Gate {
            open,
            shared: self.shared.clone(),
        }
    }

    /// The names of the gates that are closed.
    pub fn missing(&self) -> Vec<&'static str> {
        self.gates()
            .iter()
            .filter(|(_, open)| !open.load(Ordering::Acquire))
            .map(|(name, _)| *name)
            .collect()
    }

    /// Whether all gates are open.
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// Waits until all gates are open. Cancel safe.
    pub async fn wait(&self) {
        loop {
            let changed = self.shared.changed.notified();
            if self.is_ready() {
                return;
            }
            changed.await;
        }
    }

    /// The answer to `GET /ready`: 200, or 503 with what is missing.
    pub fn response(&self) -> Response {
        match self.missing().as_slice() {
            [] => admin::text(StatusCode::OK, "ready\n"),
            missing => admin::text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("waiting for: {}\n", missing.join(", ")),
            ),
        }
    }

    fn gates(&self) -> std::sync::MutexGuard<'_, Vec<(&'static str, Arc<AtomicBool>)>> {
        self.shared.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// What the gate stands for holds now.
    pub fn open(&self) {
        self.set(true);
    }

    /// What the gate stands for does not hold (any more).
    pub fn close(&self) {
        self.set(false);
    }

    /// Opens or closes.
    pub fn set(&self, open: bool) {
        self.open.store(open, Ordering::Release);
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let ready = Ready::new();
        let certificate = ready.gate("certificate");
        let configuration = ready.gate("configuration");
        assert_eq!(ready.response().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            ready.response().body().as_ref(),
            b"waiting for: certificate, configuration\n"
        );
        certificate.open();
        assert_eq!(ready.missing(), ["configuration"]);
        configuration.open();
        assert_eq!(ready.response().status(), StatusCode::OK);
        certificate.close();
        assert!(!ready.is_ready());
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_gate() {
        let ready = Ready::new();
        let gates = [ready.gate("a"), ready.gate("b")];
        let waiting = tokio::spawn({
            let ready = ready.clone();
            async move { ready.wait().await }
        });
        for gate in &gates {
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            gate.open();
        }
        waiting.await.unwrap();
    }
}
