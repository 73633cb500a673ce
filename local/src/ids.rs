//! Which users and groups there are: all of them on a host, those of its maps in a user namespace.
//!
//! In: `/proc/self/{uid_map,gid_map}`. Out: [`Ids`], which decides what can be given to whom.

use std::fs;
use std::io;

use crate::mounts::Context;
use crate::spec::{PodPlan, SpecError};

/// As many as there can be; the last number means "nobody".
const ALL: u32 = u32::MAX;

/// The users and groups that exist where this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ids {
    users: Vec<Range>,
    groups: Vec<Range>,
}

/// `count` numbers from `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

impl Range {
    fn holds(self, id: u32) -> bool {
        id.checked_sub(self.first).is_some_and(|at| at < self.count)
    }
}

impl Default for Ids {
    fn default() -> Self {
        let all = vec![Range { first: 0, count: ALL }];
        Self {
            users: all.clone(),
            groups: all,
        }
    }
}

impl Ids {
    /// Those of the user namespace that this process is in.
    pub(crate) fn here() -> io::Result<Self> {
        let read = |path| fs::read_to_string(path).and_then(|text| parse(&text)).context(path);
        Ok(Self {
            users: read("/proc/self/uid_map")?,
            groups: read("/proc/self/gid_map")?,
        })
    }

    /// Whether this is no user namespace but the host's own.
    pub(crate) fn are_all(&self) -> bool {
        self.users.iter().any(|range| range.first == 0 && range.count == ALL)
    }

    /// Whether there is nobody but one user: what belongs to anyone belongs to it.
    pub(crate) fn are_single(&self) -> bool {
        self.users.iter().map(|range| u64::from(range.count)).sum::<u64>() <= 1
    }

    /// Whether this group exists.
    pub(crate) fn have_group(&self, id: u32) -> bool {
        self.groups.iter().any(|range| range.holds(id))
    }

    fn have_user(&self, id: u32) -> bool {
        self.users.iter().any(|range| range.holds(id))
    }

    /// The highest group of the range that begins with 0, for settings that take a range.
    pub(crate) fn last_group(&self) -> u32 {
        let first = self.groups.iter().find(|range| range.first == 0);
        first
            .map_or(0, |range| range.count.saturating_sub(1))
            .min(i32::MAX.cast_unsigned())
    }

    /// The owner that files can be given: where there is one user only, all files are its own already.
    pub(crate) fn owner(&self, id: Option<u32>) -> Option<u32> {
        id.filter(|_| !self.are_single())
    }

    /// Checks that whoever a pod wants to be exists. Where there is one user only, each app gets a user namespace of its
    /// own, in which that user has the number that the pod wants.
    pub(crate) fn check(&self, plan: &PodPlan) -> Result<(), SpecError> {
        if self.are_all() || self.are_single() {
            return Ok(());
        }
        let fault = |field: String, what: &str, id: u32, ranges: &[Range], file: &str| SpecError {
            namespace: plan.namespace.clone(),
            name: plan.name.clone(),
            field,
            message: format!(
                "{what} {id} does not exist without root: take one of {}, or give your user more in {file}",
                list(ranges)
            ),
        };
        if let Some(id) = plan.fs_group.filter(|id| !self.have_group(*id)) {
            let field = "spec.securityContext.fsGroup".to_owned();
            return Err(fault(field, "the group", id, &self.groups, "/etc/subgid"));
        }
        for container in plan.all_containers() {
            let place = |field: &str| format!("spec.containers[{}].securityContext.{field}", container.name);
            if let Some(id) = container.user.filter(|id| !self.have_user(*id)) {
                return Err(fault(place("runAsUser"), "the user", id, &self.users, "/etc/subuid"));
            }
            let more = container.groups.iter().map(|id| ("supplementalGroups", *id));
            let mut groups = container.group.map(|id| ("runAsGroup", id)).into_iter().chain(more);
            if let Some((field, id)) = groups.find(|(_, id)| !self.have_group(*id)) {
                return Err(fault(place(field), "the group", id, &self.groups, "/etc/subgid"));
            }
        }
        Ok(())
    }
}

fn list(ranges: &[Range]) -> String {
    let mut all: Vec<(u64, u64)> = Vec::new();
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| range.first);
    for range in sorted {
        let (first, end) = (u64::from(range.first), u64::from(range.first) + u64::from(range.count));
        match all.last_mut() {
            Some(last) if last.1 == first => last.1 = end,
            _ => all.push((first, end)),
        }
    }
    let texts = all
        .iter()
        .map(|(first, end)| format!("{first} to {}", end.saturating_sub(1)));
    texts.collect::<Vec<_>>().join(", ")
}

/// A map as the kernel shows it: number here, number outside, how many.
fn parse(text: &str) -> io::Result<Vec<Range>> {
    let ranges = text.lines().map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) => Ok(Range { first, count }),
            _ => Err(io::Error::other(format!("{line:?} is no line of a map"))),
        }
    });
    ranges.collect()
}

#[cfg(test)]
impl Ids {
    /// Those of a map, for users and groups alike.
    pub(crate) fn of(map: &str) -> Self {
        let users = parse(map).unwrap();
        Self {
            groups: users.clone(),
            users,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::pod;

    const HOST: &str = "         0          0 4294967295\n";
    const MULTI: &str = "0 1000 1\n1 100000 65536\n";
    const SINGLE: &str = "0 1000 1\n";

    #[test]
    fn a_map_says_who_exists() {
        assert!(Ids::of(HOST).are_all() && !Ids::of(HOST).are_single());
        let multi = Ids::of(MULTI);
        assert!(!multi.are_all() && !multi.are_single());
        assert!(multi.have_user(65536) && !multi.have_user(65537) && multi.have_group(0));
        assert!(Ids::of(SINGLE).are_single());
        assert_eq!(Ids::of(SINGLE).last_group(), 0);
        assert_eq!(Ids::of(HOST).last_group(), 0x7fff_ffff);
        assert!(parse("0 0").is_err() && parse("a b c").is_err());
    }

    #[test]
    fn a_user_that_does_not_exist_is_refused_by_field_with_those_that_do() {
        let mut plan = pod("web", &["true"]);
        plan.containers[0].user = Some(70_000);
        let said = Ids::of(MULTI).check(&plan).unwrap_err().to_string();
        for part in ["runAsUser", "70000", "0 to 65536", "/etc/subuid"] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        plan.containers[0].user = Some(33);
        Ids::of(MULTI).check(&plan).unwrap();
        plan.fs_group = Some(70_000);
        assert!(Ids::of(MULTI).check(&plan).unwrap_err().to_string().contains("fsGroup"));
        Ids::of(HOST).check(&plan).unwrap();
        Ids::of(SINGLE).check(&plan).unwrap();
    }

    #[test]
    fn the_only_user_owns_everything_already() {
        assert_eq!(Ids::of(SINGLE).owner(Some(1882)), None);
        assert_eq!(Ids::of(MULTI).owner(Some(1882)), Some(1882));
    }
}
