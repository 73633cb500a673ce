//! The CustomResourceDefinitions of our kinds, made from the types that decode them; `charts/weft-crds` holds them as files.
//!
//! Rules that no attribute of a field can say are below, in CEL (KEP-2876): what the index refuses whatever else the cluster
//! has. The index stays the judge; an API server only says the same earlier.

use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};
use weft_model::traffic::Balance;

use super::decode::Skip;
use super::peer::ClusterPeer;
use super::weft::{ServiceSubset, TrafficPolicy};

/// A duration (GEP-2257).
pub(super) const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// A DNS label that begins with a letter (RFC 1035).
pub(super) const SERVICE_NAME: &str = "^[a-z]([-a-z0-9]*[a-z0-9])?$";
/// A DNS subdomain (RFC 1123).
pub(super) const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// The name of a region or zone.
pub(super) const PLACE: &str = "^[A-Za-z0-9._-]{1,63}$";
/// The same, or nothing.
pub(super) const PLACE_OR_NONE: &str = "^[A-Za-z0-9._-]{0,63}$";
/// A trust domain: DNS labels, of which the last is no number.
pub(super) const TRUST_DOMAIN: &str = concat!(
    r"^([a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?\.)*",
    "([0-9]*[a-z_]([-a-z0-9_]*[a-z0-9_])?|[0-9]+-[-a-z0-9_]*[a-z0-9_])$"
);
/// A SPIFFE ID of a mesh.
pub(super) const IDENTITY: &str = "^spiffe://[-a-z0-9._]{1,90}/ns/[-A-Za-z0-9._]{1,253}/sa/[-A-Za-z0-9._]{1,253}$";
/// A DNS name that does not end with a number, an IPv4 address, or an IPv6 address in brackets; and a port.
pub(super) const HOST_PORT: &str = concat!(
    r"^(([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)*([0-9][-0-9]*)?[a-z]([-a-z0-9]*[a-z0-9])?",
    r"|((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
    r"|\[[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,40}\])",
    ":([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$"
);
/// An https URL without a user and without a fragment.
pub(super) const HTTPS: &str = r"^https://[^/?#@\s]+([/?][^#\s]*)?$";
/// How a text of certificates begins.
pub(super) const PEM: &str = r"^\s*-----BEGIN CERTIFICATE-----";
/// The name of a namespace, or all of them.
pub(super) const NAMESPACE_OR_ALL: &str = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$";
/// Statuses of gRPC that can be retried, as a list of CEL.
const GRPC: &str = "['CANCELLED', 'UNKNOWN', 'INVALID_ARGUMENT', 'DEADLINE_EXCEEDED', 'NOT_FOUND', 'ALREADY_EXISTS', \
                    'PERMISSION_DENIED', 'RESOURCE_EXHAUSTED', 'FAILED_PRECONDITION', 'ABORTED', 'OUT_OF_RANGE', \
                    'UNIMPLEMENTED', 'INTERNAL', 'UNAVAILABLE', 'DATA_LOSS', 'UNAUTHENTICATED']";

/// The names of balancers.
pub(super) fn balancers() -> Vec<&'static str> {
    Balance::ALL.map(Balance::as_str).to_vec()
}

pub(super) fn of_services(schema: &mut Schema) {
    schema.insert("required".to_owned(), json!(["targetRefs"]));
    let parts = ["retryConstraint", "locality", "balancer"];
    let says = parts.map(|part| format!("has(self.{part})")).join(" || ");
    rule(
        schema,
        &format!("!({says}) || self.targetRefs.all(target, target.kind == 'Service')"),
        "retryConstraint, locality and balancer are said of Services: write a policy of its own for the Service",
    );
}

