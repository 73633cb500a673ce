//! Out: certificates and configuration, to proxies.
//!
//! | file | what happens there |
//! |---|---|
//! | [`listen`] | TLS: who calls, from where, until when |
//! | [`bundle`] | our own trust bundle, for anybody |
//! | [`identity`] | CSR and token in, certificate out |
//! | [`discovery`] | one stream per proxy: what it asks, what it is sent, what it acknowledges |
//! | [`desk`] | the thread that owns the hub; streams and admin talk to it by messages |
//! | [`hub`] | who is connected, what each needs, what of it changed (synchronous) |
//! | [`cache`] | everything subscribed to, compiled and encoded once |
//! | [`outbox`] | what one proxy has, and the one state that waits for it (pure) |
//! | [`wire`] | encoded resources, and the messages around them |
//! | [`ages`] | how old our objects are, to tell whether a proxy is ahead of us (pure) |
//! | [`rate`] | how often a caller may ask (pure) |

pub(crate) mod listen;

pub(crate) mod bundle;
pub(crate) mod discovery;
pub(crate) mod identity;
pub(crate) mod outcome;

pub(crate) mod desk;

pub(crate) mod hub;

pub(crate) mod cache;
pub(crate) mod outbox;
pub(crate) mod wire;

pub(crate) mod ages;
pub(crate) mod metrics;
pub(crate) mod rate;
pub(crate) mod tokens;
mod waits;

use tonic::metadata::MetadataValue;
use tonic::{Code, Extensions, Status};

use listen::Peer;

#[cfg(test)]
mod tests;

/// Who calls.
pub(crate) fn peer(extensions: &Extensions) -> Result<Peer, Status> {
    // The listener puts it there. Without it nobody can be told from anybody.
    extensions
        .get::<Peer>()
        .cloned()
        .ok_or_else(|| Status::internal("the connection is not known"))
}

/// A gRPC status with a stable word for its reason in the metadata.
pub(crate) fn status_of(code: Code, reason: &'static str, message: &str) -> Status {
    let mut status = Status::new(code, format!("{reason}: {message}"));
    status
        .metadata_mut()
        .insert("weft-reason", MetadataValue::from_static(reason));
    status
}
