//! Forward, one attempt: one request to one endpoint, over a pooled connection or a new one.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use weft_model::destination::Target;
use weft_model::reason::Reason;

use crate::balance::health::Failure;
use crate::balance::{Balancer, InFlight, Remote};
use crate::connect::{Carries, ConnectError};
use crate::http::client::Upstream;
use crate::http::exchange::{Done, Exchange, ForwardError};
use crate::http::upgrade;
use crate::observe::trace::Outcome;
use crate::outbound::dial::Dial;
use crate::outbound::reach::leaf_for;
use crate::pool::Turn;
use crate::worker::Worker;

/// One endpoint, and how it came to be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The worker.
    pub worker: &'a Rc<Worker>,
    /// What the app dialled.
    pub target: &'a Target,
    /// What the endpoint was chosen from.
    pub balancer: &'a Rc<Balancer>,
    /// The endpoint.
    pub remote: &'a Rc<Remote>,
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Why.
    pub reason: Reason,
    /// No byte reached the app, and nothing was answered: another endpoint may be tried.
    pub again: bool,
    /// Its rule has another try made: what came of this one, which nobody was told.
    pub granted: Option<Outcome>,
}

impl Failed {
    /// Before anything was sent.
    pub fn unsent(reason: Reason) -> Self {
        let (again, granted) = (true, None);
        Self { reason, again, granted }
    }

    /// As forwarding failed.
    pub fn forwarding(error: &ForwardError) -> Self {
        let granted = error.granted.then(|| Outcome {
            status: error.status.unwrap_or_default(),
            grpc_status: error.grpc_status,
            error: error.status.is_none().then_some(error.reason),
        });
        Self {
            reason: error.reason,
            again: error.granted || (error.replayable && !error.answered),
            granted,
        }
    }
}

/// What is spoken with the endpoint.
#[derive(Clone, Copy, Debug)]
enum Spoken {
    H1,
    H2,
    /// HTTP/2 if the app takes an upgrade by that.
    Either,
}

/// A connection to forward on, and where it came from.
struct Lent {
    upstream: Upstream,
    leaf: u64,
    pooled: bool,
}

/// What a request sends over an HTTP/1.1 connection.
fn carries(exchange: &Exchange<'_>) -> Carries {
    let head = exchange.head();
    if exchange.body_is_empty() && !head.is_tunnel() {
        Carries::Heads
    } else {
        Carries::Bodies
    }
}

/// Tells what a try has shown of how long its endpoint takes to answer. `before`: when it was sent, since the request's head;
/// `first`: it was the first on its connection.
pub(super) fn learn(flight: &InFlight, exchange: &Exchange<'_>, before: Duration, first: bool, ended_well: bool) {
    let now = Instant::now();
    match exchange.answered_after.map(|after| after.saturating_sub(before)) {
        Some(took) if ended_well => flight.observe(took, first, now),
        Some(waited) => flight.observe_none(waited, now),
        None => {}
    }
}

