//! A whole control plane in this process, on loopback, with real certificates, and real gRPC clients against it.

mod bundles;
mod certificates;
mod federation;
mod mesh;
mod streams;
mod told;
