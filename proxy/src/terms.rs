//! Terms: what the rule that a request falls under asks, beyond a backend.
//!
//! In: a rule and one of its backends, resolved when the configuration changes ([`Words`]); and a request. Out: what the
//! exchange keeps to ([`Terms`]): another host, path and headers towards the app, other headers back, a deadline, another
//! try. Requests whose rule asks nothing have no terms, and pay for an `Option` that is `None`.

pub mod budget;
mod grpc_timeout;

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, header};
use tokio::time::Instant;
use weft_model::filter::{HeaderChanges, Mirror, PathChange};
use weft_model::reason::Reason;
use weft_model::route::{Backend, Retry, Rule, Timeouts};

use crate::balance::Balancer;
use crate::http::Origin;
use crate::http::head::{Length, RequestHead, ResponseHead};
use crate::http::headers::{is_of_hop, is_reserved, refuse_path};
use crate::http::message::grpc_status;
use crate::http::timer::Timer;
use crate::terms::budget::Budget;

/// How much longer than the first the longest wait before another try is.
const BACKOFF_GROWS: u32 = 10;
/// The longest wait before another try, whatever the rule says: nobody notices meanwhile that the client has gone.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a response's head waits for its first message or its trailers. Those of a call that fails come close behind.
const HOLD: Duration = Duration::from_millis(100);

/// What a rule asks for the requests to one of its backends. The rule's own comes first.
#[derive(Debug)]
pub struct Words {
    request_headers: Vec<HeaderChanges>,
    response_headers: Vec<HeaderChanges>,
    host: Option<Authority>,
    paths: Vec<PathChange>,
    timeouts: Timeouts,
    retry: Option<Retry>,
    /// `None`: nothing is tried again.
    budget: Option<Rc<Budget>>,
    /// Who gets copies.
    pub mirrors: Vec<Copies>,
}

/// Copies of requests, resolved.
#[derive(Clone, Debug)]
pub struct Copies {
    /// Which requests, and for whom.
    pub mirror: Mirror,
    /// Where. `None`: does not resolve.
    pub balancer: Option<Rc<Balancer>>,
}

/// What one exchange keeps to.
#[derive(Debug)]
pub struct Terms {
    /// `None`: the request has a deadline of its own, and its rule asks nothing.
    words: Option<Rc<Words>>,
    /// When all tries are over.
    deadline: Option<Instant>,
    /// When this one is.
    try_ends: Option<Instant>,
    timer: Timer,
    /// The request says its deadline, and the app is told what is left of it.
    tells: bool,
    grpc: bool,
    /// Tries that may still be made after this one.
    left: u32,
    /// How long to wait before the one that was granted last.
    wait: Duration,
    /// A response of which no message has come yet, so that its trailers may still have another try made; and until when it
    /// waits for that.
    pub(crate) held: Option<(ResponseHead, Instant)>,
    hold_timer: Timer,
}

/// Why another try is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The status of a response.
    Http(u16),
    /// The status of a gRPC response without a message.
    Grpc(u16),
    /// There was no response.
    Failed(Reason),
}

impl Words {
    /// What a rule asks for one of its backends. `None`: nothing.
    pub fn of(rule: &Rule, backend: &Backend, budget: Option<&Rc<Budget>>, mirrors: Vec<Copies>) -> Option<Rc<Self>> {
        let both = [&rule.filters, &backend.filters];
        let mut words = Self {
            request_headers: allowed(both.map(|filters| &filters.request_headers)),
            response_headers: allowed(both.map(|filters| &filters.response_headers)),
            host: None,
            paths: Vec::new(),
            timeouts: rule.timeouts,
            retry: rule.retry.clone().filter(|retry| retry.attempts > 0),
            budget: budget.cloned(),
            mirrors,
        };
        for rewrite in both.into_iter().filter_map(|filters| filters.rewrite.as_ref()) {
            let host = rewrite.host.as_deref().map(Authority::try_from);
            words.host = host.and_then(Result::ok).or(words.host);
            words.paths.extend(rewrite.path.clone());
        }
        (!words.is_empty()).then(|| Rc::new(words))
    }

