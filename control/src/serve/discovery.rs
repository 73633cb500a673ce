//! Discovery: one stream per proxy. And federation, which is the same for the control planes of other clusters.
//!
//! A stream begins with Hello. Who may have what follows from the caller's certificate and from the pod that it names,
//! which must run as the certificate's service account and have the caller's address. Then one batch is in flight at a time: the next is made from what
//! waits when the last is acknowledged, so a proxy that is slow gets fewer and larger steps. One that does not acknowledge
//! in time is cut. The stream ends with the caller's leaf.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash as Hashed;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use weft_daemon::drain::Tasks;
use weft_model::identity::{Identity, TrustDomain};
use weft_proto::discovery::{self, FromProxy, from_proxy::Message};
use weft_proto::resource::name;

use super::cache::ProxyId;
use super::desk::{Closed, Desk, NotNow};
use super::hub::{Outlet, Settled, Unwelcome};
use super::listen::{Leaf, Peer};
use super::metrics::{Ended, Metrics, add};
use super::outbox::{Hash, Sent};
use super::rate::{Buckets, Rate};
use super::wire::{Batch, FromControl, Name};
use crate::config::AddressCheck;

mod hello;
mod messages;
mod peer;
mod room;
mod server;

use messages::Messages;
use room::Room;
pub(crate) use server::{DiscoveryServer, FederationServer};

/// The largest message of a proxy: a Hello that holds a few thousand resources with their sources.
const MESSAGE_MAX: usize = 8 << 20;
/// Bytes of what a caller is told when its stream ends.
const MESSAGE_TOLD: usize = 1024;
/// What it holds in all: as many of these as fit into that.
const PARTS_MAX: usize = 2 * weft_proto::parts::PARTS_MAX;
/// A batch of about this size is sent at once; a closure that is larger goes whole.
const BATCH_BYTES: usize = 1 << 20;
/// Changes go to one proxy no more often than this, and coalesce meanwhile. Answers do not wait.
const SPACING: Duration = Duration::from_millis(50);
/// What a caller that is told to go may take to read it.
const FAREWELL: Duration = Duration::from_secs(2);
/// Messages of one proxy: a new destination each few milliseconds, for long.
const MESSAGES: Rate = Rate {
    per_second: 200.0,
    burst: 2000.0,
};
/// Hellos from one address, before the pod is looked for; a node may masquerade for many.
const HELLOS: Rate = Rate {
    per_second: 50.0,
    burst: 500.0,
};
/// Streams of one pod from one address: reconnects have back-off. What others say from elsewhere takes nothing from it.
const STREAMS: Rate = Rate {
    per_second: 1.0,
    burst: 10.0,
};
/// Streams of all replicas of one cluster. One costs the more, the more its caller holds.
const FOLLOWS: Rate = Rate {
    per_second: 8.0,
    burst: 160.0,
};
/// What is held costs one stream more for each of so many.
const HELD_OF_ONE: f64 = 5000.0;
/// Pods that are told apart at a time.
const PODS: usize = 16 * 1024;

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) enum Callers {
    /// Proxies of pods, with certificates of this trust domain.
    Pods(TrustDomain),
    /// Control planes of other clusters, each with the one that its ClusterPeer names.
    Peers,
}

/// The service.
pub(crate) struct Discovery {
    pub(crate) desk: Desk,
    pub(crate) callers: Callers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: Tasks,
    pub(crate) rules: Rules,
    hellos: Mutex<Buckets<IpAddr>>,
    streams: Mutex<Buckets<(IpAddr, String)>>,
    follows: Mutex<Buckets<String>>,
    room: Arc<Room>,
}

/// What the operator has decided.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Our own namespace, in which gateways are.
    pub(crate) control_namespace: String,
    pub(crate) ack_wait: Duration,
    pub(crate) pod_wait: Duration,
    pub(crate) targets_max: usize,
    pub(crate) address_check: AddressCheck,
}

/// Why a stream ends, and what the caller is told.
struct End {
    why: Ended,
    /// `None`: the caller has gone.
    status: Option<Status>,
}

impl End {
    fn new(why: Ended, code: Code, message: &str) -> Self {
        let end = message.floor_char_boundary(MESSAGE_TOLD);
        Self {
            why,
            status: Some(super::status_of(code, why.word(), &message[..end])),
        }
    }

