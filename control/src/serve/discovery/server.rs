//! The service as the server takes it. Written by hand, for the sake of batches whose resources are encoded already.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use weft_proto::codec::Bounded;
use weft_proto::discovery::FromProxy;

use super::messages::Messages;
use super::{Answers, Discovery, PARTS_MAX};
use crate::serve::wire::FromControl;

/// See the head of the file.
#[derive(Clone)]
pub(crate) struct DiscoveryServer(pub(crate) Arc<Discovery>);

/// The same for the control planes of other clusters.
#[derive(Clone)]
pub(crate) struct FederationServer(pub(crate) Arc<Discovery>);

impl NamedService for DiscoveryServer {
    const NAME: &'static str = "weft.discovery.v1.Discovery";
}

impl NamedService for FederationServer {
    const NAME: &'static str = "weft.federation.v1.Federation";
}

impl tonic::codegen::Service<http::Request<tonic::body::Body>> for DiscoveryServer {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(follow(self.0.clone(), "/weft.discovery.v1.Discovery/Discover", request))
    }
}

impl tonic::codegen::Service<http::Request<tonic::body::Body>> for FederationServer {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(follow(self.0.clone(), "/weft.federation.v1.Federation/Follow", request))
    }
}

/// Answers a call of the one method that there is.
async fn follow(
    discovery: Arc<Discovery>,
    method: &'static str,
    request: http::Request<tonic::body::Body>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    if request.uri().path() != method {
        return Ok(Status::unimplemented(format!("there is one method here: {method}")).into_http());
    }
    let codec = Bounded::<FromControl, FromProxy>::new("weft.discovery.v1.FromProxy", PARTS_MAX);
    let mut grpc = Grpc::new(codec);
    let peer = match super::super::peer(request.extensions()) {
        Ok(peer) => peer,
        Err(status) => return Ok(status.into_http()),
    };
    let (head, said) = request.into_parts();
    let messages = Messages::new(said, discovery.room.place(&discovery.whose(&peer)));
    // What is said is read by the stream itself.
    let request = http::Request::from_parts(head, tonic::body::Body::empty());
    Ok(grpc.streaming(Discover(discovery, Some(messages)), request).await)
}

struct Discover(Arc<Discovery>, Option<Messages<tonic::body::Body>>);

impl StreamingService<FromProxy> for Discover {
    type Response = FromControl;
    type ResponseStream = Answers;
    type Future = Ready<Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<FromProxy>>) -> Self::Future {
        let messages = self.1.take().ok_or_else(|| Status::internal("it is called once"));
        ready(messages.and_then(|messages| self.0.clone().open(&request, messages)))
    }
}
