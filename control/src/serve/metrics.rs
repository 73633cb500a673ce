//! All metrics of the control plane that are counted where things happen. What the hub knows is added on scrape.

use std::sync::atomic::{AtomicU64, Ordering};

use super::outcome::Outcome;

/// Counters: plain adds, summed on scrape.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    issuances: [AtomicU64; Outcome::ALL.len()],
    tolerated_addresses: AtomicU64,
    turned_away: [AtomicU64; Turned::ALL.len()],
    streams_ended: [AtomicU64; Ended::ALL.len()],
    /// Batches sent.
    pub(crate) batches: AtomicU64,
    /// Resources sent.
    pub(crate) resources: AtomicU64,
    /// Bytes of resources sent.
    pub(crate) bytes: AtomicU64,
    /// Batches acknowledged.
    pub(crate) acknowledgements: AtomicU64,
    /// Resources that a proxy would not take.
    pub(crate) refusals: AtomicU64,
    /// Destinations over a proxy's limit.
    pub(crate) targets_left_out: AtomicU64,
}

/// Why a connection was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// There are too many from its address.
    Address,
    /// The handshake failed.
    Handshake,
    /// The handshake took too long.
    Timeout,
}

/// Why a discovery stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The proxy went away.
    Closed,
    /// The caller may not have it.
    Refused,
    /// There was no room for what callers said before they were let in.
    Crowded,
    /// The proxy broke the protocol.
    Broken,
    /// The proxy did not acknowledge in time.
    Stalled,
    /// The proxy's certificate is over.
    Expired,
    /// Another stream of the same pod came.
    Replaced,
    /// The control plane is ending.
    Draining,
}

impl Turned {
    pub(crate) const ALL: [Self; 3] = [Self::Address, Self::Handshake, Self::Timeout];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Address => "address-limit",
            Self::Handshake => "handshake",
            Self::Timeout => "timeout",
        }
    }
}

impl Ended {
    pub(crate) const ALL: [Self; 8] = [
        Self::Closed,
        Self::Refused,
        Self::Crowded,
        Self::Broken,
        Self::Stalled,
        Self::Expired,
        Self::Replaced,
        Self::Draining,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Refused => "refused",
            Self::Crowded => "crowded",
            Self::Broken => "protocol",
            Self::Stalled => "stalled",
            Self::Expired => "certificate-over",
            Self::Replaced => "replaced",
            Self::Draining => "draining",
        }
    }
}

impl Metrics {
    pub(crate) fn issuance(&self, outcome: Outcome) {
        add(&self.issuances[outcome as usize], 1);
    }

    pub(crate) fn tolerated_address(&self) {
        add(&self.tolerated_addresses, 1);
    }

    pub(crate) fn turned_away(&self, why: Turned) {
        add(&self.turned_away[why as usize], 1);
    }

    pub(crate) fn stream_ended(&self, why: Ended) {
        add(&self.streams_ended[why as usize], 1);
    }

    /// Writes what was counted.
    pub(crate) fn write(&self, text: &mut weft_daemon::prometheus::Text) {
        text.counter("weft_control_issuances_total", "Requests for certificates, by result.");
        for (outcome, count) in Outcome::ALL.iter().zip(&self.issuances) {
            text.sample(&[("result", outcome.word())], read(count));
        }
        text.counter(
            "weft_control_connections_turned_away_total",
            "Connections that did not come to a call, by reason.",
        );
        for (why, count) in Turned::ALL.iter().zip(&self.turned_away) {
            text.sample(&[("reason", why.word())], read(count));
        }
        text.counter(
            "weft_control_streams_ended_total",
            "Discovery streams that ended, by reason.",
        );
        for (why, count) in Ended::ALL.iter().zip(&self.streams_ended) {
            text.sample(&[("reason", why.word())], read(count));
        }
        for (name, help, count) in [
            (
                "weft_control_addresses_tolerated_total",
                "Certificates issued and streams opened although the caller's address was not its pod's (--address-check warn).",
                &self.tolerated_addresses,
            ),
            (
                "weft_control_batches_sent_total",
                "Batches sent to proxies.",
                &self.batches,
            ),
            (
                "weft_control_resources_sent_total",
                "Resources sent to proxies.",
                &self.resources,
            ),
            (
                "weft_control_resources_sent_bytes_total",
                "Bytes of resources sent to proxies.",
                &self.bytes,
            ),
            (
                "weft_control_acknowledgements_total",
                "Batches that proxies acknowledged.",
                &self.acknowledgements,
            ),
            (
                "weft_control_resources_refused_total",
                "Resources that a proxy would not take.",
                &self.refusals,
            ),
            (
                "weft_control_subscriptions_left_out_total",
                "Destinations that a proxy asked for over its limit.",
                &self.targets_left_out,
            ),
        ] {
            text.counter(name, help).sample(&[], read(count));
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_has_its_own_counter() {
        for (n, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, n);
        }
        for (n, why) in Turned::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, n);
        }
        for (n, why) in Ended::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, n);
        }
    }
}
