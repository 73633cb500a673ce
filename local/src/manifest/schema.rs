//! What may stand in a manifest: a walk over an object by a table of fields.
//!
//! In: an object's JSON and the [`Field`]s that its kind may have. Out: a [`Finding`] for each field that changes
//! behaviour and is not honoured here, and for each that no such kind has. What is honoured is checked for its type when
//! it is decoded.

use serde_json::Value;

/// A field that a kind may have, and what becomes of it here.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// As it is written.
    pub name: &'static str,
    /// What becomes of it.
    pub rule: Rule,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// Honoured.
    Honoured,
    /// Of no consequence on one machine.
    Harmless,
    /// Of no consequence, but people should know: one notice for all of them, about `image`.
    Image,
    /// Fields below it.
    Object(&'static [Field]),
    /// A list of objects with these fields.
    List(&'static [Field]),
    /// Honoured, if it says one of these.
    OneOf(&'static [&'static str], &'static str),
    /// May say that it is switched off (`false`), which it is anyhow.
    Off(&'static str),
    /// May be empty, which says nothing.
    Empty(&'static str),
    /// Not honoured; the fix.
    Refused(&'static str),
    /// Not honoured, unless it is switched off or empty. The object is, without it: a warning, with the fix.
    Ignored(&'static str),
}

/// What the walk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `spec.containers[0].securityContext.privileged`.
    pub field: String,
    /// What it is.
    pub kind: Found,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub fix: String,
}

/// What a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The object can't be run as it was written.
    Refused,
    /// The object is run without it.
    Ignored,
    /// There is an `image`.
    Image,
}

/// Walks over an object.
pub fn walk(value: &Value, fields: &'static [Field]) -> Vec<Finding> {
    let mut findings = vec![];
    object(value, fields, "", &mut findings);
    findings
}

fn object(value: &Value, fields: &'static [Field], path: &str, out: &mut Vec<Finding>) {
    let Some(map) = value.as_object() else {
        return out.push(refused(
            path,
            format!("must be an object, and is {}", type_of(value)),
            String::new(),
        ));
    };
    // An API server takes null for a field that is not there.
    for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        match fields.iter().find(|field| field.name == name) {
            Some(field) => check(value, field.rule, &path, out),
            None => {
                let fix = match nearest(name, fields) {
                    Some(near) => format!("did you mean {near}? Else remove it"),
                    None => "remove it, or check its indentation".to_owned(),
                };
                out.push(refused(&path, "there is no such field".to_owned(), fix));
            }
        }
    }
}

fn check(value: &Value, rule: Rule, path: &str, out: &mut Vec<Finding>) {
    let not_honoured = |fix: &str| refused(path, "is not honoured here".to_owned(), fix.to_owned());
    match rule {
        Rule::Honoured | Rule::Harmless => {}
        Rule::Image => out.push(Finding {
            field: path.to_owned(),
            kind: Found::Image,
            message: String::new(),
            fix: String::new(),
        }),
        Rule::Object(fields) => object(value, fields, path, out),
        Rule::List(fields) => match value.as_array() {
            Some(items) => {
                for (i, item) in items.iter().enumerate() {
                    object(item, fields, &format!("{path}[{i}]"), out);
                }
            }
            None => out.push(refused(
                path,
                format!("must be a list, and is {}", type_of(value)),
                "write each item with a dash before it".to_owned(),
            )),
        },
        Rule::OneOf(words, _) if value.as_str().is_some_and(|word| words.contains(&word)) => {}
        Rule::OneOf(words, fix) => {
            let words = words
                .iter()
                .map(|word| format!("{word:?}"))
                .collect::<Vec<_>>()
                .join(", ");
            out.push(refused(
                path,
                format!("{value} is not honoured here, only {words}"),
                fix.to_owned(),
            ));
        }
        Rule::Ignored(_) if *value == Value::Bool(false) || is_empty(value) => {}
        Rule::Ignored(fix) => out.push(Finding {
            kind: Found::Ignored,
            ..not_honoured(fix)
        }),
        Rule::Off(_) if *value == Value::Bool(false) => {}
        Rule::Empty(_) if is_empty(value) => {}
        Rule::Off(fix) | Rule::Empty(fix) | Rule::Refused(fix) => out.push(not_honoured(fix)),
    }
}

fn refused(path: &str, message: String, fix: String) -> Finding {
    Finding {
        field: path.to_owned(),
        kind: Found::Refused,
        message,
        fix,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The field that a typing error most likely meant.
fn nearest(name: &str, fields: &[Field]) -> Option<&'static str> {
    let scored = fields.iter().map(|field| (distance(name, field.name), field.name));
    scored
        .min()
        .filter(|(distance, near)| *distance <= 1 + near.len() / 5)
        .map(|(_, near)| near)
}

/// Edits from one word to the other, letters of either case being the same.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const INNER: &[Field] = &[
        Field {
            name: "name",
            rule: Rule::Honoured,
        },
        Field {
            name: "image",
            rule: Rule::Image,
        },
        Field {
            name: "privileged",
            rule: Rule::Off("remove it"),
        },
    ];
    const OUTER: &[Field] = &[
        Field {
            name: "containers",
            rule: Rule::List(INNER),
        },
        Field {
            name: "hostNetwork",
            rule: Rule::Off("give the pod its own network"),
        },
        Field {
            name: "dnsPolicy",
            rule: Rule::OneOf(&["ClusterFirst"], "remove it"),
        },
        Field {
            name: "envFrom",
            rule: Rule::Empty("list them"),
        },
        Field {
            name: "affinity",
            rule: Rule::Harmless,
        },
    ];

    #[track_caller]
    fn check(value: &Value, want: &[(&str, &str)]) {
        let got = walk(value, OUTER);
        let got: Vec<_> = got
            .iter()
            .map(|finding| (finding.field.as_str(), finding.fix.as_str()))
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn what_is_off_or_empty_or_null_or_harmless_passes() {
        check(
            &json!({"hostNetwork": false, "dnsPolicy": "ClusterFirst", "envFrom": [], "affinity": {"x": 1}, "gone": null}),
            &[],
        );
    }

    #[test]
    fn what_is_not_honoured_is_named_with_its_place_and_fix() {
        check(
            &json!({"hostNetwork": true}),
            &[("hostNetwork", "give the pod its own network")],
        );
        check(&json!({"dnsPolicy": "None"}), &[("dnsPolicy", "remove it")]);
        check(&json!({"envFrom": [1]}), &[("envFrom", "list them")]);
        check(
            &json!({"containers": [{}, {"privileged": true}]}),
            &[("containers[1].privileged", "remove it")],
        );
    }

    #[test]
    fn a_typing_error_is_not_overlooked() {
        check(
            &json!({"hostNetwerk": true}),
            &[("hostNetwerk", "did you mean hostNetwork? Else remove it")],
        );
        check(&json!({"xyz": true}), &[("xyz", "remove it, or check its indentation")]);
    }

    #[test]
    fn a_list_and_an_object_are_not_mixed_up() {
        assert_eq!(
            walk(&json!({"containers": {}}), OUTER)[0].message,
            "must be a list, and is an object"
        );
        assert_eq!(
            walk(&json!({"containers": ["a"]}), OUTER)[0].message,
            "must be an object, and is text"
        );
    }
}
