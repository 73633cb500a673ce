//! The container runtime: plans in, running pods out.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::container::plan::Accounts;
use crate::ids::Ids;
use crate::net::PodNet;
use crate::pod::{self, PodHandle};
use crate::spec::{PodPlan, SpecError};
use crate::volumes;

/// What all pods of a mesh share.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Logs go to `<logs>/<namespace>/<pod>/<container>.log`.
    pub logs: PathBuf,
    /// Where emptyDir volumes lie (`<volumes>/<pod uid>/<name>`); emptied at the start.
    pub volumes: PathBuf,
    /// Directories that containers see empty: the state directory of this mesh and of all others.
    pub masks: Vec<PathBuf>,
    /// How long a container that ends again and again waits.
    pub backoff: Backoff,
}

/// The wait before a container is started again: none the first time, then `first`, doubling up to `most`; forgotten
/// when it ran for `reset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Before the second restart.
    pub first: Duration,
    /// Before any restart.
    pub most: Duration,
    /// A run that lasted this long was a good one.
    pub reset: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            most: Duration::from_secs(300),
            reset: Duration::from_secs(600),
        }
    }
}

/// Starts pods. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    accounts: Accounts,
}

impl Runtime {
    /// Prepares the directories of `settings`. Needs to run inside a sandbox.
    ///
    /// # Errors
    /// A directory could not be made or emptied, or this machine's users could not be read.
    pub fn new(settings: Settings) -> Result<Self, RuntimeError> {
        let step = |step: String| move |source| RuntimeError::Step { step, source };
        // What an earlier run left behind; memory went with it.
        let emptied = volumes::remove_all(&settings.volumes);
        emptied.map_err(step(format!("emptying {}", settings.volumes.display())))?;
        for dir in [&settings.volumes, &settings.logs] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(step(format!("making {}", dir.display())))?;
        }
        let read = |path: &str| fs::read_to_string(path).map_err(step(format!("reading {path}")));
        let accounts = Accounts {
            passwd: read("/etc/passwd")?,
            group: read("/etc/group")?,
            ids: Ids::here().map_err(step("reading which users there are".to_owned()))?,
        };
        Ok(Self {
            shared: Arc::new(Shared { settings, accounts }),
        })
    }

    /// Starts a pod in `net`, and returns as soon as its volumes are there; the rest shows in
    /// [`PodHandle::status`]. The pod goes on when the handle is dropped; only [`PodHandle::stop`] ends it.
    ///
    /// # Errors
    /// The plan is invalid, or a volume could not be made.
    pub async fn start(&self, plan: PodPlan, net: PodNet) -> Result<PodHandle, RuntimeError> {
        plan.validate()?;
        self.shared.accounts.ids.check(&plan)?;
        let name = format!("{}/{}", plan.namespace, plan.name);
        let shared = Arc::clone(&self.shared);
        let made = tokio::task::spawn_blocking(move || pod::start(plan, net, &shared.settings, &shared.accounts)).await;
        let (handle, task) = made
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| RuntimeError::Step {
                step: format!("pod {name}: preparing it"),
                source,
            })?;
        tokio::spawn(task);
        Ok(handle)
    }
}

/// Why a pod did not start, or an order to it failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The plan can't be carried out.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The pod has no such volume of files.
    #[error("pod {pod} has no volume {volume:?} made of files")]
    NoVolume {
        /// namespace/name.
        pod: String,
        /// The name asked for.
        volume: String,
    },
    /// The pod has no such container.
    #[error("pod {pod} has no container {container:?}; it has {known}")]
    NoContainer {
        /// namespace/name.
        pod: String,
        /// The name asked for.
        container: String,
        /// The names it has.
        known: String,
    },
    /// The container is not running.
    #[error("container {container} of pod {pod} is not running")]
    NotRunning {
        /// namespace/name.
        pod: String,
        /// The container.
        container: String,
    },
    /// The machine refused a step.
    #[error("{step}")]
    Step {
        /// What was tried.
        step: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}
