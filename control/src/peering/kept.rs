//! What is known of a peer beside its object, kept in the state directory, so that it still counts when this process begins anew
//! while the link is broken. What is read back is judged like anything that a peer says, and is of that object only.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;
use rustls::pki_types::CertificateDer;
use weft_certs::bundle::Bundle;
use weft_daemon::file;
use weft_proto::discovery;

use crate::objects::peer::Peer;
use crate::serve::hub::Heard;

/// The largest file that is read.
const BYTES_MAX: u64 = 64 << 20;
/// What is kept of what one peer exports: about 50,000 endpoints. On Kubernetes all peers share a small volume in memory, and what one
/// of them says must not keep what others say from being written. Who says more is kept as who it is.
const KEPT_MAX: usize = 16 << 20;
/// How a file begins. Another format is another word.
const MAGIC: &[u8] = b"weft-peer-2\n";
const HASH: usize = 32;

/// Where it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    directory: PathBuf,
}

/// What is known of a peer. When it was last heard of is the file's time.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Said {
    #[prost(message, repeated, tag = "1")]
    pub(super) resources: Vec<discovery::Resource>,
    /// Whose: the uid of its ClusterPeer, and its trust domain.
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    trust_domain: String,
    /// The newest bundle that it has told of.
    #[prost(message, optional, tag = "4")]
    pub(super) bundle: Option<discovery::Bundle>,
    /// Where its gateways were found.
    #[prost(string, repeated, tag = "5")]
    pub(super) gateways: Vec<String>,
    /// What it exports is left out: it is too much.
    #[prost(bool, tag = "6")]
    pub(super) is_cut: bool,
}

/// Tells that something beside what a peer says by the link is news, and is to be kept as well. Clones tell of the same.
#[derive(Clone, Debug, Default)]
pub(super) struct News(Arc<AtomicBool>);

