//! What the shop's HTTP programs share: serving, asking, ending.

use std::convert::Infallible;
use std::ffi::OsString;
use std::net::{Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The headers that an app passes on, so that a trace and a tester's wish survive the hop.
pub(crate) const PASSED_ON: [&str; 5] = ["traceparent", "tracestate", "baggage", "x-request-id", "x-canary"];
/// An answer of another program is read up to this size.
const ANSWER_MAX: usize = 1 << 20;
/// A program waits this long for another one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Client for HTTP/1.1 with kept connections.
pub(crate) type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// Reads the program's arguments and runs it on one thread, until it ends by itself or by SIGTERM.
pub(crate) fn start<A: Parser, F: Future<Output = Result<()>>>(
    args: Vec<OsString>,
    run: impl FnOnce(A) -> F,
) -> ExitCode {
    let args = match A::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let asked = !error.use_stderr();
            // Nothing can be done about a closed stderr.
            let _ = error.print();
            return ExitCode::from(if asked { 0 } else { 64 });
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Completes on SIGTERM or SIGINT.
pub(crate) async fn told_to_end() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Listens on all addresses of both families.
pub(crate) async fn listen(port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on port {port}"))
}

/// Serves HTTP/1.1 until told to end, then finishes the requests that are in flight.
pub(crate) async fn serve<F, R>(port: u16, answer: F) -> Result<()>
where
    F: Fn(Request<Incoming>) -> R + Clone + 'static,
    R: Future<Output = Response<Full<Bytes>>> + 'static,
{
    let listener = listen(port).await?;
    println!("listening on port {port}");
    let local = tokio::task::LocalSet::new();
    local.run_until(accept(listener, answer)).await
}

async fn accept<F, R>(listener: TcpListener, answer: F) -> Result<()>
where
    F: Fn(Request<Incoming>) -> R + Clone + 'static,
    R: Future<Output = Response<Full<Bytes>>> + 'static,
{
    let (ending, end) = tokio::sync::watch::channel(());
    let mut told = std::pin::pin!(told_to_end());
    loop {
        let socket = tokio::select! {
            told = &mut told => { told?; break }
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                // Out of descriptors, say: wait for some to come back.
                Err(_) => { tokio::time::sleep(Duration::from_millis(50)).await; continue }
            },
        };
        let (answer, mut end) = (answer.clone(), end.clone());
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(socket), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                // A client that went away is its own business.
                _ = &mut connection => {}
                _ = end.changed() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        });
    }
    drop(end);
    // Ends every connection's wait, then waits for all of them.
    ending.send_replace(());
    ending.closed().await;
    Ok(())
}

/// A client for the other programs.
pub(crate) fn client() -> HttpClient {
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .build_http()
}

/// Asks another program. The answer is its status, headers and body.
pub(crate) async fn get(client: &HttpClient, url: &str, headers: &HeaderMap) -> Result<(StatusCode, HeaderMap, Bytes)> {
    let mut request = Request::get(url)
        .body(Full::default())
        .with_context(|| format!("the address {url}"))?;
    for (name, value) in headers {
        request.headers_mut().append(name, value.clone());
    }
    let asked = async {
        let response = client.request(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_MAX)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!(error))?;
        Ok((head.status, head.headers, body.to_bytes()))
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .with_context(|| format!("{url} took over {PATIENCE:?}"))?
}

/// The headers of a request that go on to the next program.
pub(crate) fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in PASSED_ON {
        for value in headers.get_all(name) {
            kept.append(name, value.clone());
        }
    }
    kept
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

/// The request's headers as JSON, for the curious.
pub(crate) fn headers_as_json(headers: &HeaderMap) -> Response<Full<Bytes>> {
    let pairs = headers.iter().map(|(name, value)| {
        (
            name.to_string(),
            serde_json::Value::from(String::from_utf8_lossy(value.as_bytes())),
        )
    });
    json(StatusCode::OK, &serde_json::Value::Object(pairs.collect()))
}

/// This pod's name.
pub(crate) fn pod() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}
