//! `weft demo`: a working mesh of a small shop, or two clusters that share it, walked through step by step.
//!
//! It drives the mesh as a user would, with this binary's own verbs (`up`, `status`, `exec`), from the manifests in
//! `shop/manifests`, and collects the mesh's traces with a small OTLP collector of its own.

mod clusters;
mod collector;
mod jaeger;
mod manifests;
mod mesh;
mod show;
mod steps;
pub(crate) mod tied;
mod tree;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use jaeger::Jaeger;
use mesh::Up;
use show::Show;

/// Walk through a working mesh of a small shop on this machine.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  weft demo\n  weft demo --keep      # leaves the mesh running and prints commands to try\n  weft demo --jaeger    # the trace in Jaeger, too\n  weft demo --clusters 2    # two clusters that share Services\n  weft demo --json | jq '.steps[] | {name, ok}'\n\nExit code: 0 if every step saw what it expected, else 1."
)]
pub(crate) struct DemoArgs {
    /// The mesh's name. Meshes of different names run side by side.
    #[arg(long, default_value = "demo")]
    name: String,
    /// Walk through two clusters instead, NAME-west and NAME-east, that share Services.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(2..=2), conflicts_with_all = ["jaeger", "print_manifests"])]
    clusters: Option<u8>,
    /// Print the steps as JSON on stdout: {"steps": [{name, did, expected, saw, ok}]}.
    #[arg(long)]
    json: bool,
    /// Leave the mesh running at the end, and print commands to try.
    #[arg(long)]
    keep: bool,
    /// Start a real Jaeger beside it, if jaeger-all-in-one is on the PATH or `./x jaeger` has built it, and print the link
    /// to the trace. On a terminal the mesh and Jaeger go on until Ctrl-C.
    #[arg(long, conflicts_with = "keep")]
    jaeger: bool,
    /// Print the manifests and end.
    #[arg(long)]
    print_manifests: bool,
    /// Print them for a Kubernetes cluster, where pods prefer nodes in the regions west and east, with the image of `./x image shop`.
    #[arg(long, requires = "print_manifests")]
    kubernetes: bool,
}

/// What one step did and saw.
#[derive(Debug)]
struct Step {
    name: &'static str,
    did: String,
    expected: String,
    saw: String,
    ok: bool,
    /// Lines to draw under the step.
    drawing: Vec<String>,
}

/// Runs the demo.
pub(crate) fn main(args: &DemoArgs) -> Result<ExitCode> {
    if args.print_manifests {
        manifests::print(args.kubernetes)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let (mut mesh, mut jaeger) = (None, None);
        let walked = tokio::select! {
            walked = walk(args, &mut mesh, &mut jaeger) => walked,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow::anyhow!("told to end")),
        };
        if jaeger.is_some() && walked.is_ok() && Show::new(args.json).is_watched() {
            Show::new(args.json).note("look at the link as long as you like; Ctrl-C ends Jaeger and the mesh");
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        let code = finish(args, mesh, walked).await;
        if let Some(jaeger) = jaeger {
            jaeger.end().await;
        }
        code
    })
}

async fn walk(args: &DemoArgs, kept: &mut Option<Up>, traces: &mut Option<Jaeger>) -> Result<Vec<Step>> {
    let mut show = Show::new(args.json);
    if args.clusters.is_some() {
        return walk_clusters(args, &mut show, kept).await;
    }
    if args.jaeger {
        show.begin("starting Jaeger");
        *traces = Some(Jaeger::start().await?);
    }
    show.begin("starting the mesh: two regions, ten pods, a proxy beside each pod of the namespace shop");
    let collector = collector::Collector::start(traces.as_ref().map(Jaeger::exports))
        .await
        .context("starting the trace collector")?;
    let wanted = [(args.name.clone(), &manifests::ALL[..])];
    let up = kept.insert(Up::start(&args.name, &wanted, Some(collector.endpoint()), args.keep)?);
    let took = up.ready().await?;
    show.note(&format!("the mesh is ready ({:.1} s)", took.as_secs_f64()));
    let [mesh] = up.meshes() else {
        bail!("weft up runs another mesh");
    };

    let mut done = Vec::new();
    for title in steps::TITLES {
        show.begin(title);
        let step = steps::run(title, mesh, &collector).await;
        let step = step.unwrap_or_else(|error| unfinished(title, &error));
        show.step(&step);
        done.push(step);
    }
    if let Some(jaeger) = traces {
        show.begin(steps::JAEGER);
        let step = steps::in_jaeger(mesh, jaeger).await?;
        show.step(&step);
        done.push(step);
    }
    Ok(done)
}

async fn walk_clusters(args: &DemoArgs, show: &mut Show, kept: &mut Option<Up>) -> Result<Vec<Step>> {
    show.begin("starting two clusters: each with a control plane, a root and networks of its own, and two gateways");
    let wanted = clusters::meshes(&args.name);
    let up = kept.insert(Up::start(&args.name, &wanted, None, args.keep)?);
    let took = up.ready().await?;
    show.note(&format!("the clusters are ready ({:.1} s)", took.as_secs_f64()));
    let [west, east] = up.meshes() else {
        bail!("weft up runs other clusters");
    };
    let mut done = Vec::new();
    for title in clusters::TITLES {
        show.begin(title);
        let step = clusters::run(title, west, east).await;
        let step = step.unwrap_or_else(|error| unfinished(title, &error));
        show.step(&step);
        done.push(step);
    }
    Ok(done)
}

fn unfinished(name: &'static str, error: &anyhow::Error) -> Step {
    Step {
        name,
        did: "could not finish the step".to_owned(),
        expected: "no error".to_owned(),
        saw: format!("{error:#}"),
        ok: false,
        drawing: vec![],
    }
}

/// Prints the outcome and ends the mesh, unless it is to be kept.
async fn finish(args: &DemoArgs, up: Option<Up>, walked: Result<Vec<Step>>) -> Result<ExitCode> {
    let mut show = Show::new(args.json);
    show.pause();
    match (up, walked.is_ok() && args.keep) {
        (Some(up), true) => {
            show.commands(up.meshes());
            up.leave_running();
        }
        (Some(up), false) if up.is_running() => {
            show.note(if args.clusters.is_some() {
                "ending the clusters"
            } else {
                "ending the mesh"
            });
            up.end().await?;
        }
        (Some(_) | None, _) => {}
    }
    let steps = walked?;
    let good = steps.iter().filter(|step| step.ok).count();
    if args.json {
        let steps: Vec<_> = steps
            .iter()
            .map(|s| json!({"name": s.name, "did": s.did, "expected": s.expected, "saw": s.saw, "ok": s.ok}))
            .collect();
        println!("{:#}", json!({ "steps": steps }));
    }
    show.note(&format!("{good} of {} steps saw what they expected", steps.len()));
    Ok(if good == steps.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
