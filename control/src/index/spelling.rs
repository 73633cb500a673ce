//! What is said of a field that nothing understands: what acts without it, and which field was most likely meant.

use crate::objects::near::near;

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

#[cfg(test)]
mod tests {
    use super::*;

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
