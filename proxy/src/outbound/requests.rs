//! Outbound, request by request: route, balance, connect, forward; another endpoint where no byte reached the app.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::time::Instant;
use weft_model::destination::Target;
use weft_model::endpoint::{EndpointId, EndpointKey};
use weft_model::reason::Reason;

use crate::balance::{Balancer, Picked};
use crate::http::exchange::Exchange;
use crate::http::server::RequestService;
use crate::inbound;
use crate::observe::metrics::{Direction, Labels};
use crate::observe::trace::{Begun, Outcome, Span};
use crate::outbound::attempt::{Attempt, Failed};
use crate::outbound::reach::probe;
use crate::outcome::{self, Asked};
use crate::route::{Choice, Found, Service};
use crate::worker::Worker;

/// Endpoints that one request tries at most.
const ATTEMPTS: usize = 3;

/// Answers the requests of one connection of the app.
#[derive(Debug)]
pub struct Requests {
    worker: Rc<Worker>,
    target: Target,
    /// What is there, and the generation of tables that it is from.
    found: RefCell<(u64, Rc<Service>)>,
}

impl RequestService for Requests {
    async fn handle(&self, exchange: &mut Exchange<'_>) {
        let asked = Asked::of(exchange);
        match self.choose(exchange).await {
            Ok(choice) => self.send(exchange, &choice, &asked).await,
            Err(reason) => self.refuse(exchange, reason, None, &asked).await,
        }
    }

    fn refused(&self, reason: Reason) {
        self.worker.metrics.refused(reason, Direction::Outbound);
    }
}

impl Requests {
    /// For a connection to what was found at its destination, in the tables of this generation.
    pub fn new(worker: Rc<Worker>, target: Target, service: Rc<Service>, generation: u64) -> Self {
        let found = RefCell::new((generation, service));
        Self { worker, target, found }
    }

    /// Route: by the newest tables, so a connection that exists sees a new configuration with its next request.
    async fn choose(&self, exchange: &Exchange<'_>) -> Result<Choice, Reason> {
        if self.found.borrow().0 != self.worker.generation() {
            // Boxed: only after a change.
            let Found::Service(service) = Box::pin(self.worker.find(&self.target)).await? else {
                // It left the mesh. The app's next connection goes there directly; on this one nothing can be forwarded.
                return Err(Reason::NoSuchPort);
            };
            // Of the same moment: nothing was waited for since the service was found.
            *self.found.borrow_mut() = (self.worker.generation(), service);
        }
        let drawn = self.worker.endpoints.chance.draw();
        self.found.borrow().1.choose(&exchange.head().for_routing(), drawn)
    }

    /// Balance, connect, forward: to one endpoint after the other.
    async fn send(&self, exchange: &mut Exchange<'_>, choice: &Choice, asked: &Asked) {
        probe(&self.worker, &self.target, &choice.balancer);
        let begun = self.worker.tracer.begin(&exchange.head().headers);
        let mut tried = [EndpointKey {
            id: EndpointId(0),
            port: 0,
        }; ATTEMPTS];
        let mut reason = Reason::NoEndpoints;
        for attempt in 0..ATTEMPTS {
            let Some(picked) = choice.balancer.pick(&tried[..attempt], Instant::now()) else {
                break;
            };
            tried[attempt] = picked.remote.endpoint.key;
            match self.attempt(exchange, choice, &picked, (begun, attempt), asked).await {
                None => return,
                Some(failed) => reason = failed,
            }
        }
        self.refuse(exchange, reason, Some(&choice.balancer), asked).await;
    }

    /// One attempt. `Some`: it failed for this reason, and another endpoint may be tried.
    async fn attempt(
        &self,
        exchange: &mut Exchange<'_>,
        choice: &Choice,
        picked: &Picked,
        (begun, before): (Begun, usize),
        asked: &Asked,
    ) -> Option<Reason> {
        let worker = &self.worker;
        let endpoint = &picked.remote.endpoint;
        let tables = worker.tables();
        let series = picked
            .remote
            .series(&worker.metrics, tables.inbound().map(|own| &**own), &choice.template);
        // Nothing of the moment is kept while the request lasts.
        drop(tables);
        let what = asked.what(series.labels(), &choice.template, Some(endpoint.address));
        let span = worker.tracer.client(begun, &what, before as u32);
        worker.tracer.carry(begun, span.as_ref(), exchange.headers_mut());
        let result = if worker.is_self(endpoint) {
            Box::pin(inbound::requests::from_self(worker, exchange, endpoint.address)).await
        } else {
            let attempt = Attempt {
                worker,
                target: &self.target,
                balancer: &choice.balancer,
                remote: &picked.remote,
            };
            attempt.run(exchange).await.map(|done| outcome::done(&done))
        };
        match result {
            Ok(outcome) => {
                outcome::finish(span, outcome);
                asked.count(&series, outcome, Instant::now());
                None
            }
            Err(failed) => {
                self.failed(exchange, failed, span, || {
                    asked.count(&series, outcome::failed(failed.reason), Instant::now())
                })
                .await
            }
        }
    }

    async fn failed(
        &self,
        exchange: &mut Exchange<'_>,
        failed: Failed,
        span: Option<Span>,
        count: impl FnOnce(),
    ) -> Option<Reason> {
        outcome::finish(
            span,
            Outcome {
                status: 0,
                grpc_status: None,
                error: Some(failed.reason),
            },
        );
        if failed.again {
            return Some(failed.reason);
        }
        count();
        self.worker.metrics.refused(failed.reason, Direction::Outbound);
        // Does nothing where a response has begun.
        exchange.refuse(failed.reason).await;
        None
    }

    /// Answers with a reason, before any endpoint or after the last.
    async fn refuse(&self, exchange: &mut Exchange<'_>, reason: Reason, to: Option<&Balancer>, asked: &Asked) {
        self.worker.metrics.refused(reason, Direction::Outbound);
        let tables = self.worker.tables();
        let labels = tables
            .inbound()
            .map(|own| match to.and_then(|balancer| balancer.service.as_ref()) {
                Some(service) => Labels {
                    destination_service: service.name.as_str().into(),
                    destination_namespace: service.namespace.as_str().into(),
                    ..Labels::outside(own)
                },
                None => Labels::outside(own),
            });
        drop(tables);
        let series = self.worker.metrics.series(&labels.unwrap_or_default(), "");
        asked.count(&series, outcome::failed(reason), Instant::now());
        exchange.refuse(reason).await;
    }
}
