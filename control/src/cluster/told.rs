//! What is told of the API server: in status, and to scrapers.

use serde::Serialize;
use tokio::time::Instant;
use weft_daemon::prometheus::Text;

use super::shown::{Phase, Shown};

/// How one kind is doing, for people.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct KindStatus {
    pub(crate) kind: String,
    /// The version that is read; empty where the kind is absent.
    pub(crate) version: String,
    /// `starting`, `listed` or `absent`.
    pub(crate) phase: &'static str,
    pub(crate) objects: usize,
    /// Requests that failed since the start.
    pub(crate) errors: u64,
    /// Why nothing new is known of it now.
    pub(crate) error: Option<String>,
    /// Seconds since the API server last said anything of it.
    pub(crate) heard_seconds_ago: Option<u64>,
}

/// How each kind is doing.
pub(crate) fn status(shown: &Shown) -> Vec<KindStatus> {
    let now = Instant::now();
    let kind = |(kind, state): (String, super::shown::State)| KindStatus {
        kind,
        version: state.version,
        phase: state.phase.word(),
        objects: state.objects,
        errors: state.errors,
        error: state.error,
        heard_seconds_ago: state.heard.map(|heard| now.duration_since(heard).as_secs()),
    };
    shown.states().into_iter().map(kind).collect()
}

/// The same in numbers.
pub(crate) fn write(shown: &Shown, text: &mut Text) {
    let (now, states) = (Instant::now(), shown.states());
    let synced = text.gauge(
        "weft_source_synced",
        "Whether the API server's objects of a kind are followed now. A kind that it does not have counts as followed.",
    );
    for (kind, state) in &states {
        let well = state.phase != Phase::Starting && state.error.is_none();
        synced.sample(&[("kind", kind)], u64::from(well));
    }
    let objects = text.gauge("weft_source_objects", "Objects of a kind that are known.");
    for (kind, state) in &states {
        objects.sample(&[("kind", kind)], state.objects as u64);
    }
    let age = text.gauge(
        "weft_source_age_seconds",
        "Seconds since the API server last said anything of a kind, be it that nothing changed.",
    );
    for (kind, state) in &states {
        if let (Phase::Listed, Some(heard)) = (state.phase, state.heard) {
            age.sample(&[("kind", kind)], now.duration_since(heard).as_secs());
        }
    }
    let errors = text.counter(
        "weft_source_errors_total",
        "Requests to the API server for objects of a kind that failed.",
    );
    for (kind, state) in &states {
        errors.sample(&[("kind", kind)], state.errors);
    }
}
