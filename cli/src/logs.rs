//! `weft logs`.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::pin::pin;
use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weft_local::api::Target;
use weft_local::client::{Client, Followed};
use weft_local::logs::{Reader, file};

use crate::args::LogsArgs;
use crate::cluster::{Log, LogAsk};
use crate::mesh::Mesh;
use crate::target;

/// Prints what a container printed, and with `-f` what it prints until it has ended for good, or its pod, or the mesh.
pub(crate) async fn main(args: LogsArgs) -> Result<ExitCode> {
    let mesh = target::mesh(&args.pod.target).await?;
    match &mesh {
        Mesh::Local(client) => of_local(client, &mesh.target(&args.pod, args.container.as_deref()), &args).await?,
        Mesh::Cluster(cluster) => {
            let target = mesh.find(&args.pod, args.container.as_deref()).await?;
            let ask = LogAsk {
                follow: args.follow,
                tail: args.tail,
                timestamps: args.timestamps,
            };
            of_cluster(cluster.log(&target, ask).await?).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn of_local(client: &Client, target: &Target, args: &LogsArgs) -> Result<()> {
    let (found, followed) = if args.follow {
        let followed = client.follow(target).await?;
        let found = (
            followed.namespace.clone(),
            followed.pod.clone(),
            followed.container.clone(),
        );
        (found, Some(followed))
    } else {
        (client.find(target).await?, None)
    };
    let (namespace, pod, container) = found;
    let path = file(&client.state().logs(), &namespace, &pod, &container);
    let opened = Reader::open(&path, args.tail, args.timestamps);
    let mut reader =
        opened.with_context(|| format!("container {container} of {namespace}/{pod} has printed nothing yet"))?;
    match followed {
        None => drop(print_all(&mut reader)?),
        Some(followed) => follow(&mut reader, followed).await?,
    }
    Ok(())
}

/// Prints to the end of the log, or until whoever reads has enough.
async fn of_cluster(mut log: Log) -> Result<()> {
    let mut nobody_reads = pin!(nobody_reads());
    loop {
        let bytes = tokio::select! {
            biased; // as below
            () = &mut nobody_reads => return Ok(()),
            bytes = log.next() => bytes.context("reading the log")?,
        };
        if bytes.is_empty() || print(&bytes) == Audience::Gone {
            return Ok(());
        }
    }
}

/// Whether somebody reads what is printed here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Audience {
    There,
    Gone,
}

/// Prints all that is there now.
fn print_all(reader: &mut Reader) -> Result<Audience> {
    loop {
        let bytes = reader.next().context("reading the log")?;
        if bytes.is_empty() {
            return Ok(Audience::There);
        }
        if print(&bytes) == Audience::Gone {
            return Ok(Audience::Gone);
        }
    }
}

fn print(bytes: &[u8]) -> Audience {
    let mut stdout = io::stdout();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Audience::There,
        Err(_) => Audience::Gone,
    }
}

/// Prints what is there and what comes, to the end of the log or until whoever reads has enough.
async fn follow(reader: &mut Reader, mut followed: Followed) -> Result<()> {
    let mut over = pin!(followed.over());
    let mut nobody_reads = pin!(nobody_reads());
    let why = loop {
        tokio::select! {
            biased; // a container that prints a lot must not keep the end from being seen
            () = &mut nobody_reads => return Ok(()),
            why = &mut over => break why,
            bytes = reader.follow() => if print(&bytes.context("reading the log")?) == Audience::Gone {
                return Ok(());
            },
        }
    };
    if print_all(reader)? == Audience::There {
        // Who has closed standard error does not want to know.
        let _ = writeln!(io::stderr(), "weft: {why}");
    }
    Ok(())
}

/// Resolves when whoever read standard output (`head`, a pager) has gone, also while nothing is printed.
async fn nobody_reads() {
    let watch = || {
        let stdout = io::stdout();
        // Errors and hang-ups are always told; files have none of them, and this waits as long as the process lives.
        let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                polled => return polled,
            }
        }
    };
    if !matches!(tokio::task::spawn_blocking(watch).await, Ok(Ok(_))) {
        // It can't be known: the next line that can't be written says it.
        std::future::pending().await
    }
}
