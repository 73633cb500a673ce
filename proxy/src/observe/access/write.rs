//! Observe: the access log's lines, and the thread that writes them.
//!
//! In: entries. Out: JSON lines on standard output, their fields by OpenTelemetry's semantic conventions, and Weft's own with
//! `weft.`. `docs/telemetry.md` has the table of fields, held to [`FIELDS`] by a test.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use weft_model::reason::Reason;

use super::Entry;
use crate::observe::metrics::{Direction, rpc_method, series};

/// How long lines may wait for others: workers wake the writer once in that time at most.
const PAUSE: Duration = Duration::from_millis(50);
/// What is written at once, about.
const CHUNK: usize = 64 * 1024;

/// Every field of a line, and what it says. A field that has nothing to say is left out.
pub const FIELDS: &[(&str, &str)] = &[
    ("timestamp", "when it began (RFC 3339, UTC)"),
    ("weft.direction", "`inbound`: to this pod's app; `outbound`: from it"),
    ("network.transport", "`tcp`"),
    ("network.protocol.name", "`http`; absent for an opaque stream"),
    (
        "network.protocol.version",
        "`1.0`, `1.1` or `2`, as the side that asked spoke it",
    ),
    ("http.request.method", "the method, `_OTHER` where no registry has it"),
    ("url.path", "the path without the query, up to 2048 bytes"),
    (
        "server.address",
        "the authority: `Host` or `:authority`, else the address that was dialled",
    ),
    ("http.route", "the path template of the rule's match"),
    (
        "http.response.status_code",
        "the status, also of a response that Weft made",
    ),
    (
        "http.request.body.size",
        "bytes of the request's body; of a tunnel, all bytes to the server",
    ),
    (
        "http.response.body.size",
        "bytes of the response's body; of a tunnel, all bytes from the server",
    ),
    ("rpc.system.name", "`grpc`"),
    ("rpc.method", "`package.Service/Method`"),
    ("rpc.response.status_code", "gRPC's status by its name"),
    ("error.type", "why it failed: a reason code, a status, or `cancelled`"),
    (
        "network.peer.address",
        "inbound: who connected; outbound: the endpoint, or what was dialled",
    ),
    ("network.peer.port", "the same one's port"),
    ("trace_id", "the trace, if it is sampled"),
    ("span_id", "the proxy's span in it"),
    (
        "weft.reason",
        "the reason code, where Weft refused, failed or cut it: docs/errors.md",
    ),
    ("weft.route.object", "the route: kind, namespace and name"),
    ("weft.route.rule", "its rule's name, else its place from 0"),
    ("weft.endpoint.pod", "the pod that was chosen last, `namespace/name`"),
    (
        "weft.gateway",
        "`true` where that is in another network, and a gateway leads there",
    ),
    ("weft.tries", "tries at endpoints"),
    ("weft.source.identity", "the caller's verified identity"),
    (
        "weft.destination.identity",
        "the verified identity of the one that was called",
    ),
    (
        "weft.source.workload",
        "the caller, `namespace/name`; inbound the name is its service account's, the only one that is proved",
    ),
    ("weft.destination.workload", "the one that was called, `namespace/name`"),
    (
        "weft.destination.service",
        "the Service that led there, `namespace/name`",
    ),
    ("weft.stream.sent", "bytes of an opaque stream to the server"),
    ("weft.stream.received", "bytes of an opaque stream from the server"),
    ("weft.duration", "how long it took, in seconds"),
];

/// Tells that all lines are written. The thread ends with the last worker's log.
#[derive(Debug)]
pub struct Done(Receiver<()>);

/// Starts the thread that writes. A sink that is stuck holds up this thread alone, and costs lines.
pub fn start(entries: mpsc::Receiver<Box<Entry>>, sink: impl Write + Send + 'static) -> std::io::Result<Done> {
    let (told, done) = sync_channel(1);
    thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || follow(entries, sink, &told))?;
    Ok(Done(done))
}

impl Done {
    /// Waits for the last lines, but no longer than that.
    pub fn wait(self, within: Duration) {
        // Late lines are lost rather than waited for.
        let _ = self.0.recv_timeout(within);
    }
}

fn follow(mut entries: mpsc::Receiver<Box<Entry>>, mut sink: impl Write, told: &SyncSender<()>) {
    let mut chunk = Vec::new();
    while let Some(entry) = entries.blocking_recv() {
        add(&mut chunk, &entry);
        while chunk.len() < CHUNK
            && let Ok(entry) = entries.try_recv()
        {
            add(&mut chunk, &entry);
        }
        // A sink that fails loses its lines, not the process.
        let _ = sink.write_all(&chunk).and_then(|()| sink.flush());
        chunk.clear();
        if entries.is_empty() {
            thread::sleep(PAUSE);
        }
    }
    // Nobody may wait for it.
    let _ = told.send(());
}

