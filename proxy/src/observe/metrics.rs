//! Observe: the metrics of traffic.
//!
//! In: what happened, with labels from the verified identity and discovery. Out: Prometheus text on `/metrics`.
//! A [`Series`] is resolved once for a connection and the endpoint and route it leads to; then recording a request is a few
//! plain stores into cells that only this worker writes.

mod example;
pub mod registry;
pub mod series;
pub mod table;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use weft_model::endpoint::Endpoint;
use weft_model::inbound::Inbound;
use weft_model::name::ServicePort;
use weft_model::policy::Caller;
use weft_model::reason::Reason;

use crate::terms::Cause;
pub use registry::{Counter, Gauge, Histogram, Registry, Writer};
pub use series::{HttpCall, OpenTcp, RpcCall, Series};

/// Methods of gRPC that one worker tells apart. Others are `_OTHER`.
pub const RPC_METHODS_MAX: usize = 256;

/// Which way a connection goes, seen from this pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To this pod's app.
    #[default]
    Inbound,
    /// From this pod's app.
    Outbound,
}

/// Who talks to whom, and how: the labels of every metric of traffic. Empty: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels {
    /// Which way.
    pub direction: Direction,
    /// The caller's workload. On inbound: the service account of its verified identity.
    pub source_workload: Arc<str>,
    /// The caller's namespace.
    pub source_namespace: Arc<str>,
    /// The workload that is called.
    pub destination_workload: Arc<str>,
    /// Its namespace.
    pub destination_namespace: Arc<str>,
    /// The Service that led there.
    pub destination_service: Arc<str>,
    /// The called pod's version label.
    pub destination_version: Arc<str>,
    /// The called pod's region.
    pub destination_region: Arc<str>,
    /// Whether both sides were verified.
    pub mutual_tls: bool,
}

/// The metrics of one worker. Not shared: it is the single writer of its cells.
#[derive(Debug)]
pub struct Metrics {
    writer: Rc<Writer>,
    /// By labels and route.
    series: RefCell<HashMap<SeriesKey, Rc<Series>>>,
    refusals: RefCell<HashMap<(Reason, Direction), Counter>>,
    methods: Rc<Methods>,
}

type SeriesKey = (Labels, Box<str>);

/// The gRPC methods that a worker tells apart.
#[derive(Debug, Default)]
pub(crate) struct Methods(RefCell<HashSet<Box<str>>>);

/// Why traffic went to a farther tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spill {
    /// No endpoint is nearer.
    Absent,
    /// Too few of the nearer ones are healthy.
    Unhealthy,
}

impl Metrics {
    /// For one worker, called on its thread or before it begins.
    pub fn new(registry: &Arc<Registry>) -> Self {
        Self {
            writer: Rc::new(registry.writer()),
            series: RefCell::default(),
            refusals: RefCell::default(),
            methods: Rc::default(),
        }
    }

    /// The handle for requests, calls and opaque connections with these labels. `route`: the matched rule's path template
    /// (see [`route_template`]), or empty. Resolve once for a connection and the endpoint and route it leads to, and keep it.
    pub fn series(&self, labels: &Labels, route: &str) -> Rc<Series> {
        let mut known = self.series.borrow_mut();
        let key = (labels.clone(), Box::from(route));
        if let Some(series) = known.get(&key) {
            return series.clone();
        }
        let series = Rc::new(Series::new(
            self.writer.clone(),
            self.methods.clone(),
            labels.clone(),
            route,
        ));
        // The registry caps what is printed; this caps what a worker remembers. One over it counts all the same.
        if known.len() < registry::SERIES_MAX {
            known.insert(key, series.clone());
        }
        series
    }

    /// Counts something that Weft refused or failed itself.
    pub fn refused(&self, reason: Reason, direction: Direction) {
        let mut refusals = self.refusals.borrow_mut();
        let counter = refusals.entry((reason, direction)).or_insert_with(|| {
            self.writer
                .counter(&table::REFUSALS, &[reason.code(), direction.as_str()])
        });
        counter.add(1);
    }

    /// Counts an endpoint set aside. Rare, so it looks its counter up.
    pub fn ejected(&self, service: &ServicePort, reason: Reason) {
        self.writer
            .counter(&table::EJECTIONS, &[&service.namespace, &service.name, reason.code()])
            .add(1);
    }

    /// Counts a connection through a gateway of another network. `failed`: why it did not come to be. Rare, so it looks its
    /// counter up.
    pub fn went_through(&self, service: &ServicePort, failed: Option<Reason>) {
        let outcome = failed.map_or("connected", Reason::code);
        self.writer
            .counter(&table::GATEWAY_DIALS, &[&service.namespace, &service.name, outcome])
            .add(1);
    }

    /// Counts another try that a rule has made. Rare, so it looks its counter up.
    pub fn retried(&self, service: &ServicePort, cause: Cause) {
        let reason = match cause {
            Cause::Http(status) => format!("http-{status}"),
            Cause::Grpc(status) => format!("grpc-{status}"),
            Cause::Failed(reason) => reason.code().to_owned(),
        };
        self.writer
            .counter(&table::RETRIES, &[&service.namespace, &service.name, &reason])
            .add(1);
    }