/// One value: server-side apply takes no sets of maps, and keys would leave out `sectionName`, which may be missing.
pub(super) fn as_a_whole(schema: &mut Schema) {
    schema.insert("x-kubernetes-list-type".to_owned(), json!("atomic"));
    // By parts: fields without a bound of length are compared with words only, or the rule might cost too much.
    let of = |kind: &str| format!("(one.kind == '{kind}') == (other.kind == '{kind}')");
    let section = |of: &str| format!("(has({of}.sectionName) ? {of}.sectionName : '')");
    let same = [
        "one.name == other.name".to_owned(),
        of("Service"),
        of("HTTPRoute"),
        format!("{} == {}", section("one"), section("other")),
    ];
    let once = format!("self.all(one, self.exists_one(other, {}))", same.join(" && "));
    rule(schema, &once, "names a target twice: keep one of the two");
}

/// No list of the type `set`: its order matters, which a server-side apply need not keep there.
pub(super) fn each_once(schema: &mut Schema) {
    rule(
        schema,
        "self.all(one, self.exists_one(other, one == other))",
        "names a region twice: keep the first",
    );
}

pub(super) fn target(schema: &mut Schema) {
    schema.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
    let group = "(has(self.group) ? self.group : '')";
    rule(
        schema,
        &format!(
            "({group} in ['', 'core'] && self.kind == 'Service') || \
             ({group} == 'gateway.networking.k8s.io' && self.kind in ['HTTPRoute', 'GRPCRoute'])"
        ),
        "must be group: \"\", kind: Service; or group: gateway.networking.k8s.io, kind: HTTPRoute or GRPCRoute",
    );
    rule(
        schema,
        "!has(self.sectionName) || self.kind != 'Service'",
        "sectionName is of routes: a policy is about all ports of a Service",
    );
}

pub(super) fn limits(schema: &mut Schema) {
    rule(
        schema,
        "!(has(self.request) && has(self.backendRequest)) || duration(self.request) == duration('0s') || \
         duration(self.backendRequest) <= duration(self.request)",
        "backendRequest must not be longer than request: one try is a part of the request with all its tries",
    );
}

pub(super) fn grpc_status(schema: &mut Schema) {
    let description = schema.remove("description");
    let text = description.as_ref().and_then(Value::as_str).unwrap_or_default();
    *schema = schemars::json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 32,
        "description": format!("{text} By name, as UNAVAILABLE, or by number, from 1 to 16."),
    });
    rule(
        schema,
        &format!("type(self) == int ? (int(self) >= 1 && int(self) <= 16) : string(self) in {GRPC}"),
        "must be a status of gRPC that can be retried: a name, as UNAVAILABLE, or a number from 1 to 16",
    );
}

pub(super) fn share_interval(schema: &mut Schema) {
    interval(schema, "1s");
}

pub(super) fn rate_interval(schema: &mut Schema) {
    interval(schema, "1ms");
}

fn interval(schema: &mut Schema, least: &str) {
    let within = format!("duration(self.interval) >= duration('{least}') && duration(self.interval) <= duration('1h')");
    let message = format!("interval must be from {least} to 1h");
    rule(schema, &format!("!has(self.interval) || ({within})"), &message);
}

pub(super) fn locality(schema: &mut Schema) {
    rule(
        schema,
        "!has(self.failover) || size(self.failover) == 0 || !has(self.prefer) || self.prefer != 'None'",
        "without a preference no region is left first: prefer Zone or Region, or remove failover",
    );
}

pub(super) fn distribution(schema: &mut Schema) {
    rule(
        schema,
        "self.to.exists(share, share.weight > 0)",
        "no place has a weight, so nothing would go anywhere: give some place a weight",
    );
}

/// An API server takes DNS subdomains as names; a cluster's is one label of one.
pub(super) fn peer_name(schema: &mut Schema) {
    rule(
        schema,
        "size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",
        "metadata.name is the cluster's name: at most 63 of a-z, 0-9 and '-' (RFC 1123)",
    );
}

pub(super) fn peer(schema: &mut Schema) {
    rule(
        schema,
        "!has(self.controlPlane) || self.controlPlane.startsWith('spiffe://' + self.trustDomain + '/')",
        "controlPlane must be of the trustDomain: spiffe://<trustDomain>/ns/weft-system/sa/weft-control",
    );
}

pub(super) fn at_most_a_month(schema: &mut Schema) {
    let rule_of = "duration(self) <= duration('720h')";
    rule(schema, rule_of, "keepFor must be at most 720h");
}

