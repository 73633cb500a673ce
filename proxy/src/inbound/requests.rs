//! Inbound, request by request: admit by the newest configuration, say who calls, forward to the app.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;
use weft_model::policy::Caller;
use weft_model::reason::Reason;

use crate::admit::admit;
use crate::connect::{Carries, ConnectError};
use crate::http::client::{Upstream, handshake_h1, handshake_h2};
use crate::http::exchange::{Done, Exchange};
use crate::http::headers::{CALLER, set_caller};
use crate::http::limits::Limits;
use crate::http::server::RequestService;
use crate::http::upgrade;
use crate::inbound::verified;
use crate::io::Io;
use crate::observe::access::Line;
use crate::observe::metrics::{Direction, Labels, Series};
use crate::observe::trace::Outcome;
use crate::outbound::attempt::Failed;
use crate::outcome::{self, Asked};
use crate::pool::{Pool, Turn};
use crate::refuse;
use crate::worker::Worker;

/// Answers the requests of one connection to the app.
#[derive(Debug)]
pub struct Requests {
    worker: Rc<Worker>,
    caller: Caller,
    client: Option<SocketAddr>,
    app: SocketAddr,
    pool: Rc<Pool>,
    /// What holds as long as the configuration does not change.
    permitted: RefCell<Option<Permitted>>,
}

/// What was decided by one generation of the configuration.
#[derive(Clone, Debug)]
struct Permitted {
    generation: u64,
    series: Rc<Series>,
    /// Who calls, for the app. `None`: nobody knows.
    caller: Option<HeaderValue>,
}

/// A connection to the app.
struct Lent {
    upstream: Upstream,
    pooled: bool,
}

impl RequestService for Requests {
    async fn handle(&self, exchange: &mut Exchange<'_>) {
        if let Err(failed) = self.answer(exchange).await {
            // Does nothing where a response has begun.
            exchange.refuse(failed.reason).await;
        }
    }

    fn refused(&self, reason: Reason) {
        refuse::unheard(&self.worker, reason, Direction::Inbound, self.client);
    }
}

/// Answers a request that the outbound side of this very pod sends to an endpoint that is this pod: as one of mutual TLS,
/// admission included. An error that says so leaves the request as it was, for another endpoint.
pub async fn from_self(worker: &Rc<Worker>, exchange: &mut Exchange<'_>, app: SocketAddr) -> Result<Outcome, Failed> {
    let credential = worker.credential().map_err(|reason| {
        worker.metrics.refused(reason, Direction::Inbound);
        Failed::unsent(reason)
    })?;
    let caller = Caller::Verified(credential.identity().clone());
    let answered = Requests::new(worker.clone(), caller, None, app).answer(exchange).await;
    if answered.is_err() {
        // Who called was for our own app.
        exchange.headers_mut().remove(CALLER);
    }
    answered
}

impl Requests {
    /// For a caller's connection to a port of the app.
    pub fn new(worker: Rc<Worker>, caller: Caller, client: Option<SocketAddr>, app: SocketAddr) -> Self {
        let pool = worker.app(app);
        Self {
            worker,
            caller,
            client,
            app,
            pool,
            permitted: RefCell::default(),
        }
    }

    /// An error is counted, and has not been answered.
    async fn answer(&self, exchange: &mut Exchange<'_>) -> Result<Outcome, Failed> {
        let mut line = self.worker.line(Direction::Inbound);
        Line::note(&mut line, |entry| {
            entry.asks(exchange.head(), exchange.authority());
            entry.called_by(verified(&self.caller), self.client);
        });
        let permitted = self.permit().map_err(|reason| {
            self.worker.metrics.refused(reason, Direction::Inbound);
            Line::note(&mut line, |entry| entry.ended(outcome::failed(reason), (0, 0)));
            Failed {
                again: false,
                ..Failed::unsent(reason)
            }
        })?;
        let asked = Asked::of(exchange);
        let tracer = &self.worker.tracer;
        let begun = tracer.begin(&exchange.head().headers);
        let span = tracer.server(begun, &asked.what(permitted.series.labels(), "", self.client));
        tracer.carry(begun, span.as_ref(), exchange.headers_mut());
        if let Some(caller) = permitted.caller {
            exchange.headers_mut().insert(CALLER, caller);
        }
        let forwarded = self.forward(exchange).await;
        let outcome = match &forwarded {
            Ok(done) => outcome::done(done),
            // A response that our own outbound side does not pass on: nobody was refused.
            Err(Failed {
                granted: Some(outcome), ..
            }) => *outcome,
            Err(failed) => {
                self.worker.metrics.refused(failed.reason, Direction::Inbound);
                outcome::failed(failed.reason)
            }
        };
        Line::note(&mut line, |entry| {
            entry.of(&permitted.series);
            entry.traced(span.as_ref());
            entry.ended(outcome, exchange.moved);
        });
        asked.count(&permitted.series, outcome, span.as_ref(), Instant::now());
        outcome::finish(span, outcome);
        forwarded.map(|_| outcome)
    }

