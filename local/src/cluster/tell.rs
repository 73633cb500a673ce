//! What is told to people who watch, as it happens.
//!
//! In: the cluster as it is, after every event. Out: [`News`]: each problem once, and its end; who is waited for; that all
//! is ready. What comes again and again (a container that ends each time it is started) is told as it grows, and then no
//! more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use weft_control::objects::{Problem, Severity};
use weft_model::name::ObjectRef;

use super::jobs::Jobs;
use super::record::{Record, Stage};
use super::report::trouble;
use super::{Cluster, system};
use crate::manifest::Key;
use crate::plan::job::Outcome;
use crate::pod::{ContainerState, ContainerStatus, Kind, Terminated};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A problem that was not there before.
    Problem(Problem),
    /// An object, or a file, with which nothing is wrong any more.
    Resolved(String),
    /// Pods that are ready now, of how many.
    Progress {
        /// Ready.
        ready: usize,
        /// All.
        all: usize,
    },
    /// All pods are ready for the first time, or again after they were not.
    Ready(Report),
    /// Not all are ready, and that has been so for a while.
    Waiting(Waiting),
    /// A Job is over.
    Job {
        /// Which.
        job: Key,
        /// How it ended.
        outcome: Outcome,
        /// How long it took.
        took: Duration,
        /// How many failures there were.
        failed: usize,
        /// A pod of it is left, whose output can be asked for.
        left: bool,
    },
    /// A process of the mesh's own does not take the settings that it was given, and would never start.
    Refused {
        /// The pod.
        pod: Key,
        /// The container, whose log says why.
        container: String,
    },
    /// A container ended and will be started again, or can't be started.
    Trouble {
        /// The pod.
        pod: Key,
        /// What.
        what: String,
        /// It is the first that is told of this pod.
        first: bool,
    },
}

/// A summary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Pods.
    pub pods: usize,
    /// Of them with a sidecar.
    pub meshed: usize,
    /// Services.
    pub services: usize,
    /// Jobs.
    pub jobs: Jobs,
}

/// Who is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Pods, the control plane not counted.
    pub all: usize,
    /// Those of them that are not ready.
    pub missing: usize,
    /// Those of them that are made when the ones before them are ready.
    pub unmade: usize,
    /// Why the control plane is not ready, if it is not.
    pub control: Option<String>,
    /// The first of them, in order of their names.
    pub pods: Vec<Late>,
}

/// A pod that is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// The pod.
    pub pod: Key,
    /// The container whose log may tell more.
    pub container: Option<String>,
    /// Why it is not ready.
    pub why: String,
    /// The same without what changes by itself, such as the time to the next try.
    kind: String,
}

/// What has been told.
#[derive(Debug, Default)]
pub(super) struct Telling {
    problems: BTreeMap<Identity, Severity>,
    /// All pods are ready at this moment.
    pub ready: bool,
    /// It was told last that all are ready.
    told_ready: bool,
    /// It has been told before.
    was_ready: bool,
    /// Pods that are ready, of how many.
    progress: (usize, usize),
    /// Since when not all have been ready.
    late_since: Option<Instant>,
    /// Who was said to be waited for, and when.
    waiting: Option<(Names, Instant)>,
    /// When something has to be told although nothing happens.
    pub due: Option<Instant>,
}

/// Who is waited for, and for what reason. No key: the control plane.
type Names = Vec<(Option<Key>, String)>;

/// What makes a problem the same as before: not its line, which changes with every edit above it.
type Identity = (Option<PathBuf>, Option<ObjectRef>, String, String);

/// News that nobody took in time are dropped beyond this many; `weft status` has all.
pub const NEWS: usize = 256;
/// Those who are not ready are named after this time, and then no more often than this.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pods that are named.
const MOST_NAMED: usize = 8;
/// A pod that was started again counts as ready once it has been so for this long for each restart …
const STEADY: Duration = Duration::from_secs(5);
/// … but for no more of them than this.
const STEADY_MOST: u32 = 12;
/// Different troubles of one pod that are told.
const MOST_TROUBLES: usize = 16;

