//! Views of the Multi-Cluster Services API (KEP-1645, group `multicluster.x-k8s.io`): ServiceExport and ServiceImport.
//! `v1beta1` and `v1alpha1` have the same fields.

use std::collections::BTreeMap;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::decode::{Decoded, Skip};
use super::names::{is_label_key, is_label_value};
use super::{FieldError, Object, decode};

/// Labels, or annotations, that one export may carry.
const ENTRIES_MAX: usize = 64;
/// Bytes of all annotations of one export: they travel to every peer.
const ANNOTATIONS_MAX: usize = 16 * 1024;

/// A ServiceExport: the Service of the same namespace and name is to be consumed from other clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceExport {
    /// When the object was made, in milliseconds of Unix time. 0: nobody says it, as in files.
    pub created_ms: u64,
    /// Labels that the export carries to other clusters.
    pub labels: BTreeMap<String, String>,
    /// Annotations that it carries.
    pub annotations: BTreeMap<String, String>,
}

/// A ServiceImport: a Service that other clusters export, as far as routes that name it need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceImport {
    /// Whether it has no address of its own.
    pub headless: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawExport {
    #[serde(rename = "apiVersion")]
    _api_version: Skip,
    #[serde(rename = "kind")]
    _kind: Skip,
    #[serde(rename = "metadata")]
    _metadata: Skip,
    #[serde(default)]
    spec: RawExportSpec,
    #[serde(default, rename = "status")]
    _status: Option<Skip>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawExportSpec {
    #[serde(default)]
    exported_labels: BTreeMap<String, String>,
    #[serde(default)]
    exported_annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawImport {
    spec: RawImportSpec,
}

#[derive(Deserialize)]
struct RawImportSpec {
    r#type: ImportType,
}

/// What a ServiceImport is (`spec.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum ImportType {
    /// With a clusterset address of its own.
    ClusterSetIP,
    /// Without: its name leads to its endpoints.
    Headless,
}

impl ServiceExport {
    /// Reads a ServiceExport object, and the fields that nothing understands.
    ///
    /// # Errors
    /// A field has the wrong type, a time is none, a label could not be one, or there are too many.
    pub fn of(object: &Object) -> Result<(Self, Vec<String>), FieldError> {
        let Decoded { value, unknown } = decode::<RawExport>(&object.raw)?;
        let RawExportSpec {
            exported_labels: labels,
            exported_annotations: annotations,
        } = value.spec;
        checked("spec.exportedLabels", &labels, is_label_value)?;
        checked("spec.exportedAnnotations", &annotations, |_| true)?;
        let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > ANNOTATIONS_MAX {
            let message = format!("has {bytes} bytes, and {ANNOTATIONS_MAX} is the limit");
            let fix = "leave out what other clusters have no use for";
            return Err(wrong("spec.exportedAnnotations", message, fix));
        }
        let export = Self {
            created_ms: created_ms(object)?,
            labels,
            annotations,
        };
        Ok((export, unknown))
    }
}

impl ServiceImport {
    /// Reads a ServiceImport object.
    ///
    /// # Errors
    /// It does not say what it is.
    pub fn of(object: &Object) -> Result<Self, FieldError> {
        let decoded = decode::<RawImport>(&object.raw).map_err(|error| {
            let FieldError { field, message, .. } = error.into();
            wrong(&field, message, "type: ClusterSetIP or type: Headless")
        })?;
        let spec = decoded.value.spec;
        Ok(Self {
            headless: spec.r#type == ImportType::Headless,
        })
    }
}

impl ImportType {
    /// `ClusterSetIP` or `Headless`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterSetIP => "ClusterSetIP",
            Self::Headless => "Headless",
        }
    }
}