    fn broken(message: &str) -> Self {
        Self::new(Ended::Broken, Code::InvalidArgument, message)
    }

    fn refused(message: &str) -> Self {
        Self::new(Ended::Refused, Code::PermissionDenied, message)
    }
}

impl From<Closed> for End {
    fn from(closed: Closed) -> Self {
        Self::new(Ended::Draining, Code::Unavailable, &closed.to_string())
    }
}

impl From<NotNow> for End {
    fn from(not_now: NotNow) -> Self {
        let code = match not_now {
            NotNow::Epoch { .. } => Code::InvalidArgument,
            NotNow::Later => Code::Unavailable,
            NotNow::Follower(Unwelcome::Stranger) => Code::PermissionDenied,
            NotNow::Follower(Unwelcome::Crowded(_) | Unwelcome::Laden(_)) => Code::ResourceExhausted,
        };
        Self::new(Ended::Refused, code, &not_now.to_string())
    }
}

impl Discovery {
    pub(crate) fn new(desk: Desk, callers: Callers, metrics: Arc<Metrics>, tasks: &Tasks, rules: Rules) -> Self {
        let hellos = Mutex::new(Buckets::new(HELLOS, PODS));
        let streams = Mutex::new(Buckets::new(STREAMS, PODS));
        let follows = Mutex::new(Buckets::new(FOLLOWS, PODS));
        Self {
            desk,
            metrics,
            tasks: tasks.named(match callers {
                Callers::Pods(_) => "discovery streams",
                Callers::Peers => "federation streams",
            }),
            callers,
            rules,
            hellos,
            streams,
            follows,
            room: Arc::default(),
        }
    }

    /// Begins a stream. Callers without a certificate do not get so far, nor proxies of other meshes. Whether a peer is the
    /// one that it says follows from its Hello.
    fn open(
        self: Arc<Self>,
        request: &Request<Streaming<FromProxy>>,
        messages: Messages<tonic::body::Body>,
    ) -> Result<Response<Answers>, Status> {
        let peer = super::peer(request.extensions())?;
        let leaf = match (&peer.leaf, &self.callers) {
            (None, _) => Err((
                Code::Unauthenticated,
                "this needs a certificate, and none was shown".to_owned(),
            )),
            (Some(leaf), Callers::Pods(own)) if leaf.identity.trust_domain() != own => {
                Err((Code::PermissionDenied, format!("{} is not of this mesh", leaf.identity)))
            }
            (Some(leaf), _) => Ok(leaf.clone()),
        };
        let leaf = leaf.map_err(|(code, message)| {
            self.metrics.stream_ended(Ended::Refused);
            super::status_of(code, Ended::Refused.word(), &message)
        })?;
        // One batch is in flight at a time, and then perhaps the end.
        let (out, answers) = mpsc::channel(2);
        let stream = Stream {
            discovery: self.clone(),
            peer,
            leaf,
            messages,
            out,
        };
        self.tasks.spawn(stream.run());
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    /// Who shares room with a caller: those of its namespace; of control planes of other clusters the replicas of each, and all who are
    /// none. What has no certificate is refused before it is read.
    fn whose(&self, peer: &Peer) -> String {
        let Some(Leaf { identity, .. }) = &peer.leaf else {
            return String::new();
        };
        let is_known = |identity: &Identity| {
            let linked = self.desk.linked();
            let linked = linked.borrow();
            linked.peers.values().any(|peer| peer.control_plane == *identity)
        };
        match self.callers {
            Callers::Pods(_) => identity.namespace().to_owned(),
            Callers::Peers if is_known(identity) => identity.to_string(),
            Callers::Peers => "strangers".to_owned(),
        }
    }

    fn may_call(&self, address: IpAddr) -> Result<(), End> {
        limited(&self.hellos, address, 1.0, "this address")
    }

    fn may_open(&self, address: IpAddr, who: &str) -> Result<(), End> {
        limited(&self.streams, (address, who.to_owned()), 1.0, who)
    }

    /// Whether another replica of a cluster may come, which holds so much.
    fn may_follow(&self, cluster: &str, held: usize) -> Result<(), End> {
        limited(
            &self.follows,
            cluster.to_owned(),
            cost(held),
            &format!("cluster {cluster}"),
        )
    }
}

/// What a replica that holds so much costs of [`FOLLOWS`].
#[expect(clippy::cast_precision_loss, reason = "a message has fewer than 2^52")]
fn cost(held: usize) -> f64 {
    1.0 + held as f64 / HELD_OF_ONE
}

fn limited<K: Eq + Hashed>(buckets: &Mutex<Buckets<K>>, key: K, cost: f64, who: &str) -> Result<(), End> {
    let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
    buckets.take_many(key, cost, Instant::now()).map_err(|wait| {
        let message = format!("{who} opens streams too often; try again in {} ms", wait.as_millis());
        End::new(Ended::Refused, Code::ResourceExhausted, &message)
    })
}

type Answers = ReceiverStream<Result<FromControl, Status>>;

/// One stream.
struct Stream {
    discovery: Arc<Discovery>,
    peer: Peer,
    leaf: Leaf,
    messages: Messages<tonic::body::Body>,
    out: mpsc::Sender<Result<FromControl, Status>>,
}

/// A batch that is not acknowledged yet.
struct InFlight {
    nonce: u64,
    epoch: u64,
    /// Each with what the proxy had before.
    sent: Vec<(Sent, Option<Hash>)>,
    deadline: tokio::time::Instant,
}

impl Stream {
    async fn run(mut self) {
        let _call = self.peer.call();
        let End { why, status } = self.serve().await;
        self.discovery.metrics.stream_ended(why);
        tracing::debug!(address = %self.peer.address, identity = %self.leaf.identity, reason = why.word(), "a discovery stream ended");
        let Some(status) = status else { return };
        // One that does not read is not told.
        // A peer whose stream was ended proves anew who it is.
        let again = why == Ended::Replaced && matches!(self.discovery.callers, Callers::Peers);
        let told = self.out.try_send(Err(status)).is_ok() && why != Ended::Stalled && !again;
        if !told || timeout(FAREWELL, self.out.closed()).await.is_err() {
            self.peer.cut();
        }
    }

