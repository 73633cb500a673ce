//! How a running mesh is asked: a unix socket in its state directory, for its owner only.
//!
//! In: an [`Ask`] per connection. Out: [`Answer`]s. Input and output of a command, its terminal, and a connection into a
//! pod travel as descriptors, so no byte of theirs passes through the mesh's supervisor.

use std::fs;
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use weft_daemon::drain::Tasks;

use crate::cluster::system::System;
use crate::cluster::{Found, Handle};
use crate::logs;
use crate::pod::{ExecPlan, ExecStdio, PodHandle};

mod control;
pub mod wire;

pub(crate) use control::imports;
pub use control::text as problem_text;
use wire::Wire;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// The state of everything. Answered with [`Answer::Status`].
    Status,
    /// The user's routes and policies in the form that acts. Answered with [`Answer::Acting`].
    Acting,
    /// Which pod and container is meant. Answered with [`Answer::Found`].
    Find(Target),
    /// Which pod and container is meant, and when it prints nothing any more. Answered with [`Answer::Found`] at once,
    /// and with [`Answer::Over`] once the container has ended for good, or its pod.
    Follow(Target),
    /// Run a command. With [`Ask::Exec::terminal`] none, standard input, output and error come as descriptors. Answered
    /// with [`Answer::Started`] or [`Answer::Terminal`], then [`Answer::Exit`]. Closing the connection kills the command.
    Exec {
        /// Where.
        target: Target,
        /// The command.
        command: Vec<String>,
        /// Added to the environment.
        env: Vec<(String, String)>,
        /// Rows and columns of a terminal, if it is to run in one.
        terminal: Option<(u16, u16)>,
    },
    /// A connection to a port from within a pod. Answered with [`Answer::Dialled`] and a descriptor.
    Dial(Target, u16),
    /// End the mesh. Answered with [`Answer::Ending`].
    Down,
}

/// A container of a pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// The namespace.
    pub namespace: String,
    /// The pod: its name, the beginning of it, or `deploy/NAME`.
    pub pod: String,
    /// The container; the first main container by default.
    pub container: Option<String>,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// As `weft status -o json` prints it.
    Status(Value),
    /// Objects; one that is refused now in its last good form.
    Acting(Vec<Value>),
    /// The pod and container that are meant.
    Found {
        /// The namespace.
        namespace: String,
        /// The pod's whole name.
        pod: String,
        /// The container.
        container: String,
    },
    /// All that the container ever prints is in its log; why, for people.
    Over(String),
    /// The command runs.
    Started,
    /// The command runs in a terminal, whose other end comes as a descriptor.
    Terminal,
    /// The command ended: exit code.
    Exit(i32),
    /// Connected; the connection comes as a descriptor.
    Dialled,
    /// The mesh is ending.
    Ending,
    /// It can't be done; for people.
    Refused(String),
}

/// Conversations at once. Each is a person or a test.
const SLOTS: usize = 256;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// What serves the socket.
pub struct Server {
    /// The cluster.
    pub cluster: Handle,
    /// Said beside the cluster's state: name, trust domain, directories.
    pub about: Value,
    /// Where the control plane is asked.
    pub control: PathBuf,
    /// For the names of files.
    pub system: Arc<System>,
    /// Told when the mesh is to end.
    pub down: Arc<Notify>,
}

impl Server {
    /// Listens on `path`, in place of what an earlier mesh left there.
    ///
    /// # Errors
    /// It can't be listened on.
    pub fn listen(self, path: &Path, tasks: &Tasks) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let (server, tasks, slots) = (Arc::new(self), tasks.named("api"), Arc::new(Semaphore::new(SLOTS)));
        let each = tasks.clone();
        tasks.spawn(async move {
            loop {
                let Ok(slot) = slots.clone().acquire_owned().await else {
                    return;
                };
                let Ok((stream, _)) = listener.accept().await else {
                    // Out of descriptors, at worst: the others need time to close theirs.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let server = server.clone();
                each.spawn(async move {
                    if let Err(error) = server.converse(stream).await {
                        tracing::debug!(%error, "a conversation on the mesh's socket");
                    }
                    drop(slot);
                });
            }
        });
        Ok(())
    }

