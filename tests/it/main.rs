//! The end-to-end tests, one module per promise.

mod failures;
mod host;
mod peers;
mod routes;
mod sandbox;
mod telemetry;
mod wire;
