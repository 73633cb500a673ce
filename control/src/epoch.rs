//! Epochs: within one, a resource's sources never get older. A number that only rises, kept in the state directory or in the
//! cluster.

use std::io;
use std::path::{Path, PathBuf};

use weft_daemon::file;

use crate::cluster::{Fault, Keeper};

/// Epochs above ours that a proxy may have seen. New ones begin seconds apart at most, so this is years; a proxy that says
/// more is broken or lies, and what it says would be the last epoch that there can be.
const LEAP_MAX: u64 = 1 << 24;

/// The current epoch, and where it is kept.
#[derive(Debug)]
pub(crate) struct Epoch {
    store: Store,
    current: u64,
}

/// Where it is kept.
#[derive(Debug)]
enum Store {
    File(PathBuf),
    Cluster(Keeper),
}

/// Why the epoch could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EpochError {
    /// The file could not be read or written.
    #[error("{0}")]
    File(PathBuf, #[source] io::Error),
    /// The file does not hold a number. Deleting it is safe: proxies say which epochs they have seen.
    #[error("{0} does not hold a number; delete it to begin anew above every epoch that a proxy has seen")]
    Number(PathBuf),
    /// The API server does not keep it.
    #[error("the epoch in the cluster")]
    Cluster(#[source] Fault),
}

impl Epoch {
    /// Reads the epoch of a state directory; a new directory begins with 1.
    pub(crate) fn open(state: &Path) -> Result<Self, EpochError> {
        let path = state.join("epoch");
        let current = match std::fs::read_to_string(&path) {
            Ok(text) => match text.trim().parse() {
                Ok(number @ 1..) => number,
                _ => return Err(EpochError::Number(path)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let store = Store::File(path);
                let mut epoch = Self { store, current: 0 };
                epoch.set(1)?;
                return Ok(epoch);
            }
            Err(error) => return Err(EpochError::File(path, error)),
        };
        let store = Store::File(path);
        Ok(Self { store, current })
    }

    /// An epoch that a cluster keeps.
    pub(crate) fn kept(current: u64, keeper: Keeper) -> Self {
        let store = Store::Cluster(keeper);
        Self { store, current }
    }

    /// The number.
    pub(crate) fn current(&self) -> u64 {
        self.current
    }

    /// Whether a proxy can have seen this epoch.
    pub(crate) fn plausible(&self, seen: u64) -> bool {
        seen <= self.current.saturating_add(LEAP_MAX)
    }

    /// Takes an epoch that a proxy has seen and that is not behind in anything. Says whether that was news.
    pub(crate) fn join(&mut self, seen: u64) -> Result<bool, EpochError> {
        if seen <= self.current {
            return Ok(false);
        }
        self.set(seen)?;
        Ok(true)
    }

    /// Begins a new epoch, above this one and the one that was seen.
    pub(crate) fn begin(&mut self, seen: u64) -> Result<(), EpochError> {
        self.set(self.current.max(seen).saturating_add(1))
    }

    /// Kept before anybody hears of it.
    fn set(&mut self, number: u64) -> Result<(), EpochError> {
        self.current = match &self.store {
            Store::File(path) => {
                file::replace(path, 0o600, format!("{number}\n").as_bytes())
                    .map_err(|error| EpochError::File(path.clone(), error))?;
                number
            }
            // Another replica may have begun a later one, which then is ours.
            Store::Cluster(keeper) => keeper.raise(number).map_err(EpochError::Cluster)?,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_survives_a_restart_and_only_rises() {
        let state = tempfile::tempdir().unwrap();
        let mut epoch = Epoch::open(state.path()).unwrap();
        assert_eq!(epoch.current(), 1);
        assert!(epoch.join(4).unwrap());
        assert!(!epoch.join(3).unwrap());
        assert_eq!(Epoch::open(state.path()).unwrap().current(), 4);
        epoch.begin(9).unwrap();
        epoch.begin(2).unwrap();
        assert_eq!(Epoch::open(state.path()).unwrap().current(), 11);
    }

    #[test]
    fn an_epoch_far_above_ours_is_not_plausible() {
        let state = tempfile::tempdir().unwrap();
        let epoch = Epoch::open(state.path()).unwrap();
        assert!(epoch.plausible(0) && epoch.plausible(1) && epoch.plausible(1 + LEAP_MAX));
        assert!(!epoch.plausible(2 + LEAP_MAX) && !epoch.plausible(u64::MAX));
    }

    #[test]
    fn a_file_that_holds_no_number_is_an_error_that_says_what_to_do() {
        let state = tempfile::tempdir().unwrap();
        for text in ["", "0", "x", "-1"] {
            std::fs::write(state.path().join("epoch"), text).unwrap();
            assert!(
                Epoch::open(state.path()).unwrap_err().to_string().contains("delete it"),
                "{text:?}"
            );
        }
    }
}
