//! A worker: one thread, one runtime, and everything that its connections need.
//!
//! In: a view of discovery, settings, metrics. Out: what the stories of its connections are told with. Nothing here is shared with another thread but the
//! published state, so no request takes a lock or wakes somebody elsewhere.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_certs::credential::Credential;
use weft_model::destination::Target;
use weft_model::endpoint::Endpoint;
use weft_model::reason::Reason;

use crate::balance::Endpoints;
use crate::config::Settings;
use crate::connect::Dialer;
use crate::detect::ServerFirst;
use crate::discover::{State, View};
use crate::http::closing::Closing;
use crate::observe::access::{AccessLog, Line};
use crate::observe::metrics::{Direction, Metrics};
use crate::observe::trace::Tracer;
use crate::observe::verdicts::Seen;
use crate::origin::Origin;
use crate::pool::Pool;
use crate::route::{Found, Tables};
use crate::trust::Trust;

/// How often pools are swept of what has been idle for long.
const SWEEP: Duration = Duration::from_secs(10);

/// What one worker's connections share.
#[derive(Debug)]
pub struct Worker {
    /// Every setting.
    pub settings: Arc<Settings>,
    /// What the control plane says.
    pub view: View,
    /// What is counted.
    pub metrics: Rc<Metrics>,
    /// What is traced.
    pub tracer: Tracer,
    /// What is written of requests and streams.
    pub access: Rc<AccessLog>,
    /// What detection found out.
    pub seen: Seen,
    /// What is known of endpoints.
    pub endpoints: Rc<Endpoints>,
    /// Copies of requests.
    pub copies: Copies,
    /// How connections are made.
    pub dialer: Dialer,
    /// Which servers speak first.
    pub server_first: ServerFirst,
    /// How original destinations are known.
    pub origins: Origins,
    inbound_closing: RefCell<Closing>,
    /// Whom it trusts now.
    pub trust: Rc<Trust>,
    /// Tells outbound connections the same, later: the app's containers may still run.
    pub outbound_closing: Closing,
    apps: RefCell<HashMap<SocketAddr, Rc<Pool>>>,
    tables: RefCell<Rc<Tables>>,
}

/// How many copies of requests there are.
#[derive(Debug, Default)]
pub struct Copies {
    /// Those that wait for their body.
    pub waiting: Rc<Cell<usize>>,
    /// Those that are sent.
    pub under_way: Rc<Cell<usize>>,
}

/// How original destinations are known, by direction.
#[derive(Clone, Copy, Debug)]
pub struct Origins {
    /// Of what others dial here.
    pub inbound: Origin,
    /// Of what the app dials.
    pub outbound: Origin,
}

/// How a worker tells what happens.
#[derive(Debug)]
pub struct Observe {
    /// What is counted.
    pub metrics: Rc<Metrics>,
    /// What is traced.
    pub tracer: Tracer,
    /// What is written of requests and streams.
    pub access: Rc<AccessLog>,
    /// What detection found out.
    pub seen: Seen,
}

impl Worker {
    /// What connections need, before the first one.
    pub fn new(settings: Arc<Settings>, view: View, observe: Observe, origins: Origins) -> Rc<Self> {
        let Observe {
            metrics,
            tracer,
            access,
            seen,
        } = observe;
        let endpoints = Endpoints::new(rand::random(), metrics.clone());
        endpoints.workers.set(settings.workers);
        let tables = Rc::new(Tables::new(&endpoints, view.state(), None));
        let trust = Rc::<Trust>::default();
        trust.set(tables.state.credential.clone());
        view.applied(tables.state.generation);
        let dialer = Dialer::new(&settings);
        Rc::new(Self {
            settings,
            view,
            metrics,
            tracer,
            access,
            seen,
            endpoints,
            copies: Copies::default(),
            dialer,
            server_first: ServerFirst::default(),
            origins,
            inbound_closing: RefCell::default(),
            trust,
            outbound_closing: Closing::new(),
            apps: RefCell::default(),
            tables: RefCell::new(tables),
        })
    }

