//! The control plane of Weft: Kubernetes objects in, streams of resources out.
//!
//! | room | what happens there |
//! |---|---|
//! | [`objects`] | Kubernetes objects, typed views of them, problems |
//! | [`manifests`] | directories of files, read and watched |
//! | [`index`] | objects by what they mean for each other (pure) |
//! | [`compile`] | index in, resources out (pure) |

pub mod objects;

pub mod manifests;

pub mod index;

pub mod compile;
