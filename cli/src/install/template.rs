//! A chart's templates and values in, text out, as Helm renders them. A test holds both to each other.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::parse::{self, Expression, Node};
use crate::yaml;

/// What the templates of a chart define for each other.
pub(super) struct Templates {
    defined: BTreeMap<String, Vec<Node>>,
    files: Vec<(String, Vec<Node>)>,
}

impl Templates {
    /// Reads files: name and text.
    pub(super) fn read(files: &[(&str, &str)]) -> Result<Self> {
        let mut templates = Self {
            defined: BTreeMap::new(),
            files: Vec::new(),
        };
        for (name, text) in files {
            let (defined, nodes) = parse::template(text)
                .with_context(|| format!("templates/{name}"))?
                .into_iter()
                .partition::<Vec<_>, _>(|node| matches!(node, Node::Define(..)));
            for node in defined {
                if let Node::Define(name, body) = node {
                    templates.defined.insert(name, body);
                }
            }
            templates.files.push(((*name).to_owned(), nodes));
        }
        Ok(templates)
    }

    /// Every file with these values, in order, without those that come to nothing.
    pub(super) fn render(&self, root: &Value) -> Result<Vec<(&str, String)>> {
        let mut rendered = Vec::new();
        for (name, nodes) in &self.files {
            let mut out = String::new();
            self.write(nodes, root, root, &mut out)
                .with_context(|| format!("templates/{name}"))?;
            if !out.trim().is_empty() {
                rendered.push((name.as_str(), out));
            }
        }
        Ok(rendered)
    }

    fn write(&self, nodes: &[Node], root: &Value, dot: &Value, out: &mut String) -> Result<()> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Out(expression) => out.push_str(&shown(&self.value(expression, root, dot)?)),
                Node::If(branches, otherwise) => {
                    let mut taken = otherwise;
                    for (condition, then) in branches {
                        if holds(&self.value(condition, root, dot)?) {
                            taken = then;
                            break;
                        }
                    }
                    self.write(taken, root, dot, out)?;
                }
                Node::With(expression, then, otherwise) => {
                    let value = self.value(expression, root, dot)?;
                    match holds(&value) {
                        true => self.write(then, root, &value, out)?,
                        false => self.write(otherwise, root, dot, out)?,
                    }
                }
                Node::Range(expression, body) => {
                    for item in self.value(expression, root, dot)?.as_array().into_iter().flatten() {
                        self.write(body, root, item, out)?;
                    }
                }
                Node::Define(name, _) => bail!("{name} is defined inside of something"),
            }
        }
        Ok(())
    }

    fn value(&self, expression: &Expression, root: &Value, dot: &Value) -> Result<Value> {
        match expression {
            Expression::Literal(value) => Ok(value.clone()),
            Expression::Path { root: from_root, names } => {
                let mut at = if *from_root { root } else { dot };
                for name in names {
                    at = at.get(name).unwrap_or(&Value::Null);
                }
                Ok(at.clone())
            }
            Expression::Call(name, arguments) => {
                let arguments = arguments.iter().map(|argument| self.value(argument, root, dot));
                let arguments = arguments.collect::<Result<Vec<_>>>()?;
                match (name.as_str(), arguments.as_slice()) {
                    ("include", [Value::String(name), dot]) => {
                        let body = self
                            .defined
                            .get(name)
                            .with_context(|| format!("nothing defines {name}"))?;
                        let mut out = String::new();
                        // What is included has the dot that it is given as its `$`.
                        self.write(body, dot, dot, &mut out)?;
                        Ok(out.into())
                    }
                    (name, arguments) => apply(name, arguments),
                }
            }
        }
    }
}

fn apply(name: &str, arguments: &[Value]) -> Result<Value> {
    Ok(match (name, arguments) {
        ("quote", [value]) => Value::from(shown(value)).to_string().into(),
        ("toString", [value]) => shown(value).into(),
        ("toYaml", [value]) => yaml::text(value).trim_end().into(),
        ("default", [default, value]) => if holds(value) { value } else { default }.clone(),
        ("not", [value]) => (!holds(value)).into(),
        ("ne", [one, other]) => (one != other).into(),
        ("gt", [one, other]) => (one.as_i64() > other.as_i64()).into(),
        ("int", [value]) => value.as_i64().unwrap_or_default().into(),
        ("join", [Value::String(between), Value::Array(items)]) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            items.join(between).into()
        }
        ("nindent", [width, value]) => {
            let width = usize::try_from(width.as_u64().context("nindent without a number")?)?;
            let lines = shown(value);
            let lines = lines.split('\n').map(|line| format!("\n{:width$}{line}", ""));
            lines.collect::<String>().into()
        }
        (name, arguments) => bail!("no function {name} of {} arguments", arguments.len()),
    })
}

/// As Go's templates have it: what is empty does not hold.
fn holds(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        let helpers = ("_h.tpl", "{{- define \"h\" -}}\na: {{ .x | quote }}\nb: 2\n{{- end }}");
        let root = json!({"x": "v", "n": 2, "none": "", "list": ["a", "b"], "map": {"k": {"l": [1]}}, "off": false});
        let templates = Templates::read(&[helpers, ("t", text)]).unwrap();
        let rendered = templates.render(&root).unwrap();
        assert_eq!(rendered.first().map_or("", |(_, text)| text.as_str()), want);
    }

    #[test]
    fn what_the_charts_use_of_gos_templates_means_what_it_means_there() {
        check("a: {{ .x }}", "a: v");
        check(
            "a:\n  {{- include \"h\" . | nindent 2 }}\nc",
            "a:\n  a: \"v\"\n  b: 2\nc",
        );
        check("{{- if .off }}a{{ else if .none }}b{{ else }}c{{ end }}", "c");
        check(
            "{{ with .x }}{{ . }}{{ $.n }}{{ end }}{{ with .none }}{{ . }}{{ else }}-{{ end }}",
            "v2-",
        );
        check("{{ range .list }}[{{ . }}{{ $.x }}]{{ end }}", "[av][bv]");
        check("{{ .none | default .x }} {{ join \",\" .list | quote }}", "v \"a,b\"");
        check(
            "{{ if gt (int .n) 1 }}many{{ end }}{{ if ne (toString .n) \"2\" }}no{{ end }}",
            "many",
        );
        check(
            "{{- /* a comment */ -}}\n x:\n{{ toYaml .map | nindent 2 }}",
            "x:\n\n  k:\n    l:\n      - 1",
        );
        check("{{ if not .off }}on{{ end }}", "on");
    }

    #[test]
    fn what_is_no_template_says_why() {
        for (text, why) in [
            ("{{ if .x }}", "instead of end"),
            ("{{ end }}", "ends nothing"),
            ("{{ .x", "{{ without }}"),
            ("{{ upper .x }}", "no function upper"),
            ("{{ include \"nothing\" . }}", "nothing defines nothing"),
            ("{{ .x .y }}", "no function, but arguments"),
        ] {
            let read = Templates::read(&[("t", text)]);
            let rendered = read.and_then(|templates| templates.render(&json!({})).map(|_| ()));
            assert!(format!("{:#}", rendered.unwrap_err()).contains(why), "{text}");
        }
    }
}
