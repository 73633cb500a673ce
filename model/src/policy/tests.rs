//! Who is let in: for each rule an allow and a deny.

use super::*;
use crate::destination::Protocol;
use crate::identity::TrustDomain;
use crate::inbound::{InboundPort, Workload};

fn own() -> Identity {
    "spiffe://a/ns/shop/sa/reviews".parse().unwrap()
}

fn of(trust_domain: &str) -> Caller {
    Caller::Verified(format!("spiffe://{trust_domain}/ns/shop/sa/web").parse().unwrap())
}

fn inbound(mode: Mode) -> Inbound {
    let exported = InboundPort {
        port: 443,
        protocol: Protocol::Undeclared,
        foreign: vec![TrustDomain::new("b").unwrap()],
        services: Vec::new(),
    };
    let internal = InboundPort {
        port: 80,
        foreign: Vec::new(),
        ..exported.clone()
    };
    Inbound {
        mode,
        ports: vec![internal, exported],
        policies: Vec::new(),
        workload: Workload::default(),
    }
}

fn policy(ports: &[u16]) -> Policy {
    let object = ObjectRef {
        kind: "AccessPolicy".to_owned(),
        namespace: "shop".to_owned(),
        name: "p".to_owned(),
    };
    Policy {
        object,
        missing: Vec::new(),
        ports: ports.to_vec(),
    }
}

#[test]
fn plaintext_is_let_in_where_the_mode_is_permissive_on_any_port() {
    for port in [80, 443, 9999] {
        let permit = admit(&inbound(Mode::Permissive), &own(), port, Caller::Plaintext).unwrap();
        assert_eq!(permit.caller(), &Caller::Plaintext);
    }
}

#[test]
fn plaintext_is_refused_where_the_mode_is_strict_on_any_port() {
    for port in [80, 443, 9999] {
        let result = admit(&inbound(Mode::Strict), &own(), port, Caller::Plaintext);
        assert_eq!(result, Err(Reason::PlaintextRefused), "{port}: declared or not");
    }
}

#[test]
fn our_own_trust_domain_is_let_in_on_any_port_in_any_mode() {
    for mode in [Mode::Permissive, Mode::Strict] {
        for port in [80, 443, 9999] {
            let permit = admit(&inbound(mode), &own(), port, of("a")).unwrap();
            assert_eq!(permit.caller(), &of("a"));
        }
    }
}

#[test]
fn a_foreign_trust_domain_is_let_in_only_on_ports_exported_to_it_in_any_mode() {
    for mode in [Mode::Permissive, Mode::Strict] {
        assert!(admit(&inbound(mode), &own(), 443, of("b")).is_ok());
        let refused = Err(Reason::ForeignTrustDomain);
        assert_eq!(
            admit(&inbound(mode), &own(), 443, of("c")),
            refused,
            "exported to another"
        );
        assert_eq!(admit(&inbound(mode), &own(), 80, of("b")), refused, "not exported");
        assert_eq!(admit(&inbound(mode), &own(), 9999, of("b")), refused, "not declared");
    }
}

#[test]
fn a_trust_domain_that_looks_like_ours_is_foreign() {
    for name in ["a.b", "b.a", "aa", "a_"] {
        assert_eq!(
            admit(&inbound(Mode::Permissive), &own(), 80, of(name)),
            Err(Reason::ForeignTrustDomain)
        );
    }
}

#[test]
fn a_policy_refuses_what_it_covers_whoever_calls() {
    let mut one = inbound(Mode::Permissive);
    one.policies = vec![policy(&[443])];
    for caller in [of("a"), of("b"), Caller::Plaintext] {
        assert_eq!(admit(&one, &own(), 443, caller), Err(Reason::PolicyUnsupported));
    }
    assert!(admit(&one, &own(), 80, of("a")).is_ok(), "what it does not cover");
    let mut all = inbound(Mode::Permissive);
    all.policies = vec![policy(&[81]), policy(&[])];
    for port in [80, 443, 9999] {
        assert_eq!(
            admit(&all, &own(), port, of("a")),
            Err(Reason::PolicyUnsupported),
            "no ports are all ports"
        );
    }
}

#[test]
fn a_policy_never_makes_strict_or_foreign_weaker() {
    let mut strict = inbound(Mode::Strict);
    strict.policies = vec![policy(&[443])];
    assert_eq!(
        admit(&strict, &own(), 80, Caller::Plaintext),
        Err(Reason::PlaintextRefused)
    );
    assert_eq!(admit(&strict, &own(), 80, of("b")), Err(Reason::ForeignTrustDomain));
}
