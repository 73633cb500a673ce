//! `weft down`.

use std::process::ExitCode;

use crate::args::DownArgs;
use crate::target::client;

/// Ends a mesh and waits for its end.
pub(crate) async fn main(args: DownArgs) -> anyhow::Result<ExitCode> {
    client(&args.mesh).down().await?;
    println!("mesh {} ended", args.mesh.name);
    Ok(ExitCode::SUCCESS)
}
