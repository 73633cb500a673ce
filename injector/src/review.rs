//! AdmissionReview, `admission.k8s.io/v1`: what the API server asks about a pod, and what it is answered.
//!
//! In: a request's body, which may be anything. Out: the answer to it. Pure, and without a panic whatever comes in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::Value;

use crate::patch::{self, Decision, INJECT_LABEL, Skip};
use crate::security;
use crate::settings::InjectSettings;
use crate::tuned;

/// Namespaces of the cluster itself, which no webhook may touch, whatever its configuration says.
const CLUSTERS_OWN: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// Longer warnings are cut by the API server.
const WARNING_MAX: usize = 256;
/// A message that names a field is never longer than this, whatever a pod's author wrote into it.
const MESSAGE_MAX: usize = 1024;
/// What of a pod's or of an error's own words is logged.
const LOGGED_MAX: usize = 256;
/// Values in a review. A large pod has some thousands, and each may take some hundred bytes.
pub const VALUES_MAX: usize = 50_000;

/// A review that can be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// Echoed in the answer.
    pub uid: String,
    /// What it is about.
    pub subject: Subject,
}

/// What a review is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// A pod that is to be made.
    Pod {
        /// Its namespace.
        namespace: String,
        /// The pod.
        pod: Value,
    },
    /// Nothing of ours: let through as it is.
    Other,
    /// It says that a pod is to be made, and has none; why.
    Broken(String),
}

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The outcome.
    pub outcome: Outcome,
    /// What whoever made the pod is told beside it.
    pub warnings: Vec<String>,
}

/// How a review ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The pod gets its sidecar.
    Injected(json_patch::Patch),
    /// It has it already.
    Unchanged,
    /// It is left without one.
    Skipped,
    /// It must not be made: an HTTP status, and the reason with its fix.
    Refused(u16, String),
}

impl Outcome {
    /// A word for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Injected(_) => "injected",
            Self::Unchanged => "unchanged",
            Self::Skipped => "skipped",
            Self::Refused(..) => "refused",
        }
    }
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            warnings: Vec::new(),
        }
    }
}

/// How many values a body has at most, by what separates and opens them outside of strings. For JSON only.
pub fn values(body: &[u8]) -> usize {
    let (mut count, mut quoted, mut escaped) = (1, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'{' | b'[' | b',' if !quoted => count += 1,
            _ => {}
        }
    }
    count
}

/// Reads a body. The error says what is wrong with it: it is no review at all, so nothing can be answered to it.
///
/// # Errors
/// It is not JSON, or has too many values, or it is not a review of this version, or one without a uid.
pub fn read(body: &[u8]) -> Result<Review, String> {
    if values(body) > VALUES_MAX {
        return Err(format!(
            "the body has more than {VALUES_MAX} values; no pod needs so many"
        ));
    }
    // serde_json goes 128 levels deep and no further, which no object of Kubernetes does.
    let mut review: Value = serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
    for (field, wanted) in [("apiVersion", "admission.k8s.io/v1"), ("kind", "AdmissionReview")] {
        if review[field] != wanted {
            return Err(format!("{field}: must be {wanted:?}"));
        }
    }
    let Some(request) = review.get_mut("request").filter(|request| request.is_object()) else {
        return Err("request: is missing".to_owned());
    };
    let uid = match request["uid"].as_str() {
        Some(uid) if (1..=128).contains(&uid.len()) => uid.to_owned(),
        _ => return Err("request.uid: must have 1 to 128 characters".to_owned()),
    };
    let subject = subject(request);
    Ok(Review { uid, subject })
}

fn subject(request: &mut Value) -> Subject {
    let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
    let resource = &request["resource"];
    let is_pod = text(&resource["group"]).is_empty() && text(&resource["resource"]) == "pods";
    let is_whole = text(&request["subResource"]).is_empty();
    if !is_pod || !is_whole || text(&request["operation"]) != "CREATE" {
        return Subject::Other;
    }
    let namespace = text(&request["namespace"]);
    if !is_label(&namespace) {
        return Subject::Broken("request.namespace: must be the name of a Namespace".to_owned());
    }
    match request["object"].take() {
        pod if pod["metadata"].is_object() && pod["spec"].is_object() => Subject::Pod { namespace, pod },
        _ => Subject::Broken("request.object: has no metadata, or no spec".to_owned()),
    }
}

