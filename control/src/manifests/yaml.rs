//! YAML text in, JSON values with the line of every field out.
//!
//! Scalars follow YAML 1.2's core schema, so `no` and `on` are strings; one exception: a plain integer with a leading zero
//! is octal, as `kubectl` reads it (`defaultMode: 0644`). Keys that are given twice, tags that nobody here knows, and text
//! that grows beyond bounds (also by aliases) are errors.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Map, Number, Value};

/// Deeper than any Kubernetes object.
const MAX_DEPTH: usize = 64;
/// Fields and items of one file, aliases expanded.
const MAX_NODES: usize = 500_000;
/// Documents of one file.
const MAX_DOCUMENTS: usize = 10_000;

/// A document of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    /// What it says.
    pub(super) value: Value,
    /// The line that it begins at, from 1.
    pub(super) line: u32,
    /// The line of every field, by JSON pointer.
    pub(super) lines: BTreeMap<String, u32>,
}

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub(super) struct Fault {
    /// The line, from 1.
    pub(super) line: u32,
    /// What is wrong.
    pub(super) message: String,
    /// What would be right.
    pub(super) fix: String,
}

/// The documents of a file that are not empty.
pub(super) fn documents(text: &str) -> Result<Vec<Document>, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut loader = Loader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        lines: BTreeMap::new(),
    };
    let mut documents = Vec::new();
    while let Some((event, span)) = loader.next()? {
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(_) => {
                loader.anchors.clear();
                loader.lines.clear();
            }
            Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
            event => {
                let line = line(&span);
                let value = loader.node(event, span, &mut String::new(), 0)?;
                if value.is_null() {
                    continue;
                }
                if documents.len() == MAX_DOCUMENTS {
                    return Err(fault(
                        &span,
                        format!("more than {MAX_DOCUMENTS} documents"),
                        "split the file",
                    ));
                }
                documents.push(Document {
                    value,
                    line,
                    lines: std::mem::take(&mut loader.lines),
                });
            }
        }
    }
    Ok(documents)
}

struct Loader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Value>,
    nodes: usize,
    lines: BTreeMap<String, u32>,
}

impl<'a> Loader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Fault> {
        self.parser.next_event().transpose().map_err(|error| scan_fault(&error))
    }

    fn must(&mut self) -> Result<(Event<'a>, Span), Fault> {
        let end = || Fault {
            line: 1,
            message: "the document ends too early".to_owned(),
            fix: String::new(),
        };
        self.next()?.ok_or_else(end)
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Result<(), Fault> {
        self.nodes += nodes;
        match self.nodes > MAX_NODES {
            true => Err(fault(
                span,
                format!("more than {MAX_NODES} fields and items, aliases expanded"),
                "split the file",
            )),
            false => Ok(()),
        }
    }

    /// The value that begins with this event. `pointer` is where it stands.
    fn node(&mut self, event: Event<'a>, span: Span, pointer: &mut String, depth: usize) -> Result<Value, Fault> {
        if depth > MAX_DEPTH {
            return Err(fault(
                &span,
                format!("nested deeper than {MAX_DEPTH} levels"),
                "flatten it",
            ));
        }
        self.count(1, &span)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (scalar(text, style, tag.as_deref(), &span)?, anchor),
            Event::SequenceStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "seq", &span)?;
                (self.sequence(pointer, depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "map", &span)?;
                (self.mapping(pointer, depth)?, anchor)
            }
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned();
                let value =
                    value.ok_or_else(|| fault(&span, "an alias inside of what it stands for", "write it out"))?;
                if depth + height(&value) > MAX_DEPTH {
                    return Err(fault(
                        &span,
                        format!("nested deeper than {MAX_DEPTH} levels"),
                        "flatten it",
                    ));
                }
                self.count(size(&value), &span)?;
                (value, 0)
            }
            other => return Err(fault(&span, format!("unexpected {other:?}"), "")),
        };
        if anchor != 0 {
            self.count(size(&value), &span)?;
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn sequence(&mut self, pointer: &mut String, depth: usize) -> Result<Value, Fault> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.must()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            let length = pointer.len();
            pointer.push('/');
            pointer.push_str(&items.len().to_string());
            self.lines.insert(pointer.clone(), line(&span));
            items.push(self.node(event, span, pointer, depth + 1)?);
            pointer.truncate(length);
        }
    }

    fn mapping(&mut self, pointer: &mut String, depth: usize) -> Result<Value, Fault> {
        let mut fields = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.must()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.key(event, &span)?;
            let (event, value_span) = self.must()?;
            if merge {
                merged.push((self.node(event, value_span, pointer, depth + 1)?, value_span));
                continue;
            }
            let length = pointer.len();
            pointer.push('/');
            pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
            self.lines.insert(pointer.clone(), line(&span));
            let value = self.node(event, value_span, pointer, depth + 1)?;
            pointer.truncate(length);
            if fields.contains_key(&key) {
                let fix = match key.as_str() {
                    "apiVersion" | "kind" | "metadata" if pointer.is_empty() => {
                        "write --- in a line of its own before each further object"
                    }
                    _ => "keep one of them",
                };
                return Err(fault(&span, format!("the key {key:?} is given twice"), fix));
            }
            fields.insert(key, value);
        }
        for (value, span) in merged {
            merge_into(&mut fields, value, &span)?;
        }
        Ok(Value::Object(fields))
    }

    /// A key as JSON has it: numbers and booleans become text.
    fn key(&mut self, event: Event<'a>, span: &Span) -> Result<String, Fault> {
        let refused = || fault(span, "this key is no text", "put the key in quotes");
        let value = match event {
            Event::Scalar(..) | Event::Alias(_) => self.node(event, *span, &mut String::new(), 0)?,
            _ => return Err(refused()),
        };
        match value {
            Value::String(key) => Ok(key),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(flag) => Ok(flag.to_string()),
            _ => Err(refused()),
        }
    }
}

