//! What a resource is made of, noted down while it is made.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::version::Source;

use super::Compiled;
use crate::index::Topic;
use crate::objects::Object;

/// Sources, topics and whether to hold.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    sources: BTreeMap<(String, String), Source>,
    topics: BTreeSet<Topic>,
    hold: Option<String>,
}

impl Ledger {
    /// An object went into it.
    pub(crate) fn source(&mut self, object: &Object) {
        let source = source_of(object);
        self.sources.insert((source.uid.clone(), source.object.clone()), source);
    }

    /// It would be another if this changed.
    pub(super) fn topic(&mut self, topic: Topic) {
        self.topics.insert(topic);
    }

    pub(super) fn topics(&mut self, topics: impl IntoIterator<Item = Topic>) {
        self.topics.extend(topics);
    }

    /// An object that belongs here is invalid, and nothing valid is known. The first reason is told.
    pub(crate) fn hold(&mut self, reason: Option<String>) {
        if self.hold.is_none() {
            self.hold = reason;
        }
    }

    pub(super) fn close<T>(self, value: T) -> Compiled<T> {
        Compiled {
            value,
            sources: self.sources.into_values().collect(),
            hold: self.hold,
            topics: self.topics,
        }
    }
}

/// An object as a source.
pub(super) fn source_of(object: &Object) -> Source {
    Source {
        object: object.reference().to_string(),
        uid: object.uid.clone(),
        resource_version: object.resource_version,
    }
}
