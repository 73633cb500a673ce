//! The task of a pod: carries out what [`Order`] decides, and keeps the status.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::order::{Action, Order};
use super::run::{Ask, Event, Run};
use super::{ContainerState, ContainerStatus, Kind, PodHandle, PodStatus, Shared, Terminated};
use crate::container::InitPlan;
use crate::container::plan::{Accounts, init_plan};
use crate::logs::{self, LogFile};
use crate::net::PodNet;
use crate::probe::Verdict;
use crate::runtime::Settings;
use crate::spec::{ContainerPlan, PodPlan};
use crate::volumes::Volumes;

/// Events under way: more than the containers of a pod have to say at once.
const EVENTS: usize = 64;

/// Makes the volumes and starts the task; the containers follow.
pub(crate) fn start(
    plan: PodPlan,
    net: PodNet,
    settings: &Settings,
    accounts: &Accounts,
) -> io::Result<(PodHandle, impl Future<Output = ()> + Send + use<>)> {
    let volumes = Arc::new(Volumes::make(&plan, &settings.volumes, &accounts.ids)?);
    let containers = plan
        .init_containers
        .iter()
        .map(|init| (init, if init.sidecar { Kind::Sidecar } else { Kind::Init }))
        .chain(plan.containers.iter().map(|main| (main, Kind::Main)));
    let slots = containers
        .map(|(container, kind)| {
            let addresses = net.addresses();
            let init = init_plan(&plan, container, &addresses, &volumes, &settings.masks, accounts);
            let path = logs::file(&settings.logs, &plan.namespace, &plan.name, &container.name);
            let (plan, log, init) = (container.clone(), LogFile::open(&path)?, Arc::new(init));
            Ok(Slot {
                plan,
                kind,
                init,
                log,
                asks: None,
            })
        })
        .collect::<io::Result<Vec<_>>>()?;
    let (events_in, events) = mpsc::channel(EVENTS);
    let order = Order::new(&plan, settings.backoff);
    let status = PodStatus {
        containers: slots.iter().map(Slot::at_first).collect(),
        ..PodStatus::default()
    };
    let shared = Arc::new(Shared {
        plan,
        net,
        logs: settings.logs.clone(),
        status: watch::Sender::new(status.clone()),
        stop: watch::Sender::new(None),
        volumes: Mutex::new(Some(volumes)),
        live: Mutex::new(BTreeMap::new()),
    });
    let began = Instant::now();
    let task = Task {
        shared: Arc::clone(&shared),
        order,
        slots,
        events_in,
        status,
        began,
    };
    Ok((PodHandle { shared }, task.drive(events)))
}

struct Slot {
    plan: ContainerPlan,
    kind: Kind,
    init: Arc<InitPlan>,
    log: LogFile,
    /// To the run under way.
    asks: Option<mpsc::Sender<Ask>>,
}

impl Slot {
    fn at_first(&self) -> ContainerStatus {
        let reason = if self.kind == Kind::Main {
            "PodInitializing"
        } else {
            "ContainerCreating"
        };
        ContainerStatus {
            name: self.plan.name.clone(),
            kind: self.kind,
            state: ContainerState::Waiting {
                reason,
                message: String::new(),
            },
            last: None,
            ready: false,
            started: false,
            restarts: 0,
            probe_failure: None,
        }
    }
}

struct Task {
    shared: Arc<Shared>,
    order: Order,
    slots: Vec<Slot>,
    events_in: mpsc::Sender<(usize, Event)>,
    status: PodStatus,
    began: Instant,
}

