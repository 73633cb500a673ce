//! A small HTTP/1.1 server for people, probes and scrapers, on TCP and unix sockets.
//!
//! Routes are plain functions from a request, whose body has been read, to a response. Everything about a connection is
//! bounded: how many there are, over all and from one address, how long headers, a body and an answer may take, how large they
//! are, and how much of large answers is held for those who are slow to read them.

mod callers;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::listen;
use callers::{Callers, Held};

/// A request with its whole body.
pub type Request = http::Request<Bytes>;
/// A response with its whole body.
pub type Response = http::Response<Bytes>;

/// What one server spends on its callers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once, over all listeners. Others wait in the kernel.
    pub connections: usize,
    /// Connections at once of one address. Others are closed: who waits in the kernel waits before the kubelet's probes.
    pub per_address: usize,
    /// Time for the headers of a request, and so for an idle connection.
    pub headers: Duration,
    /// Time for the body of a request.
    pub body: Duration,
    /// Time for the answer, from the route and to the caller.
    pub answer: Duration,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of large answers that are held while they are read; of one address half as many. Who asks beyond is told to ask again.
    pub large: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            per_address: 16,
            headers: Duration::from_secs(2),
            body: Duration::from_secs(2),
            answer: Duration::from_secs(30),
            body_bytes: 64 * 1024,
            large: 64 << 20,
        }
    }
}

/// Who asks. In the extensions of each [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A process of this user, by a unix socket.
    Unix,
    /// Somebody at this address.
    Tcp(SocketAddr),
}

/// In the extensions of a [`Response`]: the connection ends without it.
#[derive(Clone, Copy, Debug)]
struct HangUp;

/// What a patient route may take at most.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Routes under construction. Unknown paths get 404, unknown methods 405.
#[derive(Debug, Default)]
pub struct Admin {
    limits: Limits,
    routes: Vec<Route>,
}

/// Where the server listens.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

struct Route {
    method: Method,
    /// Ends in `/*` where it stands for everything below.
    path: &'static str,
    handler: Handler,
    /// Whether it bounds its time itself.
    patient: bool,
}

type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

enum Handler {
    Now(Box<dyn Fn(&Request) -> Response + Send + Sync>),
    Later(Box<dyn Fn(Request) -> Answer + Send + Sync>),
}

impl Admin {
    /// No routes yet, with the default limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// With other limits.
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            limits,
            routes: Vec::new(),
        }
    }

    /// Adds a route for GET and HEAD. A path that ends in `/*` stands for everything below it.
    pub fn get(self, path: &'static str, handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        self.add(Method::GET, path, Handler::Now(Box::new(handler)))
    }

    /// Adds a route for POST.
    pub fn post(self, path: &'static str, handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        self.add(Method::POST, path, Handler::Now(Box::new(handler)))
    }

    /// Adds a route for GET and HEAD whose answer takes time: it is dropped when that is over.
    pub fn get_async<F>(self, path: &'static str, handler: impl Fn(Request) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response> + Send + 'static,
    {
        self.add(
            Method::GET,
            path,
            Handler::Later(Box::new(move |request| Box::pin(handler(request)))),
        )
    }

    /// Adds a route for POST whose answer takes time.
    pub fn post_async<F>(self, path: &'static str, handler: impl Fn(Request) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response> + Send + 'static,
    {
        self.add(
            Method::POST,
            path,
            Handler::Later(Box::new(move |request| Box::pin(handler(request)))),
        )
    }

    /// Adds a route for GET and HEAD that bounds its time itself, within an hour. It is dropped when its caller goes.
    pub fn get_patient<F>(mut self, path: &'static str, handler: impl Fn(Request) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response> + Send + 'static,
    {
        self = self.get_async(path, handler);
        if let Some(route) = self.routes.last_mut() {
            route.patient = true;
        }
        self
    }

    fn add(mut self, method: Method, path: &'static str, handler: Handler) -> Self {
        self.routes.push(Route {
            method,
            path,
            handler,
            patient: false,
        });
        self
    }

    /// Serves until it is dropped, and every connection with it. Errors of accepting are waited out, never an end.
    pub async fn serve(self, listeners: Vec<Listener>) -> Infallible {
        let admin = Arc::new(self);
        let slots = Arc::new(Semaphore::new(admin.limits.connections));
        let callers = Arc::new(Callers::new(&admin.limits));
        let mut loops = JoinSet::new();
        for listener in listeners {
            loops.spawn(accept(admin.clone(), listener, slots.clone(), callers.clone()));
        }
        // The loops never end by themselves; one that panicked is reported by the panic hook.
        while loops.join_next().await.is_some() {}
        std::future::pending().await
    }

    /// The answer to one request.
    async fn answer(&self, request: Request) -> Response {
        let path = request.uri().path();
        let mut allowed = Vec::new();
        let wanted = if request.method() == Method::HEAD {
            &Method::GET
        } else {
            request.method()
        };
        for route in self.routes.iter().filter(|route| covers(route.path, path)) {
            if route.method == wanted {
                return match &route.handler {
                    Handler::Now(handler) => handler(&request),
                    Handler::Later(handler) => handler(request).await,
                };
            }
            allowed.push(route.method.as_str());
        }
        if allowed.is_empty() {
            return text(StatusCode::NOT_FOUND, "there is no such path\n");
        }
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method\n");
        if let Ok(allow) = HeaderValue::from_str(&allowed.join(", ")) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }

    /// `patient`: whether the answer may take longer than that of most routes.
    async fn handle(&self, request: hyper::Request<Incoming>, patient: &AtomicBool) -> Response {
        let (parts, body) = request.into_parts();
        let body = match timeout(self.limits.body, Limited::new(body, self.limits.body_bytes).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n");
            }
            Ok(Err(_)) => return text(StatusCode::BAD_REQUEST, "the body could not be read\n"),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body took too long\n"),
        };
        let path = parts.uri.path();
        let bound = match self
            .routes
            .iter()
            .any(|route| route.patient && covers(route.path, path))
        {
            true => PATIENCE,
            false => self.limits.answer,
        };
        patient.store(bound == PATIENCE, Ordering::Relaxed);
        let answered = timeout(bound, self.answer(Request::from_parts(parts, body))).await;
        // Whoever does not read the answer has no more time than others.
        patient.store(false, Ordering::Relaxed);
        match answered {
            Ok(response) => response,
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the answer took too long\n"),
        }
    }
}

impl Listener {
    /// Listens on a TCP address.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::Tcp(listen::tcp(address).await?),
        })
    }

    /// Listens on a socket in the file system, which only this user may open. One that a dead process left is replaced; one
    /// that still answers is an error. The file goes away with the listener.
    pub fn unix(path: &Path) -> io::Result<Self> {
        match path.symlink_metadata() {
            Ok(there) if there.file_type().is_socket() => {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(io::Error::new(
                        io::ErrorKind::AddrInUse,
                        "another process serves this socket",
                    ));
                }
            }
            Ok(_) => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path is not a socket"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Made beside and renamed, so that nobody finds it before its mode is set.
        let beside = path.with_extension("new");
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, path)?;
        Ok(Self {
            socket: Socket::Unix(socket, path.to_owned()),
        })
    }

    /// The address, if it is a TCP one: tells the port where 0 was asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self {
            socket: Socket::Tcp(listener),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            // Whoever comes next replaces what could not be removed.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A response of plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    with_type(status, "text/plain; charset=utf-8", body.into())
}

