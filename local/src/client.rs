//! Asks a running mesh: what the people's tool and the tests do.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

use crate::api::wire::Wire;
use crate::api::{Answer, Ask, Target};
use crate::state::StateDir;
use crate::up::DEFAULT_MESH;

/// A running mesh, as seen from outside.
#[derive(Clone, Debug)]
pub struct Client {
    mesh: String,
    state: StateDir,
}

/// Why a mesh did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is none.
    #[error("no mesh named {mesh:?} is running here; {}", instead(.mesh, .running))]
    NotRunning {
        /// Its name.
        mesh: String,
        /// The names of those that are.
        running: Vec<String>,
    },
    /// It said no, and why.
    #[error("{0}")]
    Refused(String),
    /// It went away meanwhile.
    #[error("the mesh ended meanwhile")]
    Ended,
    /// It belongs to somebody else.
    #[error("the mesh {0:?} belongs to another user; run this as that user (a mesh of root: with sudo)")]
    NotYours(String),
    /// The socket failed.
    #[error("asking the mesh")]
    Io(#[from] io::Error),
    /// It did not end in time.
    #[error("the mesh is still ending after {0:?}")]
    StillEnding(Duration),
}

/// A command that runs in a container.
#[derive(Debug)]
pub struct Running {
    wire: Wire,
    /// The terminal that it runs in.
    pub terminal: Option<OwnedFd>,
}

/// A container whose log is followed. Dropping it ends the conversation.
#[derive(Debug)]
pub struct Followed {
    wire: Wire,
    /// The namespace.
    pub namespace: String,
    /// The pod's whole name.
    pub pod: String,
    /// The container.
    pub container: String,
}

/// Meshes that are named where another was asked for.
const MOST_NAMED: usize = 12;

/// The meshes that answer, of those whose state lies in this directory.
fn running(base: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let answers = std::os::unix::net::UnixStream::connect(StateDir::within(base, &name).socket()).is_ok();
        answers.then_some(name)
    });
    let mut names: Vec<String> = names.take(MOST_NAMED).collect();
    names.sort();
    names
}

/// What to do where a mesh is not running.
fn instead(mesh: &str, running: &[String]) -> String {
    match running {
        [] if mesh == DEFAULT_MESH => "start it with: weft up -f DIR".to_owned(),
        [] => format!("start it with: weft up --name {mesh} -f DIR"),
        [only] => format!("{only:?} is: take --name {only}"),
        several => format!("these are: {}; take one of them with --name NAME", several.join(", ")),
    }
}

/// How long `weft down` waits.
const DOWN_PATIENCE: Duration = Duration::from_secs(30);

impl Client {
    /// A mesh by name and state directory. Nothing is asked yet.
    pub fn new(mesh: &str, state: StateDir) -> Self {
        Self {
            mesh: mesh.to_owned(),
            state,
        }
    }

    /// Where the mesh keeps its state.
    pub fn state(&self) -> &StateDir {
        &self.state
    }

