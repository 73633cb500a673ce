//! Observe: the access log, one line of JSON for each request and each opaque stream.
//!
//! Off unless it is switched on, by `WEFT_ACCESS_LOG` or at run time on the loopback's admin socket. In: what is known of a
//! request while it is under way. Out: an [`Entry`] in a bounded queue to the thread that writes it to standard output
//! ([`mod@write`]). A worker never waits for that: what does not fit is dropped and counted. While the log is off, a request
//! costs one look at a flag.

pub mod write;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http::{Method, Version};
use tokio::sync::mpsc;
use weft_model::endpoint::Endpoint;
use weft_model::identity::Identity;
use weft_model::route::Rule;

use super::metrics::{Counter, Direction, Labels, Series, Writer, table};
use super::trace::context::Context;
use super::trace::{Outcome, Span};
use crate::http::head::RequestHead;

/// Lines that may wait to be written: half a second of 8,000 requests a second.
pub const QUEUE: usize = 4096;
/// What is kept of a path, and of an authority, in bytes.
const TEXT_MAX: usize = 2048;

/// What all workers' logs share.
#[derive(Clone, Debug)]
pub struct Access {
    switch: Switch,
    queue: mpsc::Sender<Box<Entry>>,
}

/// Switches the log at run time. Clones are the same switch.
#[derive(Clone, Debug, Default)]
pub struct Switch(Arc<AtomicBool>);

/// One worker's way to the log.
#[derive(Debug)]
pub struct AccessLog {
    shared: Access,
    dropped: Counter,
}

/// A request or stream that is under way. Dropped, it is written; without an outcome as cancelled.
#[derive(Debug)]
pub struct Line {
    log: Rc<AccessLog>,
    /// Taken when it is dropped.
    entry: Option<Box<Entry>>,
}

/// What a line says.
#[derive(Debug)]
pub struct Entry {
    began: SystemTime,
    since: Instant,
    took: Duration,
    labels: Labels,
    /// `None`: an opaque stream, or bytes that made no request.
    request: Option<Request>,
    route: Box<str>,
    rule: Option<Arc<Rule>>,
    /// The endpoint's pod: `namespace/name`.
    endpoint: Option<Box<str>>,
    peer: Option<SocketAddr>,
    /// That is an address of another network, which a gateway leads to.
    gateway: bool,
    source: Option<Identity>,
    destination: Option<Identity>,
    trace: Option<Context>,
    tries: u32,
    up: u64,
    down: u64,
    outcome: Option<Outcome>,
}

#[derive(Debug)]
struct Request {
    method: Method,
    path: Box<str>,
    authority: Box<str>,
    version: Version,
    grpc: bool,
}

impl Access {
    /// For entries that go to the writer, and its end of the queue.
    pub fn new(switch: Switch) -> (Self, mpsc::Receiver<Box<Entry>>) {
        let (queue, entries) = mpsc::channel(QUEUE);
        (Self { switch, queue }, entries)
    }
}

impl Switch {
    /// On or off, as the setting says.
    pub fn new(on: bool) -> Self {
        Self(Arc::new(AtomicBool::new(on)))
    }

    /// Whether lines are written.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// For requests that begin from now on.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }
}

impl AccessLog {
    /// For one worker.
    pub fn new(access: &Access, writer: &Writer) -> Rc<Self> {
        Rc::new(Self {
            shared: access.clone(),
            dropped: writer.counter(&table::ACCESS_DROPPED, &[]),
        })
    }

    /// A line for what begins now. `None`: the log is off. `own`: this pod's identity.
    pub fn begin(self: &Rc<Self>, direction: Direction, own: impl FnOnce() -> Option<Identity>) -> Option<Line> {
        if !self.shared.switch.is_on() {
            return None;
        }
        let (mut source, mut destination) = (None, None);
        match direction {
            Direction::Inbound => destination = own(),
            Direction::Outbound => source = own(),
        }
        let labels = Labels {
            direction,
            ..Labels::default()
        };
        let entry = Entry {
            began: SystemTime::now(),
            since: Instant::now(),
            took: Duration::ZERO,
            labels,
            request: None,
            route: Box::default(),
            rule: None,
            endpoint: None,
            peer: None,
            gateway: false,
            source,
            destination,
            trace: None,
            tries: 0,
            up: 0,
            down: 0,
            outcome: None,
        };
        Some(Line {
            log: self.clone(),
            entry: Some(Box::new(entry)),
        })
    }
}

impl Line {
    /// Notes something, if there is a line.
    pub fn note(line: &mut Option<Self>, note: impl FnOnce(&mut Entry)) {
        if let Some(Self { entry: Some(entry), .. }) = line {
            note(entry);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Some(mut entry) = self.entry.take() else { return };
        entry.took = entry.since.elapsed();
        if self.log.shared.queue.try_send(entry).is_err() {
            self.log.dropped.add(1);
        }
    }
}

impl Entry {
    /// What is asked. `authority`: as the client wrote it, else what it dialled.
    pub fn asks(&mut self, head: &RequestHead, authority: &str) {
        self.request = Some(Request {
            method: head.method.clone(),
            path: cut(head.path()),
            authority: cut(authority),
            version: head.version,
            grpc: head.is_grpc(),
        });
    }

    /// Who talks to whom.
    pub fn of(&mut self, series: &Series) {
        self.labels = series.labels().clone();
    }

    /// The rule that it falls under, and its path template.
    pub fn routed(&mut self, rule: Option<&Arc<Rule>>, template: &str) {
        self.rule = rule.cloned();
        self.route = template.into();
    }

    /// One try at an endpoint.
    pub fn tries(&mut self, endpoint: &Endpoint) {
        self.tries += 1;
        self.endpoint = Some(format!("{}/{}", endpoint.namespace, endpoint.pod).into());
        self.peer = Some(endpoint.address);
        self.gateway = endpoint.gateways.is_some();
        self.destination.clone_from(&endpoint.identity);
    }

    /// Who calls, and from where.
    pub fn called_by(&mut self, caller: Option<&Identity>, from: Option<SocketAddr>) {
        self.source = caller.cloned();
        self.peer = from;
    }

    /// Where it was going.
    pub fn to(&mut self, destination: SocketAddr) {
        self.peer = Some(destination);
    }

    /// The trace that it is part of, if that is sampled.
    pub fn traced(&mut self, span: Option<&Span>) {
        self.trace = span.and_then(Span::context);
    }

    /// How it ended: with so many bytes from the side that asked, and back.
    pub fn ended(&mut self, outcome: Outcome, (up, down): (u64, u64)) {
        self.outcome = Some(outcome);
        (self.up, self.down) = (up, down);
    }
}

/// What a line has room for, up to a character's end.
fn cut(text: &str) -> Box<str> {
    text.get(..text.floor_char_boundary(TEXT_MAX))
        .unwrap_or_default()
        .into()
}

#[cfg(test)]
mod tests;
