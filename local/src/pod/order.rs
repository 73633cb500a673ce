//! In which order the containers of a pod start, end and start again. Pure: time comes in, actions go out.
//!
//! Init containers run one after the other; sidecars among them stay, and the next one starts when a sidecar has
//! started (KEP-753). Main containers start together. At the end main containers are asked first, then sidecars in
//! reverse order, one by one; when the grace period is over the rest is asked and then killed.

use std::time::Duration;

use super::{Kind, Phase};
use crate::runtime::Backoff;
use crate::spec::{PodPlan, RestartPolicy};

/// For containers that were not asked before the grace period was over, as kubelet grants it.
const LAST_GRACE: Duration = Duration::from_secs(2);

/// What is to be done with the container of this index (init containers first).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Start(usize),
    Terminate(usize),
    Kill(usize),
}

/// The state of a pod's containers. All times are since the pod's beginning.
#[derive(Debug)]
pub(crate) struct Order {
    slots: Vec<Slot>,
    policy: RestartPolicy,
    grace: Duration,
    backoff: Backoff,
    initialized: bool,
    /// When what still runs is killed.
    deadline: Option<Duration>,
}

#[derive(Debug)]
struct Slot {
    kind: Kind,
    state: State,
    /// Started at least once, and passed its startup probe.
    has_started: bool,
    /// Bad runs in a row.
    streak: u32,
    /// Asked to end, and killed at this time.
    kill_at: Option<Duration>,
    killed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting { until: Duration },
    Starting,
    Running { since: Duration },
    Done { well: bool },
}

impl Slot {
    fn is_alive(&self) -> bool {
        matches!(self.state, State::Starting | State::Running { .. })
    }

    fn well(&self) -> Option<bool> {
        if let State::Done { well } = self.state {
            Some(well)
        } else {
            None
        }
    }
}

impl Order {
    /// Nothing has been started yet.
    pub(crate) fn new(plan: &PodPlan, backoff: Backoff) -> Self {
        let kinds = plan
            .init_containers
            .iter()
            .map(|init| if init.sidecar { Kind::Sidecar } else { Kind::Init });
        let slots = kinds
            .chain(plan.containers.iter().map(|_| Kind::Main))
            .map(|kind| Slot {
                kind,
                state: State::Waiting { until: Duration::ZERO },
                has_started: false,
                streak: 0,
                kill_at: None,
                killed: false,
            });
        Self {
            slots: slots.collect(),
            policy: plan.restart_policy,
            grace: plan.grace,
            backoff,
            initialized: false,
            deadline: None,
        }
    }

    /// The container's command runs; `started` if no startup probe has to succeed first.
    pub(crate) fn running(&mut self, index: usize, now: Duration, started: bool) {
        self.slots[index].state = State::Running { since: now };
        self.slots[index].has_started |= started;
    }

    /// Its startup probe has succeeded.
    pub(crate) fn started(&mut self, index: usize) {
        self.slots[index].has_started = true;
    }

    /// It has to be started again: a liveness or startup probe failed for good.
    pub(crate) fn unhealthy(&mut self, index: usize, now: Duration, grace: Option<Duration>) -> Option<Action> {
        let grace = grace.unwrap_or(self.grace);
        let slot = &mut self.slots[index];
        (slot.is_alive() && slot.kill_at.is_none()).then(|| {
            slot.kill_at = Some(now + grace);
            Action::Terminate(index)
        })
    }

    /// It ended, or could not be started. Returns how long it waits if it is started again.
    pub(crate) fn ended(&mut self, index: usize, now: Duration, well: bool) -> Option<Duration> {
        let ending = self.deadline.is_some();
        let again = match self.slots[index].kind {
            _ if ending => false,
            Kind::Sidecar => true,
            Kind::Init => !well && self.policy != RestartPolicy::Never,
            Kind::Main => match self.policy {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => !well,
                RestartPolicy::Never => false,
            },
        };
        let slot = &mut self.slots[index];
        let ran = if let State::Running { since } = slot.state {
            now.saturating_sub(since)
        } else {
            Duration::ZERO
        };
        slot.kill_at = None;
        slot.killed = false;
        if !again {
            slot.state = State::Done { well };
            return None;
        }
        if ran >= self.backoff.reset {
            slot.streak = 0;
        }
        let wait = self.backoff.wait(slot.streak);
        slot.streak += 1;
        slot.state = State::Waiting { until: now + wait };
        Some(wait)
    }

    /// The pod is to end; a shorter grace than before shortens it.
    pub(crate) fn stop(&mut self, now: Duration, grace: Option<Duration>) {
        let deadline = now + grace.unwrap_or(self.grace);
        let deadline = self.deadline.map_or(deadline, |earlier| earlier.min(deadline));
        self.deadline = Some(deadline);
        for slot in &mut self.slots {
            slot.kill_at = slot.kill_at.map(|at| at.min(deadline));
        }
    }