    fn is_empty(&self) -> bool {
        self.request_headers.is_empty()
            && self.response_headers.is_empty()
            && self.host.is_none()
            && self.paths.is_empty()
            && self.timeouts == Timeouts::default()
            && self.retry.is_none()
            && self.mirrors.is_empty()
    }

    /// Changes a request, once for all its tries.
    fn change(&self, head: &mut RequestHead) -> Result<(), Reason> {
        for changes in &self.request_headers {
            changes.apply(&mut head.headers);
        }
        if let Some(host) = &self.host {
            head.authority = Some(host.clone());
        }
        // Neither a CONNECT nor `*` has a path.
        if !self.paths.is_empty() && head.path().starts_with('/') {
            head.target = Some(rewritten(&self.paths, head)?);
        }
        Ok(())
    }
}

/// The changes that are any, without the headers that are not a rule's to change: what describes a hop or a body's length
/// would make two readers see two messages, and who calls is nobody's to say but the mesh's.
fn allowed(both: [&HeaderChanges; 2]) -> Vec<HeaderChanges> {
    let may = |name: &HeaderName| {
        !is_of_hop(name) && !is_reserved(name, Origin::Outside) && *name != header::EXPECT && *name != header::TRAILER
    };
    let changes = both.into_iter().map(|changes| {
        let mut changes = changes.clone();
        changes.remove.retain(|name| may(name));
        changes.set.retain(|(name, _)| may(name));
        changes.add.retain(|(name, _)| may(name));
        changes
    });
    changes.filter(|changes| !changes.is_empty()).collect()
}

/// What a request is for then. What is for nothing is not sent: as it came it is for another path.
fn rewritten(changes: &[PathChange], head: &RequestHead) -> Result<PathAndQuery, Reason> {
    let path = head.path().to_owned();
    let mut target = changes.iter().fold(path, |path, change| change.apply(&path));
    if let Some(query) = head.query() {
        target.push('?');
        target.push_str(query);
    }
    // What was harmless behind a prefix may climb above the root without it.
    refuse_path(target.as_bytes(), &head.method)?;
    PathAndQuery::try_from(target).map_err(|_| Reason::BackendUnresolved)
}

impl Terms {
    /// What a request that began at `started` keeps to, which it is changed by. `None`: nothing was asked.
    pub fn agree(
        words: Option<&Rc<Words>>,
        head: &mut RequestHead,
        grpc: bool,
        started: Instant,
    ) -> Result<Option<Box<Self>>, Reason> {
        if let Some(words) = words {
            words.change(head)?;
        }
        let said = match grpc {
            true => grpc_timeout::read(&head.headers),
            false => None,
        };
        if words.is_none() && said.is_none() {
            return Ok(None);
        }
        let timeouts = words.map(|words| words.timeouts).unwrap_or_default();
        let deadline = [said, timeouts.request].into_iter().flatten().min();
        let retry = words.and_then(|words| words.retry.as_ref());
        Ok(Some(Box::new(Self {
            words: words.cloned(),
            deadline: deadline.and_then(|within| started.checked_add(within)),
            try_ends: None,
            timer: Timer::default(),
            tells: said.is_some(),
            grpc,
            left: retry.map_or(0, |retry| retry.attempts),
            wait: Duration::ZERO,
            held: None,
            hold_timer: Timer::default(),
        })))
    }

    /// A try begins.
    pub fn begin_try(&mut self) {
        let limit = self.words.as_ref().and_then(|words| words.timeouts.backend_request);
        self.try_ends = limit.and_then(|limit| Instant::now().checked_add(limit));
    }

    /// When the try has to be over, and what it fails with then.
    pub fn due(&self) -> Option<(Instant, Reason)> {
        match (self.deadline, self.try_ends) {
            (Some(deadline), Some(ends)) if ends < deadline => Some((ends, Reason::BackendDeadline)),
            (Some(deadline), _) => Some((deadline, Reason::RequestDeadline)),
            (None, ends) => ends.map(|ends| (ends, Reason::BackendDeadline)),
        }
    }

