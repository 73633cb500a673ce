//! Forward: moves what was let through to where it was decided to go.
//!
//! [`exchange`] moves HTTP requests and responses; [`tcp`] moves bytes.

// Peers choose the bytes here: nothing may depend on where they end.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used)
)]

pub mod exchange;
pub mod tcp;
