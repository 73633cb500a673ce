//! Observe: one worker's handle for traffic with the same labels.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Version};
use weft_model::reason::Reason;

use super::registry::{Counter, Gauge, Histogram, Writer};
use super::{Direction, Labels, Methods, table};
use crate::observe::trace::context::Context;

/// Traffic with the same labels. Belongs to one worker.
#[derive(Debug)]
pub struct Series {
    writer: Rc<Writer>,
    methods: Rc<Methods>,
    labels: Labels,
    route: Box<str>,
    /// Few: the methods, statuses and errors that were seen. The last one used is in front.
    http: RefCell<Vec<(u64, Histogram)>>,
    rpc: RefCell<Vec<(u32, Box<str>, Histogram)>>,
    tcp: OnceCell<Tcp>,
    closed: RefCell<Vec<(&'static str, Counter)>>,
}

#[derive(Debug)]
struct Tcp {
    opened: Counter,
    open: Gauge,
    up: Counter,
    down: Counter,
}

/// One HTTP request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct HttpCall<'a> {
    /// The method.
    pub method: &'a Method,
    /// The version that was spoken on the side of the app that is measured.
    pub version: Version,
    /// The response's status, the one that Weft made included.
    pub status: u16,
    /// Why Weft made the response itself, or cut it.
    pub error: Option<Reason>,
    /// How long it took.
    pub took: Duration,
    /// Its trace, if it is sampled: an example for the histogram.
    pub trace: Option<Context>,
}

/// One gRPC call that has ended.
#[derive(Clone, Copy, Debug)]
pub struct RpcCall<'a> {
    /// The request's path: `/pkg.Service/Method`.
    pub path: &'a str,
    /// The status. `None`: it said nothing, which counts as UNKNOWN.
    pub status: Option<u16>,
    /// Why Weft made the response itself, or cut it.
    pub error: Option<Reason>,
    /// How long it took.
    pub took: Duration,
    /// Its trace, if it is sampled: an example for the histogram.
    pub trace: Option<Context>,
}

/// An opaque connection that is open. Dropped without [`OpenTcp::finish`], it counts as cancelled.
#[derive(Debug)]
pub struct OpenTcp {
    series: Rc<Series>,
    finished: bool,
}

impl Series {
    pub(crate) fn new(writer: Rc<Writer>, methods: Rc<Methods>, labels: Labels, route: &str) -> Self {
        Self {
            writer,
            methods,
            labels,
            route: route.into(),
            http: RefCell::default(),
            rpc: RefCell::default(),
            tcp: OnceCell::new(),
            closed: RefCell::default(),
        }
    }

    /// The labels.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Counts an HTTP request.
    pub fn http(&self, call: &HttpCall<'_>) {
        let key = u64::from(call.status) << 32
            | u64::from(method_index(call.method)) << 16
            | u64::from(version_index(call.version)) << 8
            | u64::from(error_index(call.error));
        let mut seen = self.http.borrow_mut();
        let at = match seen.iter().position(|(known, _)| *known == key) {
            Some(at) => at,
            None => {
                seen.push((key, self.http_histogram(call)));
                seen.len() - 1
            }
        };
        seen[at].1.record(call.took, call.trace);
        // What comes often moves to the front.
        if at > 0 {
            seen.swap(at, at - 1);
        }
    }

    /// Counts a gRPC call.
    pub fn rpc(&self, call: &RpcCall<'_>) {
        let status = call.status.unwrap_or(2).min(17);
        let key = u32::from(status) << 8 | u32::from(error_index(call.error));
        let asked = call.path.strip_prefix('/').unwrap_or(call.path);
        let mut seen = self.rpc.borrow_mut();
        let find = |seen: &[(u32, Box<str>, Histogram)], method: &str| {
            seen.iter()
                .position(|(known, name, _)| *known == key && **name == *method)
        };
        // As asked first: only a method that is new here needs its label looked up.
        let at = find(&seen, asked).unwrap_or_else(|| {
            let method = self.methods.label(asked, status != 12);
            find(&seen, method).unwrap_or_else(|| {
                seen.push((key, method.into(), self.rpc_histogram(method, status, call.error)));
                seen.len() - 1
            })
        });
        seen[at].2.record(call.took, call.trace);
        if at > 0 {
            seen.swap(at, at - 1);
        }
    }

