//! Forward: moves what was let through to where it was decided to go.
//!
//! [`exchange`] moves HTTP requests and responses; [`tcp`] moves bytes.

pub mod exchange;
pub mod tcp;