/// A response of JSON, indented for people.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec_pretty(body) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            with_type(status, "application/json", bytes.into())
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// No response: the connection ends. For callers who take any response for a success.
pub fn hang_up() -> Response {
    let mut response = Response::default();
    response.extensions_mut().insert(HangUp);
    response
}

/// Whether a request comes from this machine (or this pod): by a unix socket, or from a loopback address.
pub fn is_local(request: &Request) -> bool {
    match request.extensions().get::<Caller>() {
        Some(Caller::Unix) => true,
        Some(Caller::Tcp(from)) => from.ip().to_canonical().is_loopback(),
        None => false,
    }
}

/// A parameter of the query, as it was written (nothing is decoded).
pub fn query<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&');
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn with_type(status: StatusCode, media_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn covers(route: &str, path: &str) -> bool {
    match route.strip_suffix('*') {
        Some(above) => path.strip_prefix(above).is_some_and(|below| !below.is_empty()),
        None => route == path,
    }
}

async fn accept(admin: Arc<Admin>, listener: Listener, slots: Arc<Semaphore>, callers: Arc<Callers>) {
    let mut connections = JoinSet::new();
    loop {
        // Ended ones are forgotten here, so the set never outgrows the slots.
        while connections.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let accepted = match &listener.socket {
            Socket::Tcp(tcp) => tcp.accept().await.map(|(io, from)| Stream::Tcp(io, from)),
            Socket::Unix(unix, _) => unix.accept().await.map(|(io, _)| Stream::Unix(io)),
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, say: others will be freed.
                tracing::warn!(%error, "accepting an admin connection failed");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = match &stream {
            Stream::Tcp(_, from) => callers.take(from.ip()).map(Some),
            Stream::Unix(_) => Some(None),
        };
        let Some(place) = place else {
            tracing::debug!("an address, or its network, has too many admin connections");
            continue;
        };
        let of_address = place.as_ref().map(|(host, _)| host.shared.clone()).unwrap_or_default();
        let (admin, holds) = (admin.clone(), (callers.clone(), of_address));
        connections.spawn(async move {
            match stream {
                Stream::Tcp(io, from) => serve_connection(admin, holds, io, Caller::Tcp(from)).await,
                Stream::Unix(io) => serve_connection(admin, holds, io, Caller::Unix).await,
            }
            drop((slot, place));
        });
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

/// `holds`: what counts large answers, and those of the caller's address.
async fn serve_connection(
    admin: Arc<Admin>,
    holds: (Arc<Callers>, Arc<Held>),
    io: impl AsyncRead + AsyncWrite + Unpin,
    caller: Caller,
) {
    let limits = admin.limits;
    let patient = Arc::new(AtomicBool::new(false));
    let answering = patient.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let (admin, patient) = (admin.clone(), answering.clone());
        let (callers, of_address) = holds.clone();
        request.extensions_mut().insert(caller);
        async move {
            let response = admin.handle(request, &patient).await;
            let response = callers
                .hold(response, &of_address)
                .unwrap_or_else(|| text(StatusCode::SERVICE_UNAVAILABLE, "too much is being read; ask again\n"));
            match response.extensions().get::<HangUp>() {
                None => Ok(response.map(Full::new)),
                Some(HangUp) => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
            }
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(16 * 1024)
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service);
    // One request for each connection, so the sum of the times bounds the connection, a caller that does not read included.
    let whole = limits.headers + limits.body + limits.answer * 2;
    let mut connection = pin!(connection);
    let mut ended = timeout(whole, connection.as_mut()).await;
    let mut waits = patient.load(Ordering::Relaxed);
    while waits && ended.is_err() {
        // The slice that begins after the answer is there is the last: the caller has it for reading.
        waits = patient.load(Ordering::Relaxed);
        ended = timeout(limits.answer, connection.as_mut()).await;
    }
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection failed"),
        Err(_) => tracing::debug!("an admin connection took too long"),
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

#[cfg(test)]
mod tests;
