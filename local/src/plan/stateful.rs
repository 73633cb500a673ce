//! How a StatefulSet's pods come and go: one after the other, each with a number of its own. Pure.

use std::ops::Range;

/// A pod of a StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered<'a> {
    /// Its uid.
    pub uid: &'a str,
    /// Its number.
    pub ordinal: u32,
    /// It was made from the present template.
    pub current: bool,
    /// It has been ready for long enough.
    pub available: bool,
    /// It is being deleted.
    pub leaving: bool,
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// The numbers of pods to make.
    pub create: Vec<u32>,
    /// Which pods to delete, by uid.
    pub delete: Vec<String>,
}

/// The next steps of a StatefulSet that is to have pods of these numbers. `parallel`: all come and go at once
/// (`podManagementPolicy`); replacing them is one after the other in any case.
///
/// As Kubernetes' controller, with one exception: a pod of an older template that does not work is replaced at once,
/// where Kubernetes waits for somebody to delete it by hand.
pub fn steps(wanted: Range<u32>, parallel: bool, pods: &[Numbered<'_>]) -> Steps {
    let of = |ordinal: u32| pods.iter().find(|pod| pod.ordinal == ordinal);
    let mut steps = Steps::default();
    for ordinal in wanted.clone() {
        let settled = match of(ordinal) {
            None => {
                steps.create.push(ordinal);
                false
            }
            Some(pod) if pod.leaving => false,
            Some(pod) if !pod.available && !pod.current => {
                steps.delete.push(pod.uid.to_owned());
                false
            }
            Some(pod) => pod.available,
        };
        if !settled && !parallel {
            return steps;
        }
    }
    // The last one goes first, and nobody before it is gone.
    let mut surplus: Vec<&Numbered<'_>> = pods.iter().filter(|pod| !wanted.contains(&pod.ordinal)).collect();
    surplus.sort_by_key(|pod| std::cmp::Reverse(pod.ordinal));
    let going = surplus.iter().any(|pod| pod.leaving);
    let surplus = surplus.into_iter().filter(|pod| !pod.leaving);
    match parallel {
        true => steps.delete.extend(surplus.map(|pod| pod.uid.to_owned())),
        false if going => return steps,
        false => {
            let last: Vec<String> = surplus.take(1).map(|pod| pod.uid.to_owned()).collect();
            if !last.is_empty() {
                steps.delete.extend(last);
                return steps;
            }
        }
    }
    if steps != Steps::default() {
        return steps;
    }
    for ordinal in wanted.rev() {
        match of(ordinal) {
            Some(pod) if pod.leaving || (pod.current && !pod.available) => return steps,
            Some(pod) if !pod.current => {
                steps.delete.push(pod.uid.to_owned());
                return steps;
            }
            _ => {}
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const UIDS: [&str; 6] = ["0", "1", "2", "3", "4", "5"];

    /// `n`: new and available, `s`: new and starting, `o`: old and available, `b`: old and broken, `l`: leaving, `.`: none.
    fn pods(kinds: &str) -> Vec<Numbered<'static>> {
        let pod = |(i, kind): (usize, char)| {
            (kind != '.').then_some(Numbered {
                uid: UIDS[i],
                ordinal: i as u32,
                current: matches!(kind, 'n' | 's'),
                available: matches!(kind, 'n' | 'o'),
                leaving: kind == 'l',
            })
        };
        kinds.chars().enumerate().filter_map(pod).collect()
    }

    #[track_caller]
    fn check(replicas: u32, parallel: bool, kinds: &str, create: &[u32], delete: &[&str]) {
        let steps = steps(0..replicas, parallel, &pods(kinds));
        let deleted: Vec<&str> = steps.delete.iter().map(String::as_str).collect();
        assert_eq!((&steps.create[..], &deleted[..]), (create, delete), "{kinds}");
    }

    #[test]
    fn pods_start_in_order_each_when_the_one_before_is_ready() {
        check(3, false, "", &[0], &[]);
        check(3, false, "s", &[], &[]);
        check(3, false, "n", &[1], &[]);
        check(3, false, "n.n", &[1], &[]);
        check(3, false, "nnn", &[], &[]);
    }

    #[test]
    fn pods_end_in_reverse_order_each_when_the_one_after_is_gone() {
        check(1, false, "nnn", &[], &["2"]);
        check(1, false, "nnl", &[], &[]);
        check(1, false, "nn.", &[], &["1"]);
        check(0, false, "n", &[], &["0"]);
    }

    #[test]
    fn in_parallel_all_come_and_go_at_once() {
        check(3, true, "", &[0, 1, 2], &[]);
        check(3, true, "s.n", &[1], &[]);
        check(1, true, "nnn", &[], &["2", "1"]);
    }

    #[test]
    fn an_update_goes_from_the_last_to_the_first_and_waits_for_each() {
        for parallel in [false, true] {
            check(3, parallel, "ooo", &[], &["2"]);
            check(3, parallel, "ool", &[], &[]);
            check(3, parallel, "oos", &[], &[]);
            check(3, parallel, "oon", &[], &["1"]);
            check(3, parallel, "onn", &[], &["0"]);
        }
    }

    #[test]
    fn an_old_pod_that_does_not_work_is_not_waited_for_but_a_new_one_is() {
        check(3, false, "oob", &[], &["2"]);
        check(3, false, "bon", &[], &["0"]);
        check(3, false, "oos", &[], &[]);
    }

    #[test]
    fn numbers_may_begin_elsewhere() {
        let made = steps(3..5, false, &pods("n"));
        assert_eq!((made.create, made.delete), (vec![3], vec![]));
        let steps = steps(3..5, false, &pods("n..nn"));
        assert_eq!((steps.create, steps.delete), (vec![], vec!["0".to_owned()]));
    }
}
