//! The data plane: one process beside each pod, through which all of the pod's TCP traffic goes.

pub mod config;
pub mod forward;
pub mod http;
pub mod io;