    async fn serve(&mut self) -> End {
        // The wall clock tells how long; from here on the monotonic one counts.
        let left = self
            .leaf
            .not_after
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let discovery = self.discovery.clone();
        tokio::select! {
            biased; // what ends a stream before what it says
            () = discovery.tasks.draining() => End::new(Ended::Draining, Code::Unavailable, "the control plane is ending"),
            () = sleep(left) => {
                End::new(Ended::Expired, Code::Unauthenticated, "the certificate of this connection has ended; renew it and call again")
            }
            end = self.converse() => end,
        }
    }

    async fn converse(&mut self) -> End {
        let (join, sources) = match self.hello().await {
            Ok(hello) => hello,
            Err(end) => return end,
        };
        let who = join.who.subject.clone();
        let (id, outlet) = match self.discovery.desk.join(join, sources).await {
            Ok(Ok(joined)) => joined,
            Ok(Err(not_now)) => return not_now.into(),
            Err(closed) => return closed.into(),
        };
        self.messages.place.let_in();
        tracing::info!(%who, address = %self.peer.address, "connected");
        let leaving = Leaving {
            desk: self.discovery.desk.clone(),
            tasks: self.discovery.tasks.clone(),
            id: Some(id),
        };
        let end = match self.follow(id, &outlet).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        tracing::info!(%who, reason = end.why.word(), "disconnected");
        drop(leaving);
        end
    }

