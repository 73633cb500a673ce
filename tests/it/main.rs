//! The end-to-end tests, one module per promise.

mod access_log;
mod clusters;
mod conformance;
mod cost;
mod failures;
mod follow;
mod host;
mod impostor;
mod interop;
mod jaeger;
mod logs;
mod patience;
mod peers;
mod policies;
mod rootless;
mod rotation;
mod routes;
mod sandbox;
mod streams;
mod telemetry;
mod undeclared;
mod validate;
mod verbs;
mod websocket;
mod wire;
mod workloads;
