//! How a Job's pods come, and when it is over. Pure.

use std::time::Duration;

use crate::manifest::Job;

/// The pods of a Job, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// That have not ended, and are not being deleted.
    pub active: usize,
    /// That ended well.
    pub succeeded: usize,
    /// That failed.
    pub failed: usize,
    /// How often containers of the active ones were started again.
    pub restarts: usize,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for what runs.
    Wait,
    /// Make so many pods.
    Create(usize),
    /// Delete so many of the active ones.
    Delete(usize),
    /// It is over.
    Over(Outcome),
}

/// How a Job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As many pods as are wanted ended well.
    Complete,
    /// More failures than `backoffLimit`.
    TooManyFailures,
    /// `activeDeadlineSeconds` have passed.
    TooLate,
}

impl Outcome {
    /// The reason of Kubernetes' condition; none for `Complete`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Complete => "",
            Self::TooManyFailures => "BackoffLimitExceeded",
            Self::TooLate => "DeadlineExceeded",
        }
    }
}

/// The next step of a Job that began this long ago.
pub fn step(job: &Job, tally: Tally, age: Duration) -> Step {
    let complete = match job.completions {
        Some(completions) => tally.succeeded >= completions,
        None => tally.succeeded > 0 && tally.active == 0,
    };
    if complete {
        return Step::Over(Outcome::Complete);
    }
    if tally.failed > job.backoff_limit || restarted_too_often(job, tally) {
        return Step::Over(Outcome::TooManyFailures);
    }
    if job.deadline.is_some_and(|deadline| age >= deadline) {
        return Step::Over(Outcome::TooLate);
    }
    let wanted = match job.completions {
        Some(completions) => job.parallelism.min(completions - tally.succeeded),
        None if tally.succeeded > 0 => tally.active.min(job.parallelism),
        None => job.parallelism,
    };
    match wanted.checked_sub(tally.active) {
        Some(0) => Step::Wait,
        Some(missing) => Step::Create(missing),
        None => Step::Delete(tally.active - wanted),
    }
}

/// As Kubernetes counts where containers are started again in their pods: with a limit of 0 the first time is too often.
fn restarted_too_often(job: &Job, tally: Tally) -> bool {
    job.restarts && tally.restarts > 0 && tally.restarts >= job.backoff_limit
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::manifest::tests::object;

    fn job(spec: Value, policy: &str) -> Job {
        let mut raw = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "default"}, "spec": spec});
        raw["spec"]["template"] =
            json!({"spec": {"restartPolicy": policy, "containers": [{"name": "c", "command": ["c"]}]}});
        let mut problems = Vec::new();
        let job = Job::read(&object(raw), &mut problems);
        job.unwrap_or_else(|| panic!("{problems:?}"))
    }

    #[track_caller]
    fn check(job: &Job, (active, succeeded, failed, restarts): (usize, usize, usize, usize), want: Step) {
        let tally = Tally {
            active,
            succeeded,
            failed,
            restarts,
        };
        assert_eq!(step(job, tally, Duration::from_secs(5)), want, "{tally:?}");
    }

    #[test]
    fn as_many_run_at_once_as_may_until_as_many_have_succeeded_as_must() {
        let job = job(json!({"completions": 5, "parallelism": 2}), "Never");
        check(&job, (0, 0, 0, 0), Step::Create(2));
        check(&job, (1, 1, 0, 0), Step::Create(1));
        check(&job, (2, 3, 1, 0), Step::Wait);
        check(&job, (1, 4, 0, 0), Step::Wait);
        check(&job, (2, 4, 0, 0), Step::Delete(1));
        check(&job, (0, 5, 0, 0), Step::Over(Outcome::Complete));
    }

    #[test]
    fn without_a_number_the_first_success_is_the_beginning_of_the_end() {
        let job = job(json!({"parallelism": 3}), "Never");
        check(&job, (0, 0, 0, 0), Step::Create(3));
        check(&job, (2, 1, 0, 0), Step::Wait);
        check(&job, (0, 1, 2, 0), Step::Over(Outcome::Complete));
    }

    #[test]
    fn failures_are_borne_up_to_the_limit() {
        let never = job(json!({"backoffLimit": 1}), "Never");
        check(&never, (0, 0, 1, 0), Step::Create(1));
        check(&never, (0, 0, 2, 0), Step::Over(Outcome::TooManyFailures));
        let restarted = job(json!({"backoffLimit": 2}), "OnFailure");
        check(&restarted, (1, 0, 0, 1), Step::Wait);
        check(&restarted, (1, 0, 0, 2), Step::Over(Outcome::TooManyFailures));
        let none = job(json!({"backoffLimit": 0}), "OnFailure");
        check(&none, (1, 0, 0, 0), Step::Wait);
        check(&none, (1, 0, 0, 1), Step::Over(Outcome::TooManyFailures));
    }

    #[test]
    fn a_deadline_ends_it_but_not_what_is_complete() {
        let job = job(json!({"activeDeadlineSeconds": 5}), "Never");
        check(&job, (1, 0, 0, 0), Step::Over(Outcome::TooLate));
        check(&job, (0, 1, 0, 0), Step::Over(Outcome::Complete));
    }

    #[test]
    fn an_edited_job_is_another_one() {
        let [one, same, other] = [1, 1, 2].map(|n| job(json!({"backoffLimit": n}), "Never").template.hash);
        assert_eq!(one, same);
        assert_ne!(one, other);
    }
}
