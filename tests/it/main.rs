//! The end-to-end tests, one module per promise.

mod failures;
mod follow;
mod host;
mod impostor;
mod logs;
mod peers;
mod rotation;
mod routes;
mod sandbox;
mod telemetry;
mod wire;
mod workloads;