    /// Counts an opaque connection that opens. Keep what is returned until it closes.
    pub fn open_tcp(self: &Rc<Self>) -> OpenTcp {
        let tcp = self.tcp();
        tcp.opened.add(1);
        tcp.open.add(1.0);
        OpenTcp {
            series: self.clone(),
            finished: false,
        }
    }

    fn tcp(&self) -> &Tcp {
        self.tcp.get_or_init(|| {
            let mesh = self.labels.values();
            let with = |own: &'static str| [&mesh[..], &[own]].concat();
            Tcp {
                opened: self.writer.counter(&table::TCP_OPENED, &mesh),
                open: self.writer.gauge(&table::TCP_OPEN, &mesh),
                up: self.writer.counter(&table::TCP_BYTES, &with("up")),
                down: self.writer.counter(&table::TCP_BYTES, &with("down")),
            }
        })
    }

    fn closed(&self, reason: &'static str) {
        self.tcp().open.add(-1.0);
        let mut closed = self.closed.borrow_mut();
        if let Some((_, counter)) = closed.iter().find(|(known, _)| *known == reason) {
            return counter.add(1);
        }
        let mesh = self.labels.values();
        let counter = self
            .writer
            .counter(&table::TCP_CLOSED, &[&mesh[..], &[reason]].concat());
        counter.add(1);
        closed.push((reason, counter));
    }

    fn http_histogram(&self, call: &HttpCall<'_>) -> Histogram {
        let (family, first_error) = match self.labels.direction {
            Direction::Inbound => (&table::HTTP_SERVER, 500),
            Direction::Outbound => (&table::HTTP_CLIENT, 400),
        };
        let status = call.status.to_string();
        let error = match call.error {
            Some(reason) => reason.code(),
            None if call.status >= first_error => &status,
            None => "",
        };
        let own = [
            METHODS[usize::from(method_index(call.method))],
            &status,
            &self.route,
            version(call.version),
            error,
        ];
        self.writer
            .histogram(family, &[&self.labels.values()[..], &own].concat())
    }

    fn rpc_histogram(&self, method: &str, status: u16, error: Option<Reason>) -> Histogram {
        let family = match self.labels.direction {
            Direction::Inbound => &table::RPC_SERVER,
            Direction::Outbound => &table::RPC_CLIENT,
        };
        let status = rpc_status(status);
        let error = match error {
            Some(reason) => reason.code(),
            None if status == "OK" => "",
            None => status,
        };
        let own = ["grpc", method, status, error];
        self.writer
            .histogram(family, &[&self.labels.values()[..], &own].concat())
    }
}

impl OpenTcp {
    /// Counts bytes from the side that dialled.
    pub fn up(&self, bytes: u64) {
        self.series.tcp().up.add(bytes);
    }

    /// Counts bytes back to the side that dialled.
    pub fn down(&self, bytes: u64) {
        self.series.tcp().down.add(bytes);
    }

    /// Counts the end: in order, or why not.
    pub fn finish(mut self, ended: Result<(), Reason>) {
        self.finished = true;
        self.series.closed(ended.map_or_else(Reason::code, |()| "done"));
    }
}

impl Drop for OpenTcp {
    fn drop(&mut self) {
        if !self.finished {
            self.series.closed("cancelled");
        }
    }
}

/// The methods that HTTP's registry knows and semantic conventions name; others are `_OTHER`.
const METHODS: [&str; 11] = [
    "_OTHER", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE", "QUERY",
];

fn method_index(method: &Method) -> u8 {
    let name = method.as_str();
    METHODS
        .iter()
        .position(|known| *known == name)
        .map_or(0, |index| index as u8)
}

/// The method as semantic conventions write it.
pub(crate) fn method_label(method: &Method) -> &'static str {
    METHODS[usize::from(method_index(method))]
}

fn version_index(version: Version) -> u8 {
    match version {
        Version::HTTP_10 => 0,
        Version::HTTP_2 => 2,
        _ => 1,
    }
}

/// The version as semantic conventions write it.
pub(crate) fn version(version: Version) -> &'static str {
    ["1.0", "1.1", "2"][usize::from(version_index(version))]
}

fn error_index(error: Option<Reason>) -> u8 {
    error.map_or(u8::MAX, |reason| reason as u8)
}

/// The name of a gRPC status code.
pub(crate) fn rpc_status(code: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(code)).copied().unwrap_or("UNKNOWN")
}
