//! One peer: its control plane is called, and what it exports is taken in as it changes. A link that breaks is begun anew, for
//! ever; what was heard stays for as long as the ClusterPeer says.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Streaming};
use weft_model::version::Version;
use weft_proto::codec::Bounded;
use weft_proto::discovery::{self, FromControl, FromProxy, from_control, from_proxy::Message};
use weft_proto::parts::PARTS_MAX;
use weft_proto::resource::{self, Body, Change, FieldError, Update, name};

use super::batch::{gone, in_turn, piece, read};
use super::copies::Copies;
use super::dial::Fault;
use super::kept::{Kept, News, Said};
use super::{Links, dial};
use crate::authority::{Chain, Issuer};
use crate::objects::peer::{Peer, Selection};
use crate::serve::desk::{Closed, Desk};
use crate::serve::hub::{self, LinkState, Trusted};
use crate::serve::outbox::Hash;
use crate::serve::rate;

/// The largest batch that is read.
const BATCH_MAX: usize = 64 << 20;
/// How much room there is in the first message for what is held here: of a larger one nothing is read. And what one takes of that beside
/// its name.
const HELD_MAX: usize = 100_000;
const HELD_BYTES_MAX: usize = 7 << 20;
const HELD_BYTES: usize = 32;
/// How long a peer may take to open the stream.
const OPEN: Duration = Duration::from_secs(5);
/// The first and the longest pause before the next attempt; half of it is random. A link heals within two seconds.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(800);
/// A link that was there for less is begun anew as one that was not.
const HELD: Duration = Duration::from_secs(5);
/// Bytes of what a peer says when it ends a stream.
const WORDS_MAX: usize = 1024;
/// Batches of one peer are taken in no faster than this, and bytes: it waits for each acknowledgement.
const BATCH_SPACING: Duration = Duration::from_millis(10);
const BYTES_PER_SECOND: f64 = (32 << 20) as f64;
/// Where a peer's pods are decides how all of its endpoints are reached: that it is elsewhere is taken no more often.
const NETWORKS_SPACING: Duration = Duration::from_secs(1);
/// How far the peer's bundle has come is told no more often than this.
const REPORT_SPACING: Duration = Duration::from_millis(500);
/// What was heard is kept when nothing more has come for so long; a peer that is silent for longer is heard of all the same.
const KEEP: Duration = Duration::from_secs(1);
const KEEP_LATEST: Duration = Duration::from_secs(10);
const TOUCH: Duration = Duration::from_secs(10);

/// One link.
pub(super) struct Link {
    /// Our own cluster's name.
    cluster: String,
    /// Which of our replicas this is.
    instance: String,
    peer: Peer,
    desk: Desk,
    issuer: Arc<Issuer>,
    kept: Kept,
    copies: Option<Copies>,
    state: LinkState,
    /// Told when all that the peer exports has come for the first time.
    heard: Option<watch::Sender<BTreeSet<String>>>,
    /// Since when what was heard is not kept.
    unkept: Option<Instant>,
    /// What is held and had no room in the first message: whether it is there still is known when all has come.
    unsaid: BTreeSet<name::Name>,
    /// Where the peer's pods are, as it has said last.
    networks: Option<Vec<IpNet>>,
    /// Whether something else is to be kept.
    news: News,
    lines: Lines,
}

