//! A batch of what a peer says, before it is judged: in which order it is taken in, how much of it is decoded at once, and what of it
//! cannot be read, or is not for another cluster to say.

use std::collections::BTreeMap;

use weft_model::version::Version;
use weft_proto::discovery;
use weft_proto::parts::PARTS_MAX;
use weft_proto::resource::{self, Change, FieldError, Update, name};

use crate::index;
use crate::serve::hub;

/// What has no name that can be read and is told back of one batch. None of it is taken; a newer peer that says more things than this
/// of a kind that is not known here counts the rest as taken, and says all of it anew to a build that knows it.
const NAMELESS_MAX: usize = 100;

/// What a batch says, by when it is taken in and by name; what of it is refused for it has no name; and the same for status.
pub(super) type InTurn = (
    BTreeMap<(u8, name::Name), discovery::Resource>,
    Vec<discovery::Refusal>,
    Vec<(name::Name, FieldError)>,
);

/// Orders what a batch says, undecoded: what is gone makes room, and an export comes before what is behind it. What it says more than once
/// counts as it was said last: one that says a thing ten thousand times costs no more.
pub(super) fn in_turn(resources: Vec<discovery::Resource>) -> InTurn {
    let mut last = BTreeMap::new();
    let (mut refusals, mut unread) = (Vec::new(), Vec::new());
    for wire in resources {
        match name::Name::from_wire(wire.name.clone()) {
            Ok(name) => drop(last.insert(name, wire)),
            Err(error) if refusals.len() < NAMELESS_MAX => {
                let error = error.within("name");
                unread.push((hub::unreadable(wire.name.as_ref()), error.clone()));
                refusals.push(resource::refusal(wire.name, wire.version, error));
            }
            Err(_) => {}
        }
    }
    let rank = |name: &name::Name, wire: &discovery::Resource| {
        let is_gone = matches!(wire.state, Some(discovery::resource::State::Removed(_)));
        index::turn(is_gone, name.kind)
    };
    let said = last.into_iter().map(|(name, wire)| ((rank(&name, &wire), name), wire));
    (said.collect(), refusals, unread)
}

/// Takes off the next piece: as much as may be decoded at once, and never nothing.
pub(super) fn piece(
    said: &mut BTreeMap<(u8, name::Name), discovery::Resource>,
) -> Vec<(name::Name, discovery::Resource)> {
    let (mut piece, mut parts) = (Vec::new(), 0);
    while let Some(entry) = said.first_entry() {
        let body = match &entry.get().state {
            Some(discovery::resource::State::Body(body)) if is_for_peers(entry.key().1.kind) => &body[..],
            _ => &[],
        };
        // What has too many is refused, and not decoded.
        parts += resource::parts_of(entry.key().1.kind, body).unwrap_or_default();
        if parts > PARTS_MAX && !piece.is_empty() {
            break;
        }
        let ((_, name), wire) = entry.remove_entry();
        piece.push((name, wire));
    }
    piece
}

fn is_for_peers(kind: name::Kind) -> bool {
    matches!(kind, name::Kind::Cluster | name::Kind::Export | name::Kind::Exported)
}

/// Reads one thing. What is not for other clusters to say is not looked at.
pub(super) fn read(name: &name::Name, wire: discovery::Resource) -> Result<Update, Box<discovery::Refusal>> {
    if is_for_peers(name.kind) {
        return resource::from_wire(wire);
    }
    let error = FieldError::new("name.kind", format!("{} is not for other clusters to say", name.kind));
    Err(Box::new(resource::refusal(wire.name, wire.version, error)))
}

/// That this is there no more.
pub(super) fn gone(name: name::Name) -> Update {
    Update {
        name,
        version: Version::default(),
        change: Change::Removed,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ipnet::IpNet;
    use weft_model::identity::TrustDomain;
    use weft_proto::discovery::resource::State;
    use weft_proto::resource::Body;
    use weft_proto::resource::bundles::TrustRoots;
    use weft_proto::resource::federation::Cluster;

    use super::*;

    #[test]
    fn what_a_batch_says_many_times_is_taken_once_as_it_was_said_last() {
        let said = |network: &str| {
            let body = Body::Cluster(Cluster {
                name: "west".to_owned(),
                network: String::new(),
                gateways: Vec::new(),
                pod_networks: vec![network.parse().unwrap()],
                bundle: TrustRoots {
                    trust_domain: TrustDomain::new("west.example").unwrap(),
                    roots: vec![Bytes::from_static(b"root")],
                    sequence: 1,
                },
            });
            let name = name::Name::new(name::Kind::Cluster, name::CLUSTER);
            resource::to_wire(&name, Vec::new(), body.requires(), &resource::encode(&body))
        };
        let said = [said("10.1.0.0/24"), said("10.2.0.0/24"), said("10.1.0.0/24")].into();
        let (mut said, refusals, unread) = in_turn(said);
        assert!(refusals.is_empty() && unread.is_empty());
        let all: Vec<_> = piece(&mut said)
            .into_iter()
            .map(|(name, wire)| read(&name, wire).unwrap().change)
            .map(|change| match change {
                Change::Body(body) => match *body {
                    Body::Cluster(said) => said.pod_networks,
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(all, [["10.1.0.0/24".parse::<IpNet>().unwrap()]]);
        assert!(said.is_empty());
    }

    #[test]
    fn a_batch_is_decoded_piece_by_piece_and_what_makes_room_comes_first() {
        let of = |kind, key: &str, state| discovery::Resource {
            name: Some(name::Name::new(kind, key).to_wire()),
            state: Some(state),
            ..discovery::Resource::default()
        };
        // Endpoints without anything in them: three of these bodies are more than is decoded at once.
        let many = || State::Body([0x22, 0].repeat(PARTS_MAX / 10).into());
        let batch = vec![
            of(name::Kind::Exported, "shop/a:80", many()),
            of(name::Kind::Exported, "shop/b:80", many()),
            of(name::Kind::Exported, "shop/c:80", many()),
            of(name::Kind::Export, "shop/a", State::Body(Bytes::new())),
            of(name::Kind::Exported, "shop/z:80", State::Removed(discovery::Removed {})),
            discovery::Resource::default(),
        ];
        let (mut said, refusals, unread) = in_turn(batch);
        assert_eq!((refusals.len(), unread.len()), (1, 1));
        let mut next = || -> Vec<String> {
            let keys = piece(&mut said).into_iter().map(|(name, _)| name.key);
            keys.collect()
        };
        assert_eq!(next(), ["shop/z:80", "shop/a", "shop/a:80", "shop/b:80"]);
        assert_eq!(next(), ["shop/c:80"]);
        assert!(next().is_empty());
    }

    #[test]
    fn what_is_not_for_other_clusters_to_say_is_refused_unread() {
        for kind in [name::Kind::Service, name::Kind::Bundles, name::Kind::Gateway] {
            let refused = read(&name::Name::new(kind, "x"), discovery::Resource::default()).unwrap_err();
            assert_eq!(refused.field, "name.kind");
        }
    }
}
