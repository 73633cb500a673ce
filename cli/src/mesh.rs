//! Where answers come from: a mesh on this machine, or a cluster's. What is asked of either, and nothing about how it is shown.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;
use weft_control::explain::Heard;
use weft_local::api::Target;
use weft_local::client::Client;
use weft_local::cluster::system;
use weft_local::manifest::DEFAULT_NAMESPACE;

use crate::args::MeshPodArgs;
use crate::cluster::Cluster;
use crate::http;

/// Where the control plane tells.
pub(crate) const ADMIN: u16 = 15014;

/// A mesh.
pub(crate) enum Mesh {
    /// On this machine.
    Local(Client),
    /// On a cluster, by its API server.
    Cluster(Box<Cluster>),
}

/// What part of a mesh is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of it.
    All,
    /// A namespace.
    Namespace(String),
}

impl Scope {
    /// The namespace, if it is one.
    pub(crate) fn namespace(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Namespace(namespace) => Some(namespace),
        }
    }
}

impl Mesh {
    /// What part is meant by `-n` and `-A`. Without either it is all of a mesh on this machine, and of a cluster the namespace of
    /// the context, as with `kubectl`.
    pub(crate) fn scope(&self, namespace: Option<&str>, all: bool) -> Scope {
        match (namespace, all, self) {
            (_, true, _) | (None, false, Self::Local(_)) => Scope::All,
            (Some(namespace), false, _) => Scope::Namespace(namespace.to_owned()),
            (None, false, Self::Cluster(cluster)) => Scope::Namespace(cluster.namespace().to_owned()),
        }
    }

    /// The state of everything within a scope, at least, as `weft status -o json` prints it.
    pub(crate) async fn status(&self, scope: &Scope) -> Result<Value> {
        match self {
            Self::Local(client) => Ok(client.status().await?),
            Self::Cluster(cluster) => cluster.status(scope).await,
        }
    }

    /// What the control plane says, of which links to other clusters are told: `federation`, `peers` and `objects`, as in
    /// `weft status -o json`.
    pub(crate) async fn links(&self) -> Result<Value> {
        match self {
            Self::Local(client) => Ok(client.status().await?),
            Self::Cluster(cluster) => cluster.links().await,
        }
    }

    /// What the control plane has heard of other clusters, as far as it is of these namespaces.
    pub(crate) async fn heard(&self, namespaces: &BTreeSet<String>) -> Result<Vec<Heard>> {
        let namespaces: Vec<&str> = namespaces.iter().map(String::as_str).collect();
        let path = format!("/heard?namespaces={}", namespaces.join(","));
        let said = match self {
            Self::Local(_) => self
                .get(system::NAMESPACE, system::CONTROL, ADMIN, &path)
                .await
                .map(|text| serde_json::from_str(&text))?,
            Self::Cluster(cluster) => cluster.heard(&path).await.map(serde_json::from_value)?,
        };
        said.context("what the control plane says of other clusters can't be read")
    }

    /// Adds to `status` the pods beyond the scope that may have called into it: only the callers' proxies have counted that.
    pub(crate) async fn add_callers(&self, scope: &Scope, status: &mut Value) {
        // A mesh on this machine tells of all of its pods anyway.
        if let (Self::Cluster(cluster), Some(namespace)) = (self, scope.namespace()) {
            cluster.add_callers(namespace, status).await;
        }
    }

    /// The namespace that is meant where none is named.
    pub(crate) fn namespace<'a>(&'a self, named: Option<&'a str>) -> &'a str {
        match (named, self) {
            (Some(named), _) => named,
            (None, Self::Local(_)) => DEFAULT_NAMESPACE,
            (None, Self::Cluster(cluster)) => cluster.namespace(),
        }
    }

    /// What is said of a namespace that a cluster does not have at all. Of a mesh on this machine its lists say enough.
    pub(crate) async fn no_namespace(&self, name: &str) -> Option<String> {
        match self {
            Self::Local(_) => None,
            Self::Cluster(cluster) => cluster.no_namespace(name).await,
        }
    }

    /// The pod that is meant, and a container of it: the one that is named, else the one that this kind of mesh takes.
    pub(crate) async fn find(&self, meant: &MeshPodArgs, container: Option<&str>) -> Result<Target> {
        let target = self.target(meant, container);
        let (namespace, pod, container) = match self {
            Self::Local(client) => client.find(&target).await?,
            Self::Cluster(cluster) => cluster.find(&target).await?,
        };
        Ok(Target {
            namespace,
            pod,
            container: Some(container),
        })
    }

    /// What was typed.
    pub(crate) fn target(&self, meant: &MeshPodArgs, container: Option<&str>) -> Target {
        Target {
            namespace: self.namespace(meant.namespace.as_deref()).to_owned(),
            pod: meant.pod.clone(),
            container: container.map(str::to_owned),
        }
    }

    /// What the HTTP server at a port of a pod's loopback answers to `GET path`.
    pub(crate) async fn get(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<String> {
        match self {
            Self::Local(client) => {
                let target = Target {
                    namespace: namespace.to_owned(),
                    pod: pod.to_owned(),
                    container: None,
                };
                let stream = client.dial(&target, port).await;
                let stream = stream.with_context(|| format!("port {port} of {namespace}/{pod}"))?;
                http::get(stream, path, http::NEAR).await
            }
            Self::Cluster(cluster) => cluster.get(namespace, pod, port, path).await,
        }
    }
}
