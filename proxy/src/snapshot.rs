//! Snapshot: the last good configuration, on a tmpfs, so that a proxy that restarts while the control plane is away serves at
//! once.
//!
//! In: what the store holds. Out: one file of mode 0600, put in place whole: a line with format version and checksum, then
//! the destinations and resources as they came. It is validated again when it is read; what cannot be read is discarded, and
//! the proxy is then not ready until the control plane has told it anew.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use prost::Message as _;
use tokio::time::Instant;
use weft_daemon::file;
use weft_model::destination::Target;
use weft_proto::discovery;
use weft_proto::resource::name::{target_from_wire, target_to_wire, version_to_wire};

use crate::discover::store::Store;

/// The file's name in the state directory.
pub const FILE: &str = "snapshot";
/// The first word of the file. Another format is another word.
const FORMAT: &str = "weft-snapshot-1";
/// The largest file that is read: far more than what a proxy may hold.
const BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The age that a snapshot is given whose time is still to come: the clock was set back, and its true age is not known.
const AGE_UNKNOWN: Duration = Duration::from_secs(3600);

/// Why a snapshot was not used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be read.
    #[error("reading the snapshot")]
    Io(#[source] io::Error),
    /// It has another format version, or is no snapshot.
    #[error("the snapshot is not of the format {FORMAT}")]
    Format,
    /// The checksum is wrong.
    #[error("the snapshot is damaged")]
    Checksum,
    /// It holds something that this version does not take.
    #[error("the snapshot's {name} is not valid: {field}: {reason}")]
    Invalid {
        /// The resource.
        name: String,
        /// The field.
        field: String,
        /// Why.
        reason: String,
    },
}

/// What the file holds after its first line.
#[derive(Clone, PartialEq, prost::Message)]
struct Content {
    /// When the control plane confirmed it last.
    #[prost(uint64, tag = "1")]
    confirmed_unix_ms: u64,
    /// The highest epoch that was seen.
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(message, repeated, tag = "3")]
    targets: Vec<discovery::Target>,
    /// One for each epoch that something is held from, the oldest first.
    #[prost(message, repeated, tag = "4")]
    batches: Vec<discovery::Batch>,
}

/// Writes what is held. `confirmed`: when the control plane confirmed it last. The directory is made if it is missing, with
/// mode 0700.
pub(crate) fn save(directory: &Path, store: &Store, confirmed: SystemTime) -> io::Result<()> {
    if !directory.is_dir() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    let content = content(store, confirmed).encode_to_vec();
    let mut bytes = format!("{FORMAT} {}\n", checksum(&content)).into_bytes();
    bytes.extend(content);
    file::replace(&directory.join(FILE), 0o600, &bytes)
}

/// Reads what [`save`] wrote into a store that knows nothing yet. Gives when the control plane confirmed it last, or `None`
/// where there is none. After an error the store is to be thrown away.
pub(crate) fn load(
    directory: &Path,
    store: &mut Store,
    now: Instant,
    wall: SystemTime,
) -> Result<Option<SystemTime>, SnapshotError> {
    let Some(bytes) = read(&directory.join(FILE)).map_err(SnapshotError::Io)? else {
        return Ok(None);
    };
    let content = parse(&bytes)?;
    let confirmed = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(content.confirmed_unix_ms));
    let confirmed = confirmed
        .filter(|confirmed| *confirmed <= wall)
        .or_else(|| wall.checked_sub(AGE_UNKNOWN))
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let targets: Result<Vec<Target>, _> = content.targets.into_iter().map(target_from_wire).collect();
    let invalid = |name: String, field: String, reason: String| SnapshotError::Invalid { name, field, reason };
    let targets = targets.map_err(|error| invalid("target".into(), error.field, error.reason))?;
    let newest = discovery::Batch {
        nonce: 0,
        epoch: content.epoch,
        ..discovery::Batch::default()
    };
    let batches = content.batches.into_iter().chain([newest]);
    let age = wall.duration_since(confirmed).unwrap_or_default();
    store
        .restore(targets, batches, now.checked_sub(age).unwrap_or(now))
        .map_err(|refused| invalid(refused.key, refused.note.field, refused.note.reason))?;
    Ok(Some(confirmed))
}

fn content(store: &Store, confirmed: SystemTime) -> Content {
    let mut batches: BTreeMap<u64, discovery::Batch> = BTreeMap::new();
    for (name, wire) in store.wires() {
        let batch = batches.entry(wire.epoch).or_default();
        batch.epoch = wire.epoch;
        batch.resources.push(discovery::Resource {
            name: Some(name.to_wire()),
            version: Some(version_to_wire(&wire.version)),
            requires: wire.requires.clone(),
            state: Some(discovery::resource::State::Body(wire.body.clone())),
        });
    }
    let since = confirmed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Content {
        confirmed_unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        epoch: store.state().epoch,
        targets: store.targets().map(target_to_wire).collect(),
        batches: batches.into_values().collect(),
    }
}

fn parse(bytes: &[u8]) -> Result<Content, SnapshotError> {
    let end = bytes
        .iter()
        .position(|&byte| byte == b'\n')
        .ok_or(SnapshotError::Format)?;
    let (line, content) = (&bytes[..end], &bytes[end + 1..]);
    let (format, sum) = std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.split_once(' '))
        .ok_or(SnapshotError::Format)?;
    if format != FORMAT {
        return Err(SnapshotError::Format);
    }
    if sum != checksum(content) {
        return Err(SnapshotError::Checksum);
    }
    Content::decode(content).map_err(|_| SnapshotError::Format)
}

fn checksum(bytes: &[u8]) -> String {
    // The resources' hash serves here too: it guards against damage, not against forgery, which the directory's mode does.
    weft_proto::resource::hash(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than any snapshot"));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