/// YAML 1.1's merge key, which `kubectl` honours: what is there already wins.
fn merge_into(fields: &mut Map<String, Value>, value: Value, span: &Span) -> Result<(), Fault> {
    match value {
        Value::Object(others) => {
            for (key, value) in others {
                fields.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(items) => items.into_iter().try_for_each(|item| match item {
            item @ Value::Object(_) => merge_into(fields, item, span),
            _ => Err(fault(
                span,
                "`<<` merges mappings only",
                "name a mapping, or a list of them",
            )),
        }),
        _ => Err(fault(
            span,
            "`<<` merges mappings only",
            "name a mapping, or a list of them",
        )),
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>, span: &Span) -> Result<Value, Fault> {
    let refused = |tag: &Tag| fault(span, format!("the tag {tag} is not understood here"), "remove the tag");
    let tag = match tag {
        None => None,
        Some(tag) if tag.is_yaml_core_schema() => Some((tag.suffix.as_str(), tag)),
        Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => Some(("str", tag)),
        Some(tag) => return Err(refused(tag)),
    };
    let Some((suffix, tag)) = tag else {
        return match style {
            ScalarStyle::Plain => plain(&text, span),
            _ => Ok(Value::String(text.into_owned())),
        };
    };
    let value = match suffix {
        "str" => return Ok(Value::String(text.into_owned())),
        "null" | "bool" | "int" | "float" => plain(&text, span)?,
        _ => return Err(refused(tag)),
    };
    let fits = match suffix {
        "null" => value.is_null(),
        "bool" => value.is_boolean(),
        "int" => value.is_i64() || value.is_u64(),
        _ => value.is_number(),
    };
    match fits {
        true => Ok(value),
        false => Err(fault(span, format!("{text:?} is no {suffix}"), "remove the tag")),
    }
}

fn collection_tag(tag: Option<&Tag>, suffix: &str, span: &Span) -> Result<(), Fault> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() || tag.suffix != suffix => Err(fault(
            span,
            format!("the tag {tag} is not understood here"),
            "remove the tag",
        )),
        _ => Ok(()),
    }
}

/// YAML 1.2.2 section 10.3.2.
fn plain(text: &str, span: &Span) -> Result<Value, Fault> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => {}
    }
    if let Some(number) = integer(text) {
        return Ok(Value::Number(number));
    }
    if matches!(text.trim_start_matches(['-', '+']), ".inf" | ".Inf" | ".INF")
        || matches!(text, ".nan" | ".NaN" | ".NAN")
    {
        return Err(fault(
            span,
            format!("{text} is no number that JSON knows"),
            "put it in quotes if it is text",
        ));
    }
    if is_float(text)
        && let Some(number) = text.parse().ok().and_then(Number::from_f64)
    {
        return Ok(Value::Number(number));
    }
    Ok(Value::String(text.to_owned()))
}

