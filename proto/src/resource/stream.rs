//! Rules for opaque streams: `weft.discovery.v1.StreamRule`.

use std::sync::Arc;

use weft_model::name::ObjectRef;
use weft_model::stream::{StreamRule, Streams};

use super::field::{self, FieldError};
use super::service;
use crate::discovery;

/// Reads the rules of a port. `None`: no route is attached.
pub(super) fn decode(streamed: bool, wire: Vec<discovery::StreamRule>) -> Result<Option<Streams>, FieldError> {
    if !streamed && !wire.is_empty() {
        return Err(FieldError::new("streamed", "is false, and there are streams"));
    }
    let rules = field::list("streams", wire, field::RULES_MAX, |rule| {
        decode_rule(rule).map(Arc::new)
    })?;
    Ok(streamed.then_some(Streams { rules }))
}

/// Writes the rules of a port.
pub(super) fn encode(streams: Option<&Streams>) -> Vec<discovery::StreamRule> {
    let rules = streams.map_or(&[][..], |streams| &streams.rules);
    let rule = |rule: &Arc<StreamRule>| discovery::StreamRule {
        route: Some(service::object_to_wire(&rule.route)),
        index: rule.index,
        name: rule.name.clone(),
        host: rule.host.clone().unwrap_or_default(),
        backends: rule.backends.iter().map(service::encode_backend).collect(),
    };
    rules.iter().map(rule).collect()
}

fn decode_rule(wire: discovery::StreamRule) -> Result<StreamRule, FieldError> {
    let object = field::required("route", wire.route)?;
    let within = |error: FieldError| error.within("route");
    let host = match wire.host.strip_prefix("*.").unwrap_or(&wire.host) {
        "" if wire.host.is_empty() => None,
        name => {
            field::name("host", name.to_owned())?;
            Some(wire.host)
        }
    };
    Ok(StreamRule {
        route: ObjectRef {
            kind: field::word("kind", object.kind).map_err(within)?,
            namespace: field::word("namespace", object.namespace).map_err(within)?,
            name: field::word("name", object.name).map_err(within)?,
        },
        index: wire.index,
        name: field::word("name", wire.name)?,
        host,
        backends: field::list("backends", wire.backends, field::BACKENDS_MAX, service::decode_backend)?,
    })
}
