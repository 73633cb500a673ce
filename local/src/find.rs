//! Which pod is meant by what people type. Pure.
//!
//! In: `web`, the beginning of a name, `pod/web`, `deploy/web`, and the pods that there are. Out: one of them, or why none.

use crate::manifest::{Key, Owner, Workload};

/// A pod that may be meant.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What made it.
    pub owner: Option<Owner>,
    /// Whether it is ready.
    pub ready: bool,
    /// Of several of one name the highest is meant: it was made last.
    pub order: u64,
    /// It is one of the mesh's own, which is not proposed.
    pub own: bool,
}

/// The place, in `all`, of the pod that is meant: by its name, by the beginning of its name if that fits one only or several of
/// one owner, or the first ready one of `deploy/NAME`. `podless` says why there is no pod of such an owner.
///
/// # Errors
/// There is none, or several; for people.
pub fn pod(
    namespace: &str,
    meant: &str,
    all: &[Candidate<'_>],
    podless: impl FnOnce(&Owner) -> String,
) -> Result<usize, String> {
    let here = || all.iter().enumerate().filter(|(_, pod)| pod.namespace == namespace);
    type Found<'a> = (usize, &'a Candidate<'a>);
    fn best(mut pods: Vec<Found<'_>>) -> Vec<Found<'_>> {
        pods.sort_by(|(_, a), (_, b)| (!a.ready, a.name).cmp(&(!b.ready, b.name)));
        pods
    }
    if let Some((kind, name)) = Workload::named(meant) {
        let key = Key::new(namespace, name);
        let owner = Owner { kind, key };
        let pods = best(here().filter(|(_, pod)| pod.owner.as_ref() == Some(&owner)).collect());
        return pods.first().map(|(at, _)| *at).ok_or_else(|| podless(&owner));
    }
    let name = meant
        .strip_prefix("pod/")
        .or_else(|| meant.strip_prefix("pods/"))
        .unwrap_or(meant);
    let exact = here().filter(|(_, pod)| pod.name == name);
    if let Some((at, _)) = exact.max_by_key(|(_, pod)| pod.order) {
        return Ok(at);
    }
    let begun = best(
        here()
            .filter(|(_, pod)| pod.name.starts_with(name) && !name.is_empty())
            .collect(),
    );
    let same_owner = begun
        .windows(2)
        .all(|two| two[0].1.owner.is_some() && two[0].1.owner == two[1].1.owner);
    match &begun[..] {
        [] => {
            let mut names: Vec<&str> = here().map(|(_, pod)| pod.name).collect();
            names.sort_unstable();
            match names.is_empty() {
                true => Err(format!(
                    "there is no pod {name:?}: the namespace {namespace} has none{}",
                    elsewhere(namespace, name, all)
                )),
                false => Err(format!(
                    "there is no pod {name:?} in the namespace {namespace}{}; it has {}",
                    near(name, &names).unwrap_or_else(|| elsewhere(namespace, name, all)),
                    names.join(", ")
                )),
            }
        }
        [(first, _), ..] if same_owner => Ok(*first),
        several => {
            let names: Vec<&str> = several.iter().map(|(_, pod)| pod.name).collect();
            Err(format!("{name:?} may be any of {}", names.join(", ")))
        }
    }
}

/// What to try where a namespace has no pod of that name: the namespaces that have one, or, if it has none at all, any.
fn elsewhere(namespace: &str, name: &str, all: &[Candidate<'_>]) -> String {
    let live = || all.iter().filter(|pod| !pod.own);
    let is_empty = live().all(|pod| pod.namespace != namespace);
    let others = || live().filter(|pod| pod.namespace != namespace);
    let mut having: Vec<&str> = others()
        .filter(|pod| pod.name.starts_with(name))
        .map(|pod| pod.namespace)
        .collect();
    if having.is_empty() && is_empty {
        having = others().map(|pod| pod.namespace).collect();
    }
    having.sort_unstable();
    having.dedup();
    match having.is_empty() {
        true => String::new(),
        false => format!(" (try -n {})", having.join(", -n ")),
    }
}

/// The name that was probably meant: of a pod, or the part of it that people type.
pub(crate) fn near(name: &str, names: &[&str]) -> Option<String> {
    const ALIKE: f64 = 0.8;
    let likeness = |known: &str| {
        let begins = known
            .char_indices()
            .filter(|(_, c)| *c == '-')
            .map(|(at, _)| &known[..at]);
        let all = begins.chain(std::iter::once(known));
        // Two letters in the wrong order are no likeness to the one measure, in a short name.
        let score = |part: &str| match strsim::osa_distance(name, part) {
            1 => 1.0,
            _ => strsim::jaro_winkler(name, part),
        };
        let scored = all.map(|part| (score(part), part.to_owned()));
        scored.max_by(|a, b| a.0.total_cmp(&b.0))
    };
    let best = names
        .iter()
        .filter_map(|known| likeness(known))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(score, _)| *score > ALIKE)
        .map(|(_, meant)| format!(" (did you mean {meant:?}?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_pod_is_told_what_was_probably_meant() {
        let names = ["ratings-njqthlkw8g-4n8zg", "reviews-v1-57wpdf6vkf-kwq9n", "visitor"];
        assert_eq!(near("reveiws", &names).as_deref(), Some(" (did you mean \"reviews\"?)"));
        assert_eq!(near("vistor", &names).as_deref(), Some(" (did you mean \"visitor\"?)"));
        assert_eq!(near("zookeeper", &names), None);
    }
}