fn integer(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'o', ..] if digits.len() == text.len() => (&digits[2..], 8),
        [b'0', b'x', ..] if digits.len() == text.len() => (&digits[2..], 16),
        [b'0', rest @ ..] if !rest.is_empty() && rest.iter().all(|digit| (b'0'..b'8').contains(digit)) => {
            (&digits[1..], 8)
        }
        _ => (digits, 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    match text.starts_with('-') {
        true => i64::try_from(magnitude).ok().map(|number| Number::from(-number)),
        false => Some(Number::from(magnitude)),
    }
}

/// `[-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty()) && exponent
}

fn size(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(size).sum::<usize>(),
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        _ => 1,
    }
}

fn height(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(height).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(height).max().unwrap_or(0),
        _ => 0,
    }
}

fn line(span: &Span) -> u32 {
    u32::try_from(span.start.line()).unwrap_or(u32::MAX)
}

fn fault(span: &Span, message: impl Into<String>, fix: &str) -> Fault {
    Fault {
        line: line(span),
        message: message.into(),
        fix: fix.to_owned(),
    }
}

fn scan_fault(error: &ScanError) -> Fault {
    let line = u32::try_from(error.marker().line()).unwrap_or(u32::MAX).max(1);
    let column = error.marker().col() + 1;
    Fault {
        line,
        message: format!("no YAML (column {column}): {}", error.info()),
        fix: scan_fix(error.info()).to_owned(),
    }
}

