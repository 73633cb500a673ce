//! `--set`: values in one line, as Helm reads them. `a.b=1,c[0]=x,d={x,y}`; a backslash takes `,`, `.` and `=` their meaning.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// Entries of a list that may be named by number: nobody has more, and a mistyped number is no reason to fill memory.
const ITEMS_MAX: usize = 1024;

/// Writes what a `--set` says into values.
pub(super) fn set(values: &mut Value, text: &str) -> Result<()> {
    for assignment in split(text, ',') {
        let (key, value) = split_once(&assignment).with_context(|| format!("--set {assignment}: write KEY=VALUE"))?;
        let place = place(values, &key).with_context(|| format!("--set {assignment}"))?;
        *place = read(&value);
    }
    Ok(())
}

/// Splits where a character has its meaning: not behind a backslash, and not between braces.
fn split(text: &str, at: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut deep, mut escaped) = (0_usize, false);
    for character in text.chars() {
        match character {
            '{' if !escaped => deep += 1,
            '}' if !escaped => deep = deep.saturating_sub(1),
            _ => {}
        }
        if character == at && !escaped && deep == 0 {
            parts.push(String::new());
        } else {
            parts.last_mut().expect("there is one").push(character);
        }
        escaped = character == '\\' && !escaped;
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn split_once(assignment: &str) -> Option<(String, String)> {
    let mut escaped = false;
    for (at, character) in assignment.char_indices() {
        if character == '=' && !escaped {
            return Some((assignment[..at].to_owned(), assignment[at + 1..].to_owned()));
        }
        escaped = character == '\\' && !escaped;
    }
    None
}

fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => out.extend(characters.next()),
            other => out.push(other),
        }
    }
    out
}

/// Where a key leads to; what is not there yet is made.
fn place<'a>(values: &'a mut Value, key: &str) -> Result<&'a mut Value> {
    let mut at = values;
    for part in split(key, '.') {
        let (name, numbers) = match part.split_once('[') {
            Some((name, numbers)) => (name.to_owned(), format!("[{numbers}")),
            None => (part, String::new()),
        };
        if !numbers.is_empty() && !numbers.ends_with(']') {
            bail!("{key:?}: [ without ]");
        }
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = at
            .as_object_mut()
            .context("just made")?
            .entry(unescaped(&name))
            .or_insert(Value::Null);
        for number in numbers.split_terminator(']') {
            let number = number.strip_prefix('[').and_then(|number| number.parse::<usize>().ok());
            let number = number.with_context(|| format!("{key:?}: an entry of a list is written NAME[0]"))?;
            if number >= ITEMS_MAX {
                bail!("{key:?}: a list has at most {ITEMS_MAX} entries");
            }
            if !at.is_array() {
                *at = Value::Array(Vec::new());
            }
            let items = at.as_array_mut().context("just made")?;
            if items.len() <= number {
                items.resize(number + 1, Value::Null);
            }
            at = &mut items[number];
        }
    }
    Ok(at)
}

/// A value by its looks.
fn read(text: &str) -> Value {
    if let Some(items) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        return split(items, ',').iter().map(|item| read(item)).collect();
    }
    match text {
        "true" => true.into(),
        "false" => false.into(),
        "null" => Value::Null,
        // With a zero before it, it is a name made of digits.
        number if number == "0" || !number.starts_with('0') => match number.parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) => unescaped(text).into(),
        },
        text => unescaped(text).into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(text: &str, want: Value) {
        let mut values = json!({"a": {"b": 1, "c": [1, 2]}});
        set(&mut values, text).unwrap();
        assert_eq!(values, want);
    }

    #[test]
    fn values_are_read_as_helm_reads_them() {
        check("a.b=2", json!({"a": {"b": 2, "c": [1, 2]}}));
        check("a.c[1]=x,a.c[2]=y", json!({"a": {"b": 1, "c": [1, "x", "y"]}}));
        check("a={x,1,true}", json!({"a": ["x", 1, true]}));
        check("a=x\\,y=z", json!({"a": "x,y=z"}));
        check(
            "a.d\\.e/f=007,g=null,h=1.5",
            json!({
                "a": {"b": 1, "c": [1, 2], "d.e/f": "007"}, "g": null, "h": "1.5",
            }),
        );
        check("a[0].n=x", json!({"a": [{"n": "x"}]}));
        check("a=", json!({"a": ""}));
    }

    #[test]
    fn what_is_no_assignment_is_refused() {
        for wrong in ["a", "a[x]=1", "a[1=1", "a[4096]=1"] {
            let refused = set(&mut json!({}), wrong);
            assert!(refused.is_err(), "{wrong}");
        }
    }
}
