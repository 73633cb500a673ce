//! The end-to-end tests, one module per promise.

mod access_log;
mod failures;
mod follow;
mod host;
mod impostor;
mod interop;
mod logs;
mod peers;
mod rotation;
mod routes;
mod sandbox;
mod telemetry;
mod websocket;
mod wire;
