//! How a DaemonSet's pods come and go: one on each node. Pure.

use super::Owned;

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// The nodes on which to make a pod.
    pub create: Vec<String>,
    /// Which pods to delete, by uid.
    pub delete: Vec<String>,
}

/// A pod of a DaemonSet, where it is, and whether it is being deleted.
pub type Placed<'a> = (&'a str, bool, Owned<'a>);

/// The next steps of a DaemonSet that is to have a pod on each of these nodes, of which so many may be without one that
/// works while they are replaced. Pods that don't work are replaced first: nobody misses them.
pub fn steps(nodes: &[&str], unavailable: usize, pods: &[Placed<'_>]) -> Steps {
    let mut steps = Steps::default();
    let mut spare = unavailable;
    let mut old = Vec::new();
    for node in nodes {
        let mut here: Vec<&Placed<'_>> = pods.iter().filter(|(on, _, _)| on == node).collect();
        let leaving = here.iter().any(|(_, leaving, _)| *leaving);
        here.retain(|(_, leaving, _)| !leaving);
        here.sort_by_key(|(_, _, pod)| (!pod.current, !pod.available, pod.order));
        steps
            .delete
            .extend(here.iter().skip(1).map(|(_, _, pod)| pod.uid.to_owned()));
        match here.first() {
            None if leaving => {}
            None => steps.create.push((*node).to_owned()),
            Some((_, _, pod)) if !pod.current && !pod.available => steps.delete.push(pod.uid.to_owned()),
            Some((_, _, pod)) if !pod.current => old.push(pod.uid.to_owned()),
            Some(_) => {}
        }
        if !here.iter().any(|(_, _, pod)| pod.available) {
            spare = spare.saturating_sub(1);
        }
    }
    steps.delete.extend(old.into_iter().take(spare));
    let lost = pods.iter().filter(|(on, leaving, _)| !leaving && !nodes.contains(on));
    steps.delete.extend(lost.map(|(_, _, pod)| pod.uid.to_owned()));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On each node: `n`: new and available, `s`: new and starting, `o`: old and available, `b`: old and broken, `l`: leaving.
    #[track_caller]
    fn check(nodes: &[&str], unavailable: usize, kinds: &str, create: &[&str], delete: &[&str]) {
        const ALL: [&str; 4] = ["a", "b", "c", "d"];
        let pods: Vec<Placed<'_>> = kinds
            .chars()
            .zip(ALL)
            .filter(|(kind, _)| *kind != '.')
            .map(|(kind, node)| {
                let available = matches!(kind, 'n' | 'o');
                let pod = Owned {
                    uid: node,
                    current: matches!(kind, 'n' | 's'),
                    available,
                    ready: available,
                    order: 0,
                    restarts: 0,
                };
                (node, kind == 'l', pod)
            })
            .collect();
        let steps = steps(nodes, unavailable, &pods);
        assert_eq!(
            (steps.create, steps.delete),
            (
                create.iter().map(ToString::to_string).collect(),
                delete.iter().map(ToString::to_string).collect()
            ),
            "{kinds}"
        );
    }

    #[test]
    fn each_node_has_one_and_no_other_has_any() {
        check(&["a", "b"], 1, "", &["a", "b"], &[]);
        check(&["a", "b"], 1, "nn", &[], &[]);
        check(&["a"], 1, "nn", &[], &["b"]);
        check(&["a", "b"], 1, "nl", &[], &[]);
    }

    #[test]
    fn an_update_takes_as_many_away_as_it_may() {
        check(&["a", "b", "c"], 1, "ooo", &[], &["a"]);
        check(&["a", "b", "c"], 2, "ooo", &[], &["a", "b"]);
        check(&["a", "b", "c"], 1, "soo", &[], &[]);
        check(&["a", "b", "c"], 1, ".oo", &["a"], &[]);
        check(&["a", "b", "c"], 1, "noo", &[], &["b"]);
        check(&["a", "b", "c"], 1, "obo", &[], &["b"]);
    }
}
