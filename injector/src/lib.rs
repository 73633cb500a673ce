//! What makes a pod part of the mesh: the patch that adds the sidecar, and the rules that redirect its traffic.
//!
//! [`patch::inject`] and [`redirect::rules`] are pure, and the same for the admission webhook, for `weft inject` and for a
//! local mesh. [`webhook`] serves the API server; [`init`] is what runs in a pod to put the rules in place.

pub mod annotations;
pub mod settings;

pub mod patch;
pub mod probes;
pub mod security;
pub mod sidecar;
mod tuned;

pub mod review;

pub mod webhook;

pub mod redirect;

pub mod init;
