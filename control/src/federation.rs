//! Services that clusters share: what several exports of one come to, and the objects that an import becomes (pure).
//!
//! In: what each cluster says of its own Service ([`exported`]). Out: one ServiceImport, what each exporter is told
//! ([`merge`](mod@merge)), the Services through which it is called ([`derived`]), and what is behind those for clients outside
//! the mesh (`slices`), as KEP-1645 has them.
//!
//! It is joined in two places: by the link to a peer, which says [`exported`] there and merges what comes from it, and by the
//! replica that leads, which applies what is derived beside the statuses that it writes.

pub mod derived;
pub mod exported;
pub mod merge;
pub(crate) mod said;
pub(crate) mod slices;
