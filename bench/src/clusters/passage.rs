//! What an east-west gateway adds: the same load between two clusters, in one network and through gateways.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Size;
use crate::account;
use crate::lab::Lab;
use crate::table::summary;

const NAMESPACE: &str = "bench";
const SERVER: &str = "server:9000";
/// Clusters that have not linked by then never will.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);
const MIB_PER_GIB: f64 = 1024.0;

/// What one kind of load came to: by what is measured, a value of each round.
type Figures = Vec<(&'static str, Vec<f64>)>;

/// Runs it: rounds of both ways in turn.
///
/// # Errors
/// The clusters do not start or link, or a load fails.
pub fn run(size: Size, binaries: &Path) -> Result<Value> {
    let (mut flat, mut through) = (Figures::new(), Figures::new());
    for round in 1..=size.rounds {
        for (way, args, figures) in [
            ("one network", &["--flat"][..], &mut flat),
            ("through gateways", &[], &mut through),
        ] {
            eprintln!("round {round} of {}: two clusters, {way}", size.rounds);
            let clusters = Clusters::up(binaries, args)?;
            clusters.measure(size, figures)?;
        }
    }
    let shown = |figures: Figures| {
        let row = |(name, values): (&str, Vec<f64>)| {
            let summary = summary(&values)?;
            Some((
                name.to_owned(),
                json!({"median": summary.median, "min": summary.min, "max": summary.max}),
            ))
        };
        Value::Object(figures.into_iter().filter_map(row).collect())
    };
    Ok(json!({"rounds": size.rounds, "oneNetwork": shown(flat), "throughGateways": shown(through)}))
}

/// The client is in one cluster, the server in the other.
struct Clusters {
    here: Lab,
    client: u32,
    server: u32,
    gateways: Vec<u32>,
}

impl Clusters {
    fn up(binaries: &Path, args: &[&str]) -> Result<Self> {
        let bench = binaries.join("weft-bench");
        let client = |_: &Path| manifests("");
        let server = |scratch: &Path| {
            let command = scratch.join("weft-bench");
            manifests(&SERVER_POD.replace("COMMAND", &command.display().to_string()))
        };
        let [here, there] = Lab::two(&binaries.join("weft"), &[&bench], args, [&client, &server])?;
        let sidecar = |lab: &Lab, pod: &str| lab.pid(NAMESPACE, pod, "weft-proxy", "weft");
        // Those of the client's cluster have nothing to do.
        let gateways = here.of_role("gateway")?;
        let (client, server) = (sidecar(&here, "client")?, sidecar(&there, "server")?);
        let clusters = Self {
            here,
            client,
            server,
            gateways,
        };
        clusters.linked()?;
        Ok(clusters)
    }

    /// Waits until the server is reached.
    fn linked(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.load(&["connect", SERVER, "--seconds", "1", "--workers", "1"]) {
                Ok(_) => return Ok(()),
                Err(error) => ensure!(began.elapsed() < PATIENCE, "{error:#}"),
            }
            std::thread::sleep(POLL);
        }
    }

    /// A load from the client's pod: how much was done, in how many seconds.
    fn load(&self, args: &[&str]) -> Result<(f64, f64)> {
        let bench = self.here.scratch().join("weft-bench").display().to_string();
        let text = self
            .here
            .exec(NAMESPACE, "client", &[&[bench.as_str(), "load"], args].concat())?;
        let said: Value = serde_json::from_str(text.trim().lines().last().unwrap_or_default())?;
        ensure!(said["failed"] == 0, "some failed: {said}");
        let figure = |key: &'static str| said[key].as_f64().context(key);
        Ok((figure("done")?, figure("seconds")?))
    }

    fn measure(&self, size: Size, figures: &mut Figures) -> Result<()> {
        // The first connection of each kind brings in what is there once.
        let mib = size.mib.to_string();
        let stream = ["stream", SERVER, "--mib", &mib];
        let gib = |done: f64| done / MIB_PER_GIB;
        self.account(
            figures,
            &stream,
            gib,
            [
                "stream: client's sidecar, CPU-s/GiB",
                "stream: server's sidecar, CPU-s/GiB",
                "stream: gateways, CPU-s/GiB",
                "stream: GiB/s",
            ],
        )?;
        let connect = ["connect", SERVER, "--seconds", "5"];
        let thousands = |done: f64| done / 1e3;
        self.account(
            figures,
            &connect,
            thousands,
            [
                "connection: client's sidecar, CPU-ms",
                "connection: server's sidecar, CPU-ms",
                "connection: gateways, CPU-ms",
                "connections: 1000/s",
            ],
        )?;
        if !self.gateways.is_empty() {
            let resident = self.gateways.iter().map(|pid| account::resident(*pid));
            let kib = resident.sum::<Result<u64>>()? as f64 / self.gateways.len() as f64;
            note(figures, "memory of a gateway, MiB", kib / 1024.0);
        }
        Ok(())
    }

    /// Makes a load, and notes what each used for one of what was done, and how much of that there was per second.
    fn account(
        &self,
        figures: &mut Figures,
        load: &[&str],
        unit: fn(f64) -> f64,
        names: [&'static str; 4],
    ) -> Result<()> {
        let before = self.cpu()?;
        let (done, seconds) = self.load(load)?;
        let after = self.cpu()?;
        let [client, server, gateways, rate] = names;
        for (name, (before, after)) in [client, server, gateways]
            .into_iter()
            .zip(before.into_iter().zip(after))
        {
            note(figures, name, (after - before) / unit(done));
        }
        note(figures, rate, unit(done) / seconds);
        Ok(())
    }

    /// Seconds of CPU: the client's sidecar, the server's, all gateways together.
    fn cpu(&self) -> Result<[f64; 3]> {
        let of = |pid: &u32| Ok(account::cpu(*pid)?.as_secs_f64());
        let gateways: f64 = self.gateways.iter().map(of).sum::<Result<f64>>()?;
        Ok([of(&self.client)?, of(&self.server)?, gateways])
    }
}

fn note(figures: &mut Figures, name: &'static str, value: f64) {
    match figures.iter_mut().find(|(known, _)| *known == name) {
        Some((_, values)) => values.push(value),
        None => figures.push((name, vec![value])),
    }
}

fn manifests(more: &str) -> String {
    format!("{COMMON}{more}")
}

const COMMON: &str = "apiVersion: v1
kind: Namespace
metadata: {name: bench, labels: {weft.dev/inject: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: bench}
spec: {selector: {app: server}, ports: [{name: bytes, port: 9000, appProtocol: tcp}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: bench}
spec: {containers: [{name: client, command: [sleep, infinity]}]}
";

const SERVER_POD: &str = "---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: bench, labels: {app: server}}
spec: {containers: [{name: bytes, command: [COMMAND, load, serve, --port, '9000']}]}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: server, namespace: bench}
";
