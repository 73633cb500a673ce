//! Callers by the hundred, each of which begins to say who it is, at length, and does not come to an end.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Status;
use tonic::codegen::{Service as _, http};
use tonic::transport::Channel;

use super::caller::{PATIENCE, config, connect};
use super::root::Shown;
use super::{Foreign, by};

/// Streams of each connection: as many as it may have.
pub const STREAMS: usize = 16;
/// How long a Hello is said to be, and how much of it is said.
const LENGTH: u32 = 7 << 20;
const SAID: usize = 4 << 20;
const PIECE: &[u8] = &[0; 64 << 10];

impl Foreign {
    /// Begins a Hello on all streams of so many connections at once, as whoever it shows to be: what the first so many of them were
    /// told when they were ended.
    #[track_caller]
    pub fn crowd(&self, to: SocketAddr, shows: &Shown, connections: usize, ended: usize) -> Vec<Status> {
        let config = config(Some(shows), &["h2"]);
        by(&self.runtime, async move {
            let mut all = JoinSet::new();
            for _ in 0..connections {
                let channel = connect(to, config.clone()).await.expect("it is let in so far");
                for _ in 0..STREAMS {
                    all.spawn(timeout(2 * PATIENCE, begin(to, channel.clone())));
                }
            }
            let mut told = Vec::new();
            while told.len() < ended {
                let next = all.join_next().await.expect("one that has not ended");
                told.push(next.expect("no panic").expect("it is ended in time"));
            }
            told
        })
    }
}

/// Begins one: what ends it.
async fn begin(to: SocketAddr, mut channel: Channel) -> Status {
    let request = http::Request::post(format!("http://{to}/weft.federation.v1.Federation/Follow"))
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(Unending { said: None }))
        .expect("a request");
    poll_fn(|context| channel.poll_ready(context))
        .await
        .expect("the connection stands");
    let response = channel.call(request).await.expect("an answer begins");
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    let mut answer = response.into_body();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut answer).poll_frame(context)).await {
        let frame = frame.unwrap_or_else(|status| panic!("{status}"));
        if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
            return status;
        }
    }
    panic!("it ends without a status");
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
