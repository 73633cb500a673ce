//! One run of one container: from its start to its end, with its probes in between.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Live, Terminated};
use crate::container::{self, InitPlan};
use crate::logs::LogFile;
use crate::net::PodNet;
use crate::probe::{self, Judge, Target, Verdict};
use crate::spec::ContainerPlan;

/// What a run tells the pod.
#[derive(Debug)]
pub(crate) enum Event {
    /// The command runs, with this number on the host.
    Running { pid: u32, live: Live },
    /// A probe found something out.
    Probed {
        verdict: Verdict,
        why: String,
        grace: Option<Duration>,
    },
    /// The run is over, and is the last that this run says.
    Ended(Terminated),
}

/// What the pod tells a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Terminate,
    Kill,
}

/// What a run needs.
pub(crate) struct Run {
    pub(crate) index: usize,
    pub(crate) plan: ContainerPlan,
    pub(crate) init: Arc<InitPlan>,
    pub(crate) net: PodNet,
    pub(crate) log: LogFile,
    pub(crate) events: mpsc::Sender<(usize, Event)>,
    pub(crate) asks: mpsc::Receiver<Ask>,
}

impl Run {
    /// Runs the container once.
    pub(crate) async fn run(mut self) {
        let began = SystemTime::now();
        let started = tokio::select! {
            started = container::start(&self.init, &self.net, &self.log) => started,
            // What was half started goes with the call.
            () = killed(&mut self.asks) => Err(io::Error::other("killed before it had started")),
        };
        let ended = match started {
            Ok(running) => self.attend(running).await,
            Err(error) => {
                let message = error.to_string();
                let line = format!("weft: the container did not start: {message}");
                self.log.write("stderr", true, line.as_bytes());
                let (exit_code, signal, reason) = (128, None, "StartError");
                let finished = SystemTime::now();
                Terminated {
                    exit_code,
                    signal,
                    reason,
                    message,
                    started: began,
                    finished,
                }
            }
        };
        self.tell(Event::Ended(ended)).await;
    }

    async fn attend(&mut self, mut running: container::Running) -> Terminated {
        let started = SystemTime::now();
        let live = Live {
            pidfd: running.pidfd(),
            init: Arc::clone(&self.init),
        };
        // The pod's address is the node's way to it; the first is the one Kubernetes probes.
        let address = self.net.addresses().v4.into();
        let target = Target {
            address,
            pidfd: running.pidfd(),
            init: Arc::clone(&self.init),
        };
        self.tell(Event::Running {
            pid: running.host_pid,
            live,
        })
        .await;
        let mut probes = JoinSet::new();
        probes.spawn(watch(self.index, self.plan.clone(), target, self.events.clone()));
        let ended = loop {
            tokio::select! {
                ended = running.wait() => break ended,
                Some(ask) = self.asks.recv() => match ask {
                    Ask::Terminate => running.terminate(),
                    Ask::Kill => running.kill(),
                },
            }
        };
        probes.shutdown().await;
        let well = ended.code == 0;
        Terminated {
            exit_code: ended.code,
            signal: ended.signal,
            reason: if well { "Completed" } else { "Error" },
            message: String::new(),
            started,
            finished: SystemTime::now(),
        }
    }

    async fn tell(&self, event: Event) {
        // Nobody listens any more if the whole runtime is going.
        let _ = self.events.send((self.index, event)).await;
    }
}

/// Resolves when the run is to be killed; asking is of no use yet.
async fn killed(asks: &mut mpsc::Receiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        if ask == Ask::Kill {
            return;
        }
    }
    std::future::pending().await
}

/// The startup probe first, then liveness and readiness side by side.
async fn watch(index: usize, plan: ContainerPlan, target: Target, events: mpsc::Sender<(usize, Event)>) {
    let report = |grace: Option<Duration>| {
        let events = events.clone();
        move |verdict, why| {
            let events = events.clone();
            async move {
                // See `Run::tell`.
                let _ = events.send((index, Event::Probed { verdict, why, grace })).await;
            }
        }
    };
    if let Some(startup) = &plan.startup {
        let mut passed = false;
        let say = report(startup.grace);
        let note = |verdict, why| {
            passed = verdict == Verdict::Started;
            say(verdict, why)
        };
        probe::watch(startup, Judge::startup(startup), &target, note).await;
        if !passed {
            return;
        }
    }
    let liveness = async {
        if let Some(liveness) = &plan.liveness {
            probe::watch(liveness, Judge::liveness(liveness), &target, report(liveness.grace)).await;
        }
    };
    let readiness = async {
        if let Some(readiness) = &plan.readiness {
            probe::watch(readiness, Judge::readiness(readiness), &target, report(None)).await;
        }
    };
    tokio::join!(liveness, readiness);
}
