//! `weft-bench`: what the mesh costs, beside a peer.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use weft_bench::count::count;
use weft_bench::load::Load;
use weft_bench::measure::Size;
use weft_bench::pairs::Pair;
use weft_bench::run::{Plan, about, run};
use weft_bench::{account, build, clusters};

/// What the mesh costs: a direct connection, Weft and a peer, in turn, on this machine.
///
/// CPU per request is the figure to trust: it comes from the kernel's account of each sidecar and hardly changes with
/// what else the machine does. Everything else wants a quiet machine.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  cargo run --profile dist -p weft-bench -- --quick
  cargo run --profile dist -p weft-bench -- --against envoy
  cargo run --profile dist -p weft-bench -- --against envoy --json > figures.json
  cargo run --profile dist -p weft-bench -- clusters"
)]
struct Args {
    /// A peer to run beside
    #[arg(long, value_enum)]
    against: Option<Peer>,
    /// One short round: says whether everything works, and little more
    #[arg(long)]
    quick: bool,
    /// Rounds; of each figure the median and the range are shown
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Print JSON: every value of every round
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Peer {
    /// Envoy, configured as Istio configures its sidecars
    Envoy,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Count instructions and allocations per request, under valgrind: no matter what else the machine does
    Count {
        /// The binary, with symbols
        #[arg(long, default_value = "target/release/weft")]
        weft: PathBuf,
        /// Keep callgrind's files here, for callgrind_annotate
        #[arg(long, value_name = "DIR")]
        keep: Option<PathBuf>,
    },
    /// Three control planes that share Services: how soon changes are known, and what that costs; and what a gateway costs
    Clusters {
        /// Services of each cluster, all exported
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        services: u16,
        /// Endpoints of each of them
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(2..=500))]
        endpoints: u16,
        /// Changes per second, in all clusters together
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
        /// For how long
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Rounds of what passes a gateway; the median and the range are shown
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=99))]
        rounds: u32,
        /// Take weft and weft-bench from here, of whatever profile, to try this out: figures want what is built without it
        #[arg(long, value_name = "DIR")]
        binaries: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// What the benchmark runs inside pods
    #[command(subcommand, hide = true)]
    Load(Load),
}

/// Commands, and the Debian packages that have them.
const NEEDS: [(&str, &str); 7] = [
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("nsenter", "util-linux"),
    ("iptables", "iptables"),
    ("sysctl", "procps"),
];

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.part {
        Some(Part::Load(load)) => load.run().map(|said| println!("{said}")),
        Some(Part::Count { weft, keep }) => count(&weft, keep.as_deref()).map(|lines| {
            lines.iter().for_each(|line| println!("{line}"));
        }),
        Some(Part::Clusters {
            services,
            endpoints,
            rate,
            seconds,
            rounds,
            binaries,
            json,
        }) => clusters(
            clusters::Size {
                services: services.into(),
                endpoints: endpoints.into(),
                rate,
                seconds,
                rounds,
                mib: 2048,
            },
            binaries,
            json,
        ),
        None => bench(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<()> {
    needs()?;
    let binaries = build::build()?;
    let size = match args.quick {
        true => Size {
            seconds: 2,
            mib: 512,
            idle: 200,
        },
        false => Size {
            seconds: 5,
            mib: 2048,
            idle: 1000,
        },
    };
    let plan = Plan {
        against: args.against.map(|Peer::Envoy| Pair::Envoy),
        rounds: if args.quick { 1 } else { args.rounds },
        size,
    };
    let others = others()?;
    let (table, pairs) = run(plan, &binaries)?;
    let about = about(plan, others);
    if args.json {
        println!("{:#}", table.json(about));
        return Ok(());
    }
    println!("{}", table.text(&pairs));
    println!(
        "median [smallest-largest] of {} rounds; weft:peer below 1 is better; p99.9 is printed, not judged",
        plan.rounds
    );
    println!("{about}");
    Ok(())
}

fn clusters(size: clusters::Size, binaries: Option<PathBuf>, json: bool) -> Result<()> {
    let binaries = binaries.map_or_else(build::build, Ok)?;
    let figures = clusters::run(size, &binaries)?;
    match json {
        true => println!("{figures:#}"),
        false => print!("{}", clusters::text(&figures)),
    }
    Ok(())
}

fn needs() -> Result<()> {
    let has = |name: &str| {
        Command::new("sh")
            .args(["-c", &format!("command -v {name}")])
            .output()
            .is_ok_and(|o| o.status.success())
    };
    let missing: Vec<_> = NEEDS
        .iter()
        .filter(|(name, _)| !has(name) && !has(&format!("/usr/sbin/{name}")))
        .collect();
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    ensure!(
        missing.is_empty(),
        "missing: {} (Debian's packages: {}); install them and run this again",
        names.join(", "),
        packages.join(" ")
    );
    Ok(())
}

/// The share of the machine that others use now, and a word if that is much.
fn others() -> Result<f64> {
    let (all, idle) = account::machine()?;
    std::thread::sleep(Duration::from_secs(1));
    let (all, idle) = {
        let (later, rest) = account::machine()?;
        (later - all, rest - idle)
    };
    let share = if all > 0.0 { 1.0 - idle / all } else { 0.0 };
    if share > 0.1 {
        eprintln!(
            "other programs use {:.0} % of this machine: trust CPU per request, and little else",
            share * 100.0
        );
    }
    Ok(share)
}
