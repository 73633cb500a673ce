//! The wire between the control plane and the proxies, and between control planes: the generated messages, and one file per noun that takes the wire
//! to the model and back. All validation of received configuration happens here, once; errors name the field.

/// `weft.discovery.v1`: routes, endpoints, inbound configuration, trust bundles.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated from discovery.proto, which is documented"
)]
pub mod discovery {
    tonic::include_proto!("weft.discovery.v1");
}

/// `weft.identity.v1`: certificates.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated from identity.proto, which is documented"
)]
pub mod identity {
    tonic::include_proto!("weft.identity.v1");
}

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated from federation.proto, which is documented; it finds what it imports beside its own package"
)]
mod weft {
    pub mod discovery {
        pub use crate::discovery as v1;
    }
    pub mod federation {
        pub mod v1 {
            tonic::include_proto!("weft.federation.v1");
        }
    }
}

/// `weft.federation.v1`: what clusters export to each other.
pub use weft::federation::v1 as federation;

pub mod codec;
pub mod parts;
pub mod resource;
