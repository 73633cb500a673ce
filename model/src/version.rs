//! Versions of resources: which is newer, and within what.

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
        self.sources.iter().find(|source| {
            held.sources
                .iter()
                .any(|h| h.uid == source.uid && h.resource_version > source.resource_version)
        })
    }
}
