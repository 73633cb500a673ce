//! Observe: spans to the collector.