    /// The tables of the newest state that this worker decides by.
    pub fn tables(&self) -> Rc<Tables> {
        self.tables.borrow().clone()
    }

    /// The generation of those tables.
    pub fn generation(&self) -> u64 {
        self.tables.borrow().state.generation
    }

    /// Our own credential.
    pub fn credential(&self) -> Result<Arc<Credential>, Reason> {
        self.tables
            .borrow()
            .state
            .credential
            .clone()
            .ok_or(Reason::NoCertificate)
    }

    /// A line of the access log for what begins now. `None`: it is off.
    pub fn line(&self, direction: Direction) -> Option<Line> {
        let own = || self.credential().ok().map(|own| own.identity().clone());
        self.access.begin(direction, own)
    }

    /// What is at a destination; waits, bounded, where nobody knows yet. Cancel safe.
    pub async fn find(&self, target: &Target) -> Result<Found, Reason> {
        // Twice: what was idle for long may have been forgotten between the answer and its use.
        for _ in 0..2 {
            let lookup = self.view.lookup(target).await?;
            self.apply(self.view.state());
            if let Some(found) = self.tables().find(&lookup)? {
                return Ok(found);
            }
        }
        Err(Reason::DiscoveryTimeout)
    }

    /// What tells an inbound connection that begins now when it has to end.
    pub fn inbound_closing(&self) -> Closing {
        self.inbound_closing.borrow().clone()
    }

    /// Tells all inbound connections so far to end. Those that come from now on are told by the next call: they are to get
    /// their answers, and somebody who dials a pod that ends has not heard of it yet.
    pub fn close_inbound(&self) {
        self.inbound_closing.replace(Closing::new()).begin();
    }

    /// The connections to one port of the app.
    pub fn app(&self, port: SocketAddr) -> Rc<Pool> {
        self.apps
            .borrow_mut()
            .entry(port)
            .or_insert_with(|| self.endpoints.pools.open())
            .clone()
    }

    /// Decides by a state from now on, and says so.
    fn apply(&self, state: Arc<State>) {
        if state.generation <= self.generation() {
            return;
        }
        let before = self.tables();
        let tables = Tables::new(&self.endpoints, state, Some(&before));
        let generation = tables.state.generation;
        let credential = tables.state.credential.clone();
        *self.tables.borrow_mut() = Rc::new(tables);
        self.trust.set(credential);
        self.view.applied(generation);
    }

    /// Whether an endpoint is this very pod. One behind a gateway never is: in another network the same address, namespace and
    /// name may be another pod's.
    pub fn is_self(&self, endpoint: &Endpoint) -> bool {
        let settings = &self.settings;
        endpoint.gateways.is_none()
            && settings.pod_ips.contains(&endpoint.address.ip())
            && endpoint.pod == settings.pod_name
            && endpoint.namespace == settings.pod_namespace
    }

    /// Whether a connection was going to one of Weft's own listeners.
    pub fn is_own_listener(&self, destination: SocketAddr) -> bool {
        let here = destination.ip().is_loopback() || self.settings.pod_ips.contains(&destination.ip());
        here && self.settings.own_ports().contains(&destination.port())
    }

    /// Decides by each new state as it comes, for ever.
    pub async fn follow(self: Rc<Self>) {
        loop {
            let state = self.view.newer(self.generation()).await;
            self.apply(state);
        }
    }

    /// Drops what has been idle for long, for ever.
    pub async fn sweep(self: Rc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.endpoints.pools.sweep(Instant::now());
            // A pool that only this map holds, and that is empty, is not needed until somebody comes again.
            self.apps
                .borrow_mut()
                .retain(|_, pool| Rc::strong_count(pool) > 1 || !pool.is_empty());
        }
    }
}
