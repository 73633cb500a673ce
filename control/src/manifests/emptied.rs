//! Which files are empty for the moment only. Pure; time is passed in.
//!
//! `generate > file` empties a file first and fills it when the generator has something to say. What a file said is held for
//! a while after it has become empty, or all that it asked for would end and begin anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::merge::FileKey;

/// How long a file may be empty before that is taken as meant.
pub(super) const HOLD: Duration = Duration::from_secs(2);

/// Files that said something, and have been empty since.
#[derive(Debug, Default)]
pub(super) struct Emptied {
    since: BTreeMap<FileKey, Instant>,
}

impl Emptied {
    /// A file that said something is empty. Returns how long it is to be waited for; `None`: no longer, it is meant so.
    pub(super) fn wait(&mut self, key: &FileKey, now: Instant) -> Option<Duration> {
        let since = *self.since.entry(key.clone()).or_insert(now);
        let left = (since + HOLD).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// A file says something again, is gone, or has been taken as it is.
    pub(super) fn forget(&mut self, key: &FileKey) {
        self.since.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::{Changes, Directory, Manifests, Selection, Settings, Writer};
    use super::*;
    use crate::objects::Kinds;

    #[test]
    fn an_empty_file_is_waited_for_for_a_while_from_the_first_time_that_it_was_seen_so() {
        let (mut emptied, start) = (Emptied::default(), Instant::now());
        let key = (0, "a".to_owned());
        assert_eq!(emptied.wait(&key, start), Some(HOLD));
        assert_eq!(emptied.wait(&key, start + HOLD / 2), Some(HOLD / 2));
        assert_eq!(emptied.wait(&key, start + HOLD), None);
        emptied.forget(&key);
        assert_eq!(emptied.wait(&key, start + HOLD), Some(HOLD));
    }

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1}]}\n";

    fn open(directory: &Path) -> Manifests {
        let directories = vec![Directory {
            path: directory.to_owned(),
            files: Selection::Here,
            writer: Writer::User,
            kinds: Kinds::control(),
        }];
        let state_dir = None;
        Manifests::open(Settings { directories, state_dir }).unwrap()
    }

    async fn next(manifests: &mut Manifests) -> Changes {
        let changes = tokio::time::timeout(Duration::from_secs(20), manifests.changed()).await;
        changes.expect("a change within 20 s").expect("the thread lives")
    }

    #[tokio::test]
    async fn a_file_that_is_emptied_and_then_filled_has_not_lost_its_objects() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        fs::write(&file, SERVICE).unwrap();
        let mut manifests = open(directory.path());
        fs::write(&file, "\n").unwrap();
        tokio::time::timeout(HOLD / 2, manifests.changed())
            .await
            .expect_err("an empty file says nothing for now");
        fs::write(&file, SERVICE.replace("port: 1", "port: 2")).unwrap();
        let changes = next(&mut manifests).await;
        assert_eq!(
            (changes.upserts.len(), changes.deletes.len(), changes.problems.len()),
            (1, 0, 0)
        );
    }

    #[tokio::test]
    async fn a_file_that_stays_empty_is_taken_as_meant_and_told_and_a_deleted_one_acts_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["a.yaml", "b.yaml"].map(|name| directory.path().join(name));
        fs::write(&first, SERVICE).unwrap();
        fs::write(&second, SERVICE.replace("name: a", "name: b")).unwrap();
        let mut manifests = open(directory.path());
        for file in [&first, &second] {
            fs::write(file, "").unwrap();
        }
        fs::remove_file(&second).unwrap();
        let begin = Instant::now();
        let changes = next(&mut manifests).await;
        assert_eq!(changes.deletes[0].name, "b");
        assert!(begin.elapsed() < HOLD, "{:?}", begin.elapsed());
        let changes = next(&mut manifests).await;
        assert_eq!((changes.deletes.len(), changes.deletes[0].name.as_str()), (1, "a"));
        let said = changes.problems[0].to_string();
        assert!(said.contains("a.yaml: has become empty"), "{said}");
        // What it says later is taken again.
        fs::write(&first, SERVICE).unwrap();
        let changes = next(&mut manifests).await;
        assert_eq!((changes.upserts.len(), changes.problems.len()), (1, 0));
    }
}
