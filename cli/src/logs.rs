//! `weft logs`.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use weft_local::logs::{Reader, file};

use crate::args::LogsArgs;
use crate::target::{client, target};

/// Prints what a container printed.
pub(crate) async fn main(args: LogsArgs) -> Result<ExitCode> {
    let client = client(&args.pod.mesh);
    let (namespace, pod, container) = client.find(&target(&args.pod, args.container)).await?;
    let path = file(&client.state().logs(), &namespace, &pod, &container);
    let opened = Reader::open(&path, args.tail, args.timestamps);
    let mut reader =
        opened.with_context(|| format!("container {container} of {namespace}/{pod} has printed nothing yet"))?;
    let mut stdout = io::stdout();
    loop {
        let bytes = reader.next().context("reading the log")?;
        if bytes.is_empty() {
            break;
        }
        if stdout.write_all(&bytes).is_err() {
            return Ok(ExitCode::SUCCESS); // whoever reads has enough
        }
    }
    if args.follow {
        follow(&mut reader).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what comes, until whoever reads has enough.
async fn follow(reader: &mut Reader) -> Result<()> {
    let mut stdout = io::stdout();
    loop {
        let bytes = reader.follow().await.context("reading the log")?;
        if stdout.write_all(&bytes).and_then(|()| stdout.flush()).is_err() {
            return Ok(());
        }
    }
}
