use std::time::Duration;

use super::Action::{Kill, Start, Terminate};
use super::*;
use crate::spec::tests::{container, pod};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `i` is an init container, `s` a sidecar, `m` a main container; in the order of their indexes.
fn order(kinds: &str, policy: RestartPolicy) -> Order {
    let mut plan = pod("web", &["true"]);
    plan.containers.clear();
    plan.restart_policy = policy;
    for (index, kind) in kinds.chars().enumerate() {
        let mut one = container(&format!("c{index}"), &["true"]);
        one.sidecar = kind == 's';
        if kind == 'm' {
            plan.containers.push(one)
        } else {
            plan.init_containers.push(one)
        }
    }
    Order::new(&plan, Backoff::default())
}

#[test]
fn init_containers_run_one_after_the_other_and_main_ones_together() {
    let mut order = order("iimm", RestartPolicy::Always);
    assert_eq!(order.next(s(0)), [Start(0)]);
    order.running(0, s(0), true);
    assert_eq!(order.next(s(1)), []);
    order.ended(0, s(2), true);
    assert_eq!(order.next(s(2)), [Start(1)]);
    order.running(1, s(2), true);
    order.ended(1, s(3), true);
    assert_eq!(order.phase(), Phase::Pending);
    assert_eq!(order.next(s(3)), [Start(2), Start(3)]);
    assert!(order.is_initialized());
    order.running(2, s(3), true);
    assert_eq!(order.phase(), Phase::Running);
}

#[test]
fn what_follows_a_sidecar_waits_until_it_has_started() {
    let mut order = order("ssm", RestartPolicy::Always);
    assert_eq!(order.next(s(0)), [Start(0)]);
    order.running(0, s(0), false);
    assert_eq!(order.next(s(5)), [], "its startup probe has not succeeded");
    order.started(0);
    assert_eq!(order.next(s(6)), [Start(1)]);
    order.running(1, s(6), true);
    assert!(order.has_started(1));
    assert_eq!(order.next(s(6)), [Start(2)]);
}

#[test]
fn a_sidecar_that_dies_is_started_again_and_holds_nobody_up_twice() {
    let mut order = order("sim", RestartPolicy::Never);
    order.next(s(0));
    order.running(0, s(0), true);
    assert_eq!(order.next(s(0)), [Start(1)]);
    order.running(1, s(0), true);
    assert_eq!(order.ended(0, s(1), false), Some(s(0)));
    assert_eq!(order.next(s(1)), [Start(0)]);
    order.ended(1, s(2), true);
    assert_eq!(order.next(s(2)), [Start(2)], "the sidecar is only just starting again");
}

#[test]
fn the_first_restart_is_at_once_and_later_ones_wait_twice_as_long_each() {
    let mut order = order("m", RestartPolicy::Always);
    let mut now = s(0);
    let mut waits = Vec::new();
    for _ in 0..11 {
        assert_eq!(order.next(now), [Start(0)]);
        order.running(0, now, true);
        let wait = order.ended(0, now, false).unwrap();
        if wait > Duration::ZERO {
            assert_eq!(order.next(now), []);
            assert_eq!(order.wake(), Some(now + wait));
        }
        waits.push(wait.as_secs());
        now += wait;
    }
    assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    order.next(now);
    order.running(0, now, true);
    assert_eq!(order.ended(0, now + s(600), true), Some(s(0)), "a good run is forgiven");
}

#[test]
fn a_job_completes_without_its_sidecar() {
    let mut order = order("sm", RestartPolicy::OnFailure);
    order.next(s(0));
    order.running(0, s(0), true);
    order.next(s(0));
    order.running(1, s(0), true);
    assert_eq!(order.ended(1, s(1), false), Some(s(0)));
    order.next(s(1));
    order.running(1, s(1), true);
    assert_eq!(order.ended(1, s(2), true), None);
    assert_eq!(order.next(s(2)), [Terminate(0)]);
    assert!(!order.is_ended());
    order.ended(0, s(3), false);
    assert!(order.next(s(3)).is_empty());
    assert!(order.is_ended());
    assert_eq!(order.phase(), Phase::Succeeded);
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let mut order = order("sim", RestartPolicy::Never);
    order.next(s(0));
    order.running(0, s(0), true);
    order.next(s(0));
    order.running(1, s(0), true);
    assert_eq!(order.ended(1, s(1), false), None);
    assert_eq!(order.next(s(1)), [Terminate(0)]);
    assert_eq!(order.phase(), Phase::Failed);
    order.ended(0, s(1), true);
    order.next(s(1));
    assert!(order.is_ended());
}