pub(super) fn no_key(schema: &mut Schema) {
    rule(
        schema,
        "!self.contains('PRIVATE KEY')",
        "roots holds a private key, which is nobody's but the peer's: remove it, and give the peer another root",
    );
}

pub(super) fn selection(schema: &mut Schema) {
    if let Some(labels) = schema.pointer_mut("/properties/labels") {
        labels["maxProperties"] = json!(16);
        labels["additionalProperties"]["maxLength"] = json!(63);
    }
}

impl JsonSchema for Skip {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Skip".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        Schema::default()
    }
}

fn rule(schema: &mut Schema, rule: &str, message: &str) {
    let rules = schema
        .ensure_object()
        .entry("x-kubernetes-validations")
        .or_insert_with(|| json!([]));
    if let Some(rules) = rules.as_array_mut() {
        rules.push(json!({"rule": rule, "message": message}));
    }
}

/// What the schema of a type says, in the form that an API server takes ("structural").
fn structural(schema: Value) -> Value {
    let Value::Object(mut fields) = schema else {
        return schema;
    };
    for field in ["$schema", "title", "default"] {
        fields.remove(field);
    }
    // A field that may be left out, of a type of its own.
    if let Some(Value::Array(all)) = fields.remove("anyOf") {
        let some = all.into_iter().find(|one| one["type"] != "null").unwrap_or_default();
        if let Value::Object(some) = some {
            for (key, value) in some {
                fields.entry(key).or_insert(value);
            }
        }
    }
    // One word of several. The field's own description says what each of them means.
    if let Some(Value::Array(all)) = fields.remove("oneOf") {
        let words: Vec<Value> = all.iter().map(|one| one["const"].clone()).collect();
        fields.insert("type".to_owned(), "string".into());
        fields.insert("enum".to_owned(), words.into());
    }
    if let Some(Value::Array(types)) = fields.get("type") {
        let some = types.iter().find(|one| *one != "null").cloned();
        fields.insert("type".to_owned(), some.unwrap_or_default());
    }
    if fields
        .get("format")
        .is_some_and(|format| format == "uint32" || format == "uint64")
    {
        fields.remove("format");
    }
    if let Some(Value::String(text)) = fields.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    let below = |(key, value): (String, Value)| match (key.as_str(), value) {
        ("properties", Value::Object(all)) => {
            let all: Map<_, _> = all.into_iter().map(|(name, of)| (name, structural(of))).collect();
            (key, all.into())
        }
        ("items" | "additionalProperties", of) => (key, structural(of)),
        (_, value) => (key, value),
    };
    fields.into_iter().map(below).collect::<Map<_, _>>().into()
}

/// What the control plane says of an object: a list of conditions, as all of Kubernetes has it.
fn status() -> Value {
    let text = |description: &str, most: u32| json!({"type": "string", "description": description, "maxLength": most});
    let mut reason = text("One word for programs, why it is so.", 1024);
    reason["minLength"] = json!(1);
    reason["pattern"] = json!("^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$");
    let mut kind = text("What it is about: Accepted, Applied.", 316);
    kind["minLength"] = json!(1);
    let when = json!({"type": "string", "format": "date-time", "description": "Since when it is so."});
    let generation = json!({
        "type": "integer", "format": "int64", "minimum": 0,
        "description": "The metadata.generation that it was said of.",
    });
    let is = json!({"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it is so."});
    let condition = json!({
        "type": "object",
        "description": "One thing that is so, or is not.",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "type": kind, "status": is, "reason": reason, "lastTransitionTime": when, "observedGeneration": generation,
            "message": text("For people: what is wrong, and what would be right.", 32768),
        },
    });
    json!({
        "type": "object",
        "description": "What the control plane says of it.",
        "properties": {"conditions": {
            "type": "array", "maxItems": 8, "items": condition,
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
            "description": "Accepted: whether it acts. Applied: whether every proxy that needs it has acknowledged it.",
        }},
    })
}