impl Cluster {
    /// Tells what is new.
    pub(super) fn tell(&mut self) {
        let now = Instant::now();
        self.tell_problems();
        let counts = |record: &&Record| self.counts(record);
        let ready = self.pods().filter(counts).filter(|record| record.ready()).count();
        // A StatefulSet's pods are not all there from the beginning.
        let all = self.pods().filter(counts).count() + self.unmade;
        let lasting = |record: &&Record| !record.is_of_a_job();
        let unsteady = self.pods().filter(counts).filter(lasting).filter_map(steady_at).max();
        let control = self.control().any(Record::ready);
        // At first a call to a Service that has just got its pods must not be refused for want of rules.
        let routed = self.telling.was_ready || !self.rules_due;
        self.telling.ready = control && ready == all && routed;
        if !self.telling.was_ready && !self.ending {
            self.tell_refused();
        }
        if self.telling.progress != (ready, all) && !self.ending {
            self.telling.progress = (ready, all);
            self.say(News::Progress { ready, all });
        }
        let steady = self.telling.ready && unsteady.is_none_or(|at| at <= now);
        self.telling.due = unsteady.filter(|at| *at > now);
        match steady {
            true => {
                (self.telling.late_since, self.telling.waiting) = (None, None);
                if !std::mem::replace(&mut self.telling.told_ready, true) {
                    let report = self.report(all);
                    self.telling.was_ready = true;
                    self.say(News::Ready(report));
                }
            }
            false => {
                self.telling.told_ready = false;
                if !self.ending && routed {
                    self.tell_waiting(now, all);
                }
            }
        }
        self.tell_troubles(now);
    }

    /// Whether a pod is waited for. One of a Job's comes and goes: after the beginning nobody waits for it.
    fn counts(&self, record: &Record) -> bool {
        let passing = self.telling.was_ready && record.is_of_a_job();
        !record.deleting && !record.finished() && !passing
    }

    fn report(&self, pods: usize) -> Report {
        let services = self.desired.services.keys();
        Report {
            pods,
            meshed: self
                .pods()
                .filter(|record| record.meshed && self.counts(record))
                .count(),
            jobs: self.jobs_told(),
            services: services
                .filter(|key| key.namespace != system::NAMESPACE && self.imports.of(key).is_none())
                .count(),
        }
    }

    /// Each problem when it appears; each object or file when its last problem is gone.
    fn tell_problems(&mut self) {
        let mut now = BTreeMap::new();
        let mut new = Vec::new();
        for problem in self.read_problems.iter().chain(&self.problems) {
            let identity = identity(problem);
            if !self.telling.problems.contains_key(&identity) && !now.contains_key(&identity) {
                new.push(News::Problem(problem.clone()));
            }
            now.insert(identity, problem.severity);
        }
        let resolved = resolved(&self.telling.problems, &now);
        self.telling.problems = now;
        let resolved = resolved.into_iter().map(News::Resolved);
        new.into_iter().chain(resolved).for_each(|news| self.say(news));
    }

    /// Who is waited for: after a while, and when it is somebody else or for another reason.
    fn tell_waiting(&mut self, now: Instant, all: usize) {
        let since = *self.telling.late_since.get_or_insert(now);
        let waiting = self.waiting(now, all);
        let names: Names = waiting
            .control
            .iter()
            .map(|why| (None, why.clone()))
            .chain(
                waiting
                    .pods
                    .iter()
                    .map(|late| (Some(late.pod.clone()), late.kind.clone())),
            )
            .collect();
        let due = match &self.telling.waiting {
            Some((told, _)) if *told == names => return,
            Some((_, at)) => *at + PATIENCE,
            None => since + PATIENCE,
        };
        if now < due {
            let earlier = self.telling.due.into_iter().chain([due]).min();
            self.telling.due = earlier;
            return;
        }
        self.telling.waiting = Some((names, now));
        self.say(News::Waiting(waiting));
    }

    fn waiting(&self, now: Instant, all: usize) -> Waiting {
        let is_late = |record: &&Record| {
            let unready = !record.ready() || steady_at(record).is_some_and(|at| at > now);
            unready && self.counts(record)
        };
        let late: Vec<&Record> = self.pods().filter(is_late).collect();
        let control = self.control().filter(|record| !record.deleting);
        let control: Vec<&Record> = control.collect();
        Waiting {
            all,
            missing: late.len() + self.unmade,
            unmade: self.unmade,
            control: match control.iter().any(|record| record.ready()) {
                true => None,
                false => Some(control.first().map_or(String::new(), |record| why(record).why)),
            },
            pods: late.into_iter().take(MOST_NAMED).map(why).collect(),
        }
    }

