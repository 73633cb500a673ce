//! How traffic to a Service is spread over its endpoints, and how much retries may add to it.

use std::time::Duration;

use crate::locality::Locality;

/// What a Service's policies say of the traffic to it, whichever route it comes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Which places are preferred.
    pub locality: Locality,
    /// How an endpoint is chosen within a place.
    pub balance: Balance,
    /// How much retries may add.
    pub retry_budget: RetryBudget,
}

/// How an endpoint is chosen among those that are equally near.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Balance {
    /// Of two at random the one that costs less: its latency's peak-EWMA times what is in flight there.
    #[default]
    PeakEwma,
    /// Of two at random the one with fewer requests in flight.
    LeastRequest,
    /// One after the other. Each worker of each proxy has its own turn.
    RoundRobin,
    /// Any.
    Random,
}

/// How much retries may add to a Service's load (GEP-3388), as one client's proxy counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// The share of the requests of `interval` that may be retries, from 0 to 100.
    pub percent: u32,
    /// The time that is looked back on.
    pub interval: Duration,
    /// So many are allowed in each `min_interval` whatever the share says.
    pub min_retries: u32,
    /// See `min_retries`.
    pub min_interval: Duration,
}

impl Default for RetryBudget {
    /// GEP-3388: a fifth of the requests of ten seconds, and ten in each second.
    fn default() -> Self {
        Self {
            percent: 20,
            interval: Duration::from_secs(10),
            min_retries: 10,
            min_interval: Duration::from_secs(1),
        }
    }
}

impl Balance {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::PeakEwma, Self::LeastRequest, Self::RoundRobin, Self::Random];

    /// As a TrafficPolicy writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PeakEwma => "PeakEwma",
            Self::LeastRequest => "LeastRequest",
            Self::RoundRobin => "RoundRobin",
            Self::Random => "Random",
        }
    }
}
