//! `reviews`: what people wrote about a product. Asks `ratings` over gRPC.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use crate::app;
use crate::rpc::{Rating, RatingRequest, ratings_client::RatingsClient};

/// Reviews of products.
#[derive(Debug, Parser)]
#[command(name = "reviews")]
struct Args {
    /// The port to listen on.
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,
    /// Where ratings are.
    #[arg(long, env = "RATINGS_URL", default_value = "http://ratings:7070")]
    ratings: String,
    /// What this build calls itself.
    #[arg(long, env = "VERSION", default_value = "v1")]
    version: String,
}

/// Runs the program.
pub fn main(args: Vec<OsString>) -> ExitCode {
    app::start(args, run)
}

async fn run(args: Args) -> Result<()> {
    let endpoint = Endpoint::from_shared(args.ratings.clone()).context("the address of ratings")?;
    let ratings = endpoint
        .connect_timeout(Duration::from_secs(2))
        .timeout(Duration::from_secs(4))
        .connect_lazy();
    app::serve(args.port, move |request| {
        answer(ratings.clone(), args.version.clone(), request)
    })
    .await
}

async fn answer(ratings: Channel, version: String, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if path == "/healthz" {
        return app::json(StatusCode::OK, &json!({"ok": true}));
    }
    if path == "/headers" {
        return app::headers_as_json(request.headers());
    }
    let Some(product) = path.strip_prefix("/reviews/") else {
        return app::json(StatusCode::NOT_FOUND, &json!({"error": "ask for /reviews/<product>"}));
    };
    let caller = request
        .headers()
        .get("x-forwarded-client-cert")
        .map(|v| String::from_utf8_lossy(v.as_bytes()));
    match rate(ratings, product, request.headers()).await {
        Ok(rating) => {
            let rating = json!({"stars": rating.stars, "pod": rating.pod});
            let pod = app::pod();
            let body = json!({"product": product, "version": version, "pod": pod, "caller": caller, "rating": rating});
            app::json(StatusCode::OK, &body)
        }
        Err(status) => {
            let body =
                json!({"error": "ratings answered badly", "code": status.code() as i32, "why": status.message()});
            app::json(StatusCode::BAD_GATEWAY, &body)
        }
    }
}

async fn rate(ratings: Channel, product: &str, headers: &HeaderMap) -> Result<Rating, tonic::Status> {
    let mut request = tonic::Request::new(RatingRequest {
        product: product.to_owned(),
    });
    *request.metadata_mut() = MetadataMap::from_headers(app::passed_on(headers));
    Ok(RatingsClient::new(ratings).get(request).await?.into_inner())
}
