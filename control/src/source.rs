//! Where objects come from: directories, or an API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::cluster::Shown;
use crate::manifests::{self, Changes, Manifests, OpenError, Snapshot};

/// Where objects come from. Not changed while the process runs.
#[derive(Debug)]
pub(crate) enum Source {
    /// Directories, with what it takes to open them again.
    Directories(Box<Manifests>, manifests::Settings),
    /// An API server.
    Cluster(Arc<Shown>, watch::Receiver<u64>),
}

/// What a source has to say.
#[derive(Debug)]
pub(crate) enum News {
    /// All that there is: what it lacks is gone.
    All {
        /// All of it.
        snapshot: Snapshot,
        /// The resource versions of the lists that it comes from, by kind: how new it is, whatever objects live.
        lists: BTreeMap<String, u64>,
        /// It is older than what was said before: the store behind the source was restored.
        older: bool,
    },
    /// What changed.
    Changes {
        /// The changes.
        changes: Changes,
        /// As above.
        older: bool,
    },
}

impl News {
    /// Whether it is older than what was said before.
    pub(crate) fn is_older(&self) -> bool {
        let (Self::All { older, .. } | Self::Changes { older, .. }) = self;
        *older
    }
}

/// What a look at everything comes to.
#[derive(Debug)]
pub(crate) enum Look {
    /// This is all that there is now.
    Now(Snapshot),
    /// The next [`News::All`] will say.
    Later,
}

impl Source {
    /// Directories, read.
    ///
    /// # Errors
    /// They cannot be read.
    pub(crate) fn directories(settings: manifests::Settings) -> Result<Self, OpenError> {
        let manifests = Manifests::open(settings.clone())?;
        Ok(Self::Directories(Box::new(manifests), settings))
    }

    /// An API server.
    pub(crate) fn cluster(shown: Arc<Shown>) -> Self {
        let revisions = shown.revisions();
        Self::Cluster(shown, revisions)
    }

    /// All that there is, if it is known already.
    pub(crate) fn first(&self) -> Option<Snapshot> {
        match self {
            Self::Directories(manifests, _) => Some(manifests.snapshot()),
            Self::Cluster(..) => None,
        }
    }

    /// Waits for news. `None`: the watch has ended. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<News> {
        match self {
            Self::Directories(manifests, _) => {
                let changes = manifests.changed().await?;
                Some(News::Changes { changes, older: false })
            }
            Self::Cluster(shown, revisions) => loop {
                revisions.mark_unchanged();
                if let Some(news) = shown.take() {
                    return Some(news);
                }
                // The sender lives as long as what it shows, which is ours.
                revisions.changed().await.ok()?;
            },
        }
    }

    /// Reads everything again, whatever was said of it.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn look_again(&mut self) -> Result<Look, OpenError> {
        match self {
            Self::Directories(manifests, settings) => {
                **manifests = Manifests::open(settings.clone())?;
                Ok(Look::Now(manifests.snapshot()))
            }
            Self::Cluster(shown, _) => {
                shown.look_again();
                Ok(Look::Later)
            }
        }
    }

    /// Nobody waits for a look any more.
    pub(crate) fn forget_look(&mut self) {
        if let Self::Cluster(shown, _) = self {
            shown.forget_look();
        }
    }
}