    /// Containers that fail, each failure once: the same one again says nothing new.
    fn tell_troubles(&mut self, now: Instant) {
        let mut news = Vec::new();
        for record in self.records.values_mut().filter(|record| !record.deleting) {
            let Some(what) = trouble(record) else {
                let well = record.ready() && steady_at(record).is_none_or(|at| at <= now);
                if well {
                    record.told.clear();
                }
                continue;
            };
            if record.told.contains(&what) || record.told.len() >= MOST_TROUBLES {
                continue;
            }
            news.push(News::Trouble {
                pod: record.key.clone(),
                what: what.clone(),
                first: record.told.is_empty(),
            });
            record.told.insert(what);
        }
        news.into_iter().for_each(|news| self.say(news));
    }

    pub(super) fn say(&self, news: News) {
        if self.parts.news.try_send(news).is_err() {
            tracing::debug!("nobody takes the news");
        }
    }
}

fn identity(problem: &Problem) -> Identity {
    (
        problem.file.clone(),
        problem.object.clone(),
        problem.field.clone(),
        problem.message.clone(),
    )
}

/// Objects and files that had problems before and have none now. Notices are no problems.
fn resolved(before: &BTreeMap<Identity, Severity>, now: &BTreeMap<Identity, Severity>) -> BTreeSet<String> {
    let subject = |(file, object, _, _): &Identity| match (file, object) {
        (_, Some(object)) => Some(object.to_string()),
        (Some(file), None) => Some(file.display().to_string()),
        (None, None) => None,
    };
    let subjects = |all: &BTreeMap<Identity, Severity>| -> BTreeSet<String> {
        let bad = all.iter().filter(|(_, severity)| **severity != Severity::Notice);
        bad.filter_map(|(identity, _)| subject(identity)).collect()
    };
    &subjects(before) - &subjects(now)
}

/// When a pod that is ready, and was started again, will have been so for long enough to rely on it.
fn steady_at(record: &Record) -> Option<Instant> {
    let restarts = record.restarts();
    (restarts > 0).then_some(record.ready_since? + STEADY * restarts.min(STEADY_MOST))
}

/// Why a pod is not ready.
fn why(record: &Record) -> Late {
    let late = |container: Option<&str>, kind: String, more: String| Late {
        pod: record.key.clone(),
        container: container.map(str::to_owned),
        why: format!("{kind}{more}"),
        kind,
    };
    match &record.stage {
        Stage::Network | Stage::Starting => late(None, "it is being started".to_owned(), String::new()),
        Stage::Waiting(what) if what.is_empty() => {
            let what = "it waits for the control plane's trust bundle";
            late(None, what.to_owned(), String::new())
        }
        Stage::Waiting(what) | Stage::Failed(what, _) => late(None, what.clone(), String::new()),
        Stage::Running(_) => {
            let containers = &record.status.containers;
            let said = containers
                .iter()
                .find_map(|container| Some((container, unready(container)?)));
            // All are ready, but one of them has not been so for long.
            let said = said.or_else(|| {
                let ended = containers.iter().find(|container| container.restarts > 0)?;
                Some((
                    ended,
                    (ended_how(ended), ", and has just been started again".to_owned()),
                ))
            });
            match said {
                Some((container, (kind, more))) => {
                    let name = &container.name;
                    late(Some(name), format!("container {name} {kind}"), more)
                }
                None => late(None, "it is being started".to_owned(), String::new()),
            }
        }
    }
}

