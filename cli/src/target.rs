//! Which mesh a command is about: one on this machine, or a cluster's.
//!
//! In: what was typed, variables, and what there is. Out: a [`Mesh`]. The order: `--context` and `--kubeconfig` mean a cluster;
//! `--name`, else `WEFT_MESH`, means a mesh on this machine; as a plugin of `kubectl` it is a cluster; else the mesh on this
//! machine that has the default name, if it runs; else the cluster of the kubeconfig's current context. What was found and not
//! named is told in one line.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use weft_local::api::Target;
use weft_local::client::{Client, ClientError};
use weft_local::state::StateDir;
use weft_local::up::DEFAULT_MESH;

use crate::args::{self, MeshArgs, PodArgs};
use crate::called;
use crate::cluster::{Cluster, Way};
use crate::mesh::Mesh;

/// Which mesh.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TargetArgs {
    /// A mesh on this machine, by its name. [env: WEFT_MESH]
    #[arg(long, value_name = "NAME", value_parser = args::mesh_name, conflicts_with_all = ["context", "kubeconfig"])]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) way: WayArgs,
    /// Weft's own namespace on the cluster.
    #[arg(long, value_name = "NAMESPACE", default_value = "weft-system", value_parser = crate::install::namespace)]
    pub(crate) control_namespace: String,
}

/// Which cluster.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct WayArgs {
    /// A cluster, by the context of the kubeconfig that leads to it.
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// The kubeconfig. [env: KUBECONFIG] [default: ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

impl WayArgs {
    /// Whether a cluster was named.
    pub(crate) fn is_given(&self) -> bool {
        self.context.is_some() || self.kubeconfig.is_some()
    }
}

/// What decides.
#[derive(Clone, Copy, Debug, Default)]
struct Asked<'a> {
    /// `--context` or `--kubeconfig` was given.
    cluster: bool,
    /// `--name`.
    name: Option<&'a str>,
    /// `WEFT_MESH`.
    variable: Option<&'a str>,
    /// Called as a plugin of `kubectl`.
    plugin: bool,
    /// `KUBECONFIG` is set.
    kubeconfig: bool,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    /// A mesh on this machine.
    Local(String),
    /// A cluster's.
    Cluster,
}

/// Decides. `current`: the kubeconfig's current context, asked only where it matters. The line to tell, if there is one.
fn choose<E>(
    asked: Asked<'_>,
    is_running: impl FnOnce(&str) -> bool,
    current: impl FnOnce() -> Result<Option<String>, E>,
) -> (Choice, Option<String>) {
    let local = |name: &str| (Choice::Local(name.to_owned()), None);
    match asked {
        Asked { cluster: true, .. } => return (Choice::Cluster, None),
        Asked { name: Some(name), .. } => return local(name),
        Asked { plugin: true, .. } => return (Choice::Cluster, None),
        Asked {
            variable: Some(name), ..
        } => return local(name),
        _ => {}
    }
    match (is_running(DEFAULT_MESH), current()) {
        (true, Ok(Some(context))) => (
            Choice::Local(DEFAULT_MESH.to_owned()),
            Some(format!(
                "asking the mesh {DEFAULT_MESH:?} on this machine; a cluster by --context {context}"
            )),
        ),
        // Who has set the variable means a cluster, and knows which.
        (false, Ok(Some(_))) if asked.kubeconfig => (Choice::Cluster, None),
        (false, Ok(Some(context))) => (
            Choice::Cluster,
            Some(format!(
                "no mesh {DEFAULT_MESH:?} runs on this machine: asking the cluster of the context {context}"
            )),
        ),
        // What was meant stands in a kubeconfig that can't be read: asking for it says why.
        (false, Err(_)) => (Choice::Cluster, None),
        // Nothing else could have been meant.
        (true, Err(_)) | (_, Ok(None)) => local(DEFAULT_MESH),
    }
}

/// The mesh on this machine that `WEFT_MESH` names.
fn variable() -> Result<Option<String>> {
    match std::env::var("WEFT_MESH") {
        Ok(name) if !name.is_empty() => args::mesh_name(&name)
            .map(Some)
            .map_err(|why| anyhow::anyhow!("WEFT_MESH: {why}")),
        _ => Ok(None),
    }
}

/// What a mesh of manifests alone is called: as it would be if it ran on this machine.
pub(crate) fn name(args: &TargetArgs) -> Result<String> {
    let named = args.name.clone().map_or_else(variable, |name| Ok(Some(name)))?;
    Ok(named.unwrap_or_else(|| DEFAULT_MESH.to_owned()))
}

/// The mesh that is meant. Says on standard error which one it took, where it could have been another.
pub(crate) async fn mesh(args: &TargetArgs) -> Result<Mesh> {
    let variable = variable()?;
    let asked = Asked {
        cluster: args.way.is_given(),
        name: args.name.as_deref(),
        variable: variable.as_deref(),
        plugin: called::as_plugin(),
        kubeconfig: std::env::var_os("KUBECONFIG").is_some_and(|list| !list.is_empty()),
    };
    let way = Way::new(&args.way);
    let (choice, line) = choose(asked, is_running, || way.as_ref().map(Way::current));
    if let Some(line) = line {
        // Who has closed standard error does not want to know.
        let _ = writeln!(io::stderr(), "weft: {line}");
    }
    match choice {
        Choice::Local(name) => Ok(Mesh::Local(local(&name))),
        Choice::Cluster => {
            let cluster = way.context("the kubeconfig")?.connect(&args.control_namespace).await?;
            Ok(Mesh::Cluster(Box::new(cluster)))
        }
    }
}

