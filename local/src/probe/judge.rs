//! When answers become a verdict. Pure.

use crate::spec::Probe;

/// Which of a container's probes it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

/// What a probe has found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The container has started.
    Started,
    /// The container is ready.
    Ready,
    /// The container is not ready any more.
    NotReady,
    /// The container has to be started again.
    Unhealthy,
}

/// Counts answers in a row.
#[derive(Debug)]
pub(crate) struct Judge {
    kind: ProbeKind,
    success_threshold: u32,
    failure_threshold: u32,
    successes: u32,
    failures: u32,
    verdict: Option<Verdict>,
}

impl Judge {
    pub(crate) fn startup(probe: &Probe) -> Self {
        Self::new(ProbeKind::Startup, probe)
    }

    pub(crate) fn readiness(probe: &Probe) -> Self {
        Self::new(ProbeKind::Readiness, probe)
    }

    pub(crate) fn liveness(probe: &Probe) -> Self {
        Self::new(ProbeKind::Liveness, probe)
    }

    fn new(kind: ProbeKind, probe: &Probe) -> Self {
        Self {
            kind,
            success_threshold: probe.success_threshold,
            failure_threshold: probe.failure_threshold,
            successes: 0,
            failures: 0,
            verdict: None,
        }
    }

    /// Takes an answer; a verdict only if it differs from the one before.
    pub(crate) fn record(&mut self, well: bool) -> Option<Verdict> {
        (self.successes, self.failures) = if well {
            (self.successes.saturating_add(1), 0)
        } else {
            (0, self.failures.saturating_add(1))
        };
        let verdict = match self.kind {
            _ if self.successes < self.success_threshold && self.failures < self.failure_threshold => {
                return None;
            }
            ProbeKind::Startup if well => Verdict::Started,
            ProbeKind::Readiness if well => Verdict::Ready,
            ProbeKind::Readiness => Verdict::NotReady,
            ProbeKind::Liveness if well => {
                self.verdict = None;
                return None;
            }
            ProbeKind::Startup | ProbeKind::Liveness => Verdict::Unhealthy,
        };
        (self.verdict != Some(verdict)).then(|| {
            self.verdict = Some(verdict);
            verdict
        })
    }

    /// Whether nothing that comes can change the verdict: a startup probe answers once.
    pub(crate) fn is_final(&self) -> bool {
        self.kind == ProbeKind::Startup && self.verdict.is_some()
    }

    /// Whether the first success is still waited for, by someone who would like to go on.
    pub(crate) fn is_eager(&self) -> bool {
        self.kind != ProbeKind::Liveness && self.verdict.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ProbeAction;

    fn probe(success_threshold: u32, failure_threshold: u32) -> Probe {
        let action = ProbeAction::Tcp { host: None, port: 1 };
        Probe {
            success_threshold,
            failure_threshold,
            ..Probe::new(action)
        }
    }

    #[track_caller]
    fn check(mut judge: Judge, answers: &str, want: &[Option<Verdict>]) {
        let got: Vec<_> = answers.chars().map(|answer| judge.record(answer == '+')).collect();
        assert_eq!(got, want, "{answers}");
    }

    #[test]
    fn readiness_needs_its_thresholds_in_a_row_and_speaks_on_change() {
        use Verdict::{NotReady, Ready};
        check(
            Judge::readiness(&probe(2, 3)),
            "+-++-+---+-++",
            &[
                None,
                None,
                None,
                Some(Ready),
                None,
                None,
                None,
                None,
                Some(NotReady),
                None,
                None,
                None,
                Some(Ready),
            ],
        );
    }

    #[test]
    fn startup_answers_once() {
        let mut judge = Judge::startup(&probe(1, 3));
        assert!(judge.is_eager());
        assert_eq!((judge.record(false), judge.is_final()), (None, false));
        assert_eq!((judge.record(true), judge.is_final()), (Some(Verdict::Started), true));
        check(
            Judge::startup(&probe(1, 3)),
            "---",
            &[None, None, Some(Verdict::Unhealthy)],
        );
    }

    #[test]
    fn liveness_speaks_only_of_failure() {
        check(
            Judge::liveness(&probe(1, 2)),
            "+-+--",
            &[None, None, None, None, Some(Verdict::Unhealthy)],
        );
    }
}