/// Whether this is a label as DNS has them (RFC 1123), as the name of every Namespace is.
fn is_label(name: &str) -> bool {
    let is_end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| is_end(byte) || *byte == b'-')
        && bytes.first().is_some_and(is_end)
        && bytes.last().is_some_and(is_end)
}

/// Whether pods of this namespace are left alone whatever its labels say: the cluster's own, and Weft's.
pub fn is_exempt(namespace: &str, own: &str) -> bool {
    namespace == own || CLUSTERS_OWN.contains(&namespace)
}

/// Decides about a pod of a Namespace. `token`: 128 random bits, for the paths of lifecycle hooks.
pub fn judge(pod: &Value, namespace: &Value, settings: &InjectSettings, token: u128) -> Verdict {
    match patch::inject_with(pod, namespace, settings, token) {
        Decision::Inject(after) => {
            let ops = patch::diff(pod, &after);
            let outcome = if ops.0.is_empty() {
                Outcome::Unchanged
            } else {
                Outcome::Injected(ops)
            };
            let mut warnings = patch::warnings(pod, namespace);
            warnings.extend(security::refusal(namespace).map(|refusal| refusal.to_string()));
            Verdict { outcome, warnings }
        }
        Decision::Skip(Skip::NamespaceNotLabelled) if pod["metadata"]["labels"][INJECT_LABEL] == "enabled" => Verdict {
            outcome: Outcome::Skipped,
            warnings: vec![format!(
                "the pod's label {INJECT_LABEL}: enabled has no effect: its Namespace has no such label"
            )],
        },
        Decision::Skip(_) => Outcome::Skipped.into(),
        Decision::Refuse(reason) => Outcome::Refused(422, reason).into(),
    }
}

/// The same while nobody says what the Namespace is like now: its last known one may only add. The error: what is not known.
///
/// # Errors
/// The pod might have to get its sidecar and would get none, or a port of it might have to be strict and would not be.
pub fn judge_by_last_known(
    pod: &Value,
    namespace: &Value,
    settings: &InjectSettings,
    token: u128,
) -> Result<Verdict, &'static str> {
    if namespace["metadata"]["labels"][INJECT_LABEL] != "enabled" {
        return Err("whether pods are injected");
    }
    let verdict = judge(pod, namespace, settings, token);
    let is_meshed = matches!(verdict.outcome, Outcome::Injected(_) | Outcome::Unchanged);
    if is_meshed && tuned::skips_inbound(pod, namespace) {
        return Err("whether ports may be left alone (config.weft.dev/skip-inbound-ports)");
    }
    Ok(verdict)
}

/// The pod's name, or what its name will begin with.
pub fn name(pod: &Value) -> &str {
    let metadata = &pod["metadata"];
    let given = |field: &str| metadata[field].as_str().filter(|text| !text.is_empty());
    given("name").or_else(|| given("generateName")).unwrap_or("(no name)")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Status {
    code: u16,
    message: String,
}

/// The answer, as JSON.
///
/// # Errors
/// It cannot be written.
pub fn answer(uid: &str, verdict: Verdict) -> serde_json::Result<Vec<u8>> {
    let warnings = verdict
        .warnings
        .into_iter()
        .map(|text| cut(text, WARNING_MAX))
        .collect();
    let mut response = Response {
        uid,
        allowed: true,
        patch_type: None,
        patch: None,
        status: None,
        warnings,
    };
    match verdict.outcome {
        Outcome::Injected(ops) => {
            response.patch_type = Some("JSONPatch");
            response.patch = Some(BASE64.encode(serde_json::to_vec(&ops)?));
        }
        Outcome::Unchanged | Outcome::Skipped => {}
        Outcome::Refused(code, message) => {
            response.allowed = false;
            response.status = Some(Status {
                code,
                message: cut(message, MESSAGE_MAX),
            });
        }
    }
    serde_json::to_vec(&Answer {
        api_version: "admission.k8s.io/v1",
        kind: "AdmissionReview",
        response,
    })
}

/// As much of a text as is logged.
pub fn logged(text: &str) -> String {
    cut(text.to_owned(), LOGGED_MAX)
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = text.floor_char_boundary(most - 3);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests;
