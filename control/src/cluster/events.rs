//! Events on what people should look at, where they look for it: each subject is told of once an hour, since events live so
//! long.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::{Api, Fault};
use super::lease;

/// What was told is told again after this.
const AGAIN: Duration = Duration::from_secs(3600);
/// Subjects that are known to have been told of. Beyond it, others wait until some are forgotten.
const TOLD_MAX: usize = 4096;
/// Events at once, each time that something has changed.
const EVENTS_MAX: usize = 20;

/// Something that an event is about.
pub(super) trait Subject {
    /// What it is known by: what has the same one is told of by the same event.
    fn key(&self) -> String;

    /// The event.
    fn event(&self) -> Event;
}

/// A warning.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) namespace: String,
    /// One word in CamelCase.
    pub(super) reason: &'static str,
    /// What is wrong, and the fix.
    pub(super) note: String,
    /// The object, as a reference.
    pub(super) regarding: Value,
}

impl Event {
    /// As the API has it.
    fn body(&self) -> Value {
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"generateName": "weft-", "namespace": self.namespace},
            "eventTime": lease::now(), "type": "Warning", "reason": self.reason, "action": "Inject", "note": self.note,
            "reportingController": "weft-control", "reportingInstance": "weft-control",
            "regarding": self.regarding
        })
    }
}

/// Writes events, and knows for which subjects that was done.
#[derive(Default)]
pub(super) struct Teller {
    told: BTreeMap<String, Instant>,
}

impl Teller {
    /// Tells of those that nobody was told of. Says whether some are left for the next time.
    pub(super) async fn tell(&mut self, api: &Api, found: &[impl Subject]) -> Result<bool, Fault> {
        self.told.retain(|_, at| at.elapsed() < AGAIN);
        let mut left = EVENTS_MAX;
        for subject in found {
            let key = subject.key();
            if self.told.contains_key(&key) {
                continue;
            }
            if left == 0 || self.told.len() >= TOLD_MAX {
                return Ok(true);
            }
            left -= 1;
            let event = subject.event();
            let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", event.namespace);
            match api.create(&path, &event.body()).await {
                Ok(_) => {}
                Err(fault) if fault.is_away_for_all() => return Err(fault),
                // Its namespace is on its way out, or nothing may be written there: no other attempt will mend that.
                Err(fault) => {
                    let Event { namespace, reason, .. } = &event;
                    tracing::warn!(namespace, reason, regarding = %event.regarding["name"], error = %fault, "an event is not written");
                }
            }
            self.told.insert(key, Instant::now());
        }
        Ok(false)
    }
}