/// The same of a peer, with what is known of the link.
fn peer_status() -> Value {
    let mut status = status();
    let count = |description: &str| json!({"type": "integer", "minimum": 0, "description": description});
    status["properties"]["conditions"]["description"] = "Accepted: whether it acts. Applied: whether every proxy that \
        needs it has acknowledged it. Connected: whether what the peer exports comes as it changes; its reason is what state \
        the link is in."
        .into();
    status["properties"]["trustBundle"] = json!({
        "type": "object",
        "description": "The newest trust bundle that is known of the peer.",
        "properties": {
            "sequence": count("Its sequence number."),
            "roots": {"type": "string", "maxLength": 65536, "description": "The CA certificates, as PEM text."},
        },
    });
    status["properties"]["imported"] = count("Services that are taken from the peer.");
    status["properties"]["exported"] = count("Services that the peer is told of.");
    let heard = "When the peer was last heard of, while it is not connected.";
    status["properties"]["lastHeard"] = json!({"type": "string", "format": "date-time", "description": heard});
    status
}

/// A kind of ours: its names, and what `kubectl get` shows.
struct Kind {
    kind: &'static str,
    plural: &'static str,
    scope: &'static str,
    schema: Value,
    columns: Value,
}

fn condition_column(condition: &str) -> Value {
    let path = format!(".status.conditions[?(@.type==\"{condition}\")].status");
    json!({"name": condition, "type": "string", "jsonPath": path})
}

fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = structural(settings.into_generator().into_root_schema_for::<T>().to_value());
    let head = |description: &str| json!({"type": "string", "description": description});
    schema["properties"]["apiVersion"] =
        head("The group and version of this representation of the object: weft.dev/v1alpha1.");
    schema["properties"]["kind"] = head("The object's kind.");
    schema["properties"]["metadata"] = json!({"type": "object"});
    schema["properties"]["status"] = status();
    schema["required"] = json!(["spec"]);
    schema
}

fn peers() -> Kind {
    let column = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
    let number = |name: &str, path: &str| json!({"name": name, "type": "integer", "jsonPath": path});
    let of_link = |field: &str| format!(".status.conditions[?(@.type==\"Connected\")].{field}");
    let mut schema = schema_of::<ClusterPeer>();
    schema["properties"]["status"] = peer_status();
    Kind {
        kind: "ClusterPeer",
        plural: "clusterpeers",
        scope: "Cluster",
        schema,
        columns: json!([
            column("Trust Domain", ".spec.trustDomain"),
            column("Network", ".spec.network"),
            condition_column("Accepted"),
            column("Link", &of_link("reason")),
            json!({"name": "Since", "type": "date", "jsonPath": of_link("lastTransitionTime")}),
            number("Imported", ".status.imported"),
            number("Exported", ".status.exported"),
            number("Bundle", ".status.trustBundle.sequence"),
            age()
        ]),
    }
}

fn age() -> Value {
    json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})
}

fn kinds() -> [Kind; 3] {
    let column = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
    [
        peers(),
        Kind {
            kind: "ServiceSubset",
            plural: "servicesubsets",
            scope: "Namespaced",
            schema: schema_of::<ServiceSubset>(),
            columns: json!([
                column("Service", ".spec.service"),
                column("Selector", ".spec.selector"),
                column("Regions", ".spec.regions"),
                condition_column("Accepted"),
                condition_column("Applied"),
                age()
            ]),
        },
        Kind {
            kind: "TrafficPolicy",
            plural: "trafficpolicies",
            scope: "Namespaced",
            schema: schema_of::<TrafficPolicy>(),
            columns: json!([
                // Of a list a column shows one entry.
                column("Kind", ".spec.targetRefs[0].kind"),
                column("Target", ".spec.targetRefs[0].name"),
                column("Balancer", ".spec.balancer"),
                condition_column("Accepted"),
                condition_column("Applied"),
                age()
            ]),
        },
    ]
}

