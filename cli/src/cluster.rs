//! A cluster, asked by its API server alone: nothing in it needs to be reachable from here.
//!
//! | file | what happens there |
//! |---|---|
//! | [`way`] | the kubeconfig: which cluster, and as whom |
//! | [`api`] | requests to the API server, each with a deadline and a bound |
//! | [`find`], [`log`] | a pod by what people type, and what it prints |
//! | [`forward`] | a port of a pod's loopback, by port-forward |
//! | [`control`] | the replicas of the control plane, and what they say together |
//! | [`reach`] | where other clusters reach this one |
//! | [`pods`], [`services`] | what runs, in the words of `weft status` (pure) |
//! | [`report`] | all of it |
//! | [`objects`] | what the control plane reads, for questions that are answered here |

use anyhow::{Result, bail};
use serde_json::Value;
use weft_control::objects::near::near;

pub(crate) mod api;
mod control;
mod find;
mod forward;
mod log;
mod objects;
mod pods;
pub(crate) mod reach;
mod report;
mod services;
mod way;

use api::{Answer, Api};
pub(crate) use log::{Log, LogAsk};
pub(crate) use objects::Knowledge;
pub(crate) use way::Way;

/// A cluster, and what is meant in it.
pub(crate) struct Cluster {
    api: Api,
    /// What people call it: the context.
    context: String,
    /// The namespace of the context.
    namespace: String,
    /// Weft's own.
    control_namespace: String,
}

impl Cluster {
    /// The namespace that is meant where none is named.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Requests to its API server.
    pub(crate) fn api(&self) -> &Api {
        &self.api
    }

    /// What is said of a namespace that is not there. `None`: it is, or who asks may not know.
    pub(crate) async fn no_namespace(&self, name: &str) -> Option<String> {
        let path = NAMESPACES.within(None);
        // Whatever else is wrong is told of what is asked for.
        let Ok(Answer::Missing) = self.api.get(&format!("{path}/{name}")).await else {
            return None;
        };
        let all = self.api.list(&path).await;
        let names = all.iter().filter_map(Answer::object).flat_map(pods::list);
        let near = near(name, names.map(|namespace| pods::word(&namespace["metadata"]["name"])));
        let context = &self.context;
        Some(match near {
            Some(near) => {
                format!("the cluster of the context {context} has no namespace {name} (did you mean {near}?)")
            }
            None => format!("the cluster of the context {context} has no namespace {name}"),
        })
    }

    /// That a namespace is there, as far as who asks may know.
    ///
    /// # Errors
    /// It is not.
    pub(crate) async fn expect_namespace(&self, name: &str) -> Result<()> {
        match self.no_namespace(name).await {
            Some(said) => bail!(said),
            None => Ok(()),
        }
    }

    /// All objects of a kind in a namespace, or in all of them. `path`: `/api/v1/pods`.
    ///
    /// # Errors
    /// They may not be listed, or there is no such kind.
    async fn list(&self, path: &Path<'_>, namespace: Option<&str>) -> Result<Vec<Value>> {
        match self.api.list(&path.within(namespace)).await? {
            Answer::Is(Value::Array(items)) => Ok(items),
            Answer::Is(_) => bail!("the API server's list of {} is none", path.plural),
            Answer::Missing => bail!("the API server has no {}", path.plural),
            Answer::Forbidden(why) => bail!("{why} (fix: {})", path.role(namespace)),
        }
    }
}

/// Where the objects of a kind are.
#[derive(Clone, Copy, Debug)]
struct Path<'a> {
    /// `/api/v1`, `/apis/batch/v1`.
    root: &'a str,
    /// `pods`.
    plural: &'a str,
}

const PODS: Path<'_> = Path::core("pods");
const SERVICES: Path<'_> = Path::core("services");
const NODES: Path<'_> = Path::core("nodes");
const NAMESPACES: Path<'_> = Path::core("namespaces");
const JOBS: Path<'_> = Path {
    root: "/apis/batch/v1",
    plural: "jobs",
};

impl<'a> Path<'a> {
    /// Of the API's core.
    const fn core(plural: &'a str) -> Self {
        Self {
            root: "/api/v1",
            plural,
        }
    }

    fn within(&self, namespace: Option<&str>) -> String {
        let Self { root, plural } = self;
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
            None => format!("{root}/{plural}"),
        }
    }

    /// What allows to list them.
    fn role(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) => format!("a Role in {namespace} that allows `list` on {}", self.plural),
            None => format!("a ClusterRole that allows `list` on {}", self.plural),
        }
    }
}
