//! `weft demo`: a working mesh of a small shop, walked through step by step.
//!
//! It drives the mesh as a user would, with this binary's own verbs (`up`, `status`, `exec`), from the manifests in
//! `shop/manifests`, and collects the mesh's traces with a small OTLP collector of its own.

mod collector;
mod jaeger;
mod manifests;
mod mesh;
mod show;
mod steps;
pub(crate) mod tied;
mod tree;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use jaeger::Jaeger;
use mesh::Mesh;
use show::Show;

/// Walk through a working mesh of a small shop on this machine.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  weft demo\n  weft demo --keep      # leaves the mesh running and prints commands to try\n  weft demo --jaeger    # the trace in Jaeger, too\n  weft demo --json | jq '.steps[] | {name, ok}'\n\nExit code: 0 if every step saw what it expected, else 1."
)]
pub(crate) struct DemoArgs {
    /// The mesh's name. Meshes of different names run side by side.
    #[arg(long, default_value = "demo")]
    name: String,
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

async fn walk(args: &DemoArgs, kept: &mut Option<Mesh>, traces: &mut Option<Jaeger>) -> Result<Vec<Step>> {
    let mut show = Show::new(args.json);
    if args.jaeger {
        show.begin("starting Jaeger");
        *traces = Some(Jaeger::start().await?);
    }
    show.begin("starting the mesh: two regions, ten pods, a proxy beside each pod of the namespace shop");
    let collector = collector::Collector::start(traces.as_ref().map(Jaeger::exports))
        .await
        .context("starting the trace collector")?;
    let mesh = kept.insert(Mesh::start(
        &args.name,
        &manifests::ALL,
        collector.endpoint(),
        args.keep,
    )?);
    let took = mesh.ready().await?;
    show.note(&format!("the mesh is ready ({:.1} s)", took.as_secs_f64()));

    let mut done = Vec::new();
    for title in steps::TITLES {
        show.begin(title);
        let step = steps::run(title, mesh, &collector).await.unwrap_or_else(|error| Step {
            name: title,
            did: "could not finish the step".to_owned(),
            expected: "no error".to_owned(),
            saw: format!("{error:#}"),
            ok: false,
            drawing: vec![],
        });
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

/// Prints the outcome and ends the mesh, unless it is to be kept.
async fn finish(args: &DemoArgs, mesh: Option<Mesh>, walked: Result<Vec<Step>>) -> Result<ExitCode> {
    let mut show = Show::new(args.json);
    show.pause();
    match (mesh, walked.is_ok() && args.keep) {
        (Some(mesh), true) => {
            show.commands(&args.name, mesh.manifests());
            mesh.leave_running();
        }
        (Some(mesh), false) if mesh.is_running() => {
            show.note("ending the mesh");
            mesh.end().await?;
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
