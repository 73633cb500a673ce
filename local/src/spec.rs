//! What a pod is, once every manifest detail has been decided: the input of the runtime.
//!
//! In: a plan made by the cluster half (fields resolved, names of ports looked up, environment expanded). Out:
//! nothing but [`PodPlan::validate`], so that [`crate::runtime::Runtime`] never meets a plan it can't carry out.

mod validate;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The uid (and gid) of Weft's proxy; no application may run as it.
pub const PROXY_UID: u32 = 1882;
/// The uid (and gid) of containers that name none.
pub const APP_UID: u32 = 65532;

/// A pod, ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlan {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; names directories, so it must be a single path component.
    pub uid: String,
    /// What `hostname` says inside, and the name of the pod's own addresses in `/etc/hosts`.
    pub hostname: String,
    /// The same with its domain, where the pod has a `subdomain`: the first name in `/etc/hosts`.
    pub full_name: Option<String>,
    /// The contents of `/etc/resolv.conf`.
    pub dns: Dns,
    /// More lines for `/etc/hosts` (`hostAliases`).
    pub host_aliases: Vec<(IpAddr, Vec<String>)>,
    /// Run one after the other, before [`PodPlan::containers`]; those with [`ContainerPlan::sidecar`] stay.
    pub init_containers: Vec<ContainerPlan>,
    /// The main containers; at least one.
    pub containers: Vec<ContainerPlan>,
    /// What [`Mount::volume`] names.
    pub volumes: Vec<Volume>,
    /// What happens when a main container ends.
    pub restart_policy: RestartPolicy,
    /// From SIGTERM to SIGKILL, for the pod as a whole.
    pub grace: Duration,
    /// Group that owns the writable volumes, and a supplementary group of every container.
    pub fs_group: Option<u32>,
}

/// `/etc/resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns {
    /// Asked in this order.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options, as they stand in the file (`ndots:5`).
    pub options: Vec<String>,
}

/// What happens when a main container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// It is started again, whatever its exit code.
    #[default]
    Always,
    /// It is started again unless its exit code was 0.
    OnFailure,
    /// It stays as it is.
    Never,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPlan {
    /// Unique in the pod, init containers included.
    pub name: String,
    /// An init container with `restartPolicy: Always`: a native sidecar. Meaningless for main containers.
    pub sidecar: bool,
    /// `command` and `args`, expanded; the first is looked up in PATH.
    pub command: Vec<String>,
    /// The environment, expanded; later pairs win. PATH, HOME and HOSTNAME have defaults.
    pub env: Vec<(String, String)>,
    /// Where it starts; `/` by default.
    pub working_dir: Option<PathBuf>,
    /// What is mounted where.
    pub mounts: Vec<Mount>,
    /// Gates liveness and readiness until it has succeeded once.
    pub startup: Option<Probe>,
    /// Gates the pod's readiness.
    pub readiness: Option<Probe>,
    /// Restarts the container when it fails.
    pub liveness: Option<Probe>,
    /// Runs beside the command when it has been started; before it has ended well, the container has not started.
    pub post_start: Option<Hook>,
    /// Runs before the command is asked to end; its time is part of the grace period.
    pub pre_stop: Option<Hook>,
    /// `runAsUser`; [`APP_UID`] by default.
    pub user: Option<u32>,
    /// `runAsGroup`; by default the primary group of the user's passwd entry, else a gid equal to the uid.
    pub group: Option<u32>,
    /// `supplementalGroups`.
    pub groups: Vec<u32>,
    /// `readOnlyRootFilesystem`: nothing but volumes, `/tmp`, `/run` and `/dev/shm` can be written.
    pub read_only_root: bool,
    /// Whether the container is Weft's own, and what it may then do.
    pub privilege: Privilege,
}

/// Whose container it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Privilege {
    /// The user's: no capability, `no_new_privs`, never as [`PROXY_UID`].
    #[default]
    App,
    /// Weft's own, added by the injector: may run as [`PROXY_UID`] and holds these capabilities (also in the ambient
    /// set, so that they survive the change of uid).
    Weft(Vec<Capability>),
}

/// Capabilities that one of Weft's own containers may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Capability {
    /// To edit the redirect rules.
    NetAdmin,
    /// To set the packet mark, and what iptables needs.
    NetRaw,
}

/// A named volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// What [`Mount::volume`] refers to.
    pub name: String,
    /// Its contents.
    pub source: VolumeSource,
}

/// What a volume holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// Starts empty, lives as long as the pod.
    EmptyDir {
        /// `medium: Memory`: a tmpfs of its own.
        memory: bool,
        /// `sizeLimit` in bytes; enforced for memory only, where it defaults to 256 MiB.
        size_limit: Option<u64>,
    },
    /// A directory that outlives the pod: the next pod of the same namespace with the same claim finds it as it was left.
    Claim {
        /// The claim's name; a single path component.
        name: String,
    },
    /// Files given by value (configMap, secret, projected, downwardAPI), always read-only for the containers, replaced
    /// all at once by [`crate::pod::PodHandle::update_volume`].
    Files {
        /// The files.
        files: Vec<FileEntry>,
        /// Their owner; root by default.
        owner: Option<u32>,
    },
    /// A directory of the supervisor's side, bind-mounted (not recursively) at [`Mount::path`]: what the control plane
    /// reads and keeps (the user's manifests, `objects/`, `control/`). Only for containers with [`Privilege::Weft`];
    /// `path` may lie under one of [`crate::runtime::Settings::masks`], so it is bound before the masks are laid.
    Bind {
        /// The directory, absolute.
        path: PathBuf,
    },
}

