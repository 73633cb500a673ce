//! The benchmark: what the mesh costs, measured beside a direct connection and beside a peer, in one run.
//!
//! A real mesh (`weft up`) carries three pairs of pods, a client and a server each: one without sidecars, one with
//! Weft's, one with the peer's. The same load goes through each in turn; what a sidecar used is read from the kernel's
//! account of its process. Follow [`run`]: [`build`] the binaries, [`lab`] the mesh, [`measure`] one figure after the
//! other, [`table`] the medians.
//!
//! | file | subject |
//! |---|---|
//! | [`build`] | the binary that is shipped, and no other |
//! | [`lab`] | a mesh with pods, and commands in them |
//! | [`pairs`] | what is compared: direct, Weft, Envoy |
//! | [`envoy`] | Envoy in the shape of a sidecar pair |
//! | [`account`] | the kernel's account of a process |
//! | [`load`] | the load that wrk and h2load don't make |
//! | [`measure`] | the figures |
//! | [`second`] | another proxy in a pod, started by hand: to time its start, or under valgrind |
//! | [`clusters`] | what it costs that clusters share Services |
//! | [`count`] | instructions and allocations per request |
//! | [`table`] | medians, ranges, ratios |

pub mod account;
pub mod build;
pub mod clusters;
pub mod count;
pub mod envoy;
pub mod lab;
pub mod load;
pub mod measure;
pub mod pairs;
pub mod run;
pub mod second;
pub mod table;