/// What of the link was logged.
#[derive(Debug, Default)]
struct Lines {
    made: rate::Lines,
    broken: rate::Lines,
    /// It is broken for a reason that had no room, or is made and there was none.
    untold: bool,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Dial(#[from] dial::DialError),
    #[error("the peer does not open the stream in time")]
    Slow,
    #[error("the peer ended the stream: {}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("the peer says something that is not read here: {0}")]
    Unread(String),
    #[error("the peer does not take this cluster's certificate: {0}")]
    Untrusted(String),
    #[error("the peer ended the stream")]
    Gone,
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl Link {
    pub(super) fn new(links: &Links, peer: &Peer, heard: watch::Sender<BTreeSet<String>>, news: News) -> Self {
        let Links {
            cluster,
            network: _,
            desk,
            issuer,
            kept,
            copies,
            ..
        } = links;
        Self {
            cluster: cluster.clone(),
            instance: format!("{:016x}", rand::random::<u64>()),
            peer: peer.clone(),
            desk: desk.clone(),
            issuer: issuer.clone(),
            kept: kept.clone(),
            copies: copies.clone(),
            heard: Some(heard),
            unkept: None,
            unsaid: BTreeSet::new(),
            networks: None,
            news,
            lines: Lines::default(),
            state: LinkState {
                state: hub::Link::Connecting,
                since: SystemTime::now(),
                endpoint: String::new(),
                fault: "",
                reason: String::new(),
                lasting: hub::Lasting::default(),
                heard: None,
                complete: false,
                linked: None,
            },
        }
    }

    /// Follows the peer, for ever.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        match self.desk.link_of(&self.peer.cluster).await {
            // It goes on from where another task, or another process, has left it.
            Ok(Some(before)) if before.state != hub::Link::Connected => self.state = before,
            Ok(Some(before)) => {
                let now = SystemTime::now();
                self.state = LinkState {
                    state: hub::Link::Stale,
                    since: now,
                    heard: Some(now),
                    lasting: hub::Lasting::default(),
                    ..before
                }
            }
            Ok(None) => {}
            Err(_) => return,
        }
        for at in (0..self.peer.endpoints.len()).cycle() {
            let ended = match self.follow(at).await {
                Ok(never) => match never {},
                Err(Ended::Closed(_)) => return,
                Err(ended) => ended,
            };
            let connected = self.state.state == hub::Link::Connected;
            if connected {
                self.state.heard = Some(SystemTime::now());
            }
            let next = self.broken();
            if next == hub::Link::Forgotten && self.state.state != next {
                if self.desk.forget(&self.peer.cluster).await.is_err() {
                    return;
                }
                (self.state.complete, self.state.linked) = (false, None);
                // Who it is stays.
                self.news.tell();
            }
            self.keep().await;
            let reason = Chain(&ended).to_string();
            self.log_broken(connected || self.state.reason != reason, &reason);
            let held = connected && self.state.since.elapsed().unwrap_or_default() > HELD;
            if self.tell(next, ended.word(), reason).await.is_err() {
                return;
            }
            pause = if held { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        }
    }

    /// Logs that the link is made, if that was not told.
    fn log_made(&mut self) {
        let Lines { made, untold, .. } = &mut self.lines;
        if *untold && made.take(std::time::Instant::now()) {
            *untold = false;
            tracing::info!(peer = self.peer.cluster, endpoint = self.state.endpoint, "linked");
        }
    }

    /// Logs why a link is broken, if that is news, or was and had no room: a peer can end its streams as often as it likes.
    fn log_broken(&mut self, is_news: bool, reason: &str) {
        let Lines { broken, untold, .. } = &mut self.lines;
        *untold |= is_news;
        if *untold && broken.take(std::time::Instant::now()) {
            *untold = false;
            tracing::warn!(peer = self.peer.cluster, reason, "the link is broken");
        }
    }

    /// What state a link is in that is not connected.
    fn broken(&self) -> hub::Link {
        let silent = self.state.heard.map(|heard| heard.elapsed().unwrap_or_default());
        match silent {
            None => hub::Link::Connecting,
            Some(silent) if silent < self.peer.keep_for => hub::Link::Stale,
            Some(_) => hub::Link::Forgotten,
        }
    }

    /// Keeps what is known, if it is not kept yet. Returns whether there was anything to keep.
    async fn keep(&mut self) -> bool {
        let news = self.news.take();
        if self.unkept.take().is_none() && !news {
            return false;
        }
        let Ok(heard) = self.desk.heard(&self.peer.cluster).await else {
            return false;
        };
        let (said, last) = (Said::of(&self.peer, heard), self.state.heard);
        if let Some(copies) = &self.copies {
            copies.put(&self.peer, &said, self.state.complete);
        }
        self.file(move |kept, cluster| kept.write(cluster, &said, last)).await;
        true
    }

    /// Does something with the file in which it is kept.
    async fn file(&self, work: impl FnOnce(&Kept, &str) -> io::Result<()> + Send + 'static) {
        let (kept, cluster) = (self.kept.clone(), self.peer.cluster.clone());
        let done = tokio::task::spawn_blocking(move || work(&kept, &cluster)).await;
        if let Err(error) = done.map_err(io::Error::other).and_then(|done| done) {
            tracing::warn!(peer = self.peer.cluster, %error, "what a peer says could not be kept");
        }
    }

    /// Tells of another state.
    async fn tell(&mut self, state: hub::Link, fault: &'static str, reason: String) -> Result<(), Closed> {
        self.state.enter(state, fault, reason);
        self.desk.link(&self.peer.cluster, self.state.clone()).await
    }

    /// One stream, from its beginning to its end.
    async fn follow(&mut self, at: usize) -> Result<std::convert::Infallible, Ended> {
        let endpoint = self.peer.endpoints[at].clone();
        self.state.endpoint = endpoint.to_string();
        let tls = self
            .issuer
            .federation()
            .client_config_expecting(&self.peer.control_plane, &[b"h2"]);
        let fault = Fault::default();
        let channel = dial::channel(&endpoint, tls, &fault)
            .await
            .map_err(|error| refused(error.into(), &fault))?;
        let (say, said) = mpsc::channel(2);
        let hello = message(Message::Hello(self.hello().await?));
        let messages = tokio_stream::once(hello).chain(ReceiverStream::new(said));
        let stream = match timeout(OPEN, open(channel, messages)).await {
            Err(_) => return Err(Ended::Slow),
            Ok(Err(status)) => return Err(refused(status.into(), &fault)),
            Ok(Ok(stream)) => stream,
        };
        let (desk, cluster) = (self.desk.clone(), self.peer.cluster.clone());
        tokio::select! {
            ended = self.hear(stream, &say) => ended,
            ended = report(desk, cluster, &say) => ended,
        }
    }

    /// Takes in what the peer says, and acknowledges it.
    async fn hear(
        &mut self,
        mut stream: Streaming<discovery::FromControl>,
        say: &mpsc::Sender<FromProxy>,
    ) -> Result<std::convert::Infallible, Ended> {
        loop {
            if self.unkept.is_some_and(|since| since.elapsed() > KEEP_LATEST) {
                self.keep().await;
            }
            let first = self.state.state != hub::Link::Connected;
            let wait = match self.unkept {
                _ if first => OPEN,
                Some(_) => KEEP,
                None => TOUCH,
            };
            let batch = match timeout(wait, next(&mut stream)).await {
                Ok(batch) => batch?,
                // The first batch comes in any case, if only to say that there is nothing.
                Err(_) if first => return Err(Ended::Slow),
                Err(_) if self.unkept.is_some() => {
                    self.keep().await;
                    continue;
                }
                Err(_) => {
                    self.state.heard = Some(SystemTime::now());
                    if !self.keep().await {
                        self.file(Kept::touch).await;
                    }
                    self.tell(hub::Link::Connected, "", String::new()).await?;
                    self.log_made();
                    continue;
                }
            };
            // The first batch comes in any case: it says that the peer takes us.
            self.state.heard = Some(SystemTime::now());
            if self.state.state != hub::Link::Connected {
                self.lines.untold = true;
                self.tell(hub::Link::Connected, "", String::new()).await?;
            }
            self.log_made();
            let (bytes, complete) = (size(&batch), batch.complete);
            let (ack, moved) = self.take(batch).await?;
            self.unkept.get_or_insert_with(Instant::now);
            if complete {
                self.complete().await?;
            }
            sleep(spacing(bytes, moved)).await;
            if say.send(message(Message::Ack(ack))).await.is_err() {
                return Err(Ended::Gone);
            }
        }
    }

    /// All that the peer exports has come. What it was not asked for, and has not said, is gone.
    async fn complete(&mut self) -> Result<(), Closed> {
        let unsaid = std::mem::take(&mut self.unsaid);
        if !unsaid.is_empty() {
            let gone = unsaid.into_iter().map(gone).collect();
            self.desk.hear(&self.peer.cluster, gone, Vec::new()).await?;
        }
        if let Some(heard) = self.heard.take() {
            heard.send_modify(|all| all.extend([self.peer.cluster.clone()]));
        }
        match std::mem::replace(&mut self.state.complete, true) {
            true => Ok(()),
            false => self.tell(hub::Link::Connected, "", String::new()).await,
        }
    }

    /// Who we are, and what we have.
    async fn hello(&mut self) -> Result<discovery::Hello, Closed> {
        let held = self.desk.held(&self.peer.cluster).await?;
        let (held, unsaid) = with_room(held);
        self.unsaid = unsaid;
        let held = held.into_iter().map(|(name, hash)| {
            let sources = Vec::new();
            name::held_to_wire(&name, &Version { hash, sources })
        });
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let peer = discovery::Peer {
            cluster: self.cluster.clone(),
            imports: self.peer.imports.iter().map(selection).collect(),
            now_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            instance: self.instance.clone(),
        };
        Ok(discovery::Hello {
            build: env!("CARGO_PKG_VERSION").to_owned(),
            features: weft_model::feature::SUPPORTED
                .iter()
                .map(|&feature| feature.to_owned())
                .collect(),
            held: held.collect(),
            peer: Some(peer),
            ..discovery::Hello::default()
        })
    }

    /// Takes a batch in, piece by piece, so that no more of it than a piece is ever decoded. What cannot be read, or may not be said,
    /// is refused, and not kept either. Returns whether it says that the peer's pods are elsewhere now.
    async fn take(&mut self, batch: discovery::Batch) -> Result<(discovery::Ack, bool), Closed> {
        let (mut said, mut refusals, mut unread) = in_turn(batch.resources);
        let mut moved = false;
        loop {
            let mut updates = Vec::new();
            let mut versions = BTreeMap::new();
            for (name, wire) in piece(&mut said) {
                versions.insert(name.clone(), wire.version.clone());
                self.unsaid.remove(&name);
                let update = read(&name, wire).unwrap_or_else(|refusal| {
                    unread.push((
                        name.clone(),
                        FieldError::new(refusal.field.clone(), refusal.reason.clone()),
                    ));
                    refusals.push(*refusal);
                    gone(name)
                });
                updates.push(update);
            }
            moved |= self.has_moved(&updates);
            let unread = std::mem::take(&mut unread);
            for (name, error) in self.desk.hear(&self.peer.cluster, updates, unread).await? {
                let version = versions.get(&name).cloned().flatten();
                refusals.push(resource::refusal(Some(name.to_wire()), version, error));
            }
            if said.is_empty() {
                break;
            }
        }
        let ack = discovery::Ack {
            nonce: batch.nonce,
            refusals,
        };
        Ok((ack, moved))
    }

    /// Whether the peer's pods are elsewhere than it has said before.
    fn has_moved(&mut self, updates: &[Update]) -> bool {
        let said = updates.iter().find_map(|update| match &update.change {
            Change::Body(body) => match &**body {
                Body::Cluster(said) => Some(&said.pod_networks),
                _ => None,
            },
            _ => None,
        });
        said.is_some_and(|said| {
            let before = self.networks.replace(said.clone());
            before.is_some_and(|before| before != *said)
        })
    }
}

impl Ended {
    /// In one word: what would have to be mended.
    fn word(&self) -> &'static str {
        match self {
            Self::Dial(error) => error.word(),
            Self::Untrusted(_) => "refused",
            Self::Unread(_) => "message",
            Self::Slow => "slow",
            Self::Status(status) => match status.code() {
                tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => "refused",
                tonic::Code::Unimplemented | tonic::Code::InvalidArgument => "version",
                _ => "stream",
            },
            Self::Gone | Self::Closed(_) => "ended",
        }
    }
}

