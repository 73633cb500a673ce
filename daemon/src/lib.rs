//! What Weft's long-running processes share: start, be watched, end.
//!
//! | module | what it gives |
//! |---|---|
//! | [`settings`] | how durations and lists are written in flags and `WEFT_*` variables |
//! | [`addresses`] | how many connections each address has |
//! | [`listen`] | TCP listeners for both families |
//! | [`log`] | events to stderr, as text or JSON, switchable at run time, never waited for |
//! | [`admin`] | a small HTTP server on TCP and unix sockets, for people, probes and scrapers |
//! | [`prometheus`] | the text that scrapers read |
//! | [`ready`] | named gates: what is still missing before the process is ready |
//! | [`drain`] | tasks with names, that end gently or by force |
//! | [`signal`] | SIGTERM or SIGINT once: gently; twice: now |
//! | [`mod@file`] | replacing a file so that readers see the old one or the new one |
//! | [`exit`] | exit codes |

pub mod exit;
pub mod settings;

pub mod addresses;
pub mod admin;
pub mod listen;
pub mod log;
pub mod prometheus;
pub mod ready;

pub mod drain;
pub mod signal;

pub mod file;