#[test]
fn a_failed_init_container_is_tried_again_otherwise() {
    let mut order = order("im", RestartPolicy::OnFailure);
    order.next(s(0));
    assert_eq!(order.ended(0, s(0), false), Some(s(0)), "it could not even be started");
    assert_eq!(order.next(s(0)), [Start(0)]);
}

fn running(kinds: &str) -> Order {
    let mut order = order(kinds, RestartPolicy::Always);
    for index in 0..kinds.len() {
        order.next(s(0));
        order.running(index, s(0), true);
    }
    order
}

#[test]
fn at_the_end_main_containers_go_first_and_sidecars_in_reverse() {
    let mut order = running("ssmm");
    order.stop(s(10), None);
    assert_eq!(order.next(s(10)), [Terminate(2), Terminate(3)]);
    order.ended(2, s(11), true);
    assert_eq!(order.next(s(11)), []);
    order.ended(3, s(12), true);
    assert_eq!(order.next(s(12)), [Terminate(1)]);
    assert_eq!(order.next(s(13)), []);
    order.ended(1, s(14), true);
    assert_eq!(order.next(s(14)), [Terminate(0)]);
    order.ended(0, s(15), true);
    assert_eq!(order.next(s(15)), []);
    assert!(order.is_ended());
}

#[test]
fn when_the_grace_period_is_over_all_are_killed() {
    let mut order = running("sm");
    order.stop(s(10), None);
    assert_eq!(order.next(s(10)), [Terminate(1)]);
    assert_eq!(order.wake(), Some(s(40)));
    assert_eq!(order.next(s(40)), [Terminate(0), Kill(1)]);
    order.ended(1, s(40), false);
    assert_eq!(order.wake(), Some(s(42)));
    assert_eq!(order.next(s(42)), [Kill(0)]);
    assert_eq!(order.next(s(43)), [], "once is enough");
    order.ended(0, s(43), false);
    assert!(order.is_ended());
}

#[test]
fn a_second_stop_can_only_shorten() {
    let mut order = running("m");
    order.stop(s(10), None);
    order.next(s(10));
    order.stop(s(11), Some(s(1)));
    order.stop(s(11), Some(s(100)));
    assert_eq!(order.wake(), Some(s(12)));
    assert_eq!(order.next(s(12)), [Kill(0)]);
}

#[test]
fn a_container_that_was_just_starting_is_asked_as_soon_as_it_runs() {
    let mut order = order("m", RestartPolicy::Always);
    assert_eq!(order.next(s(0)), [Start(0)]);
    order.stop(s(0), None);
    assert_eq!(order.next(s(0)), []);
    assert!(!order.is_ended());
    order.running(0, s(1), true);
    assert_eq!(order.next(s(1)), [Terminate(0)]);
}

#[test]
fn a_container_that_never_gets_to_run_is_killed_all_the_same() {
    let mut order = order("m", RestartPolicy::Always);
    order.next(s(0));
    order.stop(s(0), None);
    assert_eq!(order.wake(), Some(s(30)));
    assert_eq!(order.next(s(30)), [Kill(0)]);
    order.ended(0, s(30), false);
    assert!(order.is_ended());
}

#[test]
fn an_unhealthy_container_is_asked_then_killed_then_started_again() {
    let mut order = running("m");
    assert_eq!(order.unhealthy(0, s(5), Some(s(3))), Some(Terminate(0)));
    assert_eq!(order.unhealthy(0, s(6), None), None, "it has been asked");
    assert_eq!(order.next(s(8)), [Kill(0)]);
    order.ended(0, s(8), false);
    assert_eq!(order.next(s(8)), [Start(0)]);
}
