//! ConfigMaps and Secrets.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::Deserialize;
use weft_control::objects::{Object, Problem, Severity, decode};

use super::Files;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default)]
    binary_data: BTreeMap<String, String>,
    #[serde(default)]
    string_data: BTreeMap<String, String>,
}

/// The contents of a ConfigMap. None: the problems say why.
pub(super) fn config_map(object: &Object, problems: &mut Vec<Problem>) -> Option<Files> {
    let raw = read(object, problems)?;
    let mut files: Files = raw
        .data
        .into_iter()
        .map(|(key, text)| (key, text.into_bytes()))
        .collect();
    files.extend(decoded(object, "binaryData", &raw.binary_data, problems)?);
    Some(files)
}

/// The contents of a Secret. None: the problems say why.
pub(super) fn secret(object: &Object, problems: &mut Vec<Problem>) -> Option<Files> {
    let raw = read(object, problems)?;
    let mut files = decoded(object, "data", &raw.data, problems)?;
    files.extend(raw.string_data.into_iter().map(|(key, text)| (key, text.into_bytes())));
    Some(files)
}

fn read(object: &Object, problems: &mut Vec<Problem>) -> Option<Raw> {
    match decode::<Raw>(&object.raw) {
        Ok(decoded) => Some(decoded.value),
        Err(error) => {
            problems.push(object.problem(Severity::Error, &error.field, error.message, "put it in quotes"));
            None
        }
    }
}

fn decoded(
    object: &Object,
    field: &str,
    encoded: &BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) -> Option<Files> {
    let mut files = Files::new();
    for (key, text) in encoded {
        // Line breaks come from tools that wrap; an API server takes them too.
        let bare: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        match BASE64.decode(&bare) {
            Ok(bytes) => drop(files.insert(key.clone(), bytes)),
            Err(_) => {
                // The value may be a secret written by mistake: it is not repeated.
                let fix = if field == "data" {
                    "encode it, or write it under stringData"
                } else {
                    "encode it"
                };
                let field = format!("{field}[{key}]");
                problems.push(object.problem(Severity::Error, &field, "is no Base64", fix));
                return None;
            }
        }
    }
    Some(files)
}