    async fn ask(&self, ask: &Ask, fds: &[BorrowedFd<'_>]) -> Result<Wire, ClientError> {
        let stream = UnixStream::connect(self.state.socket())
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning {
                    mesh: self.mesh.clone(),
                    running: running(self.state.base()),
                },
                io::ErrorKind::PermissionDenied => ClientError::NotYours(self.mesh.clone()),
                _ => ClientError::Io(error),
            })?;
        let mut wire = Wire::new(stream);
        wire.send(ask, fds).await?;
        Ok(wire)
    }

    /// The user's routes and policies in the form that acts: where one is refused now, its last good form.
    ///
    /// # Errors
    /// The mesh is not running.
    pub async fn acting(&self) -> Result<Vec<Value>, ClientError> {
        let mut wire = self.ask(&Ask::Acting, &[]).await?;
        match answer(&mut wire).await?.0 {
            Answer::Acting(objects) => Ok(objects),
            _ => Err(ClientError::Ended),
        }
    }

    /// The state of everything, as `weft status -o json` prints it.
    ///
    /// # Errors
    /// The mesh is not running.
    pub async fn status(&self) -> Result<Value, ClientError> {
        let mut wire = self.ask(&Ask::Status, &[]).await?;
        match answer(&mut wire).await?.0 {
            Answer::Status(status) => Ok(status),
            _ => Err(ClientError::Ended),
        }
    }

    /// The pod and container that are meant: namespace, pod, container.
    ///
    /// # Errors
    /// There is none, or several.
    pub async fn find(&self, target: &Target) -> Result<(String, String, String), ClientError> {
        let mut wire = self.ask(&Ask::Find(target.clone()), &[]).await?;
        match answer(&mut wire).await?.0 {
            Answer::Found {
                namespace,
                pod,
                container,
            } => Ok((namespace, pod, container)),
            _ => Err(ClientError::Ended),
        }
    }

    /// The pod and container that are meant, for as long as they may print something.
    ///
    /// # Errors
    /// There is none, or several, or it has not started.
    pub async fn follow(&self, target: &Target) -> Result<Followed, ClientError> {
        let mut wire = self.ask(&Ask::Follow(target.clone()), &[]).await?;
        match answer(&mut wire).await?.0 {
            Answer::Found {
                namespace,
                pod,
                container,
            } => Ok(Followed {
                wire,
                namespace,
                pod,
                container,
            }),
            _ => Err(ClientError::Ended),
        }
    }

    /// Runs a command in a container, with these descriptors as standard input, output and error.
    ///
    /// # Errors
    /// There is no such container, or it is not running.
    pub async fn exec(
        &self,
        target: &Target,
        command: &[String],
        stdio: [BorrowedFd<'_>; 3],
    ) -> Result<Running, ClientError> {
        let ask = Ask::Exec {
            target: target.clone(),
            command: command.to_vec(),
            env: vec![],
            terminal: None,
        };
        let mut wire = self.ask(&ask, &stdio).await?;
        answer(&mut wire).await?;
        Ok(Running { wire, terminal: None })
    }

    /// Runs a command in a terminal of its own.
    ///
    /// # Errors
    /// There is no such container, or it is not running.
    pub async fn exec_in_terminal(
        &self,
        target: &Target,
        command: &[String],
        size: (u16, u16),
        env: Vec<(String, String)>,
    ) -> Result<Running, ClientError> {
        let ask = Ask::Exec {
            target: target.clone(),
            command: command.to_vec(),
            env,
            terminal: Some(size),
        };
        let mut wire = self.ask(&ask, &[]).await?;
        let (_, fds) = answer(&mut wire).await?;
        Ok(Running {
            wire,
            terminal: fds.into_iter().next(),
        })
    }

    /// Connects to a port from within a pod.
    ///
    /// # Errors
    /// There is no such pod, or nothing listens there.
    pub async fn dial(&self, target: &Target, port: u16) -> Result<TcpStream, ClientError> {
        let mut wire = self.ask(&Ask::Dial(target.clone(), port), &[]).await?;
        let (_, fds) = answer(&mut wire).await?;
        let fd = fds.into_iter().next().ok_or(ClientError::Ended)?;
        let stream = std::net::TcpStream::from(fd);
        stream.set_nonblocking(true)?;
        Ok(TcpStream::from_std(stream)?)
    }

    /// Ends the mesh, and waits until it has ended.
    ///
    /// # Errors
    /// It is not running, or does not end in time.
    pub async fn down(&self) -> Result<(), ClientError> {
        let mut wire = self.ask(&Ask::Down, &[]).await?;
        answer(&mut wire).await?;
        let ended = async {
            while self.is_held()? {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        match tokio::time::timeout(DOWN_PATIENCE, ended).await {
            Ok(ended) => ended,
            Err(_) => Err(ClientError::StillEnding(DOWN_PATIENCE)),
        }
    }

    /// Whether a mesh of this name runs.
    fn is_held(&self) -> Result<bool, ClientError> {
        match File::open(self.state.lock()) {
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => Ok(false),
                Err(TryLockError::WouldBlock) => Ok(true),
                Err(TryLockError::Error(error)) => Err(error.into()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Running {
    /// Waits for the end: the exit code. Cancel safe: dropping it kills the command.
    ///
    /// # Errors
    /// The mesh ended.
    pub async fn wait(&mut self) -> Result<i32, ClientError> {
        match answer(&mut self.wire).await?.0 {
            Answer::Exit(code) => Ok(code),
            _ => Err(ClientError::Ended),
        }
    }
}

impl Followed {
    /// Waits until all that the container ever prints is in its log: why, for people. That the mesh has ended, however it
    /// did, is one reason. Not cancel safe.
    pub async fn over(&mut self) -> String {
        match answer(&mut self.wire).await {
            Ok((Answer::Over(why), _)) => why,
            Ok(_) | Err(_) => "the mesh has ended".to_owned(),
        }
    }
}

async fn answer(wire: &mut Wire) -> Result<(Answer, Vec<OwnedFd>), ClientError> {
    match wire.receive().await? {
        Some((Answer::Refused(why), _)) => Err(ClientError::Refused(why)),
        Some(answer) => Ok(answer),
        None => Err(ClientError::Ended),
    }
}
