//! Outbound, request by request: route, balance, connect, forward; another endpoint where no byte reached the app.

use std::cell::RefCell;
use std::rc::Rc;

use http::{HeaderValue, StatusCode};
use tokio::time::Instant;
use weft_model::destination::Target;
use weft_model::filter::{Redirect, Scheme};
use weft_model::name::ServicePort;
use weft_model::reason::Reason;

use crate::balance::Picked;
use crate::http::exchange::Exchange;
use crate::http::server::RequestService;
use crate::inbound;
use crate::observe::metrics::{Direction, Series};
use crate::observe::trace::{Begun, Outcome, Span, What};
use crate::outbound::attempt::{Attempt, Failed, learn};
use crate::outbound::mirrors;
use crate::outbound::reach::probe;
use crate::outbound::tries::Tries;
use crate::outcome::{self, Asked};
use crate::refuse;
use crate::route::{Choice, Chosen, Found, Service, SharedRule};
use crate::terms::Terms;
use crate::worker::Worker;

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
        exchange.log(self.worker.line(Direction::Outbound));
        let chosen = self.choose(exchange).await;
        exchange.note(|entry| match &chosen {
            Ok(Chosen::Forward(choice)) => {
                let rule = choice.rule.as_deref().map(|SharedRule(rule)| rule);
                entry.routed(rule, &choice.template);
            }
            Ok(Chosen::Redirect { rule, template } | Chosen::Unresolved { rule, template }) => {
                entry.routed(Some(rule), template);
            }
            Err(_) => {}
        });
        match chosen {
            Ok(Chosen::Forward(choice)) => match self.agree(exchange, &choice, &asked) {
                Ok(()) => self.send(exchange, &choice, &asked).await,
                Err(reason) => {
                    let to = choice.balancer.service.as_ref();
                    self.refuse(exchange, reason, (to, &choice.template), &asked).await;
                }
            },
            Ok(Chosen::Redirect { rule, template }) => {
                if let Some(redirect) = &rule.redirect {
                    // Boxed, as all that few requests come to: the future of the others stays small.
                    Box::pin(self.redirect(exchange, redirect, &template, &asked)).await;
                }
            }
            Ok(Chosen::Unresolved { template, .. }) => {
                let to = self.called();
                self.refuse(exchange, Reason::BackendUnresolved, (to.as_ref(), &template), &asked)
                    .await;
            }
            Err(reason) => {
                let to = self.called();
                self.refuse(exchange, reason, (to.as_ref(), ""), &asked).await;
            }
        }
    }

    fn refused(&self, reason: Reason) {
        let dialled = match self.target {
            Target::Address(address) => Some(address),
            Target::Host { .. } => None,
        };
        refuse::unheard(&self.worker, reason, Direction::Outbound, dialled);
    }
}

impl Requests {
    /// For a connection to what was found at its destination, in the tables of this generation.
    pub fn new(worker: Rc<Worker>, target: Target, service: Rc<Service>, generation: u64) -> Self {
        let found = RefCell::new((generation, service));
        Self { worker, target, found }
    }

