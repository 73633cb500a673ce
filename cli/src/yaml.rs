//! JSON as YAML, in blocks.

use std::fmt::Write as _;

use serde_json::Value;

/// The value as a YAML document.
pub(crate) fn text(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, 0);
    out
}

/// Writes a value that begins in a line of its own.
fn write(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (at, (key, value)) in map.iter().enumerate() {
                // The first follows what led here: nothing, or a dash.
                let before = if at == 0 { 0 } else { indent };
                // A String takes all that is written to it, here and below.
                let _ = write!(out, "{:before$}{}:", "", scalar(&Value::String(key.clone())));
                below(out, value, indent + 2);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (at, value) in list.iter().enumerate() {
                let before = if at == 0 { 0 } else { indent };
                let _ = write!(out, "{:before$}- ", "");
                write(out, value, indent + 2);
            }
        }
        Value::String(text) if indent > 0 && has_lines(text) => {
            out.push_str("|\n");
            for line in text.lines() {
                let _ = writeln!(out, "{:indent$}{line}", "");
            }
        }
        value => {
            let _ = writeln!(out, "{}", scalar(value));
        }
    }
}

/// Whether a text is several lines that can stand as they are: certificates, say.
fn has_lines(text: &str) -> bool {
    let plain = |line: &str| !line.is_empty() && !line.starts_with(' ') && !line.contains(char::is_control);
    text.ends_with('\n') && text.lines().count() > 1 && text.lines().all(plain)
}

/// Writes the value of a key.
fn below(out: &mut String, value: &Value, indent: usize) {
    let nested = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    if nested {
        let _ = write!(out, "\n{:indent$}", "");
    } else {
        out.push(' ');
    }
    write(out, value, indent);
}

/// One that fits in its line. Texts are quoted unless nothing could take them for something else.
fn scalar(value: &Value) -> String {
    const WORDS: [&str; 8] = ["true", "false", "null", "yes", "no", "on", "off", "y"];
    match value {
        Value::String(text) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
            let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
            let word = WORDS.contains(&text.to_ascii_lowercase().as_str()) || text == "n" || text == "N";
            match begins && !word && text.chars().all(plain) {
                true => text.clone(),
                false => value.to_string(),
            }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_values_are_blocks_and_texts_that_look_like_something_else_are_quoted() {
        let value = json!({
            "name": "web-1", "ready": true, "none": null, "empty": [], "no": "no", "ip": "10.0.0.1", "text": "a: b\n",
            "pods": [{"name": "x", "addresses": ["fd00::1", "b"]}, {"name": "z"}], "map": {"a": {"b": 1}},
        });
        let want = "\
empty: []
ip: \"10.0.0.1\"
map:
  a:
    b: 1
name: web-1
\"no\": \"no\"
none: null
pods:
  - addresses:
      - \"fd00::1\"
      - b
    name: x
  - name: z
ready: true
text: \"a: b\\n\"
";
        assert_eq!(text(&value), want);
    }

    #[test]
    fn several_plain_lines_stand_as_they_are_and_others_are_quoted() {
        assert_eq!(text(&json!({"roots": "a: b\n- c\n"})), "roots: |\n  a: b\n  - c\n");
        assert_eq!(text(&json!({"all": ["a\nb\n"]})), "all:\n  - |\n    a\n    b\n");
        for odd in ["a\nb", " a\nb\n", "a\n\nb\n", "a\tb\nc\n", "a\nb\n\n"] {
            assert_eq!(text(&json!({"odd": odd})), format!("odd: {}\n", json!(odd)));
        }
        assert_eq!(text(&json!("a\nb\n")), "\"a\\nb\\n\"\n");
    }
}