/// A file of a [`VolumeSource::Files`].
#[derive(Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Relative to the volume; may have directories in it, but neither `..` nor a root, and may not begin with `..`.
    pub path: PathBuf,
    /// Permission bits, such as 0o644.
    pub mode: u32,
    /// Contents.
    pub bytes: Vec<u8>,
}

/// Contents may be secret: only their length is shown.
impl std::fmt::Debug for FileEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "FileEntry({} {:o}, {} bytes)",
            self.path.display(),
            self.mode,
            self.bytes.len()
        )
    }
}

/// `volumeMounts[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The volume's name.
    pub volume: String,
    /// Absolute; made if the host has no such directory (in the container's view only).
    pub path: PathBuf,
    /// `subPath`: a file or directory of the volume. As in Kubernetes, it doesn't follow updates.
    pub sub_path: Option<PathBuf>,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// A probe with its timing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub action: ProbeAction,
    /// From the container's start to the first attempt.
    pub initial_delay: Duration,
    /// From attempt to attempt; not zero.
    pub period: Duration,
    /// For one attempt; not zero.
    pub timeout: Duration,
    /// Successes in a row that make it good; not zero, and 1 for startup and liveness.
    pub success_threshold: u32,
    /// Failures in a row that make it bad; not zero.
    pub failure_threshold: u32,
    /// Grace period after a failed startup or liveness probe, instead of the pod's.
    pub grace: Option<Duration>,
}

impl Probe {
    /// A probe with Kubernetes' defaults: every 10 s, 1 s patience, one success, three failures.
    pub fn new(action: ProbeAction) -> Self {
        Self {
            action,
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            success_threshold: 1,
            failure_threshold: 3,
            grace: None,
        }
    }
}

/// What a probe does. Network probes come from the node's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeAction {
    /// A GET; 200 to 399 is success, redirects to another host are not followed.
    Http {
        /// Where; the pod's address by default.
        host: Option<String>,
        /// Port, resolved.
        port: u16,
        /// Path and query.
        path: String,
        /// `scheme: HTTPS`; the certificate isn't verified, as in Kubernetes.
        https: bool,
        /// More headers; a `Host` here replaces the default.
        headers: Vec<(String, String)>,
    },
    /// A connection that is accepted.
    Tcp {
        /// Where; the pod's address by default.
        host: Option<String>,
        /// Port, resolved.
        port: u16,
    },
    /// A call of gRPC's health protocol at the pod's address; `SERVING` is success.
    Grpc {
        /// Port.
        port: u16,
        /// Whom it is asked about; empty: the server as a whole.
        service: String,
    },
    /// A command inside the container; exit code 0 is success.
    Exec {
        /// The command; the first is looked up in PATH.
        command: Vec<String>,
    },
}

/// A lifecycle hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// A GET; 200 to 399 is success.
    Http {
        /// Where; the pod itself by default, which is asked from within.
        host: Option<String>,
        /// Port, resolved.
        port: u16,
        /// Path and query.
        path: String,
        /// `scheme: HTTPS`; the certificate isn't verified, as in Kubernetes.
        https: bool,
        /// More headers; a `Host` here replaces the default.
        headers: Vec<(String, String)>,
    },
    /// A command inside the container; exit code 0 is success.
    Exec {
        /// The command; the first is looked up in PATH.
        command: Vec<String>,
    },
    /// Waiting.
    Sleep(Duration),
}

/// Why a plan can't be carried out: the field, as Kubernetes writes it, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pod {namespace}/{name}: {field}: {message}")]
pub struct SpecError {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// Such as `spec.containers[web].volumeMounts[2].mountPath`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl PodPlan {
    /// All containers, init containers first, as Kubernetes starts them.
    pub fn all_containers(&self) -> impl Iterator<Item = &ContainerPlan> {
        self.init_containers.iter().chain(&self.containers)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pod with one container that runs `command`.
    pub(crate) fn pod(name: &str, command: &[&str]) -> PodPlan {
        PodPlan {
            namespace: "default".into(),
            name: name.into(),
            uid: format!("uid-{name}"),
            hostname: name.into(),
            full_name: None,
            dns: Dns::default(),
            host_aliases: Vec::new(),
            init_containers: Vec::new(),
            containers: vec![container("main", command)],
            volumes: Vec::new(),
            restart_policy: RestartPolicy::Always,
            grace: Duration::from_secs(30),
            fs_group: None,
        }
    }

    /// A container that runs `command`.
    pub(crate) fn container(name: &str, command: &[&str]) -> ContainerPlan {
        ContainerPlan {
            name: name.into(),
            sidecar: false,
            command: command.iter().map(|&word| word.to_owned()).collect(),
            env: Vec::new(),
            working_dir: None,
            mounts: Vec::new(),
            startup: None,
            readiness: None,
            liveness: None,
            post_start: None,
            pre_stop: None,
            user: None,
            group: None,
            groups: Vec::new(),
            read_only_root: false,
            privilege: Privilege::App,
        }
    }
}