fn definition(of: Kind) -> Value {
    let mut definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.weft.dev", of.plural),
            "labels": {
                "app.kubernetes.io/name": "weft",
                "app.kubernetes.io/part-of": "weft",
                "app.kubernetes.io/managed-by": "weft",
                "app.kubernetes.io/version": env!("CARGO_PKG_VERSION"),
            },
        },
        "spec": {
            "group": super::kinds::WEFT_GROUP,
            "scope": of.scope,
            "names": {
                "kind": of.kind, "listKind": format!("{}List", of.kind), "plural": of.plural,
                "singular": of.kind.to_lowercase(), "categories": ["weft"],
            },
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": of.columns, "schema": {"openAPIV3Schema": of.schema},
            }],
        },
    });
    if of.kind == "TrafficPolicy" {
        // By this label tools find what attaches to other objects (GEP-713).
        definition["metadata"]["labels"]["gateway.networking.k8s.io/policy"] = json!("Direct");
    }
    definition
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/weft-crds/templates")
}

#[test]
fn the_files_of_the_chart_are_what_the_types_say() {
    for kind in kinds() {
        let path = directory().join(format!("{}.yaml", kind.plural));
        let head = "# Written from the types: WEFT_WRITE_CRDS=1 cargo test -p weft-control --lib crd\n";
        let text = head.to_owned() + &serde_saphyr::to_string(&definition(kind)).expect("YAML");
        if std::env::var_os("WEFT_WRITE_CRDS").is_some() {
            std::fs::create_dir_all(directory()).expect("a directory");
            std::fs::write(&path, &text).expect("a file");
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        let hint = "WEFT_WRITE_CRDS=1 cargo test -p weft-control --lib crd writes it";
        assert!(kept == text, "{} is not what the types say: {hint}", path.display());
        // Helm takes the file for a template.
        assert!(!text.contains("{{"), "{}", path.display());
    }
}

#[test]
fn every_field_of_a_schema_has_its_meaning() {
    fn look(of: &Value, path: &str, wanting: &mut Vec<String>) {
        if of["description"].as_str().unwrap_or_default().is_empty() && path != ".metadata" && !path.ends_with("[]") {
            wanting.push(path.to_owned());
        }
        for (name, of) in of["properties"].as_object().into_iter().flatten() {
            look(of, &format!("{path}.{name}"), wanting);
        }
        if of["items"].is_object() {
            look(&of["items"], &format!("{path}[]"), wanting);
        }
    }
    for kind in kinds() {
        let mut wanting = Vec::new();
        look(&kind.schema, "", &mut wanting);
        assert!(wanting.is_empty(), "{}: {wanting:?}", kind.kind);
    }
}

#[test]
fn what_the_patterns_take_is_what_the_index_takes() {
    use super::host_port::tests::{BAD, GOOD};

    let takes = |pattern: &str, text: &str| regex::Regex::new(pattern).unwrap().is_match(text);
    assert!(GOOD.iter().all(|text| takes(HOST_PORT, text)));
    for text in BAD {
        assert!(!takes(HOST_PORT, text), "{text:?}");
    }
    for (text, good) in [
        ("a", true),
        ("mesh.weft.internal", true),
        ("0123456789ab.weft.internal", true),
        ("a_b", true),
        ("1-a", true),
        ("a.1-2", true),
        ("a.1", false),
        ("1", false),
        ("A", false),
        ("a..b", false),
        ("-a", false),
        ("a-", false),
    ] {
        assert_eq!(takes(TRUST_DOMAIN, text), good, "{text:?}");
        assert_eq!(weft_model::identity::TrustDomain::new(text).is_ok(), good, "{text:?}");
    }
    assert!(takes(IDENTITY, "spiffe://a/ns/weft-system/sa/weft-control"));
    assert!(!takes(IDENTITY, "spiffe://a/ns/weft-system/sa/") && !takes(IDENTITY, "https://a/ns/b/sa/c"));
    assert!(takes(HTTPS, "https://a:8443/b?c") && !takes(HTTPS, "http://a/") && !takes(HTTPS, "https://u@a/"));
    assert!(takes(NAMESPACE_OR_ALL, "*") && takes(NAMESPACE_OR_ALL, "shop") && !takes(NAMESPACE_OR_ALL, "sh*p"));
}
