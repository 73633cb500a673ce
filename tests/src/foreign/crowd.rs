//! Callers by the hundred, each of which begins to say who it is, at length, and does not come to an end.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::codegen::{Service as _, http};
use tonic::transport::Channel;

use super::caller::{config, connect};
use super::root::Shown;
use super::{Foreign, by};

/// Streams of each connection: as many as it may have.
const STREAMS: usize = 16;
/// How long a Hello is said to be, and how much of it is said.
const LENGTH: u32 = 7 << 20;
const SAID: usize = 4 << 20;
const PIECE: &[u8] = &[0; 64 << 10];

/// Those who began.
pub struct Crowd {
    /// What the first of them were told that were ended with words.
    pub told: Vec<String>,
    /// All others, for as long as this lives.
    _rest: JoinSet<Option<String>>,
}

impl Foreign {
    /// Begins a Hello on all streams of so many connections at once, as whoever it shows to be, and waits
    /// until so many were ended with words.
    #[track_caller]
    pub fn crowd(&self, to: SocketAddr, shows: &Shown, connections: usize, most: usize) -> Crowd {
        let config = config(Some(shows), &["h2"]);
        by(&self.runtime, async move {
            let mut all = JoinSet::new();
            for _ in 0..connections {
                let channel = connect(to, config.clone()).await.expect("it is let in so far");
                for _ in 0..STREAMS {
                    all.spawn(begin(to, channel.clone()));
                }
            }
            let mut told = Vec::new();
            while told.len() < most
                && let Some(ended) = all.join_next().await
            {
                told.extend(ended.expect("no panic"));
            }
            Crowd { told, _rest: all }
        })
    }
}

/// Begins one: with which words it is ended, if not as its connection is.
async fn begin(to: SocketAddr, mut channel: Channel) -> Option<String> {
    let request = http::Request::post(format!("http://{to}/weft.federation.v1.Federation/Follow"))
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(Unending { said: None }))
        .expect("a request");
    poll_fn(|context| channel.poll_ready(context)).await.ok()?;
    let mut answer = channel.call(request).await.ok()?.into_body();
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut answer).poll_frame(context)).await {
        if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
            return Some(status.message().to_owned());
        }
    }
    None
}

/// A message of which a part is said: how much so far, after its head.
struct Unending {
    said: Option<usize>,
}

impl Body for Unending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let (said, piece) = match self.said {
            None => (0, Bytes::from([&[0], &LENGTH.to_be_bytes()[..]].concat())),
            Some(said) if said < SAID => (said + PIECE.len(), Bytes::from_static(PIECE)),
            Some(_) => return Poll::Pending,
        };
        self.said = Some(said);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}
