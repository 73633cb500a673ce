//! Outbound: copies of requests, which nobody waits for.
//!
//! In: a request whose rule has mirrors, before anything of it was changed. Out: the same request at each of them, once its
//! body is whole; the answers are thrown away. Bounded: copies that wait for their body and copies under way by number and
//! time, bodies by size. What does not keep up is dropped, and counted.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Version, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};
use weft_model::destination::Target;

use crate::balance::Balancer;
use crate::http::exchange::Exchange;
use crate::http::h1::write;
use crate::http::head::{Length, RequestHead};
use crate::http::limits::Limits;
use crate::http::message::{Copied, Tee};
use crate::http::server::{RequestService, ServeContext, serve};
use crate::http::{HttpVersion, Origin};
use crate::inbound;
use crate::io::Io;
use crate::outbound::attempt::Attempt;
use crate::terms::Words;
use crate::worker::Worker;

/// Copies that wait for their body, per worker. Each holds 64 KiB at most.
const WAITING: usize = 256;
/// Copies that one worker has under way. Each holds a body of 64 KiB at most.
const UNDER_WAY: usize = 64;
/// How long a copy may take, once its body is whole.
const TIME: Duration = Duration::from_secs(15);
/// How much longer it is kept, whatever holds it.
const SLACK: Duration = Duration::from_secs(1);
/// How long its body may take to be whole.
const BODY_TIME: Duration = Duration::from_secs(60);
/// The pipe that a copy goes through.
const PIPE: usize = 16 * 1024;

/// One copy.
struct Sending {
    worker: Rc<Worker>,
    target: Target,
    balancer: Rc<Balancer>,
    version: Version,
    sent: Cell<bool>,
    over: Notify,
}

/// Counts a copy for as long as it lives.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    /// `None`: there are too many.
    fn begin(count: &Rc<Cell<usize>>, most: usize) -> Option<Self> {
        if count.get() >= most {
            return None;
        }
        count.set(count.get() + 1);
        Some(Self(count.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Has a request copied to those of its rule's mirrors that take it.
pub(super) fn copy(worker: &Rc<Worker>, target: &Target, words: &Words, exchange: &mut Exchange<'_>) {
    let head = exchange.head();
    if head.upgrade.is_some() || head.method == Method::CONNECT {
        return;
    }
    let mut to = Vec::new();
    let body = Copied::new(RefCell::new(Some(BytesMut::new())));
    for copies in &words.mirrors {
        if !copies.mirror.takes(worker.endpoints.chance.draw()) {
            continue;
        }
        let waiting = Counted::begin(&worker.copies.waiting, WAITING);
        let (Some(balancer), Some(waiting)) = (&copies.balancer, waiting) else {
            worker.metrics.copied(&copies.mirror.service, "dropped");
            continue;
        };
        let (tell, whole) = oneshot::channel();
        to.push(tell);
        let so_far = body.clone();
        let service = copies.mirror.service.clone();
        let sending = Rc::new(Sending {
            worker: worker.clone(),
            target: target.clone(),
            balancer: balancer.clone(),
            version: head.version,
            sent: Cell::new(false),
            over: Notify::new(),
        });
        let head = head.clone();
        tokio::task::spawn_local(async move {
            let whole = timeout(BODY_TIME, whole).await;
            drop(waiting);
            let outcome = match whole {
                // Only now: bodies that are slow to come keep no other copy from being sent.
                Ok(Ok(body)) => match Counted::begin(&sending.worker.copies.under_way, UNDER_WAY) {
                    Some(_under_way) => sending.clone().run(head, body).await,
                    None => "dropped",
                },
                // It was too large or too slow, or the request ended before its body. All copies began to wait together.
                _ => {
                    so_far.take();
                    "dropped"
                }
            };
            sending.worker.metrics.copied(&service, outcome);
        });
    }
    if !to.is_empty() {
        exchange.copy_to(Tee::new(body, to));
    }
}

impl Sending {
    /// Plays the client: the request goes through a pipe, as one of HTTP/1.1, and is forwarded in the version that it came in.
    async fn run(self: Rc<Self>, mut head: RequestHead, body: Bytes) -> &'static str {
        head.length = match body.len() {
            0 => Length::Empty,
            n => Length::Exact(n as u64),
        };
        // Its body is here already.
        head.headers.remove(header::EXPECT);
        let mut request = BytesMut::new();
        write::request(&mut request, &head, None);
        request.extend_from_slice(&body);
        let (near, mut far) = Io::pipe(PIPE);
        let context = ServeContext {
            limits: Limits::default(),
            closing: self.worker.outbound_closing.clone(),
            origin: Origin::Outside,
            authority: None,
        };
        let client = async {
            let mut scratch = vec![0; PIPE];
            far.write_all(&request).await?;
            while far.read(&mut scratch).await? > 0 {}
            std::io::Result::Ok(())
        };
        let sent = async {
            tokio::select! {
                _ = serve(near, HttpVersion::H1, self.clone(), context) => {}
                _ = client => {}
                () = self.over.notified() => {}
            }
        };
        // Too late is not sent: its endpoint is told apart first.
        let _ = timeout(TIME + SLACK, sent).await;
        if self.sent.get() { "sent" } else { "failed" }
    }
}

impl RequestService for Sending {
    async fn handle(&self, exchange: &mut Exchange<'_>) {
        exchange.head_mut().version = self.version;
        if let Some(picked) = self.balancer.pick(&[], Instant::now()) {
            let endpoint = &picked.remote.endpoint;
            let sent = if self.worker.is_self(endpoint) {
                let own = inbound::requests::from_self(&self.worker, exchange, endpoint.address);
                Box::pin(own).await.is_ok()
            } else {
                let attempt = Attempt {
                    worker: &self.worker,
                    target: &self.target,
                    balancer: &self.balancer,
                    remote: &picked.remote,
                };
                let begun = Instant::now();
                let ran = timeout(TIME, attempt.run(exchange)).await;
                if ran.is_err() && exchange.answered_after.is_none() {
                    picked.remote.begin().observe_none(begun.elapsed(), Instant::now());
                }
                matches!(ran, Ok(Ok(_)))
            };
            self.sent.set(sent);
        }
        self.over.notify_one();
    }
}
