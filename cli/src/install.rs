//! `weft install`: the objects of the charts, without Helm.
//!
//! The charts are a part of the program. In: values. Out: YAML on standard output, for `kubectl`. What both give is the same,
//! object by object: a test renders them with Helm.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use weft_daemon::exit;

use crate::{args, paper};

mod chart;
mod parse;
mod schema;
mod set;
mod template;

pub(crate) use chart::{CRDS, WEFT, documents};

/// Print what Weft is on a cluster, for `kubectl apply`.
///
/// The same objects as those of the Helm charts weft-crds and weft (charts/), from the same templates and values, without Helm.
/// Nothing is sent anywhere, and no cluster is asked.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft check --pre && weft install | kubectl apply --server-side -f -
  weft install --set traces.endpoint=http://jaeger-collector.observability:4317 | kubectl apply --server-side -f -
  weft install --set control.replicas=2,injector.replicas=2 | kubectl diff -f -
  weft install -f values.yaml --crds=false > weft.yaml
  weft install --show-values                         # what can be set, with what it means

Exit codes: 0 it is printed, 64 a value is wrong, or there is no such value.")]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    pub(crate) values: ValuesArgs,
    /// Print the CustomResourceDefinitions, too.
    #[arg(long, value_name = "WHETHER", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) crds: bool,
    /// Print the Namespace, too, under the Pod Security level `restricted`. Helm makes it with --create-namespace.
    #[arg(long, value_name = "WHETHER", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) create_namespace: bool,
    /// Only print the values with their defaults and what they mean.
    #[arg(long, conflicts_with_all = ["crds", "create_namespace"])]
    pub(crate) show_values: bool,
}

/// Where Weft is, and how it is set up.
#[derive(Clone, Debug, Args)]
pub(crate) struct ValuesArgs {
    /// Weft's own namespace.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "weft-system", value_parser = namespace)]
    pub(crate) namespace: String,
    /// A value, as with Helm: control.replicas=2; several with commas between them. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Values in a file of YAML. Repeatable; what comes later counts, and --set before all of them.
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// Reads the name of a namespace for Weft itself.
pub(crate) fn namespace(name: &str) -> Result<String, String> {
    if name == "default" || name.starts_with("kube-") {
        return Err("Weft needs a namespace of its own, and this one is the cluster's".to_owned());
    }
    args::namespace(name)
}

/// Prints the objects.
pub(crate) fn main(args: &InstallArgs) -> Result<ExitCode> {
    if args.show_values {
        paper::print(WEFT.values);
        return Ok(ExitCode::from(exit::OK));
    }
    match text(args) {
        Ok(text) => {
            paper::print(&text);
            Ok(ExitCode::from(exit::OK))
        }
        Err(error) => {
            eprintln!("weft install: {error:#}");
            Ok(ExitCode::from(exit::USAGE))
        }
    }
}

fn text(args: &InstallArgs) -> Result<String> {
    let values = values(&args.values)?;
    let mut out = String::new();
    if args.crds {
        out.push_str(&CRDS.render(&json!({}), &args.values.namespace)?);
    }
    if args.create_namespace {
        out.push_str(&own_namespace(&args.values.namespace));
    }
    out.push_str(&WEFT.render(&values, &args.values.namespace)?);
    Ok(out)
}

/// The values of the chart `weft`, with what was given, checked.
pub(crate) fn values(args: &ValuesArgs) -> Result<Value> {
    let mut values = WEFT.defaults()?;
    for file in &args.files {
        let text = std::fs::read_to_string(file).with_context(|| format!("-f {}", file.display()))?;
        let given = chart::yaml_value(&text).with_context(|| format!("-f {}", file.display()))?;
        merge(&mut values, given);
    }
    let mut given = values.clone();
    for text in &args.set {
        set::set(&mut given, text)?;
    }
    drop_nulls(&mut given);
    let faults = schema::faults(&WEFT.schema()?, &given)?;
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n  "));
    Ok(given)
}

/// As Helm does it: objects field by field, everything else as a whole. A null takes the default away.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn drop_nulls(values: &mut Value) {
    if let Value::Object(fields) = values {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}

fn own_namespace(name: &str) -> String {
    format!(
        "---\n# Helm's --create-namespace, and the strictest Pod Security level: Weft's own pods need nothing of a node.\n\
         apiVersion: v1\nkind: Namespace\nmetadata:\n  name: \"{name}\"\n  labels:\n    app.kubernetes.io/name: weft\n    \
         app.kubernetes.io/part-of: weft\n    app.kubernetes.io/managed-by: weft\n    \
         pod-security.kubernetes.io/enforce: restricted\n"
    )
}

#[cfg(test)]
mod tests;