    /// Admit: anew once the configuration has changed.
    fn permit(&self) -> Result<Permitted, Reason> {
        let generation = self.worker.generation();
        if let Some(permitted) = self.permitted.borrow().as_ref().filter(|p| p.generation == generation) {
            return Ok(permitted.clone());
        }
        let tables = self.worker.tables();
        admit(&tables, self.app.port(), self.caller.clone())?;
        let labels = tables
            .inbound()
            .map(|own| Labels::inbound(own, self.app.port(), &self.caller));
        let permitted = Permitted {
            generation,
            series: self.worker.metrics.series(&labels.unwrap_or_default(), ""),
            caller: self.caller_header(),
        };
        *self.permitted.borrow_mut() = Some(permitted.clone());
        Ok(permitted)
    }

    /// Written once, and then only counted: it is the same for every request of a connection.
    fn caller_header(&self) -> Option<HeaderValue> {
        let Caller::Verified(peer) = &self.caller else {
            return None;
        };
        let credential = self.worker.credential().ok()?;
        let mut headers = HeaderMap::new();
        set_caller(&mut headers, credential.identity(), peer);
        headers.remove(CALLER)
    }

    /// Forward: over a kept connection to the app or a new one, from the pod's own address.
    async fn forward(&self, exchange: &mut Exchange<'_>) -> Result<Done, Failed> {
        let (http2, upgrades) = (upgrade::is_of_http2(exchange.head()), exchange.head().upgrade.is_some());
        let mut fresh = false;
        loop {
            let lent = match (http2, upgrades) {
                (false, _) => self.h1(fresh).await,
                (true, false) => self.h2().await,
                // Boxed: rare.
                (true, true) => Box::pin(self.either(fresh)).await,
            };
            let mut lent = lent.map_err(|_| Failed::unsent(Reason::AppUnreachable))?;
            match exchange.forward(&mut lent.upstream).await {
                Ok(done) => {
                    if let (Upstream::H1(client), true) = (lent.upstream, done.reusable) {
                        self.pool.put_h1(client, 0, Carries::Bodies, Instant::now());
                    }
                    return Ok(done);
                }
                // A kept connection that the app had closed meanwhile.
                Err(error) if error.replayable && lent.pooled && !fresh => fresh = true,
                Err(error) => return Err(Failed::forwarding(&error)),
            }
        }
    }

    async fn h1(&self, fresh: bool) -> Result<Lent, ConnectError> {
        if !fresh && let Some(client) = self.pool.take_h1(0, Carries::Bodies) {
            return Ok(Lent {
                upstream: Upstream::H1(client),
                pooled: true,
            });
        }
        let client = handshake_h1(Box::pin(self.dial()).await?, None);
        Ok(Lent {
            upstream: Upstream::H1(client),
            pooled: false,
        })
    }

    /// HTTP/2 where the app takes upgrades by it, else HTTP/1.1.
    async fn either(&self, fresh: bool) -> Result<Lent, ConnectError> {
        if let Ok(lent) = self.h2().await
            && let Upstream::H2(client) = &lent.upstream
            && client.takes_upgrades().await
        {
            return Ok(lent);
        }
        self.h1(fresh).await
    }

    async fn h2(&self) -> Result<Lent, ConnectError> {
        match self.pool.turn_h2(0, Instant::now()).await? {
            Turn::Use(client) => Ok(Lent {
                upstream: Upstream::H2(client),
                pooled: true,
            }),
            Turn::Dial(ticket) => {
                let dialled = Box::pin(self.dial_h2()).await;
                ticket.dialled(
                    dialled.as_ref().map(|client| (client, 0)).map_err(|error| *error),
                    Instant::now(),
                );
                Ok(Lent {
                    upstream: Upstream::H2(dialled?),
                    pooled: false,
                })
            }
        }
    }

    async fn dial_h2(&self) -> Result<crate::http::client::H2Client, ConnectError> {
        let io = self.dial().await?;
        let (client, driver) = handshake_h2(io, Limits::default())
            .await
            .map_err(|_| ConnectError::Closed)?;
        tokio::task::spawn_local(async move {
            // How it ends is told to each stream.
            let _ = driver.run().await;
        });
        Ok(client)
    }

    async fn dial(&self) -> Result<Io, ConnectError> {
        self.worker
            .dialer
            .tcp(self.app, Some(self.app.ip()))
            .await
            .map(Io::plain)
    }
}
