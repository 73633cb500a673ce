//! What a peer has said, kept in the state directory, so that it still counts when this process begins anew while the link is
//! broken. What is read back is judged like anything that a peer says.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;
use weft_daemon::file;
use weft_proto::discovery;

/// The largest file that is read: what one peer may say has a limit below.
const BYTES_MAX: u64 = 64 << 20;
/// How a file begins. Another format is another word.
const MAGIC: &[u8] = b"weft-peer-1\n";
const HASH: usize = 32;

/// Where it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    directory: PathBuf,
}

/// What a peer has said. When it was last heard of is the file's time.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Said {
    #[prost(message, repeated, tag = "1")]
    pub(super) resources: Vec<discovery::Resource>,
}

impl Kept {
    /// Below a state directory.
    pub(crate) fn of(state: &Path) -> Self {
        Self {
            directory: state.join("peers"),
        }
    }

    /// What was kept of a peer. What cannot be read is as good as nothing, and is told in the log.
    /// With it comes when the peer was last heard of; a clock that was set back makes that now.
    pub(super) fn read(&self, cluster: &str) -> Option<(SystemTime, Said)> {
        let path = self.path(cluster);
        let read = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > BYTES_MAX => Err(io::Error::other("the file is larger than is read")),
            Ok(metadata) => std::fs::read(&path).and_then(|bytes| {
                let said =
                    decoded(&bytes).ok_or_else(|| io::Error::other("the file is damaged, or of another version"))?;
                Ok((metadata.modified()?.min(SystemTime::now()), said))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error),
        };
        read.inspect_err(|error| {
            tracing::warn!(file = %path.display(), %error, "what a peer had said is not known any more");
        })
        .ok()
    }

    /// Keeps what a peer has said.
    pub(super) fn write(&self, cluster: &str, said: &Said) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let body = said.encode_to_vec();
        let bytes = [MAGIC, digest(&SHA256, &body).as_ref(), &body].concat();
        file::replace(&self.path(cluster), 0o600, &bytes)
    }

    /// The peer was heard of now, and has nothing to say.
    pub(super) fn touch(&self, cluster: &str) -> io::Result<()> {
        std::fs::File::options()
            .append(true)
            .open(self.path(cluster))?
            .set_modified(SystemTime::now())
    }

    /// Forgets it.
    pub(super) fn remove(&self, cluster: &str) {
        let path = self.path(cluster);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), %error, "what a peer had said cannot be removed");
            }
            _ => {}
        }
    }

    /// A peer's name is a DNS label: it leads nowhere else.
    fn path(&self, cluster: &str) -> PathBuf {
        self.directory.join(cluster)
    }
}

fn decoded(bytes: &[u8]) -> Option<Said> {
    let (hash, body) = bytes.strip_prefix(MAGIC)?.split_at_checked(HASH)?;
    (digest(&SHA256, body).as_ref() == hash).then(|| Said::decode(body).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_what_is_damaged_does_not() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::of(state.path());
        assert_eq!(kept.read("a"), None);
        let resources = vec![discovery::Resource::default()];
        let said = Said { resources };
        kept.write("a", &said).unwrap();
        assert_eq!(kept.read("a").unwrap().1, said);
        let path = state.path().join("peers/a");
        let whole = std::fs::read(&path).unwrap();
        for wrong in [
            &whole[..whole.len() - 1],
            &whole[..20],
            b"",
            b"weft-peer-2\n",
            &[&whole[..], b"x"].concat(),
        ] {
            std::fs::write(&path, wrong).unwrap();
            assert_eq!(kept.read("a"), None);
        }
        kept.remove("a");
        assert!(!path.exists());
    }

    #[test]
    fn what_was_heard_long_ago_or_in_the_future_is_told_apart_and_a_touch_makes_it_now() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::of(state.path());
        kept.write("a", &Said::default()).unwrap();
        let at = |time| {
            let file = std::fs::File::open(state.path().join("peers/a")).unwrap();
            file.set_modified(time).unwrap();
            kept.read("a").unwrap().0
        };
        let hour = std::time::Duration::from_secs(3600);
        assert_eq!(at(SystemTime::UNIX_EPOCH + hour), SystemTime::UNIX_EPOCH + hour);
        assert!(at(SystemTime::now() + hour) <= SystemTime::now());
        at(SystemTime::UNIX_EPOCH);
        kept.touch("a").unwrap();
        assert!(kept.read("a").unwrap().0 > SystemTime::now() - hour);
    }
}
