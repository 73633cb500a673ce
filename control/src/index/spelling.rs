//! What is said of a field that nothing understands: what acts without it, and which field was most likely meant; and which object
//! was, by a name that none has.

use std::collections::BTreeMap;

use super::Name;
use crate::objects::near::near;

/// So many names of a namespace are compared.
const NAMES_MAX: usize = 500;

const RULE: &[&str] = &["name", "matches", "filters", "backendRefs", "timeouts", "retry"];
const GRPC_RULE: &[&str] = &["name", "matches", "filters", "backendRefs"];
const STREAM_RULE: &[&str] = &["name", "backendRefs"];
const MATCH: &[&str] = &["path", "headers", "queryParams", "method"];
const GRPC_MATCH: &[&str] = &["method", "headers"];
const BACKEND: &[&str] = &["group", "kind", "namespace", "name", "port", "weight", "filters"];

/// What is wrong with a field, and what would be right.
pub(super) fn unknown(kind: &str, field: &str) -> (String, String) {
    let message = match field.starts_with("spec.rules[") {
        true => "is not understood and is ignored: the rule acts without it",
        false => "is not understood and is ignored",
    };
    let fix = match meant(kind, field) {
        Some(meant) => format!("did you mean {meant}? Else remove it"),
        None => "check the spelling, or remove it".to_owned(),
    };
    (message.to_owned(), fix)
}

fn meant(kind: &str, field: &str) -> Option<&'static str> {
    let (parent, word) = field.rsplit_once('.')?;
    let (list, _) = parent.strip_suffix(']')?.rsplit_once('[')?;
    let known = match (kind, list.rsplit('.').next()?) {
        ("HTTPRoute", "rules") => RULE,
        ("GRPCRoute", "rules") => GRPC_RULE,
        ("TCPRoute" | "TLSRoute", "rules") => STREAM_RULE,
        ("HTTPRoute", "matches") => MATCH,
        ("GRPCRoute", "matches") => GRPC_MATCH,
        (_, "backendRefs") => BACKEND,
        _ => return None,
    };
    near(word, known.iter().copied())
}

/// What mends a reference to an object: one of its namespace with nearly that name, or what `fix` says.
pub(super) fn or_near<T>(fix: &str, name: &Name, there: &BTreeMap<Name, T>) -> String {
    let first = Name {
        namespace: name.namespace.clone(),
        name: String::new(),
    };
    let beside = there
        .range(first..)
        .map(|(other, _)| other)
        .take_while(|other| other.namespace == name.namespace);
    match near(&name.name, beside.take(NAMES_MAX).map(|other| other.name.as_str())) {
        // It is there: something else is wrong with it.
        Some(meant) if meant == name.name => fix.to_owned(),
        Some(meant) => format!("did you mean {meant}? Else {fix}"),
        None => fix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_nearly_that_name_in_the_same_namespace_was_meant() {
        let name = |namespace: &str, name: &str| Name {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let there = [name("bank", "review"), name("shop", "ratings"), name("shop", "reviews")];
        let there: BTreeMap<Name, ()> = there.into_iter().map(|name| (name, ())).collect();
        let said = |named: &str| or_near("name one", &name("shop", named), &there);
        assert_eq!(said("review"), "did you mean reviews? Else name one");
        assert_eq!(said("reviews"), "name one");
        assert_eq!(said("nobody"), "name one");
        assert_eq!(or_near("name one", &name("till", "review"), &there), "name one");
    }

    #[test]
    fn a_mistyped_field_of_a_rule_is_told_with_the_one_that_was_meant() {
        assert_eq!(meant("HTTPRoute", "spec.rules[0].match"), Some("matches"));
        assert_eq!(meant("HTTPRoute", "spec.rules[0].macthes"), Some("matches"));
        assert_eq!(meant("HTTPRoute", "spec.rules[1].matches[0].header"), Some("headers"));
        assert_eq!(
            meant("GRPCRoute", "spec.rules[1].backendRefs[2].wieght"),
            Some("weight")
        );
        assert_eq!(meant("TCPRoute", "spec.rules[0].matches"), None);
        assert_eq!(meant("HTTPRoute", "spec.rules[0].colour"), None);
        assert_eq!(meant("HTTPRoute", "spec.hostname"), None);
    }

    #[test]
    fn an_ignored_field_of_a_rule_is_said_to_leave_the_rule_acting() {
        assert!(unknown("HTTPRoute", "spec.rules[0].x").0.contains("the rule acts"));
        assert!(!unknown("HTTPRoute", "spec.x").0.contains("rule"));
    }
}
