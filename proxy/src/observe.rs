//! Observe: what the proxy tells the operator.

pub mod export;
pub mod metrics;
pub mod trace;
