//! A newer control plane: what this build cannot read refuses, and never allows.
//!
//! A protobuf decoder drops unknown fields silently, so the newer messages here are made of raw bytes.

use prost::bytes::BufMut as _;
use weft_model::identity::Identity;
use weft_model::policy::{Caller, admit};
use weft_model::reason::Reason;

use super::super::*;
use super::fields;

/// A field that today's types do not know, of wire type 2 (length-delimited).
fn unknown(bytes: &mut Vec<u8>, number: u32, content: &[u8]) {
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, bytes);
    prost::encoding::encode_varint(content.len() as u64, bytes);
    bytes.put_slice(content);
}

fn web() -> Caller {
    Caller::Verified("spiffe://a/ns/shop/sa/web".parse().unwrap())
}

fn own() -> Identity {
    "spiffe://a/ns/shop/sa/reviews".parse().unwrap()
}

/// An inbound configuration with one policy of a newer version: known fields, then bytes that today's types drop.
fn with_newer_policy(policy: &discovery::Policy) -> Inbound {
    let mut newer = policy.encode_to_vec();
    unknown(&mut newer, 4, b"allow everyone");
    unknown(&mut newer, 20, b"or no one");
    // Inbound.policies is field 3.
    let mut body = inbound::encode(&fields::inbound()).encode_to_vec();
    unknown(&mut body, 3, &newer);
    match decode(Kind::Inbound, &body).unwrap() {
        Body::Inbound(inbound) => inbound,
        other => panic!("{other:?}"),
    }
}

fn object() -> Option<discovery::ObjectRef> {
    let text = str::to_owned;
    Some(discovery::ObjectRef {
        kind: text("AccessPolicy"),
        namespace: text("shop"),
        name: text("newer"),
    })
}

#[test]
fn without_a_policy_the_call_is_allowed() {
    assert!(
        admit(&fields::inbound(), &own(), 8080, web()).is_ok(),
        "so that the refusals below are the policy's"
    );
}

#[test]
fn a_newer_policy_refuses_what_it_covers() {
    let requires = vec!["access-policy/7".to_owned()];
    let inbound = with_newer_policy(&discovery::Policy {
        object: object(),
        requires,
        ports: vec![8080],
    });
    assert_eq!(inbound.policies[0].missing, ["access-policy/7"]);
    assert_eq!(admit(&inbound, &own(), 8080, web()), Err(Reason::PolicyUnsupported));
    assert!(admit(&inbound, &own(), 9090, web()).is_ok(), "it covers one port");
}

#[test]
fn a_newer_policy_that_requires_nothing_refuses_all_the_same() {
    let inbound = with_newer_policy(&discovery::Policy {
        object: object(),
        requires: vec![],
        ports: vec![],
    });
    assert!(inbound.policies[0].missing.is_empty());
    for port in [1, 8080, 65_535] {
        assert_eq!(admit(&inbound, &own(), port, web()), Err(Reason::PolicyUnsupported));
    }
}

#[test]
fn a_policy_is_never_dropped_or_narrowed() {
    let empty = with_newer_policy(&discovery::Policy::default());
    assert_eq!(
        admit(&empty, &own(), 8080, web()),
        Err(Reason::PolicyUnsupported),
        "without a name"
    );
    let odd_port = discovery::Policy {
        object: object(),
        requires: vec![],
        ports: vec![9090, 99_999],
    };
    let inbound = with_newer_policy(&odd_port);
    assert_eq!(
        admit(&inbound, &own(), 8080, web()),
        Err(Reason::PolicyUnsupported),
        "a port that is none"
    );
    let mut wire = inbound::encode(&fields::inbound());
    let one = discovery::Policy {
        object: object(),
        requires: vec![],
        ports: vec![9090],
    };
    wire.policies = vec![one; field::POLICIES_MAX + 1];
    let many = inbound::decode(wire);
    assert_eq!(many.policies.len(), 1);
    assert_eq!(
        admit(&many, &own(), 8080, web()),
        Err(Reason::PolicyUnsupported),
        "too many to read"
    );
}

#[test]
fn a_mode_that_is_not_known_is_strict() {
    use weft_model::inbound::Mode;
    let mut wire = inbound::encode(&fields::inbound());
    for (mode, want) in [
        (0, Mode::Strict),
        (1, Mode::Permissive),
        (2, Mode::Strict),
        (3, Mode::Strict),
        (-1, Mode::Strict),
    ] {
        wire.mode = mode;
        let read = inbound::decode(wire.clone());
        assert_eq!(read.mode, want, "{mode}");
        let plaintext = admit(&read, &own(), 8080, Caller::Plaintext);
        assert_eq!(plaintext.is_err(), want == Mode::Strict, "{mode}");
    }
}

#[test]
fn a_newer_route_is_refused_naming_the_feature() {
    let body = Body::Service(fields::service());
    let name = Name::new(Kind::Service, "shop/reviews:80");
    let today = to_wire(&name, Vec::new(), body.requires(), &encode(&body));
    assert!(from_wire(today).is_ok());
    let newer = [feature::HTTP_ROUTES, "http-filters/3", "retries/1"].map(str::to_owned);
    let refusal = from_wire(to_wire(&name, Vec::new(), newer.into(), &encode(&body))).unwrap_err();
    assert_eq!(refusal.field, "requires");
    assert_eq!(refusal.missing_features, ["http-filters/3", "retries/1"]);
    assert!(
        refusal.reason.contains("http-filters/3, retries/1"),
        "{}",
        refusal.reason
    );
    assert_eq!(refusal.name, Some(name.to_wire()));
}

#[test]
fn a_newer_kind_of_match_is_refused_and_not_ignored() {
    // `PathMatch` with a variant 9 that today's types drop: what is left would match every path.
    let mut path = Vec::new();
    unknown(&mut path, 9, b"/v1/{id}");
    let mut matches = Vec::new();
    unknown(&mut matches, 1, &path);
    let mut rule = discovery::Rule {
        route: object(),
        ..Default::default()
    }
    .encode_to_vec();
    unknown(&mut rule, 4, &matches);
    let mut wire = service::encode(&fields::service());
    wire.rules.clear();
    let mut body = wire.encode_to_vec();
    unknown(&mut body, 6, &rule);
    let error = decode(Kind::Service, &body).unwrap_err();
    assert_eq!(error.field, "rules[0].match.path.path");
}

#[test]
fn a_newer_answer_is_not_outside() {
    let mut body = Vec::new();
    unknown(&mut body, 9, b"a gateway");
    assert_eq!(decode(Kind::Lookup, &body).unwrap_err().field, "result");
}

#[test]
fn unknown_fields_of_known_messages_change_nothing() {
    let mut body = service::encode(&fields::service()).encode_to_vec();
    unknown(&mut body, 99, b"a hint");
    assert!(decode(Kind::Service, &body).is_ok());
}
