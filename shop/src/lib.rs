//! A small shop: `web` asks `reviews` over HTTP, which asks `ratings` over gRPC; `visitor` calls them.
//!
//! The apps know nothing of any mesh. They do what well-behaved apps do: pass the trace context on, answer on `/healthz`,
//! end on SIGTERM.

use std::ffi::OsString;
use std::process::ExitCode;

mod app;
pub mod ratings;
pub mod reviews;
pub mod visitor;
pub mod web;

/// The gRPC service of `ratings`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated from shop.proto"
)]
pub(crate) mod rpc {
    tonic::include_proto!("shop");
}

/// The programs by name.
pub const PROGRAMS: [&str; 4] = ["web", "reviews", "ratings", "visitor"];

/// Runs the program of this name, if there is one. `args` begin with the name.
pub fn run(name: &str, args: Vec<OsString>) -> Option<ExitCode> {
    match name {
        "web" => Some(web::main(args)),
        "reviews" => Some(reviews::main(args)),
        "ratings" => Some(ratings::main(args)),
        "visitor" => Some(visitor::main(args)),
        _ => None,
    }
}
