//! Jobs as they run: when they began, how many of their pods ended how, and when it is over.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_control::objects::Problem;

use super::Cluster;
use super::convergence::Wanted;
use super::record::Record;
use super::tell::News;
use crate::manifest::{Job, Key, Owner, Workload};
use crate::plan::job::{Outcome, Step, Tally, step};
use crate::pod::Phase;

/// How far a Job is.
#[derive(Debug)]
pub(super) struct JobRun {
    /// Changes with anything of the Job: an edited one is run anew.
    hash: String,
    began: Instant,
    /// How many of its pods had failed when somebody looked last, and since when it has been so many.
    failed: (usize, Instant),
    over: Option<(Outcome, Instant)>,
}

/// Jobs, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jobs {
    /// Not over yet.
    pub running: usize,
    /// Complete.
    pub complete: usize,
    /// Failed.
    pub failed: usize,
}

/// The wait before a pod is made in the place of one that failed: this much after the first, doubling up to `MOST`.
/// Kubernetes waits from 10 s to 6 min; on one machine a person waits for it.
const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(10);

impl JobRun {
    fn new(hash: &str) -> Self {
        let now = Instant::now();
        Self {
            hash: hash.to_owned(),
            began: now,
            failed: (0, now),
            over: None,
        }
    }

    /// Not before then a pod is made.
    fn next_try(&self) -> Instant {
        let (failed, since) = self.failed;
        let doubled = |failures: usize| FIRST.saturating_mul(1 << (failures - 1).min(8)).min(MOST);
        since + if failed == 0 { Duration::ZERO } else { doubled(failed) }
    }

    /// When something is due without an event.
    pub(super) fn due(&self, job: &Job) -> Option<Instant> {
        let now = Instant::now();
        let later = |at: &Instant| *at > now;
        match self.over {
            Some((_, at)) => job.ttl.map(|ttl| at + ttl).filter(later),
            None => {
                let deadline = job.deadline.map(|deadline| self.began + deadline);
                let tried = Some(self.next_try()).filter(later);
                deadline.into_iter().chain(tried).min()
            }
        }
    }
}

impl Cluster {
    /// Takes the next step of each Job.
    pub(super) fn run_jobs(&mut self, problems: &mut Vec<Problem>) {
        self.jobs.retain(|key, _| self.desired.jobs.contains_key(key));
        for key in self.desired.jobs.keys().cloned().collect::<Vec<_>>() {
            self.run_job(&key, problems);
        }
    }

    fn run_job(&mut self, key: &Key, problems: &mut Vec<Problem>) {
        let job = self.desired.jobs[key].clone();
        let hash = &job.template.hash;
        let owner = owner_of(key);
        let edited = self.jobs.get(key).is_none_or(|run| run.hash != *hash);
        if edited {
            self.jobs.insert(key.clone(), JobRun::new(hash));
        }
        let older = |record: &&Record| record.hash != *hash && !record.deleting;
        let older: Vec<String> = self.owned(&owner).filter(older).map(|r| r.uid.clone()).collect();
        older.iter().for_each(|uid| self.delete(uid));
        let tally = self.tally(&owner, hash);
        let Some(run) = self.jobs.get_mut(key) else { return };
        let now = Instant::now();
        if tally.failed != run.failed.0 {
            run.failed = (tally.failed, now);
        }
        if let Some((_, at)) = run.over {
            if job.ttl.is_some_and(|ttl| now >= at + ttl) {
                self.delete_of(&owner, |_| true, usize::MAX);
            }
            return;
        }
        match step(&job, tally, now - run.began) {
            Step::Wait => {}
            Step::Create(_) if now < run.next_try() => {}
            Step::Create(missing) => {
                self.create_all((0..missing).map(|_| Wanted::any(&owner)), problems);
            }
            Step::Delete(surplus) => self.delete_of(&owner, |record| !record.status.ended, surplus),
            Step::Over(outcome) => {
                run.over = Some((outcome, now));
                let took = now - run.began;
                self.delete_of(&owner, |record| !record.status.ended, usize::MAX);
                self.say(News::Job {
                    job: key.clone(),
                    outcome,
                    took,
                    failed: tally.failed.max(tally.restarts),
                    left: tally.failed + tally.succeeded > 0,
                });
            }
        }
    }

    fn tally(&self, owner: &Owner, hash: &str) -> Tally {
        let mut tally = Tally::default();
        for record in self.owned(owner).filter(|record| record.hash == hash) {
            match (record.status.ended, record.status.phase) {
                (true, Phase::Succeeded) => tally.succeeded += 1,
                (true, _) if !record.deleting => tally.failed += 1,
                _ if record.deleting => {}
                _ => {
                    tally.active += 1;
                    tally.restarts += record.restarts() as usize;
                }
            }
        }
        tally
    }

    /// Deletes the newest of a Job's pods of which `which` holds, so many at most.
    fn delete_of(&mut self, owner: &Owner, which: impl Fn(&Record) -> bool, most: usize) {
        let mut uids: Vec<(u64, String)> = self
            .owned(owner)
            .filter(|record| !record.deleting && which(record))
            .map(|record| (record.order, record.uid.clone()))
            .collect();
        uids.sort_unstable();
        for (_, uid) in uids.into_iter().rev().take(most) {
            self.delete(&uid);
        }
    }

    /// A Job as `weft status` has it. None: its time after the end is over.
    pub(super) fn job_status(&self, key: &Key) -> Option<Value> {
        let job = &self.desired.jobs[key];
        let over = self.jobs.get(key).and_then(|run| run.over);
        if over.is_some_and(|(_, at)| job.ttl.is_some_and(|ttl| Instant::now() >= at + ttl)) {
            return None;
        }
        let tally = self.tally(&owner_of(key), &job.template.hash);
        let run = self.jobs.get(key);
        let (status, reason) = match over {
            None => ("Running", ""),
            Some((Outcome::Complete, _)) => ("Complete", ""),
            Some((outcome, _)) => ("Failed", outcome.reason()),
        };
        let seconds = run.map(|run| {
            let end = run.over.map_or_else(Instant::now, |(_, at)| at);
            (end - run.began).as_secs()
        });
        Some(json!({
            "namespace": key.namespace, "name": key.name, "status": status, "reason": reason,
            "succeeded": tally.succeeded, "completions": job.completions, "active": tally.active,
            "failed": tally.failed, "seconds": seconds,
        }))
    }

    /// The Jobs, counted by how they ended.
    pub(super) fn jobs_told(&self) -> Jobs {
        let over: Vec<Outcome> = self.jobs.values().filter_map(|run| Some(run.over?.0)).collect();
        let complete = over.iter().filter(|outcome| **outcome == Outcome::Complete).count();
        Jobs {
            running: self.jobs.len() - over.len(),
            complete,
            failed: over.len() - complete,
        }
    }
}

fn owner_of(key: &Key) -> Owner {
    Owner {
        kind: Workload::Job,
        key: key.clone(),
    }
}