impl News {
    pub(super) fn tell(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether there was any since this was asked last.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl Said {
    /// What is known of a peer.
    pub(super) fn of(peer: &Peer, heard: Heard) -> Self {
        let bundle = heard.bundle.map(|bundle| discovery::Bundle {
            trust_domain: bundle.trust_domain().to_string(),
            roots: bundle.roots().iter().map(|root| root.to_vec().into()).collect(),
            sequence: bundle.sequence(),
        });
        let bytes: usize = heard.resources.iter().map(Message::encoded_len).sum();
        let is_cut = bytes > KEPT_MAX;
        Self {
            resources: if is_cut { Vec::new() } else { heard.resources },
            is_cut,
            uid: peer.uid.clone(),
            trust_domain: peer.trust_domain.to_string(),
            bundle,
            gateways: heard.gateways.iter().map(ToString::to_string).collect(),
        }
    }

    /// Whose it is, and nothing of what it says.
    pub(super) fn frame(&self) -> Self {
        Self {
            uid: self.uid.clone(),
            trust_domain: self.trust_domain.clone(),
            ..Self::default()
        }
    }

    /// The same again. `None`: it is of another peer, which had the same name.
    pub(super) fn heard(self, peer: &Peer) -> Option<Heard> {
        if self.uid != peer.uid || self.trust_domain != peer.trust_domain.to_string() {
            return None;
        }
        let bundle = self.bundle.and_then(|bundle| {
            let roots = bundle.roots.iter().map(|root| CertificateDer::from(root.to_vec()));
            Bundle::new(peer.trust_domain.clone(), roots, bundle.sequence).ok()
        });
        let gateways = self.gateways.iter().filter_map(|text| text.parse::<SocketAddr>().ok());
        Some(Heard {
            resources: self.resources,
            bundle,
            gateways: gateways.collect(),
        })
    }
}

impl Kept {
    /// Below a state directory.
    pub(crate) fn of(state: &Path) -> Self {
        Self {
            directory: state.join("peers"),
        }
    }

    /// What was kept of a peer of this name. What cannot be read is as good as nothing, and is told in the log.
    /// With it comes when the peer was last heard of; a clock that was set back makes that now. Where what it exports was left out, it
    /// counts as never: nothing of it must be taken for gone.
    pub(super) fn read(&self, cluster: &str) -> Option<(SystemTime, Said)> {
        let path = self.path(cluster);
        let read = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > BYTES_MAX => Err(io::Error::other("the file is larger than is read")),
            Ok(metadata) => std::fs::read(&path).and_then(|bytes| {
                let said =
                    decoded(&bytes).ok_or_else(|| io::Error::other("the file is damaged, or of another version"))?;
                let heard = match said.is_cut {
                    true => SystemTime::UNIX_EPOCH,
                    false => metadata.modified()?.min(SystemTime::now()),
                };
                Ok((heard, said))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error),
        };
        read.inspect_err(|error| {
            tracing::warn!(file = %path.display(), %error, "what a peer had said is not known any more");
        })
        .ok()
    }

    /// Keeps what is known of a peer. `heard`: when it was last heard of, if it ever was.
    pub(super) fn write(&self, cluster: &str, said: &Said, heard: Option<SystemTime>) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let path = self.path(cluster);
        // Smaller files are told apart cheaply, and it is not told at each change.
        if said.is_cut && !self.read(cluster).is_some_and(|(_, before)| before.is_cut) {
            let limit = KEPT_MAX;
            tracing::warn!(
                cluster,
                limit,
                "a peer exports more than is kept: after a restart it has to be heard anew"
            );
        }
        file::replace(&path, 0o600, &encoded(said))?;
        let file = std::fs::File::options().append(true).open(path)?;
        file.set_modified(heard.unwrap_or(SystemTime::UNIX_EPOCH))
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

/// As it is kept, wherever that is.
pub(super) fn encoded(said: &Said) -> Vec<u8> {
    let body = said.encode_to_vec();
    [MAGIC, digest(&SHA256, &body).as_ref(), &body].concat()
}

/// The same again. `None`: it is damaged, or of another version.
pub(super) fn decoded(bytes: &[u8]) -> Option<Said> {
    let (hash, body) = bytes.strip_prefix(MAGIC)?.split_at_checked(HASH)?;
    (digest(&SHA256, body).as_ref() == hash).then(|| Said::decode(body).ok())?
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_what_is_damaged_does_not() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::of(state.path());
        assert_eq!(kept.read("a"), None);
        let said = Said {
            resources: vec![discovery::Resource::default()],
            ..Said::default()
        };
        kept.write("a", &said, None).unwrap();
        assert_eq!(kept.read("a").unwrap().1, said);
        let path = state.path().join("peers/a");
        let whole = std::fs::read(&path).unwrap();
        for wrong in [
            &whole[..whole.len() - 1],
            &whole[..20],
            b"",
            b"weft-peer-1\n",
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
        let hour = std::time::Duration::from_secs(3600);
        let before = SystemTime::UNIX_EPOCH + hour;
        kept.write("a", &Said::default(), Some(before)).unwrap();
        assert_eq!(kept.read("a").unwrap().0, before);
        kept.write("a", &Said::default(), None).unwrap();
        assert_eq!(kept.read("a").unwrap().0, SystemTime::UNIX_EPOCH, "never");
        let at = |time| {
            let file = std::fs::File::open(state.path().join("peers/a")).unwrap();
            file.set_modified(time).unwrap();
            kept.read("a").unwrap().0
        };
        assert_eq!(at(before), before);
        assert!(at(SystemTime::now() + hour) <= SystemTime::now());
        at(SystemTime::UNIX_EPOCH);
        kept.touch("a").unwrap();
        assert!(kept.read("a").unwrap().0 > SystemTime::now() - hour);
    }

    #[test]
    fn of_a_peer_that_says_too_much_it_is_kept_who_it_is_and_never_that_it_was_heard() {
        let trust_domain = weft_model::identity::TrustDomain::new("one").unwrap();
        let authority = weft_certs::authority::Authority::create(trust_domain, SystemTime::now()).unwrap();
        let peer = peer("u", &authority);
        let said = |bytes: usize| {
            let body = discovery::resource::State::Body(vec![0; bytes].into());
            let resource = discovery::Resource {
                state: Some(body),
                ..discovery::Resource::default()
            };
            let heard = Heard {
                resources: vec![resource],
                bundle: Some(authority.bundle(7)),
                gateways: vec!["192.0.2.1:15443".parse().unwrap()],
            };
            Said::of(&peer, heard)
        };
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::of(state.path());
        let now = SystemTime::now();
        kept.write("a", &said(KEPT_MAX + 1), Some(now)).unwrap();
        assert!(std::fs::metadata(state.path().join("peers/a")).unwrap().len() < 1 << 16);
        // It is heard of, and has nothing to say: what was left out is not there for that.
        kept.touch("a").unwrap();
        let (heard, back) = kept.read("a").unwrap();
        assert_eq!(heard, SystemTime::UNIX_EPOCH);
        let back = back.heard(&peer).unwrap();
        assert_eq!((back.resources.len(), back.gateways.len()), (0, 1));
        assert_eq!(back.bundle, Some(authority.bundle(7)));

        kept.write("a", &said(KEPT_MAX / 2), Some(now)).unwrap();
        let (heard, back) = kept.read("a").unwrap();
        assert_eq!((heard, back.heard(&peer).unwrap().resources.len()), (now, 1));
    }

    pub(in crate::peering) fn peer(uid: &str, authority: &weft_certs::authority::Authority) -> Peer {
        let raw = serde_json::json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "ClusterPeer", "metadata": {"name": "a"},
            "spec": {
                "trustDomain": authority.trust_domain().to_string(), "endpoints": ["a.example:15013"],
                "trustBundle": {"roots": authority.bundle(0).to_pem()},
            },
        });
        let object = crate::objects::Object {
            api_version: "weft.dev/v1alpha1".to_owned(),
            kind: "ClusterPeer".to_owned(),
            namespace: String::new(),
            name: "a".to_owned(),
            uid: uid.to_owned(),
            resource_version: 1,
            generation: 0,
            labels: Default::default(),
            annotations: Default::default(),
            raw,
            origin: None,
        };
        Peer::of(&object).unwrap().0
    }

    #[test]
    fn what_is_known_comes_back_for_the_same_object_and_trust_domain_only() {
        let authority = |name: &str| {
            let trust_domain = weft_model::identity::TrustDomain::new(name).unwrap();
            weft_certs::authority::Authority::create(trust_domain, SystemTime::now()).unwrap()
        };
        let (one, other) = (authority("one"), authority("other"));
        let gateways: Vec<SocketAddr> = vec!["192.0.2.1:15443".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap()];
        let heard = Heard {
            resources: vec![discovery::Resource::default()],
            bundle: Some(one.bundle(7)),
            gateways: gateways.clone(),
        };
        let said = Said::of(&peer("u", &one), heard);
        let back = said.clone().heard(&peer("u", &one)).unwrap();
        assert_eq!((back.resources.len(), back.gateways), (1, gateways));
        assert_eq!(back.bundle, Some(one.bundle(7)));
        assert!(said.clone().heard(&peer("v", &one)).is_none());
        assert!(said.heard(&peer("u", &other)).is_none());
    }
}
