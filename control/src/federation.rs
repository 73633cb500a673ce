//! Services that clusters share: what several exports of one come to (pure).
//!
//! In: what each cluster says of its own Service ([`exported`]). Out: one ServiceImport, and what each exporter is told
//! ([`merge`](mod@merge)), as KEP-1645 has them. The link to a peer joins both: it says what is exported, and merges what comes.

pub mod exported;
pub mod merge;