/// Checks what is to become labels or annotations of objects in other clusters.
fn checked(field: &str, all: &BTreeMap<String, String>, is_value: impl Fn(&str) -> bool) -> Result<(), FieldError> {
    if all.len() > ENTRIES_MAX {
        let message = format!("has {} entries, and {ENTRIES_MAX} is the limit", all.len());
        return Err(wrong(field, message, "leave out what other clusters have no use for"));
    }
    match all.iter().find(|(key, value)| !is_label_key(key) || !is_value(value)) {
        Some((key, value)) => {
            let message = format!("{key:?}: {value:?} is nothing that an object could carry");
            let fix = "letters, digits, '-', '_' and '.', at most 63; a key may have a DNS name and a slash before it";
            Err(wrong(&format!("{field}[{key}]"), message, fix))
        }
        None => Ok(()),
    }
}

fn created_ms(object: &Object) -> Result<u64, FieldError> {
    let Some(text) = object.created() else {
        return Ok(0);
    };
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        let message = format!("{text:?} is no time");
        wrong(
            "metadata.creationTimestamp",
            message,
            "as 2026-01-31T12:00:00Z (RFC 3339), or leave it out",
        )
    })?;
    Ok(u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default())
}

fn wrong(field: &str, message: String, fix: &str) -> FieldError {
    FieldError {
        field: field.to_owned(),
        message,
        fix: fix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(metadata: Value, spec: Value) -> Object {
        Object {
            api_version: "multicluster.x-k8s.io/v1beta1".to_owned(),
            kind: "ServiceExport".to_owned(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "u".to_owned(),
            resource_version: 1,
            generation: 1,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            raw: json!({
                "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
                "metadata": metadata, "spec": spec
            }),
            origin: None,
        }
    }

    #[test]
    fn an_export_carries_what_it_names_and_the_time_of_its_making() {
        let spec =
            json!({"exportedLabels": {"tier": "a"}, "exportedAnnotations": {"example.com/who": "x y"}, "extra": 1});
        let object = object(
            json!({"name": "web", "creationTimestamp": "1970-01-01T00:00:01Z"}),
            spec,
        );
        let (export, unknown) = ServiceExport::of(&object).unwrap();
        assert_eq!(export.created_ms, 1000);
        assert_eq!((export.labels["tier"].as_str(), export.annotations.len()), ("a", 1));
        assert_eq!(unknown, ["spec.extra"]);
    }

    #[test]
    fn an_export_without_spec_and_time_is_one() {
        let mut object = object(json!({"name": "web"}), Value::Null);
        assert_eq!(ServiceExport::of(&object).unwrap().0, ServiceExport::default());
        object.raw["metadata"]["creationTimestamp"] = "yesterday".into();
        let error = ServiceExport::of(&object).unwrap_err();
        assert_eq!(error.field, "metadata.creationTimestamp");
    }

    #[test]
    fn what_no_object_could_carry_is_refused_by_its_field() {
        let many: BTreeMap<String, String> = (0..65).map(|i| (format!("k{i}"), String::new())).collect();
        for (spec, field) in [
            (json!({"exportedLabels": {"a": 1}}), "spec.exportedLabels.a"),
            (json!({"exportedLabels": {"a": "b c"}}), "spec.exportedLabels[a]"),
            (
                json!({"exportedAnnotations": {"a b": ""}}),
                "spec.exportedAnnotations[a b]",
            ),
            (json!({"exportedLabels": many}), "spec.exportedLabels"),
            (
                json!({"exportedAnnotations": {"a": "x".repeat(ANNOTATIONS_MAX)}}),
                "spec.exportedAnnotations",
            ),
        ] {
            let error = ServiceExport::of(&object(json!({"name": "web"}), spec)).unwrap_err();
            assert_eq!(error.field, field);
            assert!(!error.fix.is_empty());
        }
    }

    #[test]
    fn an_import_says_whether_it_is_headless() {
        let of = |spec: Value| ServiceImport::of(&object(json!({"name": "web"}), spec));
        assert!(of(json!({"type": "Headless", "ports": []})).unwrap().headless);
        assert!(!of(json!({"type": "ClusterSetIP"})).unwrap().headless);
        assert_eq!(of(json!({"type": "Anycast"})).unwrap_err().field, "spec.type");
        assert!(of(json!({})).is_err());
    }
}
