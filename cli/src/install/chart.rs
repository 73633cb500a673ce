//! The charts, as the program carries them.

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use super::template::Templates;

/// A chart.
pub(crate) struct Chart {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its values.yaml.
    pub(crate) values: &'static str,
    schema: &'static str,
    /// Files of templates/, without what Helm only prints: name and text.
    pub(crate) templates: &'static [(&'static str, &'static str)],
}

macro_rules! chart {
    ($name:literal: $($file:literal),*) => {
        Chart {
            name: $name,
            values: include_str!(concat!("../../../charts/", $name, "/values.yaml")),
            schema: include_str!(concat!("../../../charts/", $name, "/values.schema.json")),
            templates: &[$(($file, include_str!(concat!("../../../charts/", $name, "/templates/", $file)))),*],
        }
    };
}

/// Our kinds.
pub(crate) const CRDS: Chart = chart!("weft-crds": "clusterpeers.yaml", "servicesubsets.yaml", "trafficpolicies.yaml");

/// Everything else, in the order in which an API server wants it.
pub(crate) const WEFT: Chart = chart!("weft":
    "_helpers.tpl",
    "control-rbac.yaml",
    "injector-rbac.yaml",
    "network-policy.yaml",
    "federation.yaml",
    "control.yaml",
    "gateway.yaml",
    "injector.yaml",
    "webhook.yaml"
);

impl Chart {
    /// Its values where nothing is said.
    pub(crate) fn defaults(&self) -> Result<Value> {
        yaml_value(self.values).with_context(|| format!("the values of {}", self.name))
    }

    /// What its values may be.
    pub(crate) fn schema(&self) -> Result<Value> {
        serde_json::from_str(self.schema).with_context(|| format!("the schema of {}", self.name))
    }

    /// Its objects with these values, as YAML.
    pub(crate) fn render(&self, values: &Value, namespace: &str) -> Result<String> {
        // The releases are called as their charts are: objects have names of their own, so there is one of them in a cluster.
        let root = json!({
            "Values": values,
            "Release": {"Name": self.name, "Namespace": namespace, "Service": "Helm"},
            "Chart": {"Name": self.name, "Version": env!("CARGO_PKG_VERSION"), "AppVersion": env!("CARGO_PKG_VERSION")},
        });
        let templates = Templates::read(self.templates)?;
        let mut out = String::new();
        for (_, text) in templates.render(&root)? {
            let text = text.trim();
            if !text.starts_with("---") {
                out.push_str("---\n");
            }
            out.push_str(text);
            out.push('\n');
        }
        Ok(out)
    }
}

/// The documents of a text of YAML.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>> {
    weft_control::manifests::values(text).map_err(|(line, why)| anyhow!("line {line}: {why}"))
}

/// The one document of a text of YAML; of none, an object without fields.
pub(super) fn yaml_value(text: &str) -> Result<Value> {
    let mut documents = documents(text)?;
    match documents.len() {
        0 => Ok(json!({})),
        1 => documents.pop().context("just counted"),
        many => Err(anyhow!("has {many} documents, and values are one")),
    }
}