/// Why a container keeps its pod from being ready, and what changes of that by itself. None: it does not.
fn unready(container: &ContainerStatus) -> Option<(String, String)> {
    let failed = container.last.as_ref().is_some_and(|last| last.exit_code != 0);
    let only = |kind: String| Some((kind, String::new()));
    match &container.state {
        ContainerState::Terminated(end) if end.exit_code != 0 => only(exited(end)),
        ContainerState::Terminated(_) => None,
        ContainerState::Waiting { message, .. } if container.last.is_some() => {
            let again = message.rsplit_once("; ").map(|(_, again)| format!(", and is {again}"));
            Some((ended_how(container), again.unwrap_or_default()))
        }
        ContainerState::Waiting {
            reason: "PodInitializing",
            ..
        } => only("waits for the init containers".to_owned()),
        ContainerState::Waiting { .. } => only("is being started".to_owned()),
        ContainerState::Running { .. } if container.kind == Kind::Init => {
            only("has not ended (the others wait for it)".to_owned())
        }
        ContainerState::Running { .. } if container.ready => None,
        ContainerState::Running { .. } => {
            let what = if container.started {
                "is not ready"
            } else {
                "has not started"
            };
            let probe = match &container.probe_failure {
                Some(why) => format!("{what}: {why}"),
                None if failed => return Some((ended_how(container), ", and has been started again".to_owned())),
                None => format!("{what}: its probe has not answered yet"),
            };
            only(probe)
        }
    }
}

fn ended_how(container: &ContainerStatus) -> String {
    container.last.as_ref().map_or_else(|| "has ended".to_owned(), exited)
}

fn exited(end: &Terminated) -> String {
    match end.message.is_empty() {
        true => format!("exited with {}", end.exit_code),
        false => format!("exited with {} ({})", end.exit_code, end.message),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn problem(line: u32, field: &str, severity: Severity) -> Problem {
        Problem {
            field: field.to_owned(),
            severity,
            ..Problem::of_file("/m/route.yaml", Some(line), "wrong", "right")
        }
    }

    fn told(problems: &[Problem]) -> BTreeMap<Identity, Severity> {
        problems.iter().map(|p| (identity(p), p.severity)).collect()
    }

    #[test]
    fn a_problem_that_moved_to_another_line_is_the_same() {
        let (old, new) = (problem(3, "a", Severity::Error), problem(5, "a", Severity::Error));
        assert_eq!(identity(&old), identity(&new));
    }

    #[test]
    fn the_last_of_a_files_problems_to_go_is_told_and_a_notice_is_none() {
        let (a, b) = (problem(1, "a", Severity::Error), problem(1, "b", Severity::Warning));
        let (both, one) = (told(&[a.clone(), b.clone()]), told(&[b]));
        assert!(resolved(&both, &one).is_empty(), "one is left");
        assert_eq!(resolved(&one, &told(&[])), BTreeSet::from(["/m/route.yaml".to_owned()]));
        let notice = problem(1, "c", Severity::Notice);
        assert_eq!(resolved(&one, &told(std::slice::from_ref(&notice))).len(), 1);
        assert!(resolved(&told(&[notice]), &told(&[])).is_empty());
    }

    fn container(state: ContainerState, last: Option<i32>) -> ContainerStatus {
        let ended = |exit_code| Terminated {
            exit_code,
            signal: None,
            reason: "Error",
            message: String::new(),
            started: SystemTime::UNIX_EPOCH,
            finished: SystemTime::UNIX_EPOCH,
        };
        ContainerStatus {
            name: "app".to_owned(),
            kind: Kind::Main,
            state,
            last: last.map(ended),
            ready: false,
            started: true,
            restarts: 1,
            probe_failure: None,
        }
    }

    #[test]
    fn a_container_that_ends_again_and_again_is_late_for_one_reason_however_long_it_waits() {
        let waits = |message: &str| {
            let (reason, message) = ("CrashLoopBackOff", message.to_owned());
            unready(&container(ContainerState::Waiting { reason, message }, Some(1))).unwrap()
        };
        let (first, later) = (
            waits("exit code 1; started again in 1 s"),
            waits("exit code 1; started again in 10 s"),
        );
        assert_eq!(first.0, later.0);
        assert_eq!(
            format!("{}{}", later.0, later.1),
            "exited with 1, and is started again in 10 s"
        );
    }

    #[test]
    fn a_container_whose_probe_fails_says_why_and_a_ready_one_nothing() {
        let (since, pid) = (SystemTime::UNIX_EPOCH, 7);
        let mut running = container(ContainerState::Running { since, pid }, None);
        running.probe_failure = Some("HTTP 503".to_owned());
        assert_eq!(unready(&running).unwrap().0, "is not ready: HTTP 503");
        running.ready = true;
        assert_eq!(unready(&running), None);
    }
}