/// The cluster that is meant, where only one can be.
pub(crate) async fn cluster(args: &WayArgs, control_namespace: &str) -> Result<Cluster> {
    Way::new(args)
        .context("the kubeconfig")?
        .connect(control_namespace)
        .await
}

/// Whether a cluster is meant where files could be enough.
pub(crate) fn means_cluster(way: &WayArgs) -> bool {
    way.is_given() || called::as_plugin()
}

/// Whether a mesh of this name runs here, be it another user's.
fn is_running(name: &str) -> bool {
    let state = StateDir::of(name, |variable| std::env::var_os(variable));
    match UnixStream::connect(state.socket()) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

fn local(name: &str) -> Client {
    Client::new(name, StateDir::of(name, |variable| std::env::var_os(variable)))
}

/// Runs a verb that is for meshes on this machine. Who has none, but a cluster, is told `how` it is done there.
pub(crate) async fn on_machine<T>(work: impl Future<Output = Result<T>>, how: &str) -> Result<T> {
    work.await.map_err(|error| {
        let current = Way::new(&WayArgs::default()).ok().and_then(|way| way.current());
        with_how(error, current.as_deref(), how)
    })
}

fn with_how(error: anyhow::Error, context: Option<&str>, how: &str) -> anyhow::Error {
    match (error.downcast_ref(), context) {
        (Some(ClientError::NotRunning { .. }), Some(context)) => {
            anyhow::anyhow!("{error:#}; on a cluster, such as that of the context {context}, it is done by {how}")
        }
        _ => error,
    }
}

/// How to ask a mesh on this machine.
pub(crate) fn client(mesh: &MeshArgs) -> Client {
    local(&mesh.name)
}

/// Which container is meant.
pub(crate) fn target(pod: &PodArgs, container: Option<String>) -> Target {
    Target {
        namespace: pod.namespace.clone(),
        pod: pod.pod.clone(),
        container,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(asked: Asked<'_>, running: bool, current: Option<&str>, want: Choice, told: bool) {
        let (choice, line) = choose(asked, |_| running, || Ok::<_, ()>(current.map(str::to_owned)));
        assert_eq!(
            (choice, line.is_some()),
            (want, told),
            "{asked:?} {running} {current:?}: {line:?}"
        );
    }

    fn named(name: &str) -> Choice {
        Choice::Local(name.to_owned())
    }

    #[test]
    fn a_cluster_that_is_named_is_asked_whatever_runs_here() {
        let asked = Asked {
            cluster: true,
            variable: Some("shop"),
            ..Asked::default()
        };
        check(asked, true, Some("prod"), Choice::Cluster, false);
        check(asked, false, None, Choice::Cluster, false);
    }

    #[test]
    fn a_mesh_that_is_named_is_asked_whether_it_runs_or_not() {
        let by_flag = Asked {
            name: Some("shop"),
            plugin: true,
            ..Asked::default()
        };
        check(by_flag, false, Some("prod"), named("shop"), false);
        let by_variable = Asked {
            variable: Some("shop"),
            ..Asked::default()
        };
        check(by_variable, false, Some("prod"), named("shop"), false);
        let flag_first = Asked {
            name: Some("a"),
            variable: Some("b"),
            ..Asked::default()
        };
        check(flag_first, true, None, named("a"), false);
    }

    #[test]
    fn without_a_name_it_is_what_runs_here_and_then_the_current_context_and_that_is_told() {
        check(Asked::default(), true, Some("prod"), named(DEFAULT_MESH), true);
        check(Asked::default(), false, Some("prod"), Choice::Cluster, true);
        check(Asked::default(), true, None, named(DEFAULT_MESH), false);
        check(Asked::default(), false, None, named(DEFAULT_MESH), false);
    }

    #[test]
    fn a_kubeconfig_of_the_variable_needs_no_word_unless_a_mesh_runs_here() {
        let asked = Asked {
            kubeconfig: true,
            ..Asked::default()
        };
        check(asked, false, Some("prod"), Choice::Cluster, false);
        check(asked, true, Some("prod"), named(DEFAULT_MESH), true);
        check(asked, false, None, named(DEFAULT_MESH), false);
    }

    #[test]
    fn a_kubeconfig_that_cannot_be_read_is_told_where_nothing_else_was_meant() {
        let (name, unread) = (Some("shop"), || Err::<Option<String>, _>("no YAML"));
        let (choice, line) = choose(Asked::default(), |_| false, unread);
        assert_eq!((choice, line), (Choice::Cluster, None));
        let (choice, _) = choose(Asked::default(), |_| true, unread);
        assert_eq!(choice, named(DEFAULT_MESH));
        let asked = Asked {
            name,
            ..Asked::default()
        };
        assert_eq!(choose(asked, |_| false, unread).0, named("shop"));
    }

    #[test]
    fn who_has_only_a_cluster_is_told_how_it_is_done_there() {
        let said = |context, error: ClientError| format!("{:#}", with_how(error.into(), context, "kubectl exec"));
        let not_running = || ClientError::NotRunning {
            mesh: DEFAULT_MESH.to_owned(),
            running: Vec::new(),
        };
        let told = said(Some("prod"), not_running());
        assert!(
            told.contains("weft up") && told.ends_with("the context prod, it is done by kubectl exec"),
            "{told}"
        );
        assert!(!said(None, not_running()).contains("kubectl"));
        assert!(!said(Some("prod"), ClientError::Ended).contains("kubectl"));
    }

    #[test]
    fn a_plugin_of_kubectl_is_for_clusters() {
        let plugin = Asked {
            plugin: true,
            variable: Some("shop"),
            ..Asked::default()
        };
        check(plugin, true, Some("prod"), Choice::Cluster, false);
        check(plugin, true, None, Choice::Cluster, false);
    }
}