    /// Ready when the try has to be over.
    pub(crate) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        match self.due() {
            Some((due, reason)) => self.timer.poll(cx, due).map(|()| reason),
            None => Poll::Pending,
        }
    }

    /// Tells the app how long its client will still wait, where the client says so.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        if let (Some(deadline), true) = (self.deadline, self.tells) {
            grpc_timeout::write(headers, deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Changes the head of a response that is passed on.
    pub(crate) fn change_response(&self, headers: &mut HeaderMap) {
        let words = self.words.iter();
        for changes in words.flat_map(|words| &words.response_headers) {
            changes.apply(headers);
        }
    }

    /// Whether another try may have to be made, so that the request has to be kept.
    pub(crate) fn may_try_again(&self) -> bool {
        self.left > 0
    }

    /// Why the rule has another try made after a response, if it does. `peer`: it comes from a peer's proxy.
    pub(crate) fn wants(&self, head: &ResponseHead, peer: bool) -> Option<Cause> {
        let retry = self.retry()?;
        let status = head.status.as_u16();
        if retry.codes.contains(&status) {
            return Some(Cause::Http(status));
        }
        if self.grpc && head.length == Length::Empty {
            let again = self.wants_after(&head.headers);
            if again.is_some() {
                return again;
            }
        }
        (peer && says_closed(&head.headers)).then_some(Cause::Failed(Reason::UpstreamClosed))
    }

    /// Why the rule has another try made after a gRPC response without a message, by its trailers.
    pub(crate) fn wants_after(&self, trailers: &HeaderMap) -> Option<Cause> {
        let status = grpc_status(trailers)?;
        let wanted = self.retry()?.grpc_statuses.contains(&status);
        wanted.then_some(Cause::Grpc(status))
    }

    /// Whether it has to be seen whether a message comes before this response may begin.
    pub(crate) fn holds(&self, head: &ResponseHead) -> bool {
        self.grpc && head.length != Length::Empty && self.retry().is_some_and(|retry| !retry.grpc_statuses.is_empty())
    }

    /// Holds a response back.
    pub(crate) fn hold(&mut self, head: ResponseHead) {
        self.held = Some((head, Instant::now() + HOLD));
    }

    /// Ready when the response that is held back has waited for long enough.
    pub(crate) fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.held {
            Some((_, until)) => self.hold_timer.poll(cx, *until),
            None => Poll::Ready(()),
        }
    }

    /// Asks for another try: whether there is one left, in time and within the budget. It is counted then.
    pub fn again(&mut self, cause: Cause) -> bool {
        let Some(words) = self.words.clone() else {
            return false;
        };
        let Some(retry) = self.retry() else { return false };
        let (now, made) = (Instant::now(), retry.attempts - self.left);
        let wait = backoff(retry.backoff, made, rand::random());
        if self.deadline.is_some_and(|deadline| now + wait >= deadline) {
            return false;
        }
        if !words.budget.as_ref().is_some_and(|budget| budget.grant(cause, now)) {
            return false;
        }
        self.left -= 1;
        self.wait = wait;
        true
    }

    /// How long to wait before the try that was granted.
    pub fn wait(&mut self) -> Duration {
        std::mem::take(&mut self.wait)
    }

    fn retry(&self) -> Option<&Retry> {
        let words = self.words.as_ref().filter(|_| self.left > 0)?;
        words.retry.as_ref()
    }
}

/// Full jitter: anything up to twice as much each time, but not without end. `drawn`: from 0 to 1.
fn backoff(first: Duration, made: u32, drawn: f64) -> Duration {
    let most = first.saturating_mul(2_u32.saturating_pow(made).min(BACKOFF_GROWS));
    most.min(WAIT_MAX).mul_f64(drawn.clamp(0.0, 1.0))
}

/// Whether the peer's proxy says that its app has closed the connection without a response. An app that says so itself asks
/// for no more than another try.
fn says_closed(headers: &HeaderMap) -> bool {
    let code = Reason::UpstreamClosed.code();
    headers.get("proxy-status").is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(b"weft;") && value.windows(code.len()).any(|part| part == code.as_bytes())
    })
}

#[cfg(test)]
mod tests;
