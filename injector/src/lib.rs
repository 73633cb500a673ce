//! What makes a pod part of the mesh: the patch that adds the sidecar, and the rules that redirect its traffic.
//!
//! [`patch::inject`] and [`redirect::rules`] are pure, and the same for the admission webhook and for a local mesh. [`init`]
//! is what runs in a pod to put the rules in place.

pub mod annotations;
pub mod patch;
pub mod probes;
pub mod settings;
pub mod sidecar;

pub mod redirect;

pub mod init;
