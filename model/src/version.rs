//! Versions of resources: which is newer, and within what.

use std::collections::HashMap;

/// An object that a resource was made of, and its age.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// `HTTPRoute shop/reviews`: the kind makes resource versions comparable (KEP-5504).
    pub object: String,
    /// The object's uid.
    pub uid: String,
    /// The object's resource version.
    pub resource_version: u64,
}

/// What a resource's content and sources are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Version {
    /// The first 16 bytes of SHA-256 of the encoded body.
    pub hash: [u8; 16],
    /// In a stable order (by uid).
    pub sources: Vec<Source>,
}

impl Version {
    /// The first source that is older here than in `held`: within an epoch, such a version is refused. Sources that only
    /// one side has say nothing.
    pub fn older_than<'a>(&'a self, held: &Self) -> Option<&'a Source> {
        let mut newest: HashMap<&str, u64> = HashMap::with_capacity(held.sources.len());
        for source in &held.sources {
            let known = newest.entry(&source.uid).or_default();
            *known = source.resource_version.max(*known);
        }
        self.sources.iter().find(|source| {
            newest
                .get(source.uid.as_str())
                .is_some_and(|&known| known > source.resource_version)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(sources: &[(&str, u64)]) -> Version {
        let source = |&(uid, resource_version): &(&str, u64)| Source {
            object: format!("Pod shop/{uid}"),
            uid: uid.to_owned(),
            resource_version,
        };
        Version {
            hash: [0; 16],
            sources: sources.iter().map(source).collect(),
        }
    }

    #[track_caller]
    fn check(new: &[(&str, u64)], held: &[(&str, u64)], want: Option<&str>) {
        let (new, held) = (version(new), version(held));
        assert_eq!(new.older_than(&held).map(|source| source.uid.as_str()), want);
    }

    #[test]
    fn a_version_is_older_if_one_of_its_sources_is() {
        check(&[("a", 1)], &[("a", 2)], Some("a"));
        check(&[("a", 3), ("b", 1)], &[("a", 2), ("b", 2)], Some("b"));
        check(&[("b", 1), ("a", 3)], &[("a", 2), ("b", 2)], Some("b"));
    }

    #[test]
    fn the_same_or_a_newer_one_is_not_older() {
        check(&[("a", 2)], &[("a", 2)], None);
        check(&[("a", 3)], &[("a", 2)], None);
        check(&[], &[], None);
    }

    #[test]
    fn sources_of_one_side_say_nothing() {
        check(&[("a", 1)], &[("b", 9)], None);
        check(&[("a", 1)], &[], None);
        check(&[], &[("a", 1)], None);
    }

    #[test]
    fn of_a_source_that_is_named_twice_the_newest_counts() {
        check(&[("a", 2)], &[("a", 3), ("a", 1)], Some("a"));
        check(&[("a", 2)], &[("a", 1), ("a", 3)], Some("a"));
    }
}