    async fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let mut wire = Wire::new(stream);
        let Some((ask, fds)) = timeout(PATIENCE, wire.receive::<Ask>()).await?? else {
            return Ok(());
        };
        match ask {
            Ask::Status => wire.send(&Answer::Status(self.status().await), &[]).await,
            Ask::Acting => wire.send(&Answer::Acting(self.cluster.acting().await), &[]).await,
            Ask::Find(target) => {
                let answer = match self.find(&target).await {
                    Ok((found, container)) => Answer::Found {
                        namespace: found.key.namespace,
                        pod: found.key.name,
                        container,
                    },
                    Err(why) => Answer::Refused(why),
                };
                wire.send(&answer, &[]).await
            }
            Ask::Follow(target) => self.follow(&mut wire, &target).await,
            Ask::Exec {
                target,
                command,
                env,
                terminal,
            } => {
                let stdio = stdio(terminal, fds);
                self.exec(&mut wire, &target, command, env, stdio).await
            }
            Ask::Dial(target, port) => self.dial(&mut wire, &target, port).await,
            Ask::Down => {
                wire.send(&Answer::Ending, &[]).await?;
                self.down.notify_one();
                Ok(())
            }
        }
    }

    async fn status(&self) -> Value {
        let cluster = self.cluster.status().await.unwrap_or_default();
        let control = control::ask(&self.control).await;
        control::merge(&self.about, cluster, control, &self.system)
    }

    /// The pod, and which of its containers is meant.
    async fn find(&self, target: &Target) -> Result<(Found, String), String> {
        let found = self.cluster.find(&target.namespace, &target.pod).await?;
        let container = match &target.container {
            Some(name) if found.containers.contains(name) => name.clone(),
            Some(name) => {
                return Err(format!(
                    "pod {} has no container {name:?}; it has {}",
                    found.key,
                    found.containers.join(", ")
                ));
            }
            None => found.containers.first().cloned().unwrap_or_default(),
        };
        Ok((found, container))
    }

    async fn running(&self, target: &Target) -> Result<(PodHandle, String), String> {
        let (found, container) = self.find(target).await?;
        let handle = found
            .handle
            .ok_or_else(|| format!("pod {} has not started; see weft status", found.key))?;
        Ok((handle, container))
    }

    async fn follow(&self, wire: &mut Wire, target: &Target) -> io::Result<()> {
        let (pod, container) = match self.running(target).await {
            Ok(running) => running,
            Err(why) => return wire.send(&Answer::Refused(why), &[]).await,
        };
        let (namespace, name) = (pod.plan().namespace.clone(), pod.plan().name.clone());
        let key = format!("{namespace}/{name}");
        let over = logs::end(pod.status(), &key, &container);
        let found = Answer::Found {
            namespace,
            pod: name,
            container: container.clone(),
        };
        wire.send(&found, &[]).await?;
        tokio::select! {
            why = over => wire.send(&Answer::Over(why), &[]).await,
            () = wire.closed() => Ok(()),
        }
    }

    async fn exec(
        &self,
        wire: &mut Wire,
        target: &Target,
        command: Vec<String>,
        env: Vec<(String, String)>,
        stdio: ExecStdio,
    ) -> io::Result<()> {
        let started = match self.running(target).await {
            Ok((handle, container)) => {
                let plan = ExecPlan {
                    container: Some(container),
                    command,
                    env,
                    stdio,
                };
                handle
                    .exec(plan)
                    .await
                    .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
            }
            Err(why) => Err(why),
        };
        let mut exec = match started {
            Ok(exec) => exec,
            Err(why) => return wire.send(&Answer::Refused(why), &[]).await,
        };
        match exec.terminal.take() {
            Some(terminal) => wire.send(&Answer::Terminal, &[terminal.as_fd()]).await?,
            None => wire.send(&Answer::Started, &[]).await?,
        }
        let code = tokio::select! {
            biased; // the exit code is worth more than the knowledge that nobody waits for it
            code = exec.wait() => code,
            () = wire.closed() => return Ok(()),
        };
        wire.send(&Answer::Exit(code), &[]).await
    }

    async fn dial(&self, wire: &mut Wire, target: &Target, port: u16) -> io::Result<()> {
        let dialled = match self.running(target).await {
            Ok((handle, _)) => match timeout(PATIENCE, handle.dial(port)).await {
                Ok(dialled) => dialled
                    .and_then(tokio::net::TcpStream::into_std)
                    .map_err(|error| error.to_string()),
                Err(_) => Err("no answer".to_owned()),
            },
            Err(why) => Err(why),
        };
        match dialled {
            Ok(stream) => {
                let stream: StdTcpStream = stream;
                wire.send(&Answer::Dialled, &[stream.as_fd()]).await
            }
            Err(why) => {
                wire.send(&Answer::Refused(format!("port {port} of {}: {why}", target.pod)), &[])
                    .await
            }
        }
    }
}

fn stdio(terminal: Option<(u16, u16)>, fds: Vec<OwnedFd>) -> ExecStdio {
    if let Some((rows, columns)) = terminal {
        return ExecStdio::Terminal { rows, columns };
    }
    let mut fds = fds.into_iter();
    ExecStdio::Fds {
        stdin: fds.next(),
        stdout: fds.next(),
        stderr: fds.next(),
    }
}
