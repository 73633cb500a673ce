//! Decodes one object into a typed view: an error names the field, and no unknown field goes by unseen.

use std::fmt::Write as _;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_ignored::Path;
use serde_json::Value;

/// A view, and the fields of the object that it has no place for.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded<T> {
    /// The view.
    pub value: T,
    /// Fields that nothing here understands: `spec.rules[0].backendRef`.
    pub unknown: Vec<String>,
}

/// Why an object does not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct DecodeError {
    /// The field; empty: the object as a whole.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl DecodeError {
    /// What would be right, from what was expected.
    pub fn fix(&self) -> &'static str {
        if self.message.starts_with("missing field") {
            return "add it";
        }
        let expected = self
            .message
            .rsplit_once("expected ")
            .map_or("", |(_, expected)| expected);
        match expected {
            "u16" => "write a number from 0 to 65535",
            "u8" | "u32" | "u64" | "usize" => "write a number, 0 or more",
            "i8" | "i16" | "i32" | "i64" => "write a number",
            "a string" => "write text; in quotes, if it looks like a number or a truth value",
            "a boolean" => "write true or false",
            "a sequence" => "write a list",
            "a map" => "write fields with their values",
            other if other.starts_with("struct ") => "write fields with their values",
            _ => "see docs/manifests.md and docs/routes.md for what it may be",
        }
    }
}

/// What is wrong with a field, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field; empty: the object as a whole.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
    /// What would be right.
    pub fix: String,
}

impl From<DecodeError> for FieldError {
    fn from(error: DecodeError) -> Self {
        let fix = error.fix().to_owned();
        let DecodeError { field, message } = error;
        Self { field, message, fix }
    }
}

/// A field whose content does not matter here, but which is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skip;

impl<'de> Deserialize<'de> for Skip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not `IgnoredAny`: that would be reported as an unknown field.
        Value::deserialize(deserializer).map(|_| Self)
    }
}

/// Decodes a whole object. A `null` counts as a field that is not there, as it does for an API server.
pub fn decode<T: DeserializeOwned>(raw: &Value) -> Result<Decoded<T>, DecodeError> {
    if has_null(raw) {
        let mut pruned = raw.clone();
        prune(&mut pruned);
        return decode_pruned(&pruned);
    }
    decode_pruned(raw)
}

fn decode_pruned<T: DeserializeOwned>(raw: &Value) -> Result<Decoded<T>, DecodeError> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let value = {
        let deserializer = serde_path_to_error::Deserializer::new(raw, &mut track);
        serde_ignored::deserialize(deserializer, |path| unknown.push(written(&path)))
    };
    match value {
        Ok(value) => Ok(Decoded { value, unknown }),
        Err(error) => {
            let field = track.path().to_string();
            Err(DecodeError {
                field: if field == "." { String::new() } else { field },
                message: error.to_string(),
            })
        }
    }
}

/// A path as people write it: `spec.rules[0].name`.
fn written(path: &Path<'_>) -> String {
    fn write(path: &Path<'_>, out: &mut String) {
        match path {
            Path::Root => {}
            Path::Seq { parent, index } => {
                write(parent, out);
                let _ = write!(out, "[{index}]"); // A String takes all that is written to it.
            }
            Path::Map { parent, key } => {
                write(parent, out);
                if key.contains(['.', '/', '[']) {
                    let _ = write!(out, "[{key}]"); // As above.
                    return;
                }
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
            Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
                write(parent, out);
            }
        }
    }
    let mut out = String::new();
    write(path, &mut out);
    out
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.values().any(|value| value.is_null() || has_null(value)),
        Value::Array(items) => items.iter().any(has_null),
        _ => false,
    }
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[allow(dead_code, reason = "only decoded")]
    struct View {
        metadata: Skip,
        #[serde(default)]
        rules: Vec<Rule>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Rule {
        #[serde(default)]
        weight: Option<u32>,
    }

    #[test]
    fn an_error_says_what_would_be_right() {
        let fix = |raw: serde_json::Value| decode::<View>(&raw).unwrap_err().fix();
        assert_eq!(fix(json!({})), "add it");
        assert_eq!(fix(json!({"metadata": {}, "rules": "all"})), "write a list");
        let weighs = |weight: serde_json::Value| json!({"metadata": {}, "rules": [{"weight": weight}]});
        assert_eq!(fix(weighs(json!(-1))), "write a number, 0 or more");
    }

    #[test]
    fn an_error_names_the_field() {
        let error = decode::<View>(&json!({"metadata": {}, "rules": [{"weight": 1}, {"weight": "x"}]})).unwrap_err();
        assert_eq!(error.field, "rules[1].weight");
        assert!(error.message.contains("expected u32"), "{}", error.message);
    }

    #[test]
    fn unknown_fields_are_found_at_any_depth_and_known_ones_are_not() {
        let raw = json!({"metadata": {"any": 1}, "rules": [{"wieght": 1, "a.b/c": 2}], "sepc": {}});
        let mut unknown = decode::<View>(&raw).unwrap().unknown;
        unknown.sort();
        assert_eq!(unknown, ["rules[0].wieght", "rules[0][a.b/c]", "sepc"]);
    }

    #[test]
    fn null_is_a_field_that_is_not_there() {
        let raw = json!({"metadata": {}, "rules": null});
        assert_eq!(
            decode::<View>(&raw).unwrap(),
            Decoded {
                value: View {
                    metadata: Skip,
                    rules: vec![]
                },
                unknown: vec![]
            }
        );
    }
}