impl Task {
    async fn drive(mut self, mut events: mpsc::Receiver<(usize, Event)>) {
        let mut runs = JoinSet::new();
        let mut stop = self.shared.stop.subscribe();
        loop {
            let now = self.began.elapsed();
            for action in self.order.next(now) {
                self.act(action, &mut runs);
            }
            self.publish(false);
            if self.order.is_ended() {
                break;
            }
            let wake = self.order.wake().map(|at| self.began + at);
            tokio::select! {
                Some((index, event)) = events.recv() => self.take(index, event),
                Ok(()) = stop.changed() => {
                    let grace = *stop.borrow_and_update();
                    self.order.stop(self.began.elapsed(), grace);
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            while runs.try_join_next().is_some() {}
        }
        // The last words of ended runs are theirs alone; what is left of them is at most the task itself.
        runs.shutdown().await;
        let volumes = self
            .shared
            .volumes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(volumes);
        self.publish(true);
    }

    fn act(&mut self, action: Action, runs: &mut JoinSet<()>) {
        match action {
            Action::Start(index) => {
                let (ask, asks) = mpsc::channel(4);
                let slot = &mut self.slots[index];
                slot.asks = Some(ask);
                let status = &mut self.status.containers[index];
                if let ContainerState::Waiting { reason, .. } = &mut status.state {
                    *reason = "ContainerCreating";
                }
                let run = Run {
                    index,
                    plan: slot.plan.clone(),
                    init: Arc::clone(&slot.init),
                    net: self.shared.net.clone(),
                    log: slot.log.clone(),
                    events: self.events_in.clone(),
                    asks,
                };
                runs.spawn(run.run());
            }
            Action::Terminate(index) => self.ask(index, Ask::Terminate),
            Action::Kill(index) => self.ask(index, Ask::Kill),
        }
    }

    fn ask(&self, index: usize, ask: Ask) {
        if let Some(asks) = &self.slots[index].asks {
            // Full, or closed: it has been asked all there is, or has ended.
            let _ = asks.try_send(ask);
        }
    }

    fn take(&mut self, index: usize, event: Event) {
        let now = self.began.elapsed();
        match event {
            Event::Running { pid, live } => {
                let plan = &self.slots[index].plan;
                let name = plan.name.clone();
                self.shared
                    .live
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(name, live);
                let started = plan.startup.is_none();
                self.order.running(index, now, started);
                let status = &mut self.status.containers[index];
                status.state = ContainerState::Running {
                    since: SystemTime::now(),
                    pid,
                };
                status.started = started;
                status.ready = started && plan.readiness.is_none() && status.kind != Kind::Init;
            }
            Event::Probed { verdict, why, grace } => self.probed(index, now, verdict, why, grace),
            Event::Ended(ended) => self.ended(index, now, ended),
        }
    }

    fn probed(&mut self, index: usize, now: Duration, verdict: Verdict, why: String, grace: Option<Duration>) {
        let no_readiness = self.slots[index].plan.readiness.is_none();
        let status = &mut self.status.containers[index];
        if !matches!(status.state, ContainerState::Running { .. }) {
            return; // its last words came after its end
        }
        status.probe_failure = (!why.is_empty()).then_some(why);
        match verdict {
            Verdict::Started => {
                self.order.started(index);
                status.started = true;
                status.ready |= no_readiness && status.kind != Kind::Init;
            }
            Verdict::Ready => status.ready = true,
            Verdict::NotReady => status.ready = false,
            Verdict::Unhealthy => {
                status.ready = false;
                if let Some(Action::Terminate(index)) = self.order.unhealthy(index, now, grace) {
                    self.ask(index, Ask::Terminate);
                }
            }
        }
    }

    fn ended(&mut self, index: usize, now: Duration, ended: Terminated) {
        let slot = &mut self.slots[index];
        slot.asks = None;
        self.shared
            .live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&slot.plan.name);
        let well = ended.exit_code == 0;
        let again = self.order.ended(index, now, well);
        let status = &mut self.status.containers[index];
        status.started = false;
        status.ready = status.kind == Kind::Init && well;
        match again {
            Some(wait) => {
                status.restarts += 1;
                let code = ended.exit_code;
                let why = if ended.message.is_empty() {
                    format!("exit code {code}")
                } else {
                    ended.message.clone()
                };
                let reason = if wait.is_zero() {
                    "ContainerCreating"
                } else {
                    "CrashLoopBackOff"
                };
                let message = format!("{why}; started again in {} s", wait.as_secs_f32());
                status.state = ContainerState::Waiting { reason, message };
                status.last = Some(ended);
            }
            None => status.state = ContainerState::Terminated(ended),
        }
    }

    /// Lets the status be seen, if it changed.
    fn publish(&mut self, ended: bool) {
        self.status.phase = self.order.phase();
        self.status.initialized = self.order.is_initialized();
        self.status.ending = self.order.is_ending();
        self.status.ended = ended;
        let counts = |one: &&ContainerStatus| one.kind != Kind::Init;
        let all = self.status.containers.iter().filter(counts).all(|one| one.ready);
        self.status.ready = all && self.status.initialized && !self.status.ending;
        self.shared.status.send_if_modified(|seen| {
            let changed = *seen != self.status;
            if changed {
                seen.clone_from(&self.status);
            }
            changed
        });
    }
}
