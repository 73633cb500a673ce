//! Whether values are what `values.schema.json` says, with what was meant by a mistyped key.
//!
//! Of JSON Schema what that file uses: types, words, patterns, bounds, fields. A test holds it to what Helm says.

use anyhow::{Context, Result};
use regex::Regex;
use serde_json::Value;

/// What is wrong with values, each with its key; nothing, if all is well.
pub(super) fn faults(schema: &Value, values: &Value) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    check(schema, values, "", &mut faults)?;
    Ok(faults)
}

fn check(schema: &Value, value: &Value, key: &str, faults: &mut Vec<String>) -> Result<()> {
    let shown = if key.is_empty() { "the values" } else { key };
    if !is_of_type(&schema["type"], value) {
        faults.push(format!(
            "{shown}: {value} is not of the type {}",
            types(&schema["type"])
        ));
        return Ok(());
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        faults.push(format!("{shown}: {value} is none of {}", words.join(", ")));
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str()) {
        let pattern_read = Regex::new(pattern).with_context(|| format!("the schema of {shown}"))?;
        if !pattern_read.is_match(text) {
            faults.push(format!("{shown}: {value} is not of the form {pattern}"));
        }
    }
    if value.as_str().is_some_and(str::is_empty) && schema["minLength"].as_u64().is_some_and(|least| least > 0) {
        faults.push(format!("{shown}: must not be empty"));
    }
    if let Some(number) = value.as_f64() {
        let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
        if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
            let bound = |bound: Option<f64>| bound.map_or_else(|| "any".to_owned(), |bound| bound.to_string());
            faults.push(format!(
                "{shown}: {value} is not from {} to {}",
                bound(least),
                bound(most)
            ));
        }
    }
    for (at, item) in value.as_array().into_iter().flatten().enumerate() {
        check(&schema["items"], item, &format!("{key}[{at}]"), faults)?;
    }
    fields(schema, value, key, faults)
}

fn fields(schema: &Value, value: &Value, key: &str, faults: &mut Vec<String>) -> Result<()> {
    let Some(fields) = value.as_object() else {
        return Ok(());
    };
    let below = |name: &str| match key {
        "" => name.to_owned(),
        key => format!("{key}.{name}"),
    };
    let known = schema["properties"].as_object();
    for (name, value) in fields {
        match (known.and_then(|known| known.get(name)), &schema["additionalProperties"]) {
            (Some(of), _) => check(of, value, &below(name), faults)?,
            (None, Value::Bool(false)) => faults.push(stranger(schema, name, key)),
            (None, Value::Object(_)) => check(&schema["additionalProperties"], value, &below(name), faults)?,
            (None, _) => {}
        }
    }
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !fields.contains_key(name) {
            faults.push(format!("{}: is missing", below(name)));
        }
    }
    Ok(())
}

/// What to say of a key that there is not.
fn stranger(schema: &Value, name: &str, key: &str) -> String {
    let known = schema["properties"].as_object().into_iter().flatten();
    let mut known: Vec<&str> = known
        .map(|(name, _)| name.as_str())
        .filter(|name| *name != "global")
        .collect();
    known.sort_unstable();
    let distance = |one: &&&str| strsim::osa_distance(&name.to_ascii_lowercase(), &one.to_ascii_lowercase());
    let near = known.iter().min_by_key(distance);
    let near = near.filter(|one| distance(one) <= 1 + one.len() / 4);
    let whole = |name: &str| {
        if key.is_empty() {
            name.to_owned()
        } else {
            format!("{key}.{name}")
        }
    };
    match near {
        Some(near) => format!("{}: there is no such value; did you mean {}?", whole(name), whole(near)),
        None if known.is_empty() => format!("{}: there is no such value", whole(name)),
        None => format!(
            "{}: there is no such value; there are {}",
            whole(name),
            known.join(", ")
        ),
    }
}

fn is_of_type(wanted: &Value, value: &Value) -> bool {
    match wanted {
        Value::Array(any) => any.iter().any(|one| is_of_type(one, value)),
        Value::String(name) => match name.as_str() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            _ => false,
        },
        _ => true,
    }
}

/// The names of types.
pub(super) fn types(wanted: &Value) -> String {
    match wanted {
        Value::Array(any) => any.iter().map(types).collect::<Vec<_>>().join(" or "),
        other => other.as_str().unwrap_or("any").to_owned(),
    }
}