    /// Sends what changes, takes what the proxy says.
    async fn follow(&mut self, id: ProxyId, outlet: &Outlet) -> Result<Infallible, End> {
        let mut rate = Buckets::new(MESSAGES, 1);
        let mut in_flight: Option<InFlight> = None;
        let mut nonce = 0;
        let mut complete = false;
        let mut next = tokio::time::Instant::now();
        loop {
            let waits = in_flight.is_none() && (!complete || outlet.outbox().waiting() > 0);
            if waits && (outlet.is_urgent() || tokio::time::Instant::now() >= next) {
                outlet.calm();
                // At once: what is taken is of this epoch, and what waits after it perhaps of another.
                let (epoch, taken, rest) = {
                    let mut outbox = outlet.outbox();
                    (outbox.epoch(), outbox.take(BATCH_BYTES), outbox.waiting())
                };
                // Also an empty one, until one has said that the caller is up to date.
                if !complete || !taken.is_empty() {
                    nonce += 1;
                    complete |= rest == 0;
                    in_flight = Some(self.send(nonce, epoch, taken, rest == 0)?);
                    next = tokio::time::Instant::now() + SPACING;
                }
                continue;
            }
            let deadline = in_flight.as_ref().map(|batch| batch.deadline);
            tokio::select! {
                biased; // what ends a stream first; an acknowledgement before what it makes room for
                () = outlet.replaced.cancelled() => {
                    return Err(End::new(Ended::Replaced, Code::Aborted, "another stream of this pod has come"));
                }
                message = self.messages.next() => {
                    let message = match message {
                        Ok(Some(message)) => message,
                        Ok(None) => return Err(End { why: Ended::Closed, status: None }),
                        Err(status) => return Err(unread(&status)),
                    };
                    if let Err(pause) = rate.take((), Instant::now()) {
                        sleep(pause).await;
                    }
                    self.hear(id, outlet, message, &mut in_flight).await?;
                }
                () = async { sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)).await }, if deadline.is_some() => {
                    return Err(End::new(Ended::Stalled, Code::DeadlineExceeded, "a batch was not acknowledged in time"));
                }
                () = outlet.wake.notified(), if in_flight.is_none() => {}
                () = sleep_until(next), if waits => {}
            }
        }
    }

    /// Sends one batch.
    fn send(&self, nonce: u64, epoch: u64, sent: Vec<(Sent, Option<Hash>)>, complete: bool) -> Result<InFlight, End> {
        let resources: Vec<bytes::Bytes> = sent.iter().map(|(sent, _)| sent.bytes.clone()).collect();
        let metrics = &self.discovery.metrics;
        add(&metrics.batches, 1);
        add(&metrics.resources, resources.len() as u64);
        add(
            &metrics.bytes,
            resources.iter().map(|resource| resource.len() as u64).sum(),
        );
        let batch = Batch {
            nonce,
            epoch,
            resources,
            complete,
        };
        // The one before is acknowledged, so it was read, and there is room.
        if self.out.try_send(Ok(FromControl { batch: Some(batch) })).is_err() {
            return Err(End {
                why: Ended::Closed,
                status: None,
            });
        }
        Ok(InFlight {
            nonce,
            epoch,
            sent,
            deadline: tokio::time::Instant::now() + self.discovery.rules.ack_wait,
        })
    }

    /// Takes one message.
    async fn hear(
        &self,
        id: ProxyId,
        outlet: &Outlet,
        message: FromProxy,
        in_flight: &mut Option<InFlight>,
    ) -> Result<(), End> {
        let desk = &self.discovery.desk;
        let limit = self.discovery.rules.targets_max;
        let of_peers = matches!(self.discovery.callers, Callers::Peers);
        match message.message {
            Some(Message::Subscribe(_) | Message::Unsubscribe(_) | Message::Refresh(_)) if of_peers => {
                return Err(End::broken("what is exported comes without being asked"));
            }
            Some(Message::Subscribe(subscribe)) => {
                let left_out = desk.subscribe(id, read_targets(subscribe.targets, limit)?).await?;
                if left_out > 0 {
                    add(&self.discovery.metrics.targets_left_out, left_out as u64);
                    tracing::warn!(address = %self.peer.address, left_out, "a proxy follows as many destinations as it may");
                }
            }
            Some(Message::Unsubscribe(unsubscribe)) => {
                desk.unsubscribe(id, read_targets(unsubscribe.targets, limit)?).await?;
            }
            Some(Message::Refresh(refresh)) => {
                read_targets(refresh.targets, limit)?;
                desk.refresh(id).await?;
            }
            Some(Message::Ack(ack)) => {
                let Some(batch) = in_flight.take_if(|batch| batch.nonce == ack.nonce) else {
                    return Err(End::broken("this batch is not in flight"));
                };
                add(&self.discovery.metrics.acknowledgements, 1);
                let settled = settle(outlet, batch.epoch, batch.sent, ack.refusals);
                let refused = settled.iter().filter(|settled| settled.refused.is_some()).count();
                add(&self.discovery.metrics.refusals, refused as u64);
                desk.settle(id, settled).await?;
            }
            Some(Message::Trusted(said)) if of_peers => desk.hear_trusted(id, peer::trusted(&said)).await?,
            Some(Message::Trusted(_)) => {
                return Err(End::broken("how far a bundle has come is for control planes to say"));
            }
            Some(Message::Hello(_)) => {
                return Err(End::broken("Hello is the first message of a stream, and no other"));
            }
            // Something of a newer version: not understood, so not acted on.
            None => {}
        }
        Ok(())
    }
}

