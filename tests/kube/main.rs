//! The tests on a real Kubernetes cluster, one module per promise.

mod cli;
mod cluster;
mod control;
mod federation;
mod identity;
mod images;
mod imports;
mod injection;
mod install;
mod installed;
mod leaves;
mod lifecycle;
mod mesh;
mod services;
mod source;
mod status;
