//! `ratings`: the stars of a product, over gRPC.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tonic::{Request, Response, Status};

use crate::app;
use crate::rpc::ratings_server::{Ratings, RatingsServer};
use crate::rpc::{Rating, RatingRequest};

/// Stars of products.
#[derive(Debug, Parser)]
#[command(name = "ratings")]
struct Args {
    /// The port to listen on.
    #[arg(long, env = "PORT", default_value_t = 7070)]
    port: u16,
}

struct Stars {
    pod: String,
}

#[tonic::async_trait]
impl Ratings for Stars {
    async fn get(&self, request: Request<RatingRequest>) -> Result<Response<Rating>, Status> {
        let product = request.into_inner().product;
        let stars = product
            .bytes()
            .fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(byte)))
            % 5
            + 1;
        Ok(Response::new(Rating {
            stars,
            pod: self.pod.clone(),
        }))
    }
}

/// Runs the program.
pub fn main(args: Vec<OsString>) -> ExitCode {
    app::start(args, run)
}

async fn run(args: Args) -> Result<()> {
    let listener = app::listen(args.port).await?;
    println!("listening on port {}", args.port);
    let connections = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let (health, answers) = tonic_health::server::health_reporter();
    health.set_serving::<RatingsServer<Stars>>().await;
    tonic::transport::Server::builder()
        .add_service(answers)
        .add_service(RatingsServer::new(Stars { pod: app::pod() }))
        .serve_with_incoming_shutdown(connections, async {
            if let Err(error) = app::told_to_end().await {
                eprintln!("{error:#}");
            }
        })
        .await
        .context("serving")
}
