//! `weft link`: cuts and heals the link between two clusters of `weft up --cluster`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use weft_local::state::StateDir;
use weft_local::up::links::{self, Order};

use crate::args;

/// Cut the link between two clusters of this machine, or heal it.
///
/// What a cut link carried vanishes without an answer, as when a network breaks apart: nodes, and with `weft up --flat` pods,
/// wait in vain. Links that are cut go with the clusters.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft link cut east west
  weft link cut east west --one-way     # west still reaches east, which hears no answer
  weft link heal east west")]
pub(crate) struct LinkArgs {
    #[command(subcommand)]
    verb: LinkVerb,
}

#[derive(Debug, Subcommand)]
enum LinkVerb {
    /// Let nothing through.
    Cut(Between),
    /// Let everything through again.
    Heal(Between),
}

/// Which link.
#[derive(Debug, Args)]
struct Between {
    /// A cluster.
    #[arg(value_name = "FROM", value_parser = args::cluster_name)]
    from: String,
    /// Another one of the same `weft up`.
    #[arg(value_name = "TO", value_parser = args::cluster_name)]
    to: String,
    /// Only what goes from the first to the second.
    #[arg(long)]
    one_way: bool,
}

/// Has it done, and says what was done.
pub(crate) async fn main(args: LinkArgs) -> anyhow::Result<ExitCode> {
    let (between, cut) = match args.verb {
        LinkVerb::Cut(between) => (between, true),
        LinkVerb::Heal(between) => (between, false),
    };
    let Between { from, to, one_way } = between;
    let state = StateDir::of(&from, |variable| std::env::var_os(variable));
    let order = Order { from, to, one_way, cut };
    links::order(&state, &order).await?;
    let Order { from, to, .. } = order;
    let done = if cut { "is cut" } else { "is whole" };
    match one_way {
        true => println!("the link from {from} to {to} {done}"),
        false => println!("the link between {from} and {to} {done}"),
    }
    Ok(ExitCode::SUCCESS)
}
