//! A cluster on one machine: pods as network namespaces and processes, from Kubernetes manifests.
//!
//! The runtime half knows pods, containers and networks, and nothing of Kubernetes' objects: [`sandbox`] (the room
//! around a mesh), [`net`], [`spec`] (what a pod is), [`runtime`] and [`pod`] (what runs), [`logs`]. Every program that
//! uses it calls [`stage::main`] first thing in its `main`, because the runtime re-executes that program.
//!
//! The cluster half plays API server, controllers and kubelet: [`manifest`] (what the user's files ask for), [`cluster`]
//! (one task that compares what there is with what there is to be), the pure [`plan`] and [`slices`], what it publishes
//! ([`objects`] for the control plane, [`dns`], [`services`]), [`token`]s; [`up`] puts a mesh together, [`api`] and
//! [`client`] are how it is asked, [`state`] is what it keeps.

pub mod logs;
pub mod net;
pub mod pod;
pub mod runtime;
pub mod sandbox;
pub mod spec;
pub mod stage;

mod container;
mod ids;
mod iptables;
mod mounts;
mod probe;
mod relay;
mod volumes;

pub mod manifest;
pub mod plan;
pub mod slices;

pub mod dns;
pub mod objects;
pub mod services;
pub mod token;

pub mod cluster;
pub mod find;
pub mod source;

pub mod api;
pub mod client;
pub mod state;
pub mod up;