impl From<tonic::Status> for Ended {
    fn from(status: tonic::Status) -> Self {
        let words = status.message();
        let words = &words[..words.floor_char_boundary(WORDS_MAX)];
        match status.code() {
            // Too many parts, or bytes: no peer answers so.
            tonic::Code::DataLoss | tonic::Code::OutOfRange => Self::Unread(words.to_owned()),
            code => Self::Status(Box::new(tonic::Status::new(code, words))),
        }
    }
}

/// The same end, or what TLS has said of it.
fn refused(ended: Ended, fault: &Fault) -> Ended {
    fault.said().map_or(ended, Ended::Untrusted)
}

fn message(message: Message) -> FromProxy {
    FromProxy { message: Some(message) }
}

async fn next(stream: &mut Streaming<discovery::FromControl>) -> Result<discovery::Batch, Ended> {
    loop {
        match stream.message().await? {
            Some(discovery::FromControl {
                message: Some(from_control::Message::Batch(batch)),
            }) => return Ok(batch),
            // Something of a newer version, which this one does not know.
            Some(_) => {}
            None => return Err(Ended::Gone),
        }
    }
}

/// Tells the peer how far its bundle has come with our proxies, whenever that has changed.
async fn report(desk: Desk, cluster: String, say: &mpsc::Sender<FromProxy>) -> Result<std::convert::Infallible, Ended> {
    let mut stirred = desk.stirred();
    let mut told = None;
    loop {
        stirred.mark_unchanged();
        let trusted = desk.trusted(&cluster).await?;
        if trusted != told
            && let Some(trusted) = trusted
        {
            let said = message(Message::Trusted(trusted_to_wire(trusted)));
            say.send(said).await.map_err(|_| Ended::Gone)?;
            told = Some(trusted);
        }
        // A roll-out stirs all the time, and who waits for this waits for seconds anyway.
        sleep(REPORT_SPACING).await;
        stirred.changed().await.map_err(|_| Closed)?;
    }
}

