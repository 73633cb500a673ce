//! End-to-end tests: the harness.
//!
//! A test is a story about a mesh: it writes manifests into a directory, starts `weft up` on it, edits, kills, calls, and
//! looks at what `weft status`, the pods and the wire say. Everything is real: the `weft` binary (`WEFT_BIN`), network
//! namespaces, iptables, TLS, and peers from Debian's packages. Without root, or without a peer, a test fails and says so.

pub mod capture;
pub mod clusters;
pub mod collector;
pub mod diff;
pub mod edits;
pub mod foreign;
pub mod golang;
pub mod host;
pub mod kube;
pub mod load;
pub mod mesh;
pub mod processes;
pub mod programs;
pub mod quota;
pub mod reviews;
pub mod shop;
pub mod user;
pub mod websocket;

pub use clusters::Clusters;
pub use foreign::Foreign;
pub use mesh::{Background, Mesh, MeshBuilder, Tally};
pub use user::User;