/// A message that could not be read: it is none, or is too large; or the caller has gone.
fn unread(status: &Status) -> End {
    match status.code() {
        // Nothing is wrong with its version.
        Code::OutOfRange | Code::DataLoss => End::new(Ended::Broken, Code::ResourceExhausted, status.message()),
        Code::ResourceExhausted | Code::Internal | Code::InvalidArgument => End::broken(status.message()),
        // There was no room for it; no caller ends a stream so.
        Code::Aborted => End::new(Ended::Crowded, Code::ResourceExhausted, status.message()),
        _ => End {
            why: Ended::Closed,
            status: None,
        },
    }
}

/// What became of each resource of a batch. Refusals of what was not in it are nobody's.
fn settle(
    outlet: &Outlet,
    epoch: u64,
    sent: Vec<(Sent, Option<Hash>)>,
    refusals: Vec<discovery::Refusal>,
) -> Vec<Settled> {
    let refusals = refusals
        .into_iter()
        .filter_map(|refusal| Some((Name::read(refusal.name.clone()).ok()?, refusal)));
    let mut refusals: HashMap<Name, discovery::Refusal> = refusals.collect();
    let mut outbox = outlet.outbox();
    let settle = |(sent, before): (Sent, Option<Hash>)| match refusals.remove(&sent.name) {
        None => Settled {
            name: sent.name,
            has: sent.hash,
            refused: None,
        },
        Some(refusal) => {
            let hash = sent.hash.unwrap_or_default();
            // Of what was to be taken away nothing is said again.
            if sent.hash.is_some() {
                outbox.refused(&sent.name, epoch, hash, before);
            }
            let words = |words: String| words.chars().filter(|c| !c.is_control()).take(1024).collect::<String>();
            let mut reason = words(refusal.reason);
            if !refusal.missing_features.is_empty() && reason.is_empty() {
                reason = words(format!("lacks {}", refusal.missing_features.join(", ")));
            }
            Settled {
                name: sent.name,
                has: before,
                refused: Some((hash, words(refusal.field), reason)),
            }
        }
    };
    sent.into_iter().map(settle).collect()
}

fn read_targets(wire: Vec<discovery::Target>, limit: usize) -> Result<Vec<weft_model::destination::Target>, End> {
    name::targets_from_wire(wire, limit).map_err(|error| End::broken(&format!("{}: {}", error.field, error.reason)))
}

/// Tells the desk that a proxy is gone, also when its task is dropped.
struct Leaving {
    desk: Desk,
    tasks: Tasks,
    id: Option<ProxyId>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let desk = self.desk.clone();
        // Where the runtime is ending too, there is nobody left to tell.
        if tokio::runtime::Handle::try_current().is_ok() {
            self.tasks.spawn(async move {
                let _ = desk.leave(id).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_replicas_of_a_large_cluster_may_come_at_once_and_one_that_holds_much_not_again_and_again() {
        let mut follows = Buckets::new(FOLLOWS, 10);
        let now = Instant::now();
        for _ in 0..16 {
            follows.take_many("large", cost(30_000), now).unwrap();
        }
        // As much as a first message has room for.
        let heavy = |follows: &mut Buckets<&str>, at: Duration| follows.take_many("hostile", cost(149_796), now + at);
        let begun = (0..100).filter(|_| heavy(&mut follows, Duration::ZERO).is_ok());
        assert_eq!(begun.count(), 5);
        let later = (1..=600).filter(|n| heavy(&mut follows, Duration::from_millis(100 * n)).is_ok());
        assert!(later.count() <= 16, "a minute has 480 tokens, and one takes 31");
    }
}
