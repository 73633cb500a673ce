//! What goes to proxies, encoded once.
//!
//! A [`Resource`](weft_proto::discovery::Resource) is encoded when it is made, and its bytes go to every subscriber. The
//! messages around it are therefore written here a second time, with bytes where discovery.proto has the message: the two
//! are the same on the wire (both are length-delimited), and a test holds them together.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use weft_model::version::Version;
use weft_proto::discovery::{self, resource::State};
use weft_proto::resource::{self, FieldError, Kind};

/// What a resource is called on the wire. Ordered by kind, and so that what others refer to comes before them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    pub(crate) kind: Kind,
    pub(crate) key: Arc<str>,
}

/// One resource, made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) name: Name,
    pub(crate) version: Version,
    /// What it refers to.
    pub(crate) refers: Vec<Name>,
    /// An encoded `Resource`.
    pub(crate) bytes: Bytes,
}

/// `FromControl`, with encoded batches.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FromControl {
    #[prost(message, optional, tag = "1")]
    pub(crate) batch: Option<Batch>,
}

/// `Batch`, with encoded resources.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Batch {
    #[prost(uint64, tag = "1")]
    pub(crate) nonce: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) epoch: u64,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(crate) resources: Vec<Bytes>,
    #[prost(bool, tag = "4")]
    pub(crate) complete: bool,
}

impl Name {
    pub(crate) fn new(kind: Kind, key: impl Into<Arc<str>>) -> Self {
        Self { kind, key: key.into() }
    }

    /// Reads a name.
    pub(crate) fn read(wire: Option<discovery::ResourceName>) -> Result<Self, FieldError> {
        resource::Name::from_wire(wire).map(Into::into)
    }

    fn write(&self) -> discovery::ResourceName {
        discovery::ResourceName {
            kind: self.kind.to_wire().into(),
            key: self.key.to_string(),
        }
    }

    fn rank(&self) -> u8 {
        match self.kind {
            Kind::Bundles => 0,
            Kind::Mesh => 1,
            Kind::Endpoints => 2,
            Kind::Service => 3,
            Kind::Lookup => 4,
            Kind::Inbound => 5,
            Kind::Exported => 6,
            Kind::Export => 7,
            Kind::Cluster => 8,
            Kind::Gateway => 9,
        }
    }
}

impl Made {
    /// Encodes a resource with its body.
    pub(crate) fn new(name: Name, version: Version, requires: Vec<String>, refers: Vec<Name>, body: Bytes) -> Self {
        let resource = discovery::Resource {
            name: Some(name.write()),
            version: Some(resource::name::version_to_wire(&version)),
            requires,
            state: Some(State::Body(body)),
        };
        Self {
            name,
            version,
            refers,
            bytes: resource.encode_to_vec().into(),
        }
    }
}

/// Encodes: keep what you have of this.
pub(crate) fn hold(name: &Name, held: &[u8; 16], reason: &str) -> Bytes {
    bodiless(
        name,
        held,
        State::Hold(discovery::Hold {
            reason: reason.to_owned(),
        }),
    )
}

/// Encodes: this is gone.
pub(crate) fn removed(name: &Name) -> Bytes {
    // A version has a hash, also that of nothing.
    bodiless(name, &[0; 16], State::Removed(discovery::Removed {}))
}

fn bodiless(name: &Name, hash: &[u8; 16], state: State) -> Bytes {
    let version = discovery::Version {
        hash: Bytes::copy_from_slice(hash),
        sources: Vec::new(),
    };
    let (name, version) = (Some(name.write()), Some(version));
    discovery::Resource {
        name,
        version,
        requires: Vec::new(),
        state: Some(state),
    }
    .encode_to_vec()
    .into()
}

impl From<resource::Name> for Name {
    fn from(name: resource::Name) -> Self {
        Self::new(name.kind, name.key)
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank()).then_with(|| self.key.cmp(&other.key))
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::version::Source;

    #[test]
    fn what_was_encoded_once_is_the_message_of_the_proto_file() {
        let name = Name::new(Kind::Endpoints, "shop/reviews:80");
        let source = Source {
            object: "Pod shop/a".to_owned(),
            uid: "u".to_owned(),
            resource_version: 7,
        };
        let version = Version {
            hash: [3; 16],
            sources: vec![source],
        };
        let made = Made::new(
            name.clone(),
            version,
            vec!["f".to_owned()],
            Vec::new(),
            Bytes::from_static(b"body"),
        );
        let resources = vec![made.bytes.clone(), hold(&name, &[9; 16], "bad"), removed(&name)];
        let ours = FromControl {
            batch: Some(Batch {
                nonce: 5,
                epoch: 2,
                resources,
                complete: true,
            }),
        };
        let theirs = discovery::FromControl::decode(ours.encode_to_vec().as_slice()).unwrap();
        let Some(discovery::from_control::Message::Batch(batch)) = theirs.message else {
            panic!("no batch")
        };
        assert_eq!((batch.nonce, batch.epoch, batch.resources.len()), (5, 2, 3));
        assert!(batch.complete);
        let [body, hold, removed] = &batch.resources[..] else {
            panic!("three")
        };
        assert_eq!(Name::read(body.name.clone()).unwrap(), name);
        assert_eq!(body.version.as_ref().unwrap().sources[0].resource_version, 7);
        assert_eq!(body.version.as_ref().unwrap().hash.as_ref(), [3; 16]);
        assert_eq!(body.state, Some(State::Body(Bytes::from_static(b"body"))));
        assert_eq!(hold.version.as_ref().unwrap().hash.as_ref(), [9; 16]);
        assert!(matches!(&hold.state, Some(State::Hold(hold)) if hold.reason == "bad"));
        assert!(matches!(removed.state, Some(State::Removed(_))));
    }

    #[test]
    fn what_others_refer_to_comes_before_them() {
        let kinds = [Kind::Lookup, Kind::Service, Kind::Endpoints, Kind::Bundles];
        let mut names: Vec<Name> = kinds.map(|kind| Name::new(kind, "x")).into();
        names.sort();
        assert_eq!(
            names.iter().map(|n| n.kind).collect::<Vec<_>>(),
            [Kind::Bundles, Kind::Endpoints, Kind::Service, Kind::Lookup]
        );
    }
}