fn add(chunk: &mut Vec<u8>, entry: &Entry) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(&mut *chunk, &describe(entry));
    chunk.push(b'\n');
}

/// A line's fields.
pub(crate) fn describe(entry: &Entry) -> Value {
    let mut line = Map::new();
    let mut say = |name: &str, value: Value| {
        let nothing = value.is_null() || value.as_str().is_some_and(str::is_empty);
        if !nothing {
            line.insert(name.to_owned(), value);
        }
    };
    let nanos = entry.began.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let began = OffsetDateTime::from_unix_timestamp_nanos(i128::try_from(nanos).unwrap_or(0));
    say(
        "timestamp",
        json!(began.ok().and_then(|began| began.format(&Rfc3339).ok())),
    );
    say("weft.direction", json!(entry.labels.direction.as_str()));
    say("network.transport", json!("tcp"));
    match &entry.request {
        Some(_) => of_request(entry, &mut say),
        None => {
            say("weft.stream.sent", json!(entry.up));
            say("weft.stream.received", json!(entry.down));
        }
    }
    let reason = entry.outcome.and_then(|outcome| outcome.error);
    say("error.type", json!(error(entry)));
    say("weft.reason", json!(reason.map(Reason::code)));
    say(
        "network.peer.address",
        json!(entry.peer.map(|peer| peer.ip().to_canonical().to_string())),
    );
    say("network.peer.port", json!(entry.peer.map(|peer| peer.port())));
    say("trace_id", json!(entry.trace.map(|trace| hex(&trace.trace))));
    say("span_id", json!(entry.trace.map(|trace| hex(&trace.span))));
    if let Some(rule) = &entry.rule {
        let name = if rule.name.is_empty() {
            rule.index.to_string()
        } else {
            rule.name.clone()
        };
        say("weft.route.object", json!(rule.route.to_string()));
        say("weft.route.rule", json!(name));
    }
    say("weft.endpoint.pod", json!(entry.endpoint));
    say("weft.gateway", json!(entry.gateway.then_some(true)));
    say("weft.tries", json!((entry.tries > 0).then_some(entry.tries)));
    say(
        "weft.source.identity",
        json!(entry.source.as_ref().map(ToString::to_string)),
    );
    say(
        "weft.destination.identity",
        json!(entry.destination.as_ref().map(ToString::to_string)),
    );
    let labels = &entry.labels;
    say(
        "weft.source.workload",
        of(&labels.source_namespace, &labels.source_workload),
    );
    say(
        "weft.destination.workload",
        of(&labels.destination_namespace, &labels.destination_workload),
    );
    say(
        "weft.destination.service",
        of(&labels.destination_namespace, &labels.destination_service),
    );
    say("weft.duration", json!(entry.took.as_secs_f64()));
    Value::Object(line)
}

fn of_request(entry: &Entry, say: &mut impl FnMut(&str, Value)) {
    let Some(request) = &entry.request else { return };
    say("network.protocol.name", json!("http"));
    say("network.protocol.version", json!(series::version(request.version)));
    say("http.request.method", json!(series::method_label(&request.method)));
    say("url.path", json!(request.path));
    say("server.address", json!(request.authority));
    say("http.route", json!(entry.route));
    let outcome = entry.outcome.unwrap_or_default();
    if request.grpc {
        say("rpc.system.name", json!("grpc"));
        say("rpc.method", json!(rpc_method(&request.path)));
        let status = entry
            .outcome
            .map(|outcome| series::rpc_status(outcome.grpc_status.unwrap_or(2)));
        say("rpc.response.status_code", json!(status));
    }
    say(
        "http.response.status_code",
        json!((outcome.status > 0).then_some(outcome.status)),
    );
    say("http.request.body.size", json!(entry.up));
    say("http.response.body.size", json!(entry.down));
}

/// As the metrics have it: whose fault a 4xx is depends on the side.
fn error(entry: &Entry) -> Option<String> {
    let Some(outcome) = entry.outcome else {
        return Some("cancelled".to_owned());
    };
    if let Some(reason) = outcome.error {
        return Some(reason.code().to_owned());
    }
    let request = entry.request.as_ref()?;
    if request.grpc {
        let status = outcome.grpc_status.unwrap_or(2);
        return (status != 0).then(|| series::rpc_status(status).to_owned());
    }
    let first = match entry.labels.direction {
        Direction::Inbound => 500,
        Direction::Outbound => 400,
    };
    (outcome.status >= first).then(|| outcome.status.to_string())
}

fn of(namespace: &str, name: &str) -> Value {
    if name.is_empty() {
        Value::Null
    } else {
        json!(format!("{namespace}/{name}"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The table of `docs/telemetry.md`.
#[cfg(test)]
pub(super) fn markdown() -> String {
    let mut out = "| field | what it says |\n|---|---|\n".to_owned();
    for (name, meaning) in FIELDS {
        out.push_str(&format!("| `{name}` | {meaning} |\n"));
    }
    out
}
