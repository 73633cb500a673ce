//! An epoch that is owed: objects are older than they were, as after a store was restored, and proxies take those in a new
//! epoch only. Where that cannot be kept yet, the objects wait for it: told at once, they would be refused.

use std::time::Duration;

use tokio::time::Instant;

use super::Thread;
use super::look::KEEP_AGAIN;
use crate::authority::Chain;
use crate::source::News;

/// So long objects wait for their epoch: as an API server that was just restored takes a while to take writes again. One that
/// takes none at all must not leave the mesh without news for ever: then they are told in the old epoch, in which proxies
/// refuse what is older than what they have, until there is a new one.
const WITHHELD: Duration = Duration::from_secs(60);

/// See the head of the file.
pub(super) struct Owed {
    /// What waits for it.
    news: Option<News>,
    /// When it is told all the same.
    until: Instant,
    /// When to try again.
    again: Instant,
}

impl Owed {
    /// `before`: what was owed already, as the objects of one store come kind by kind. They wait no longer for that.
    pub(super) fn new(news: News, before: Option<&Self>) -> Self {
        let now = Instant::now();
        Self {
            news: Some(news),
            until: before.map_or(now + WITHHELD, |before| before.until),
            again: now,
        }
    }

    /// When to try again.
    pub(super) fn again(&self) -> Instant {
        self.again
    }

    /// Whether objects wait for it. What comes after them waits, too.
    pub(super) fn withholds(&self) -> bool {
        self.news.is_some()
    }
}

impl Thread {
    /// Begins the epoch that is owed, and tells what waits for it.
    pub(super) fn pay(&mut self) {
        let Some(mut owed) = self.owed.take() else { return };
        let begun = self.hub.begin_epoch(self.hub.epoch.current());
        let late = Instant::now() >= owed.until;
        if let Err(error) = &begun {
            tracing::error!(
                error = %Chain(error),
                "the epoch could not be kept; it is tried again, and objects that are older than they were wait for it"
            );
            self.not_kept = Some(std::time::Instant::now());
        }
        if (begun.is_ok() || late)
            && let Some(news) = owed.news.take()
        {
            self.hear(news);
        }
        match begun {
            Ok(()) => self.hub.tell_epoch(),
            Err(_) => {
                owed.again = Instant::now() + KEEP_AGAIN;
                self.owed = Some(owed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::look::tests::thread;
    use super::*;
    use crate::manifests::{self, Changes, Writer};
    use crate::objects::Kinds;

    /// A Pod of a store that was restored.
    fn older() -> News {
        let text =
            r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-1", "namespace": "shop"}, "spec": {}}"#;
        let all = manifests::parse("pod.json".as_ref(), text, Writer::User, &Kinds::control()).unwrap();
        let changes = Changes {
            upserts: all.objects,
            ..Changes::default()
        };
        News::Changes { changes, older: true }
    }

    fn knows_the_pod(thread: &Thread) -> bool {
        thread.hub.index.pod("shop", "web-1").is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn objects_that_are_older_wait_for_their_epoch_until_it_is_kept() {
        let (state, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kept = state.path().join("state");
        std::fs::create_dir(&kept).unwrap();
        let mut thread = thread(&kept, objects.path());
        std::fs::remove_dir_all(&kept).unwrap();
        thread.take(older());
        assert!(!knows_the_pod(&thread));
        let owed = thread.owed.as_ref().unwrap();
        assert!(owed.withholds() && owed.again() > Instant::now());
        std::fs::create_dir(&kept).unwrap();
        thread.pay();
        assert!(knows_the_pod(&thread) && thread.owed.is_none());
        assert_eq!(thread.hub.epoch.current(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_epoch_that_can_never_be_kept_does_not_keep_objects_back_for_ever() {
        let (state, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kept = state.path().join("state");
        std::fs::create_dir(&kept).unwrap();
        let mut thread = thread(&kept, objects.path());
        std::fs::remove_dir_all(&kept).unwrap();
        thread.take(older());
        tokio::time::advance(WITHHELD).await;
        thread.pay();
        assert!(knows_the_pod(&thread));
        assert!(!thread.owed.as_ref().unwrap().withholds());
        thread.take(older());
        assert!(!thread.owed.as_ref().unwrap().withholds(), "nor the next ones");
        // And it begins as soon as it can be kept.
        std::fs::create_dir(&kept).unwrap();
        thread.pay();
        assert!(thread.owed.is_none());
        assert_eq!(thread.hub.epoch.current(), 2);
    }
}