/// What is most often behind a scanner's complaint. Its line is where it gave up, often one too late.
fn scan_fix(info: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| info.contains(word));
    if says(&["tab"]) {
        "indent with spaces, not with tabs"
    } else if says(&["flow", "bracket"]) {
        "close each { and [ and put commas between its parts; look at the lines before, too"
    } else if says(&["quoted scalar"]) {
        "close the quotes; look at the lines before, too"
    } else if says(&[
        "mapping values",
        "simple key",
        "block mapping",
        "block collection",
        "indent",
    ]) {
        "put parts of one level into one column, and quotes around values with \": \"; look at the line before, too"
    } else {
        "look at this line and the one before: indentation, colons, brackets and quotes"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn reads(text: &str, want: Value) {
        let documents = documents(text).unwrap();
        assert_eq!(documents.len(), 1, "{documents:?}");
        assert_eq!(documents[0].value, want);
    }

    #[track_caller]
    fn refuses(text: &str, line: u32, words: &str) {
        let fault = documents(text).unwrap_err();
        assert_eq!(fault.line, line, "{fault}");
        assert!(fault.message.contains(words), "{fault}");
    }

    #[test]
    fn text_that_is_no_yaml_comes_with_a_fix() {
        for (text, fix) in [
            ("a: {b: c\nd: [\n", "close each {"),
            ("a:\n\tb: c\n", "spaces"),
            ("a: \"b\nc: d\n", "close the quotes"),
            ("a: b: c\n", "quotes around values"),
            ("a:\n  b: c\n d: e\n", "one column"),
        ] {
            let fault = documents(text).unwrap_err();
            assert!(fault.fix.contains(fix), "{text:?}: {fault:?}");
        }
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        for (text, want) in [
            ("no", json!("no")),
            ("NO", json!("NO")),
            ("on", json!("on")),
            ("y", json!("y")),
            ("true", json!(true)),
            ("False", json!(false)),
            ("~", Value::Null),
            ("", Value::Null),
            ("'true'", json!("true")),
            ("\"80\"", json!("80")),
            ("'~'", json!("~")),
            ("80", json!(80)),
            ("-7", json!(-7)),
            ("+7", json!(7)),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("0644", json!(420)),
            ("0", json!(0)),
            ("089", json!(89)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            (".5", json!(0.5)),
            ("1.2.3", json!("1.2.3")),
            ("v1", json!("v1")),
            ("12:30", json!("12:30")),
            ("2024-01-01", json!("2024-01-01")),
            ("18446744073709551615", json!(u64::MAX)),
            ("10m", json!("10m")),
            ("!!str 80", json!("80")),
            ("!!int 80", json!(80)),
            (".", json!(".")),
            ("e3", json!("e3")),
        ] {
            reads(&format!("a: {text}\nb: 1\n"), json!({"a": want, "b": 1}));
        }
    }

    #[test]
    fn every_field_has_its_line() {
        let text = "# a comment\n---\nkind: X\nspec:\n  rules:\n  - matches:\n    - path:\n        type: Exact\n        value: /a\n    - method: GET\n  list: [1,\n    2]\n  a/b~c: 1\n";
        let document = &documents(text).unwrap()[0];
        assert_eq!(document.line, 3);
        for (pointer, line) in [
            ("/kind", 3),
            ("/spec", 4),
            ("/spec/rules/0", 6),
            ("/spec/rules/0/matches/0/path", 7),
            ("/spec/rules/0/matches/0/path/value", 9),
            ("/spec/rules/0/matches/1", 10),
            ("/spec/list/1", 12),
            ("/spec/a~1b~0c", 13),
        ] {
            assert_eq!(document.lines.get(pointer), Some(&line), "{pointer}");
        }
    }

    #[test]
    fn documents_are_split_and_empty_ones_left_out() {
        let text = "---\na: 1\n---\n# nothing\n---\nb: 2\n...\n";
        let all = documents(text).unwrap();
        assert_eq!(all.iter().map(|document| document.line).collect::<Vec<_>>(), [2, 6]);
        assert_eq!(all[1].value, json!({"b": 2}));
        assert_eq!(documents("").unwrap(), []);
        assert_eq!(documents("# only a comment\n").unwrap(), []);
    }

    #[test]
    fn json_is_yaml() {
        reads(
            "{\"a\": [1, {\"b\": \"x\\n\\u00e9\"}],\n\t\"c\": null}",
            json!({"a": [1, {"b": "x\né"}], "c": null}),
        );
    }

    #[test]
    fn aliases_and_merge_keys_expand() {
        reads(
            "a: &x {b: 1, c: 2}\nd: *x\ne:\n  <<: *x\n  c: 3\n",
            json!({
                "a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 2}, "e": {"b": 1, "c": 3}
            }),
        );
        refuses("a: &x\n  b: *x\n", 2, "alias");
        refuses("a: 1\n---\nb: *x\n", 3, "");
    }

    #[test]
    fn what_grows_beyond_bounds_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            bomb.push_str(&format!(
                "a{i}: &a{i} [{}]\n",
                vec![format!("*a{}", i - 1); 10].join(", ")
            ));
        }
        assert!(documents(&bomb).unwrap_err().message.contains("aliases expanded"));
        refuses(&format!("{}1{}", "[".repeat(70), "]".repeat(70)), 1, "deeper");
        let block: String = (0..100).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        refuses(&block, 66, "deeper");
        assert!(
            documents(&"---\na: 1\n".repeat(MAX_DOCUMENTS + 1))
                .unwrap_err()
                .message
                .contains("documents")
        );
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        refuses("a: 1\nb: 2\na: 3\n", 3, "given twice");
        refuses("a:\n  b: 1\n  'b': 3\n", 3, "given twice");
        refuses("a: !secret x\n", 1, "tag");
        refuses("? [a]\n: 1\n", 1, "key");
        refuses("a: .inf\n", 1, "number");
        refuses("a: b: c\n", 1, "YAML");
        refuses("a: [1, 2\nb: 3\n", 2, "YAML");
        reads("80: x\ntrue: y\n", json!({"80": "x", "true": "y"}));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[-a-z0-9:&*<>|{}\\[\\], \n'\"!%#?~.]{0,120}") {
            let _ = documents(&text); // Only that it returns.
        }

        #[test]
        fn json_reads_as_serde_reads_it(keys in proptest::collection::btree_map("[a-z]{1,6}", proptest::num::i64::ANY, 0..8), text in "[ -~]{0,20}") {
            let value = json!({"keys": keys, "text": text, "list": [text, 1.5, true, null]});
            let read = documents(&serde_json::to_string_pretty(&value).unwrap()).unwrap();
            proptest::prop_assert_eq!(&read[0].value, &value);
        }
    }
}
