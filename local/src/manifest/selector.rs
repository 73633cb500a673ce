//! Which pods are a workload's own: its selector, which must fit what its pods are made from.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `spec.selector`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Expression>,
}

#[derive(Deserialize)]
struct Expression {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

/// A field, what is wrong with it, and the fix.
pub(super) type Wrong = (String, String, &'static str);

impl Selector {
    /// Whether it selects something, and the template's labels among it.
    pub(super) fn check(&self, labels: &BTreeMap<String, String>) -> Result<(), Wrong> {
        if self.match_labels.is_empty() && self.match_expressions.is_empty() {
            let fix = "add matchLabels that the template's labels have";
            return Err(("spec.selector".to_owned(), "selects nothing".to_owned(), fix));
        }
        for (key, value) in &self.match_labels {
            if labels.get(key) != Some(value) {
                let message = format!("the template has no label {key}: {value}");
                let fix = "add it to spec.template.metadata.labels";
                return Err(("spec.selector.matchLabels".to_owned(), message, fix));
            }
        }
        for (i, expression) in self.match_expressions.iter().enumerate() {
            if !expression.matches(labels) {
                let field = format!("spec.selector.matchExpressions[{i}]");
                let fix = "change spec.template.metadata.labels";
                return Err((field, "the template's labels don't match".to_owned(), fix));
            }
        }
        Ok(())
    }
}

impl Expression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator.as_str() {
            "In" => value.is_some_and(|value| self.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !self.values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}
