//! A cluster on one machine: pods as network namespaces and processes, from Kubernetes manifests.
//!
//! The runtime half knows pods, containers and networks, and nothing of Kubernetes' objects: [`sandbox`] (the room
//! around a mesh), [`net`], [`spec`] (what a pod is), [`runtime`] and [`pod`] (what runs), [`logs`]. Every program that
//! uses it calls [`stage::main`] first thing in its `main`, because the runtime re-executes that program.

pub mod logs;
pub mod net;
pub mod pod;
pub mod runtime;
pub mod sandbox;
pub mod spec;
pub mod stage;

mod container;
mod mounts;
mod probe;
mod relay;
mod volumes;

// The cluster half: API server, controllers and kubelet of a mesh.
pub mod manifest;
pub mod plan;
pub mod slices;

pub mod dns;
pub mod objects;
pub mod services;
pub mod token;

pub mod cluster;

pub mod api;
pub mod client;
pub mod state;
pub mod up;
