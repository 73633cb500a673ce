//! Observe: what detection found out, by destination, for `/config`.
//!
//! In: a verdict for each connection. Out: the last one of each destination, over all workers. A worker remembers what it has
//! said, and takes the lock only to say something else.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::metrics::Direction;
use crate::http::HttpVersion;

/// Destinations that are remembered. With one more, all are forgotten: what is in use is soon found out again.
const DESTINATIONS: usize = 1024;

/// What a connection speaks, and how that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The protocol. `None`: bytes.
    pub protocol: Option<HttpVersion>,
    /// How it was found.
    pub found: Found,
}

/// How a protocol was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is declared of the port; of HTTP, the version is by the client's first bytes.
    Declared,
    /// The peer's proxy said so.
    Peer,
    /// By the client's first bytes.
    ClientBytes,
    /// The server spoke first, and not HTTP.
    ServerFirst,
    /// The server ended, and nobody had said anything.
    NobodySpoke,
}

/// The last verdicts of all workers. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Verdicts(Arc<Mutex<BTreeMap<Key, Verdict>>>);

/// One worker's verdicts.
#[derive(Debug)]
pub struct Seen {
    all: Verdicts,
    own: RefCell<HashMap<Key, Verdict>>,
}

type Key = (Direction, SocketAddr);

impl Verdicts {
    /// As JSON, in a stable order.
    pub fn describe(&self) -> Value {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = all.iter().map(|((direction, destination), verdict)| {
            json!({
                "direction": direction.as_str(),
                "destination": destination.to_string(),
                "protocol": match verdict.protocol {
                    Some(HttpVersion::H1) => "http/1",
                    Some(HttpVersion::H2) => "http/2",
                    None => "opaque",
                },
                "found": verdict.found.as_str(),
            })
        });
        each.collect()
    }

    fn note(&self, key: Key, verdict: Verdict) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= DESTINATIONS && !all.contains_key(&key) {
            all.clear();
        }
        all.insert(key, verdict);
    }
}

impl Seen {
    /// For one worker.
    pub fn new(all: Verdicts) -> Self {
        let own = RefCell::default();
        Self { all, own }
    }

    /// Takes down what a connection to a destination speaks.
    pub fn note(&self, direction: Direction, destination: SocketAddr, verdict: Verdict) {
        let (mut own, key) = (self.own.borrow_mut(), (direction, destination));
        if own.get(&key) == Some(&verdict) {
            return;
        }
        if own.len() >= DESTINATIONS {
            own.clear();
        }
        own.insert(key, verdict);
        self.all.note(key, verdict);
    }
}

impl Found {
    fn as_str(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Peer => "peer",
            Self::ClientBytes => "client-bytes",
            Self::ServerFirst => "server-first",
            Self::NobodySpoke => "nobody-spoke",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H1: Verdict = Verdict {
        protocol: Some(HttpVersion::H1),
        found: Found::ClientBytes,
    };

    #[test]
    fn the_last_verdict_of_any_worker_counts() {
        let all = Verdicts::default();
        let (one, two) = (Seen::new(all.clone()), Seen::new(all.clone()));
        let to = "10.0.0.1:80".parse().unwrap();
        one.note(Direction::Outbound, to, H1);
        let opaque = Verdict {
            protocol: None,
            found: Found::ServerFirst,
        };
        two.note(Direction::Outbound, to, opaque);
        two.note(Direction::Inbound, to, H1);
        let want = json!([
            {"direction": "inbound", "destination": "10.0.0.1:80", "protocol": "http/1", "found": "client-bytes"},
            {"direction": "outbound", "destination": "10.0.0.1:80", "protocol": "opaque", "found": "server-first"},
        ]);
        assert_eq!(all.describe(), want);
    }

    #[test]
    fn destinations_without_end_are_not_remembered_without_end() {
        let all = Verdicts::default();
        let one = Seen::new(all.clone());
        for n in 0..3 * DESTINATIONS {
            let to = SocketAddr::from(([10, 0, (n / 256) as u8, (n % 256) as u8], 80));
            one.note(Direction::Outbound, to, H1);
        }
        assert!(all.0.lock().unwrap().len() <= DESTINATIONS && one.own.borrow().len() <= DESTINATIONS);
    }
}
