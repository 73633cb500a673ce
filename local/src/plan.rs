//! How the pods of workloads come and go; here those of a Deployment, in modules those of the other kinds: what there is and what there is to be in, the next steps out. Pure.
//!
//! Level-triggered: it is asked again after each change and says the same until the world has moved.

pub mod daemon;
pub mod job;
pub mod stateful;

use crate::manifest::Rollout;

/// A pod of a workload that is not being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned<'a> {
    /// Its uid.
    pub uid: &'a str,
    /// It was made from the present template.
    pub current: bool,
    /// It has been ready for long enough.
    pub available: bool,
    /// It is ready.
    pub ready: bool,
    /// Pods that began earlier have smaller numbers.
    pub order: u64,
    /// How often its containers were started again.
    pub restarts: u32,
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// How many pods to make from the present template.
    pub create: usize,
    /// Which pods to delete, by uid.
    pub delete: Vec<String>,
}

/// The next steps of a Deployment. `leaving`: how many of its pods are being deleted.
///
/// As Kubernetes' controller: at most `surge` pods more than wanted, never fewer available than wanted less `unavailable`;
/// old pods that are not available go first, because nobody misses them.
pub fn steps(rollout: Rollout, owned: &[Owned<'_>], leaving: usize) -> Steps {
    let (current, old): (Vec<&Owned<'_>>, Vec<&Owned<'_>>) = owned.iter().partition(|pod| pod.current);
    let surplus = current.len().saturating_sub(rollout.replicas);
    let mut steps = Steps {
        create: 0,
        delete: least_wanted(&current, surplus),
    };
    let missing = rollout.replicas.saturating_sub(current.len());

    if old.is_empty() {
        // After a recreation all old ones must be gone, not only going.
        steps.create = if rollout.recreate && leaving > 0 && current.is_empty() {
            0
        } else {
            missing
        };
        return steps;
    }
    if rollout.recreate {
        steps.delete.extend(old.iter().map(|pod| pod.uid.to_owned()));
        return steps;
    }
    let most = rollout.replicas + rollout.surge;
    steps.create = missing.min(most.saturating_sub(owned.len()));

    let least = rollout.replicas.saturating_sub(rollout.unavailable);
    let available = owned.iter().filter(|pod| pod.available).count();
    let lost = current
        .iter()
        .filter(|pod| pod.available && steps.delete.iter().any(|uid| uid == pod.uid))
        .count();
    let mut spare = (available - lost).saturating_sub(least);
    for pod in sorted(&old) {
        // With all new ones available the old ones are not needed any more, however few there were to be.
        if !pod.available {
            steps.delete.push(pod.uid.to_owned());
        } else if spare > 0 {
            spare -= 1;
            steps.delete.push(pod.uid.to_owned());
        }
    }
    steps
}

/// The first `count` pods to do without.
fn least_wanted(pods: &[&Owned<'_>], count: usize) -> Vec<String> {
    sorted(pods)
        .into_iter()
        .take(count)
        .map(|pod| pod.uid.to_owned())
        .collect()
}

/// Not ready before ready, often restarted before seldom, young before old: Kubernetes' order of scaling down.
fn sorted<'a, 'b>(pods: &[&'a Owned<'b>]) -> Vec<&'a Owned<'b>> {
    let mut pods = pods.to_vec();
    pods.sort_by_key(|pod| {
        (
            pod.available,
            pod.ready,
            std::cmp::Reverse(pod.restarts),
            std::cmp::Reverse(pod.order),
        )
    });
    pods
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(replicas: usize) -> Rollout {
        Rollout {
            replicas,
            surge: 1,
            unavailable: 0,
            recreate: false,
        }
    }

    /// `n`: new and available, `s`: new and starting, `o`: old and available, `b`: old and broken.
    fn pods(kinds: &str) -> Vec<Owned<'static>> {
        const UIDS: [&str; 8] = ["0", "1", "2", "3", "4", "5", "6", "7"];
        let pod = |(i, kind): (usize, char)| {
            let good = matches!(kind, 'n' | 'o');
            let current = matches!(kind, 'n' | 's');
            Owned {
                uid: UIDS[i],
                current,
                available: good,
                ready: good,
                order: i as u64,
                restarts: 0,
            }
        };
        kinds.chars().enumerate().map(pod).collect()
    }

    #[track_caller]
    fn check(rollout: Rollout, kinds: &str, leaving: usize, create: usize, delete: &[&str]) {
        let steps = steps(rollout, &pods(kinds), leaving);
        assert_eq!(
            (
                steps.create,
                steps.delete.iter().map(String::as_str).collect::<Vec<_>>()
            ),
            (create, delete.to_vec())
        );
    }

    #[test]
    fn a_deployment_that_has_what_it_wants_does_nothing() {
        check(rollout(0), "", 0, 0, &[]);
        check(rollout(2), "nn", 0, 0, &[]);
        check(rollout(2), "ns", 0, 0, &[]);
    }

    #[test]
    fn it_is_scaled_up_at_once_and_down_from_the_least_wanted() {
        check(rollout(3), "n", 0, 2, &[]);
        check(rollout(3), "n", 5, 2, &[]);
        check(rollout(1), "nsn", 0, 0, &["1", "2"]);
        check(rollout(0), "nn", 0, 0, &["1", "0"]);
    }

    #[test]
    fn a_new_pod_is_ready_before_an_old_one_goes() {
        check(rollout(2), "oo", 0, 1, &[]);
        check(rollout(2), "oos", 0, 0, &[]);
        check(rollout(2), "oon", 0, 0, &["1"]);
        check(rollout(2), "on", 1, 1, &[]);
        check(rollout(2), "ons", 0, 0, &[]);
        check(rollout(2), "onn", 0, 0, &["0"]);
        check(rollout(2), "nn", 1, 0, &[]);
    }

    #[test]
    fn old_pods_that_do_not_work_are_not_waited_for() {
        check(rollout(1), "b", 0, 1, &["0"]);
        check(rollout(2), "bo", 0, 1, &["0"]);
    }

    #[test]
    fn a_new_template_that_never_becomes_ready_takes_no_old_pod_away() {
        check(rollout(1), "os", 0, 0, &[]);
        check(rollout(3), "ooos", 0, 0, &[]);
    }

    #[test]
    fn unavailability_that_is_allowed_is_used() {
        let rollout = Rollout {
            surge: 0,
            unavailable: 1,
            ..rollout(2)
        };
        check(rollout, "oo", 0, 0, &["1"]);
        check(rollout, "o", 1, 1, &[]);
    }

    #[test]
    fn recreation_waits_until_the_old_ones_are_gone() {
        let rollout = Rollout {
            recreate: true,
            ..rollout(2)
        };
        check(rollout, "oo", 0, 0, &["0", "1"]);
        check(rollout, "", 2, 0, &[]);
        check(rollout, "", 0, 2, &[]);
        check(rollout, "n", 1, 1, &[]);
    }

    #[test]
    fn rollouts_of_every_size_end_and_never_fall_below_what_is_promised() {
        for replicas in 0..5 {
            for (surge, unavailable) in [(1, 0), (2, 0), (0, 1), (1, 1), (5, 5)] {
                let rollout = Rollout {
                    replicas,
                    surge,
                    unavailable,
                    recreate: false,
                };
                let names: Vec<String> = (0..64).map(|i| i.to_string()).collect();
                let mut world: Vec<(usize, bool, bool)> = (0..3).map(|i| (i, false, true)).collect();
                let mut next = 3;
                for _ in 0..50 {
                    let owned: Vec<Owned<'_>> = world
                        .iter()
                        .map(|&(i, current, ready)| Owned {
                            uid: &names[i],
                            current,
                            available: ready,
                            ready,
                            order: i as u64,
                            restarts: 0,
                        })
                        .collect();
                    let steps = steps(rollout, &owned, 0);
                    assert!(world.len() + steps.create <= (replicas + surge).max(world.len()));
                    let before = world.iter().filter(|pod| pod.2).count();
                    world.retain(|&(i, _, _)| !steps.delete.contains(&names[i]));
                    let after = world.iter().filter(|pod| pod.2).count();
                    assert!(after >= before.min(replicas.saturating_sub(unavailable)), "{rollout:?}");
                    world.iter_mut().for_each(|pod| pod.2 = true);
                    for _ in 0..steps.create {
                        world.push((next, true, false));
                        next += 1;
                    }
                }
                assert_eq!(world.len(), replicas, "{rollout:?}");
                assert!(world.iter().all(|pod| pod.1));
            }
        }
    }
}
