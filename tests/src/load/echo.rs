//! gRPC: a stream of messages each way, each of which comes back with the server's name. The message is the well-known
//! StringValue, so that there is nothing to generate.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{NamedService, StreamingService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

const PATH: &str = "/weft.tests.Echo/Talk";

#[derive(Clone)]
struct Echo(Arc<str>);

impl NamedService for Echo {
    const NAME: &'static str = "weft.tests.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let codec: ProstCodec<String, String> = ProstCodec::default();
            Ok(tonic::server::Grpc::new(codec).streaming(echo, request).await)
        })
    }
}

impl StreamingService<String> for Echo {
    type Response = String;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        let name = self.0.clone();
        let answers = request
            .into_inner()
            .map(move |said| said.map(|said| format!("{name} {said}")));
        ready(Ok(Response::new(Box::pin(answers))))
    }
}

/// Serves until it ends, and the streams that are under way to their end.
pub(super) async fn serve(listener: TcpListener, name: Arc<str>, mut ending: watch::Receiver<bool>) {
    let end = async move {
        // An error says that whoever decides is gone.
        let _ = ending.wait_for(|ending| *ending).await;
    };
    let served = Server::builder().add_service(Echo(name));
    let served = served.serve_with_incoming_shutdown(TcpListenerStream::new(listener), end);
    if let Err(error) = served.await {
        eprintln!("gRPC: {error}");
    }
}

/// A channel, not connected yet.
pub(super) fn channel(host: &str, port: u16) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}")).context("the channel's address")?;
    Ok(endpoint.connect_lazy())
}

/// One stream: so many messages, each answered before the next.
pub(super) async fn stream(channel: Channel, messages: usize, pause: Duration) -> Result<String> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.context("the channel")?;
    let (say, said) = mpsc::channel(1);
    let codec: ProstCodec<String, String> = ProstCodec::default();
    let request = Request::new(ReceiverStream::new(said));
    let mut heard = client
        .streaming(request, PathAndQuery::from_static(PATH), codec)
        .await
        .map_err(told)?
        .into_inner();
    let mut who = None;
    for at in 0..messages {
        say.send(format!("line {at}")).await.context("the stream is closed")?;
        let line = heard.message().await.map_err(told)?;
        super::answered(&mut who, at, line.as_deref())?;
        sleep(pause).await;
    }
    drop(say);
    if heard.message().await.map_err(told)?.is_some() {
        bail!("more than was said");
    }
    who.context("nothing was said")
}

/// A status without the metadata, which would make each failure one of its own.
fn told(status: Status) -> anyhow::Error {
    anyhow::anyhow!("{}: {}", status.code(), status.message())
}