fn trusted_to_wire(trusted: Trusted) -> discovery::Trusted {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    discovery::Trusted {
        sequence: trusted.sequence,
        proxies: count(trusted.proxies),
        acknowledged: count(trusted.acknowledged),
        reached: trusted.reached,
    }
}

fn selection(imports: &Selection) -> discovery::Selection {
    discovery::Selection {
        namespaces: imports.namespaces(),
        labels: imports.labels().clone(),
    }
}

/// What of it has room in the first message, and what has not. That is said anew, if it is there still.
fn with_room(mut held: Vec<(name::Name, Hash)>) -> (Vec<(name::Name, Hash)>, BTreeSet<name::Name>) {
    let mut bytes = 0;
    let has_room = |(name, _): &&(name::Name, Hash)| {
        bytes += HELD_BYTES + name.key.len();
        bytes <= HELD_BYTES_MAX
    };
    let room = held.iter().take(HELD_MAX).take_while(has_room).count();
    let unsaid = held.split_off(room);
    (held, unsaid.into_iter().map(|(name, _)| name).collect())
}

/// Calls the one method that there is. Not by the generated client: a batch has its bounds before it is decoded.
async fn open(
    channel: Channel,
    messages: impl tokio_stream::Stream<Item = FromProxy> + Send + 'static,
) -> Result<Streaming<FromControl>, tonic::Status> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(BATCH_MAX);
    let unready = |error: tonic::transport::Error| tonic::Status::unavailable(Chain(&error).to_string());
    grpc.ready().await.map_err(unready)?;
    let codec = Bounded::<FromProxy, FromControl>::new("weft.discovery.v1.FromControl", PARTS_MAX);
    let path = PathAndQuery::from_static("/weft.federation.v1.Federation/Follow");
    let response = grpc.streaming(Request::new(messages), path, codec).await?;
    Ok(response.into_inner())
}