impl Attempt<'_> {
    /// Forwards the exchange. Not cancel safe: dropping it cancels the request.
    pub async fn run(self, exchange: &mut Exchange<'_>) -> Result<Done, Failed> {
        let flight = self.remote.begin();
        let spoken = match exchange.head().version {
            http::Version::HTTP_2 if exchange.head().is_tunnel() => self.tunnel(exchange),
            http::Version::HTTP_2 => Spoken::H2,
            _ => Spoken::H1,
        };
        let carries = carries(exchange);
        let mut fresh = false;
        loop {
            let lent = match exchange.due() {
                None => self.lend(spoken, fresh, carries, false).await,
                // Boxed: only where a rule says how long a try may take.
                Some(due) => Box::pin(self.lend_until(due, &flight, (spoken, fresh, carries))).await?,
            };
            let mut lent = lent.map_err(|error| Failed::unsent(error.reason()))?;
            // What was waited for until here, a connection or another endpoint, says nothing of this endpoint's answers.
            let before = exchange.started().elapsed();
            let forwarded = exchange.forward(&mut lent.upstream).await;
            // A kept connection had ended meanwhile: that says nothing of the endpoint.
            if matches!(&forwarded, Err(error) if error.replayable && lent.pooled && !fresh) {
                fresh = true;
                continue;
            }
            learn(&flight, exchange, before, !lent.pooled, forwarded.is_ok());
            match forwarded {
                Ok(done) => {
                    self.give_back(lent, done.reusable, carries);
                    return Ok(done);
                }
                Err(error) => {
                    let sound = error.granted && matches!(&lent.upstream, Upstream::H1(client) if client.sound);
                    self.give_back(lent, sound, carries);
                    return Err(self.failed(&error));
                }
            }
        }
    }

    /// A connection, by the time that the try has to be over. One that comes later is for others.
    async fn lend_until(
        &self,
        (due, reason): (Instant, Reason),
        flight: &InFlight,
        (spoken, fresh, carries): (Spoken, bool, Carries),
    ) -> Result<Result<Lent, ConnectError>, Failed> {
        let begun = Instant::now();
        timeout_at(due, self.lend(spoken, fresh, carries, true))
            .await
            .map_err(|_| {
                let now = Instant::now();
                flight.observe_none(now - begun, now);
                Failed {
                    again: reason == Reason::BackendDeadline,
                    ..Failed::unsent(reason)
                }
            })
    }

    fn failed(&self, error: &ForwardError) -> Failed {
        tracing::debug!(endpoint = %self.remote.endpoint.key, %error, source = ?error.source, "forwarding failed");
        if error.replayable && error.reason == Reason::AppUnreachable {
            self.balancer
                .failed(self.remote, Failure::Proof, error.reason, Instant::now());
        }
        Failed::forwarding(error)
    }

    /// How a tunnel goes on that an app has asked for over HTTP/2. A peer's proxy is asked over HTTP/1.1, so that each has a
    /// connection of its own, and hears what was spoken.
    fn tunnel(&self, exchange: &mut Exchange<'_>) -> Spoken {
        if self.remote.endpoint.identity.is_some() {
            upgrade::tell_version(exchange.headers_mut());
            return Spoken::H1;
        }
        match exchange.head().upgrade {
            Some(_) => Spoken::Either,
            None => Spoken::H2,
        }
    }

    /// `outlives`: a connection is made even where nobody waits for it any more.
    async fn lend(&self, spoken: Spoken, fresh: bool, carries: Carries, outlives: bool) -> Result<Lent, ConnectError> {
        match spoken {
            Spoken::H1 => self.h1(fresh, carries, outlives).await,
            Spoken::H2 => self.h2(outlives).await,
            // Boxed: rare.
            Spoken::Either => Box::pin(self.either(fresh, carries, outlives)).await,
        }
    }

    /// HTTP/2 where the app takes upgrades by it, else HTTP/1.1.
    async fn either(&self, fresh: bool, carries: Carries, outlives: bool) -> Result<Lent, ConnectError> {
        if let Ok(lent) = self.h2(outlives).await
            && let Upstream::H2(client) = &lent.upstream
            && client.takes_upgrades().await
        {
            return Ok(lent);
        }
        self.h1(fresh, carries, outlives).await
    }

    async fn h1(&self, fresh: bool, carries: Carries, outlives: bool) -> Result<Lent, ConnectError> {
        let leaf = leaf_for(self.worker, self.remote)?;
        if !fresh && let Some(client) = self.remote.pool.take_h1(leaf, carries) {
            return Ok(Lent {
                upstream: Upstream::H1(client),
                leaf,
                pooled: true,
            });
        }
        // Boxed, as everything that happens once per connection: a request's own future stays small.
        let (client, leaf) = Box::pin(self.dial(outlives).h1(carries)).await?;
        Ok(Lent {
            upstream: Upstream::H1(client),
            leaf,
            pooled: false,
        })
    }

    async fn h2(&self, outlives: bool) -> Result<Lent, ConnectError> {
        let leaf = leaf_for(self.worker, self.remote)?;
        match self.remote.pool.turn_h2(leaf, Instant::now()).await? {
            Turn::Use(client) => Ok(Lent {
                upstream: Upstream::H2(client),
                leaf,
                pooled: true,
            }),
            Turn::Dial(ticket) => {
                let (client, leaf) = Box::pin(self.dial(outlives).h2(ticket)).await?;
                Ok(Lent {
                    upstream: Upstream::H2(client),
                    leaf,
                    pooled: false,
                })
            }
        }
    }

    fn dial(&self, outlives: bool) -> Dial {
        Dial {
            worker: self.worker.clone(),
            target: self.target.clone(),
            balancer: self.balancer.clone(),
            remote: self.remote.clone(),
            outlives,
        }
    }

    fn give_back(&self, lent: Lent, reusable: bool, carries: Carries) {
        if let (Upstream::H1(client), true) = (lent.upstream, reusable) {
            self.remote.pool.put_h1(client, lent.leaf, carries, Instant::now());
        }
    }
}
