//! The data plane: one process beside each pod, through which all of the pod's TCP traffic goes.

pub mod config;
pub mod forward;
pub mod http;
pub mod io;
pub mod balance;
pub mod connect;
pub mod route;
pub mod detect;
pub mod mtls;
pub mod origin;
pub mod pool;
pub mod discover;
pub mod observe;
pub mod identity;
pub mod snapshot;
