//! Discover: one stream to the control plane.
//!
//! In: what is to be said. Out: batches, and why the stream ended. It runs as a task of its own, so that the store never
//! waits for the network; both ways are bounded.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use weft_proto::discovery::discovery_client::DiscoveryClient;
use weft_proto::discovery::{self, from_control, from_proxy};

use super::dial::{self, DialError};

/// Messages that may wait to be sent. A control plane that does not read as many is as good as gone.
const OUTGOING: usize = 1024;
/// Batches that may wait for the store, which takes each at once.
const INCOMING: usize = 4;
/// The largest batch.
const BATCH_MAX: usize = 64 * 1024 * 1024;
/// How long the control plane may take to open the stream.
const OPEN: Duration = Duration::from_secs(10);

/// One stream. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Link {
    outgoing: mpsc::Sender<discovery::FromProxy>,
    events: mpsc::Receiver<Event>,
    _task: AbortOnDropHandle<()>,
}

/// What happens on a stream.
#[derive(Debug)]
pub(super) enum Event {
    /// The control plane has taken the stream.
    Opened,
    /// Changes.
    Batch(discovery::Batch),
    /// It has ended, and why. The last event.
    Ended(LinkError),
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// There was no connection.
    #[error(transparent)]
    Dial(DialError),
    /// The control plane did not open it in time.
    #[error("the control plane did not open the stream in time")]
    Slow,
    /// The control plane said so, or the connection broke.
    #[error("the stream ended: {}: {}", .0.code(), .0.message())]
    Status(tonic::Status),
    /// The control plane ended it in order: our leaf has ended, or it is about to restart.
    #[error("the control plane ended the stream")]
    Ended,
}

impl Link {
    /// Opens a stream that begins with this hello.
    pub(super) fn open(mark: Option<u32>, at: String, tls: Arc<ClientConfig>, hello: discovery::Hello) -> Self {
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let (happened, events) = mpsc::channel(INCOMING);
        let first = message(from_proxy::Message::Hello(hello));
        let task = tokio::spawn(async move {
            let ended = follow(mark, at, tls, first, messages, &happened).await;
            // Nobody listens where the link was dropped.
            let _ = happened.send(Event::Ended(ended)).await;
        });
        Self {
            outgoing,
            events,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Says something. `false`: the control plane does not read, and the link is to be dropped.
    pub(super) fn say(&self, said: from_proxy::Message) -> bool {
        self.outgoing.try_send(message(said)).is_ok()
    }

    /// What happens next. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        self.events.recv().await.unwrap_or(Event::Ended(LinkError::Ended))
    }
}

async fn follow(
    mark: Option<u32>,
    at: String,
    tls: Arc<ClientConfig>,
    first: discovery::FromProxy,
    messages: mpsc::Receiver<discovery::FromProxy>,
    happened: &mpsc::Sender<Event>,
) -> LinkError {
    use tokio_stream::StreamExt as _;
    let channel = match dial::channel(mark, &at, Some(tls)).await {
        Ok(channel) => channel,
        Err(error) => return LinkError::Dial(error),
    };
    let outgoing = tokio_stream::once(first).chain(ReceiverStream::new(messages));
    let mut client = DiscoveryClient::new(channel).max_decoding_message_size(BATCH_MAX);
    let mut incoming = match timeout(OPEN, client.discover(outgoing)).await {
        Err(_) => return LinkError::Slow,
        Ok(Err(status)) => return LinkError::Status(status),
        Ok(Ok(response)) => response.into_inner(),
    };
    if happened.send(Event::Opened).await.is_err() {
        return LinkError::Ended;
    }
    loop {
        match incoming.message().await {
            Ok(Some(discovery::FromControl {
                message: Some(from_control::Message::Batch(batch)),
            })) => {
                if happened.send(Event::Batch(batch)).await.is_err() {
                    return LinkError::Ended;
                }
            }
            // A newer control plane's message that this version does not know.
            Ok(Some(_)) => {}
            Ok(None) => return LinkError::Ended,
            Err(status) => return LinkError::Status(status),
        }
    }
}

fn message(said: from_proxy::Message) -> discovery::FromProxy {
    discovery::FromProxy { message: Some(said) }
}
