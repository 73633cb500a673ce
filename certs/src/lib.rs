//! Keys, certificates and trust.
//!
//! Everything that the mesh's mutual TLS rests on, in the order in which a certificate comes to be and is used:
//!
//! | module | what it does |
//! |---|---|
//! | [`key`] | key pairs: made here, never logged, wiped when dropped |
//! | [`csr`] | requests: only their key is ever taken |
//! | [`authority`] | issues leaves: the identity comes from the caller, never from the request |
//! | [`bundle`] | trust bundles by trust domain: never merged, never going back |
//! | [`spiffe`] | a bundle as a JWK Set, as SPIFFE bundle endpoints serve it |
//! | [`verify`] | who is on the other side: the chain against the bundle of its own trust domain, and one SPIFFE ID |
//! | [`credential`] | a leaf, its key and the bundles, as TLS configurations |
//! | [`store`] | a credential on a tmpfs, so that a restart needs no control plane |
//! | [`renew`] | when to renew: pure |
//! | [`token`] | service-account tokens bound to a pod |
//!
//! Clock and randomness of decisions are parameters. The only I/O is that of [`authority`] and [`store`], on a directory
//! that the caller names.

pub mod authority;
pub mod bundle;
pub mod credential;
pub mod csr;
mod file;
pub mod key;
pub mod renew;
mod seen;
pub mod spiffe;
pub mod store;
pub mod token;
pub mod verify;

#[cfg(test)]
mod testing;
