//! One run of one container: from its start to its end, with its hooks and its probes in between.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Live, Terminated, hooks};
use crate::container::{self, InitPlan};
use crate::logs::LogFile;
use crate::net::PodNet;
use crate::probe::{self, Judge, Target, Verdict};
use crate::spec::ContainerPlan;

/// For a container that has not been asked to end when its time is over.
const LAST_GRACE: Duration = Duration::from_secs(2);

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
        let failed = self.after_start(&mut running, &target).await;
        let ended = match &failed {
            Some(_) => running.wait().await,
            None => {
                self.tell(Event::Running {
                    pid: running.host_pid,
                    live,
                })
                .await;
                let mut probes = JoinSet::new();
                let watched = watch(self.index, self.plan.clone(), target.clone(), self.events.clone());
                probes.spawn(watched);
                let ended = self.until_the_end(&mut running, &target).await;
                probes.shutdown().await;
                ended
            }
        };
        let well = ended.code == 0 && failed.is_none();
        let reason = match (&failed, well) {
            (Some(_), _) => "PostStartHookError",
            (None, true) => "Completed",
            (None, false) => "Error",
        };
        Terminated {
            // A command that ends well when it is asked to has not done its work.
            exit_code: if failed.is_some() {
                ended.code.max(1)
            } else {
                ended.code
            },
            signal: ended.signal,
            reason,
            message: failed.unwrap_or_default(),
            started,
            finished: SystemTime::now(),
        }
    }

    /// Runs the hook that belongs to the start; until it is over, the container has not started. If it fails, the
    /// container has to end: it has been asked to, and what went wrong is returned.
    async fn after_start(&mut self, running: &mut container::Running, target: &Target) -> Option<String> {
        let hook = self.plan.post_start.as_ref()?;
        let why = tokio::select! {
            ran = hooks::run(hook, target, &self.net) => ran.err()?,
            // Whoever waits for the end has it from `running`.
            _ = running.wait() => return None,
            () = killed(&mut self.asks) => "killed before its postStart hook was over".to_owned(),
        };
        let message = format!("its postStart hook failed: {why}");
        self.log.write("stderr", true, format!("weft: {message}").as_bytes());
        running.terminate();
        if timeout(LAST_GRACE, running.wait()).await.is_err() {
            running.kill();
        }
        Some(message)
    }

    /// Until the command has ended. Before it is asked to end, the hook for that is run; a container that is killed while
    /// the hook still runs is asked all the same, and given a moment, as kubelet does.
    async fn until_the_end(&mut self, running: &mut container::Running, target: &Target) -> container::Ended {
        let hook = self.plan.pre_stop.clone();
        loop {
            let ask = tokio::select! {
                ended = running.wait() => return ended,
                Some(ask) = self.asks.recv() => ask,
            };
            match (ask, &hook) {
                (Ask::Kill, _) => running.kill(),
                (Ask::Terminate, None) => running.terminate(),
                (Ask::Terminate, Some(hook)) => {
                    let late = tokio::select! {
                        ended = running.wait() => return ended,
                        ran = hooks::run(hook, target, &self.net) => {
                            if let Err(why) = ran {
                                let line = format!("weft: its preStop hook failed: {why}");
                                self.log.write("stderr", true, line.as_bytes());
                            }
                            false
                        }
                        () = killed(&mut self.asks) => true,
                    };
                    running.terminate();
                    if late && timeout(LAST_GRACE, running.wait()).await.is_err() {
                        running.kill();
                    }
                }
            }
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