    /// Counts a copy of a request. Looks its counter up.
    pub fn copied(&self, service: &ServicePort, outcome: &'static str) {
        self.writer
            .counter(&table::MIRRORS, &[&service.namespace, &service.name, outcome])
            .add(1);
    }

    /// Counts another try that was not made because the budget is spent. Rare, so it looks its counter up.
    pub fn retry_denied(&self, service: &ServicePort) {
        self.writer
            .counter(&table::RETRIES_DENIED, &[&service.namespace, &service.name])
            .add(1);
    }

    /// The counter of what went to a farther tier. Keep it.
    pub fn spillover(&self, service: &ServicePort, subset: &str, tier: u8, why: Spill) -> Counter {
        let why = match why {
            Spill::Absent => "absent",
            Spill::Unhealthy => "unhealthy",
        };
        self.writer.counter(
            &table::SPILLOVER,
            &[&service.namespace, &service.name, subset, &tier.to_string(), why],
        )
    }

    /// The gauges of a tier's endpoints: all, and those that are healthy. Keep them.
    pub fn endpoints(&self, service: &ServicePort, subset: &str, tier: u8) -> (Gauge, Gauge) {
        let gauge = |state| {
            let tier = tier.to_string();
            self.writer.gauge(
                &table::ENDPOINTS,
                &[&service.namespace, &service.name, subset, &tier, state],
            )
        };
        (gauge("all"), gauge("healthy"))
    }
}

impl Labels {
    /// For traffic of this pod's app to an endpoint. `service`: what led there; `None` for a pod addressed directly.
    pub fn outbound(own: &Inbound, endpoint: &Endpoint, service: Option<&ServicePort>) -> Self {
        Self {
            direction: Direction::Outbound,
            source_workload: own.workload.name.as_str().into(),
            source_namespace: own.workload.namespace.as_str().into(),
            destination_workload: endpoint.workload.as_str().into(),
            destination_namespace: endpoint.namespace.as_str().into(),
            destination_service: service.map_or("", |service| &service.name).into(),
            destination_version: endpoint.version.as_str().into(),
            destination_region: endpoint.place.region.as_str().into(),
            mutual_tls: endpoint.identity.is_some(),
        }
    }

    /// For traffic of this pod's app to something that is not of the mesh.
    pub fn outside(own: &Inbound) -> Self {
        Self {
            direction: Direction::Outbound,
            source_workload: own.workload.name.as_str().into(),
            source_namespace: own.workload.namespace.as_str().into(),
            ..Self::default()
        }
    }

    /// For traffic to a port of this pod's app. The Service is the one that leads to the port, if it is only one.
    pub fn inbound(own: &Inbound, port: u16, caller: &Caller) -> Self {
        let (source_workload, source_namespace) = match caller {
            Caller::Verified(identity) => (identity.service_account(), identity.namespace()),
            Caller::Plaintext => ("", ""),
        };
        let service = match own.port(port).map(|declared| declared.services.as_slice()) {
            Some([only]) => only.as_str(),
            _ => "",
        };
        Self {
            direction: Direction::Inbound,
            source_workload: source_workload.into(),
            source_namespace: source_namespace.into(),
            destination_workload: own.workload.name.as_str().into(),
            destination_namespace: own.workload.namespace.as_str().into(),
            destination_service: service.into(),
            destination_version: own.workload.version.as_str().into(),
            destination_region: own.workload.place.region.as_str().into(),
            mutual_tls: matches!(caller, Caller::Verified(_)),
        }
    }

    /// The values in the order of [`table::MESH_LABELS`].
    pub(crate) fn values(&self) -> [&str; 9] {
        [
            self.direction.as_str(),
            &self.source_workload,
            &self.source_namespace,
            &self.destination_workload,
            &self.destination_namespace,
            &self.destination_service,
            &self.destination_version,
            &self.destination_region,
            if self.mutual_tls { "true" } else { "false" },
        ]
    }
}

impl Direction {
    /// As a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl Methods {
    /// The label of a method. A new one is taken up only where the app knows it, so that strangers cannot fill the set.
    pub(crate) fn label<'a>(&self, method: &'a str, known_to_app: bool) -> &'a str {
        let mut methods = self.0.borrow_mut();
        if methods.contains(method) {
            return method;
        }
        if !known_to_app || methods.len() >= RPC_METHODS_MAX || !is_rpc_method(method) {
            return "_OTHER";
        }
        methods.insert(method.into());
        method
    }
}

/// The path template of a rule's match, for `http.route` and span names: what the rule says, never what a request says.
pub fn route_template(matched: &weft_model::route::Match) -> String {
    use weft_model::route::PathMatch;
    match &matched.path {
        None => String::new(),
        Some(PathMatch::Exact(path)) => path.clone(),
        Some(PathMatch::Prefix(path)) => format!("{}/*", path.strip_suffix('/').unwrap_or(path)),
        Some(PathMatch::Regex(regex)) => weft_model::pattern::source(regex).to_owned(),
    }
}

/// The method of a gRPC request, `pkg.Service/Method`, if the path has that form.
pub fn rpc_method(path: &str) -> Option<&str> {
    path.strip_prefix('/').filter(|method| is_rpc_method(method))
}

fn is_rpc_method(method: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    method.len() <= 256
        && method
            .split_once('/')
            .is_some_and(|(service, name)| word(service) && word(name))
}

#[cfg(test)]
mod tests;
