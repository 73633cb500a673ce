//! `weft check`: whether a cluster is ready for Weft, and whether Weft is well on it.
//!
//! | file | what happens there |
//! |---|---|
//! | `seen` | everything that is looked at, read once |
//! | `cluster`, `installed`, `federated`, `meshed`, `halfway` | what is right and what is not, from what was seen (pure) |
//! | `finding` | how that is told |

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use weft_daemon::exit;

use crate::paper;
use crate::target::{self, WayArgs};

mod cluster;
mod federated;
pub(crate) mod finding;
mod halfway;
mod installed;
mod meshed;
mod seen;

use finding::Report;
use installed::Installed;

/// Check whether a cluster is ready for Weft, and whether Weft is well on it.
///
/// With --pre before an installation: the API server's version and clock, your permissions, Gateway API's CRDs. Without: the
/// same but for permissions, and Weft's own CRDs and Deployments, its permissions, the webhook with its certificate, the root,
/// whether other clusters reach this one if it shares Services with them, meshed namespaces with their pods, and what is in the mesh by half: pods that have a proxy though their namespace is not
/// labelled, and namespaces that are set up for the mesh and not labelled. It only reads.
///
/// A line begins with ✓ where all is well, with ✗ where something is wrong, and with ! where something is worth knowing. Each
/// ✗ and ! says what it is, where, and what to do.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft check --pre
  weft check
  weft check --context staging -o json | jq '.findings[] | {where, what, fix}'

Exit codes: 0 nothing is wrong, 1 the API server can't be asked, 64 wrong usage, 79 something is wrong.")]
pub(crate) struct CheckArgs {
    /// Before Weft is installed.
    #[arg(long)]
    pub(crate) pre: bool,
    #[command(flatten)]
    pub(crate) way: WayArgs,
    /// Weft's own namespace.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "weft-system", value_parser = crate::install::namespace)]
    pub(crate) namespace: String,
    /// As text for people, or as JSON for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Checks, and prints what comes of it.
pub(crate) async fn main(args: CheckArgs) -> Result<ExitCode> {
    let cluster = target::cluster(&args.way, &args.namespace).await?;
    let seen = seen::look(cluster.api(), &args.namespace, args.pre).await?;
    let mut report = Report::default();
    cluster::check(&seen, &mut report);
    if args.pre {
        cluster::permissions(&seen, &mut report);
    } else {
        match installed::check(&seen, &mut report) {
            Installed::Here => {
                federated::check(&seen, &mut report);
                meshed::check(&seen, &mut report);
                halfway::check(&seen, &mut report);
            }
            Installed::Elsewhere => {}
            Installed::Nowhere => halfway::left_behind(&seen, &mut report),
        }
    }
    match args.output {
        Format::Json => paper::print(&format!("{:#}\n", report.json())),
        Format::Text => paper::print(&report.text(finding::coloured())),
    }
    Ok(ExitCode::from(if report.is_well() { exit::OK } else { exit::FINDINGS }))
}