/// How long the next batch is waited for after one of so many bytes. `moved`: it says that the peer's pods are elsewhere.
fn spacing(bytes: usize, moved: bool) -> Duration {
    let least = if moved { NETWORKS_SPACING } else { BATCH_SPACING };
    least.max(Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND))
}

/// About how large a batch is.
fn size(batch: &discovery::Batch) -> usize {
    let body = |resource: &discovery::Resource| match &resource.state {
        Some(discovery::resource::State::Body(body)) => body.len(),
        _ => 64,
    };
    batch.resources.iter().map(body).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_in_the_first_message_is_known_to_be_unsaid() {
        let held = |many: usize, length: usize| -> Vec<(name::Name, Hash)> {
            let key = |n: usize| format!("{n:0length$}");
            (0..many)
                .map(|n| (name::Name::new(name::Kind::Exported, key(n)), [7; 16]))
                .collect()
        };
        let (said, unsaid) = with_room(held(1000, 120));
        assert_eq!((said.len(), unsaid.len()), (1000, 0));
        for (length, most) in [(6, HELD_MAX), (120, HELD_BYTES_MAX / (HELD_BYTES + 120))] {
            let (said, unsaid) = with_room(held(most + 7, length));
            assert_eq!((said.len(), unsaid.len()), (most, 7));
            let to_wire = |(name, hash): &(name::Name, Hash)| {
                let sources = Vec::new();
                name::held_to_wire(name, &Version { hash: *hash, sources })
            };
            let hello = discovery::Hello {
                held: said.iter().map(to_wire).collect(),
                ..discovery::Hello::default()
            };
            // What one that follows us reads (serve/discovery.rs).
            let bytes = prost::Message::encode_to_vec(&message(Message::Hello(hello)));
            assert!(bytes.len() < 8 << 20, "{}", bytes.len());
            assert!(weft_proto::parts::of("weft.discovery.v1.FromProxy", &bytes, 2 * PARTS_MAX).is_some());
        }
    }
}