    /// Route: by the newest tables, so a connection that exists sees a new configuration with its next request.
    async fn choose(&self, exchange: &Exchange<'_>) -> Result<Chosen, Reason> {
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

    /// Has the request keep to what its rule asks, and changes it accordingly.
    fn agree(&self, exchange: &mut Exchange<'_>, choice: &Choice, asked: &Asked) -> Result<(), Reason> {
        let started = exchange.started();
        if let Some(budget) = &choice.budget {
            budget.asked(started);
        }
        if let Some(words) = choice.words.as_ref().filter(|words| !words.mirrors.is_empty()) {
            // As the request came: what the rule changes is for its backend.
            mirrors::copy(&self.worker, &self.target, words, exchange);
        }
        let terms = Terms::agree(choice.words.as_ref(), exchange.head_mut(), asked.is_grpc(), started)?;
        exchange.keep_to(terms);
        Ok(())
    }

    /// Answers in the place of any endpoint: elsewhere.
    async fn redirect(&self, exchange: &mut Exchange<'_>, redirect: &Redirect, template: &str, asked: &Asked) {
        let port = self.found.borrow().1.port().cloned();
        let Some((status, location)) = self.location(exchange, redirect) else {
            return self
                .refuse(exchange, Reason::BackendUnresolved, (port.as_ref(), template), asked)
                .await;
        };
        let series = self.series(port.as_ref(), template);
        let tracer = &self.worker.tracer;
        let begun = tracer.begin(&exchange.head().headers);
        let span = tracer.client(begun, &asked.what(series.labels(), template, None), 0);
        exchange.redirect(status, location).await;
        let outcome = Outcome {
            status: status.as_u16(),
            ..Outcome::default()
        };
        exchange.note(|entry| {
            entry.of(&series);
            entry.traced(span.as_ref());
            entry.ended(outcome, (0, 0));
        });
        asked.count(&series, outcome, span.as_ref(), Instant::now());
        outcome::finish(span, outcome);
    }

    /// Where a redirect sends a request. `None`: what the rule says makes no response.
    fn location(&self, exchange: &Exchange<'_>, redirect: &Redirect) -> Option<(StatusCode, HeaderValue)> {
        let head = exchange.head();
        let dialled = match &self.target {
            Target::Address(address) => address.port(),
            Target::Host { port, .. } => *port,
        };
        let location = redirect.location(Scheme::Http, exchange.authority(), dialled, head.path(), head.query());
        let status = StatusCode::from_u16(redirect.status).ok()?;
        Some((status, HeaderValue::try_from(location).ok()?))
    }

    /// Balance, connect, forward: to one endpoint after the other.
    async fn send(&self, exchange: &mut Exchange<'_>, choice: &Choice, asked: &Asked) {
        probe(&self.worker, &self.target, &choice.balancer);
        let begun = self.worker.tracer.begin(&exchange.head().headers);
        let mut tries = Tries::default();
        let mut reason = Reason::NoEndpoints;
        let mut next = choice.balancer.pick(&[], Instant::now());
        while let Some(picked) = next {
            let before = tries.note(picked.remote.key);
            match self.attempt(exchange, choice, &picked, (begun, before), asked).await {
                None => return,
                Some(failed) => {
                    reason = failed.reason;
                    // Boxed: only after a failure.
                    next = Box::pin(tries.next(&choice.balancer, exchange, failed)).await;
                }
            }
        }
        let to = choice.balancer.service.as_ref();
        self.refuse(exchange, reason, (to, &choice.template), asked).await;
    }

    /// One attempt. `Some`: it failed, and another may follow.
    async fn attempt(
        &self,
        exchange: &mut Exchange<'_>,
        choice: &Choice,
        picked: &Picked,
        (begun, before): (Begun, u32),
        asked: &Asked,
    ) -> Option<Failed> {
        let worker = &self.worker;
        let endpoint = &picked.remote.endpoint;
        let tables = worker.tables();
        let series = picked
            .remote
            .series(&worker.metrics, tables.inbound().map(|own| &**own), &choice.template);
        // Nothing of the moment is kept while the request lasts.
        drop(tables);
        let what = What {
            gateway: endpoint.gateways.is_some(),
            ..asked.what(series.labels(), &choice.template, Some(endpoint.address))
        };
        let span = worker.tracer.client(begun, &what, before);
        worker.tracer.carry(begun, span.as_ref(), exchange.headers_mut());
        exchange.note(|entry| {
            entry.of(&series);
            entry.tries(endpoint);
            entry.traced(span.as_ref());
        });
        if let Some(terms) = exchange.terms() {
            terms.begin_try();
        }
        let result = if worker.is_self(endpoint) {
            let (flight, before) = (picked.remote.begin(), exchange.started().elapsed());
            let answered = Box::pin(inbound::requests::from_self(worker, exchange, endpoint.address)).await;
            learn(&flight, exchange, before, false, answered.is_ok());
            answered
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
                let moved = exchange.moved;
                exchange.note(|entry| entry.ended(outcome, moved));
                asked.count(&series, outcome, span.as_ref(), Instant::now());
                outcome::finish(span, outcome);
                None
            }
            Err(failed) => {
                self.failed(exchange, failed, span, |outcome, span| {
                    asked.count(&series, outcome, span, Instant::now())
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
        count: impl FnOnce(Outcome, Option<&Span>),
    ) -> Option<Failed> {
        let unanswered = Outcome {
            error: Some(failed.reason),
            ..Outcome::default()
        };
        match failed.granted {
            Some(outcome) => count(outcome.error.map_or(outcome, outcome::failed), span.as_ref()),
            None if failed.again => {}
            None => count(outcome::failed(failed.reason), span.as_ref()),
        }
        outcome::finish(span, failed.granted.unwrap_or(unanswered));
        if failed.granted.is_some() || failed.again {
            return Some(failed);
        }
        let moved = exchange.moved;
        exchange.note(|entry| entry.ended(outcome::failed(failed.reason), moved));
        self.worker.metrics.refused(failed.reason, Direction::Outbound);
        // Does nothing where a response has begun.
        exchange.refuse(failed.reason).await;
        None
    }

    /// The Service that was called.
    fn called(&self) -> Option<ServicePort> {
        self.found.borrow().1.port().cloned()
    }

    /// Answers with a reason, before any endpoint or after the last: on behalf of a Service, by the template of a rule.
    async fn refuse(
        &self,
        exchange: &mut Exchange<'_>,
        reason: Reason,
        (to, template): (Option<&ServicePort>, &str),
        asked: &Asked,
    ) {
        self.worker.metrics.refused(reason, Direction::Outbound);
        let series = self.series(to, template);
        asked.count(&series, outcome::failed(reason), None, Instant::now());
        exchange.note(|entry| {
            entry.of(&series);
            entry.ended(outcome::failed(reason), (0, 0));
        });
        exchange.refuse(reason).await;
    }

    /// The series of what reaches no endpoint.
    fn series(&self, to: Option<&ServicePort>, template: &str) -> Rc<Series> {
        refuse::series(&self.worker, to, template)
    }
}
