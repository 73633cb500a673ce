//! `web`: what visitors see. Asks `reviews` over HTTP.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use bytes::Bytes;
use clap::Parser;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::app;

/// The shop's front page.
#[derive(Debug, Parser)]
#[command(name = "web")]
struct Args {
    /// The port to listen on.
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,
    /// Where reviews are.
    #[arg(long, env = "REVIEWS_URL", default_value = "http://reviews:8080")]
    reviews: String,
}

/// Runs the program.
pub fn main(args: Vec<OsString>) -> ExitCode {
    app::start(args, run)
}

async fn run(args: Args) -> Result<()> {
    let client = app::client();
    app::serve(args.port, move |request| {
        answer(client.clone(), args.reviews.clone(), request)
    })
    .await
}

async fn answer(client: app::HttpClient, reviews: String, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if path == "/healthz" {
        return app::json(StatusCode::OK, &json!({"ok": true}));
    }
    if path == "/headers" {
        return app::headers_as_json(request.headers());
    }
    let Some(product) = path.strip_prefix("/products/") else {
        return app::json(StatusCode::NOT_FOUND, &json!({"error": "ask for /products/<id>"}));
    };
    let url = format!("{reviews}/reviews/{product}");
    match app::get(&client, &url, &app::passed_on(request.headers())).await {
        Ok((StatusCode::OK, _, body)) => {
            let reviews = serde_json::from_slice::<Value>(&body).unwrap_or_default();
            app::json(
                StatusCode::OK,
                &json!({"product": product, "web": app::pod(), "reviews": reviews}),
            )
        }
        Ok((status, headers, body)) => {
            let why = headers
                .get("proxy-status")
                .map(|value| String::from_utf8_lossy(value.as_bytes()));
            let text = String::from_utf8_lossy(&body);
            let body = json!({"error": "reviews answered badly", "status": status.as_u16(), "why": why, "text": text});
            app::json(StatusCode::BAD_GATEWAY, &body)
        }
        Err(error) => app::json(StatusCode::BAD_GATEWAY, &json!({"error": format!("{error:#}")})),
    }
}
