//! When the webhook's certificate is replaced, so that no review fails: the API server learns of the new CA before the new
//! certificate is served, and keeps the old CA until the old certificate has ended: a replica that hears of nothing for a
//! while goes on to be believed. Nothing is risked by that, because the CA's key is forgotten. Pure.

use std::time::{Duration, SystemTime};

use super::pair::Pair;

/// What the Secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// What is served.
    pub(super) current: Pair,
    /// What will be, once the API server knows its CA.
    pub(super) next: Option<Pair>,
    /// The CA of what was served before, and when that ends.
    pub(super) previous: Option<(String, SystemTime)>,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The caBundle is not what it should be.
    WriteBundle,
    /// A new certificate is to be made, to be served later.
    Prepare,
    /// The Secret is to hold this.
    Store(Box<Held>),
    /// Nothing.
    Wait,
}

impl Held {
    /// One certificate, and nothing before or after it.
    pub(super) fn new(current: Pair) -> Self {
        Self {
            current,
            next: None,
            previous: None,
        }
    }

    /// The CAs that the API server is to know.
    pub(super) fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|pair| pair.ca.as_str());
        let previous = self.previous.as_ref().map(|(ca, _)| ca.as_str());
        [Some(self.current.ca.as_str()), next, previous]
            .into_iter()
            .flatten()
            .collect()
    }

    /// What is to be done. `known`: for how long the API server has been seen with this bundle; `None`: it is not now.
    /// `overlap`: how long it takes until every API server has seen a change. `name`: the server's.
    pub(super) fn step(&self, now: SystemTime, known: Option<Duration>, overlap: Duration, name: &str) -> Step {
        let Some(known) = known else {
            return Step::WriteBundle;
        };
        let ended = self.current.not_after() <= now || !self.current.is_for(name);
        if let Some(next) = &self.next {
            // One that nobody takes any more is no worse replaced early.
            return match known >= overlap || ended {
                true => Step::Store(Box::new(Self {
                    current: next.clone(),
                    next: None,
                    previous: Some((self.current.ca.clone(), self.current.not_after())),
                })),
                false => Step::Wait,
            };
        }
        if self.current.due() <= now || ended {
            return Step::Prepare;
        }
        match &self.previous {
            Some((_, end)) if *end <= now => Step::Store(Box::new(Self {
                previous: None,
                ..self.clone()
            })),
            _ => Step::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(90);
    const OVERLAP: Duration = Duration::from_secs(5);
    const NAME: &str = "weft-injector.weft-system.svc";

    fn pair(now: SystemTime) -> Pair {
        Pair::make(&[NAME.to_owned()], LIFE, now).unwrap()
    }

    #[test]
    fn a_bundle_that_somebody_overwrote_is_written_before_anything_else() {
        let now = SystemTime::now();
        let mut held = Held::new(pair(now));
        held.next = Some(pair(now));
        assert_eq!(held.step(now + LIFE, None, OVERLAP, NAME), Step::WriteBundle);
    }

    #[test]
    fn the_certificate_changes_after_its_ca_was_known_for_the_overlap() {
        let now = SystemTime::now();
        let held = Held::new(pair(now));
        let known = Some(Duration::from_secs(3600));
        assert_eq!(held.step(now + LIFE / 2, known, OVERLAP, NAME), Step::Wait);
        let due = now + LIFE * 2 / 3 + Duration::from_secs(2);
        assert_eq!(held.step(due, known, OVERLAP, NAME), Step::Prepare);

        let mut prepared = held.clone();
        prepared.next = Some(pair(due));
        assert!(prepared.bundle().contains(&held.current.ca) && prepared.bundle().len() > held.bundle().len());
        assert_eq!(prepared.step(due, Some(OVERLAP / 2), OVERLAP, NAME), Step::Wait);
        let Step::Store(switched) = prepared.step(due, Some(OVERLAP), OVERLAP, NAME) else {
            panic!("not switched")
        };
        assert_eq!(Some(&switched.current), prepared.next.as_ref());
        assert!(
            switched.bundle().contains(&held.current.ca),
            "a late replica serves the old one still"
        );

        assert_eq!(switched.step(due + OVERLAP, known, OVERLAP, NAME), Step::Wait);
        let end = held.current.not_after();
        let Step::Store(done) = switched.step(end, known, OVERLAP, NAME) else {
            panic!("the old CA stays")
        };
        assert_eq!(done.bundle(), switched.current.ca);
    }

    #[test]
    fn one_that_has_ended_or_is_for_another_name_is_replaced_as_soon_as_the_new_ca_is_written() {
        let now = SystemTime::now();
        let mut held = Held::new(pair(now));
        assert_eq!(
            held.step(now, Some(Duration::ZERO), OVERLAP, "other.svc"),
            Step::Prepare
        );
        held.next = Some(pair(now));
        let later = now + LIFE * 2;
        assert!(matches!(
            held.step(later, Some(Duration::ZERO), OVERLAP, NAME),
            Step::Store(_)
        ));
        assert_eq!(held.step(now, Some(Duration::ZERO), OVERLAP, NAME), Step::Wait);
    }
}
