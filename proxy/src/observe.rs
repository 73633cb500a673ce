//! Observe: what the proxy tells the operator.

pub mod access;
pub mod export;
pub mod metrics;
pub mod trace;
pub mod verdicts;
