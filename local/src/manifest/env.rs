//! A container's environment. Pure.
//!
//! In: `envFrom` and `env` as they were written, the pod, what they refer to. Out: variables in order, of which the later
//! win, or what is still missing.

use serde_json::Value;

use super::expand::expand;
use super::raw::{Container, EnvSource, EnvVar, KeyRef, PodSpec};
use super::{Facts, Files, Key, Missing, fields, resources};

/// The environment: first whole ConfigMaps and Secrets, then single variables, each of which may name those before it.
pub(super) fn environment(
    pod: &Value,
    spec: &PodSpec,
    container: &Container,
    path: &str,
    facts: &Facts<'_>,
) -> Result<Vec<(String, String)>, Missing> {
    let mut out: Vec<(String, String)> = Vec::with_capacity(container.env.len());
    for (i, source) in container.env_from.iter().enumerate() {
        out.extend(all_of(pod, source, &format!("{path}.envFrom[{i}]"), facts)?);
    }
    for (i, var) in container.env.iter().enumerate() {
        let Some(value) = variable(pod, spec, container, var, &format!("{path}.env[{i}]"), facts)? else {
            continue;
        };
        let value = match var.value_from {
            Some(_) => value,
            None => expand(&value, |name| {
                out.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
            }),
        };
        out.push((var.name.clone(), value));
    }
    Ok(out)
}

fn named(pod: &Value, name: &str) -> Key {
    Key::new(pod["metadata"]["namespace"].as_str().unwrap_or_default(), name)
}

/// All keys of a ConfigMap or Secret that can be names of variables and have text behind them.
fn all_of(pod: &Value, source: &EnvSource, path: &str, facts: &Facts<'_>) -> Result<Vec<(String, String)>, Missing> {
    let (of, kind, field) = match (&source.config_map_ref, &source.secret_ref) {
        (Some(of), _) => (of, "ConfigMap", "configMapRef"),
        (None, Some(of)) => (of, "Secret", "secretRef"),
        (None, None) => return Ok(Vec::new()),
    };
    let key = named(pod, &of.name);
    let files = match kind {
        "ConfigMap" => facts.config_map(&key),
        _ => facts.secret(&key),
    };
    let Some(files) = files else {
        return match of.optional {
            true => Ok(Vec::new()),
            false => Err(Missing {
                field: format!("{path}.{field}.name"),
                message: format!("there is no {kind} {key}"),
            }),
        };
    };
    Ok(variables(files, &source.prefix))
}

fn variables(files: &Files, prefix: &str) -> Vec<(String, String)> {
    let variable = |(key, bytes): (&String, &Vec<u8>)| {
        let name = format!("{prefix}{key}");
        let text = String::from_utf8(bytes.clone()).ok()?;
        // As kubelet: what can't be a variable is left out.
        (!name.is_empty() && !name.contains('=') && !text.contains('\0')).then_some((name, text))
    };
    files.iter().filter_map(variable).collect()
}

/// A variable's value. None: it refers to an optional key that is not there.
fn variable(
    pod: &Value,
    spec: &PodSpec,
    container: &Container,
    var: &EnvVar,
    path: &str,
    facts: &Facts<'_>,
) -> Result<Option<String>, Missing> {
    let Some(from) = &var.value_from else {
        return Ok(Some(var.value.clone().unwrap_or_default()));
    };
    if let Some(reference) = &from.field_ref {
        return Ok(Some(fields::value(pod, &reference.field_path)));
    }
    if let Some(reference) = &from.resource_field_ref {
        return match resources::value(spec, container, reference) {
            Ok(value) => Ok(Some(value.to_string())),
            Err((field, message, _)) => Err(Missing {
                field: format!("{path}.valueFrom.resourceFieldRef{field}"),
                message,
            }),
        };
    }
    match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(of), _) => {
            let key = named(pod, &of.name);
            one(
                of,
                facts.config_map(&key),
                "ConfigMap",
                &key,
                &format!("{path}.valueFrom.configMapKeyRef"),
            )
        }
        (None, Some(of)) => {
            let key = named(pod, &of.name);
            one(
                of,
                facts.secret(&key),
                "Secret",
                &key,
                &format!("{path}.valueFrom.secretKeyRef"),
            )
        }
        (None, None) => Ok(None),
    }
}

/// The value of one key.
fn one(of: &KeyRef, files: Option<&Files>, kind: &str, key: &Key, path: &str) -> Result<Option<String>, Missing> {
    let missing = |field: &str, message: String| match of.optional {
        true => Ok(None),
        false => Err(Missing {
            field: format!("{path}.{field}"),
            message,
        }),
    };
    let Some(files) = files else {
        return missing("name", format!("there is no {kind} {key}"));
    };
    let Some(bytes) = files.get(&of.key) else {
        return missing("key", format!("{kind} {key} has no key {:?}", of.key));
    };
    match String::from_utf8(bytes.clone()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Missing {
            field: format!("{path}.key"),
            message: format!("{kind} {key}: {:?} is no text", of.key),
        }),
    }
}