    /// What is to be done now. Everything returned counts as done.
    pub(crate) fn next(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.deadline.is_none() {
            self.begin(now, &mut actions);
            if self.is_over() {
                self.stop(now, None);
            }
        }
        if let Some(deadline) = self.deadline {
            self.end(now, deadline, &mut actions);
        }
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.is_alive() && !slot.killed && slot.kill_at.is_some_and(|at| at <= now) {
                slot.killed = true;
                actions.push(Action::Kill(index));
            }
        }
        actions
    }

    /// Starts what is due.
    fn begin(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let mut blocked = false;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if blocked {
                break;
            }
            if matches!(slot.state, State::Waiting { until } if until <= now) {
                slot.state = State::Starting;
                actions.push(Action::Start(index));
            }
            blocked = match slot.kind {
                Kind::Init => slot.state != State::Done { well: true },
                Kind::Sidecar => !slot.has_started,
                Kind::Main => false,
            };
        }
        self.initialized |= !blocked;
    }

    /// Whether nothing is left to do but to end the sidecars.
    fn is_over(&self) -> bool {
        let all_done = self.of(Kind::Main).all(|slot| slot.well().is_some());
        all_done || self.of(Kind::Init).any(|slot| slot.well() == Some(false))
    }

    /// Asks who is next to end.
    fn end(&mut self, now: Duration, deadline: Duration, actions: &mut Vec<Action>) {
        for slot in &mut self.slots {
            if matches!(slot.state, State::Waiting { .. }) {
                slot.state = State::Done { well: false };
            }
        }
        let mut ask = |index: usize, slot: &mut Slot, at: Duration| {
            if matches!(slot.state, State::Running { .. }) && slot.kill_at.is_none() {
                slot.kill_at = Some(at);
                actions.push(Action::Terminate(index));
            }
        };
        let late = now >= deadline;
        let mut others_alive = false;
        for (index, slot) in self
            .slots
            .iter_mut()
            .enumerate()
            .filter(|(_, slot)| slot.kind != Kind::Sidecar)
        {
            ask(index, slot, deadline);
            others_alive |= slot.is_alive();
        }
        if late {
            for (index, slot) in self.slots.iter_mut().enumerate() {
                if slot.state == State::Starting {
                    slot.kill_at = Some(now); // there is nobody to ask yet
                }
                ask(index, slot, now + LAST_GRACE);
            }
        } else if !others_alive {
            let last = self
                .slots
                .iter_mut()
                .enumerate()
                .rev()
                .find(|(_, slot)| slot.is_alive());
            if let Some((index, slot)) = last {
                ask(index, slot, deadline);
            }
        }
    }

    /// When [`Order::next`] has something to do although nothing happened.
    pub(crate) fn wake(&self) -> Option<Duration> {
        let slots = self.slots.iter().filter_map(|slot| match slot.state {
            State::Waiting { until } if self.deadline.is_none() => Some(until),
            State::Starting | State::Running { .. } if !slot.killed => slot.kill_at.or(self.deadline),
            _ => None,
        });
        slots.min()
    }

    /// Whether nothing runs any more, and nothing will.
    pub(crate) fn is_ended(&self) -> bool {
        self.deadline.is_some() && !self.slots.iter().any(Slot::is_alive)
    }

    /// Whether the pod is ending, or has ended.
    pub(crate) fn is_ending(&self) -> bool {
        self.deadline.is_some()
    }

    /// Whether all init containers have done their part.
    pub(crate) fn is_initialized(&self) -> bool {
        self.initialized
    }

    /// Whether the container has started (its startup probe has succeeded) at least once.
    #[cfg(test)]
    fn has_started(&self, index: usize) -> bool {
        self.slots[index].has_started
    }

    /// `status.phase`.
    pub(crate) fn phase(&self) -> Phase {
        if self.of(Kind::Init).any(|slot| slot.well() == Some(false)) {
            return Phase::Failed;
        }
        if self.of(Kind::Main).all(|slot| slot.well().is_some()) {
            let well = self.of(Kind::Main).all(|slot| slot.well() == Some(true));
            return if well { Phase::Succeeded } else { Phase::Failed };
        }
        let running = self
            .of(Kind::Main)
            .any(|slot| slot.streak > 0 || matches!(slot.state, State::Running { .. }));
        if self.initialized && running {
            Phase::Running
        } else {
            Phase::Pending
        }
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(move |slot| slot.kind == kind)
    }
}

impl Backoff {
    /// The wait after this many bad runs before: none for the first, so that one accident costs nothing.
    fn wait(&self, streak: u32) -> Duration {
        match streak {
            0 => Duration::ZERO,
            more => self
                .first
                .saturating_mul(1_u32.checked_shl(more - 1).unwrap_or(u32::MAX))
                .min(self.most),
        }
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
