//! Exit codes, the same for every role.

/// It worked.
pub const OK: u8 = 0;
/// It failed.
pub const FAILURE: u8 = 1;
/// The command line or a setting is wrong (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// The input is wrong: a manifest, say (`EX_DATAERR`).
pub const DATA: u8 = 65;
/// What was waited for did not come in time (`EX_TEMPFAIL`).
pub const TIMEOUT: u8 = 75;
/// A check has findings.
pub const FINDINGS: u8 = 79;
