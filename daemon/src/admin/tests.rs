//! What the admin server promises, over real sockets.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const SHORT: Duration = Duration::from_millis(200);

fn admin() -> Admin {
    admin_of(100)
}

fn admin_of(per_address: usize) -> Admin {
    let limits = Limits {
        connections: 4,
        per_address,
        headers: SHORT,
        body: SHORT,
        answer: SHORT,
        body_bytes: 1024,
        large: usize::MAX,
    };
    Admin::with_limits(limits)
        .get("/live", |_| text(StatusCode::OK, "live\n"))
        .get("/big", |_| text(StatusCode::OK, vec![b'x'; 32 << 20]))
        .post("/echo", |request| text(StatusCode::OK, request.body().clone()))
        .get("/probe/*", |request| {
            text(StatusCode::OK, request.uri().path().to_owned())
        })
        .get("/local", |request| text(StatusCode::OK, is_local(request).to_string()))
        .get_async("/slow", |_| async { std::future::pending().await })
        .get("/nothing", |_| hang_up())
        .get_patient("/patient", |_| async {
            sleep(SHORT * 8).await;
            text(StatusCode::OK, "done\n")
        })
        .get_patient("/patient-big", |_| async {
            sleep(SHORT * 8).await;
            text(StatusCode::OK, vec![b'x'; 32 << 20])
        })
}

async fn serve() -> SocketAddr {
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address().unwrap();
    tokio::spawn(admin().serve(vec![listener]));
    address
}

/// Everything that comes back until the server closes.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // A server that closes while we still write resets the connection; what came before counts.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[track_caller]
fn check(answer: &str, status: &str, body: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    assert!(answer.ends_with(body), "{answer}");
}

#[tokio::test]
async fn routes_answer_by_method_and_path() {
    let address = serve().await;
    check(
        &exchange(address, "GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await,
        "200",
        "live\n",
    );
    check(
        &exchange(address, "HEAD /live HTTP/1.1\r\nhost: x\r\n\r\n").await,
        "200",
        "\r\n\r\n",
    );
    check(
        &exchange(address, "GET /probe/web/readiness HTTP/1.1\r\nhost: x\r\n\r\n").await,
        "200",
        "/probe/web/readiness",
    );
    check(
        &exchange(address, "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi").await,
        "200",
        "hi",
    );
    check(
        &exchange(address, "GET /probe/ HTTP/1.1\r\nhost: x\r\n\r\n").await,
        "404",
        "no such path\n",
    );
    check(
        &exchange(address, "GET /lives HTTP/1.1\r\nhost: x\r\n\r\n").await,
        "404",
        "no such path\n",
    );
    let answer = exchange(address, "GET /echo HTTP/1.1\r\nhost: x\r\n\r\n").await;
    check(&answer, "405", "no such method\n");
    assert!(answer.contains("allow: POST"), "{answer}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let request = format!(
        "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1025\r\n\r\n{}",
        "x".repeat(1025)
    );
    check(&exchange(serve().await, &request).await, "413", "too large\n");
}

#[tokio::test]
async fn who_is_slow_is_cut() {
    let address = serve().await;
    check(
        &exchange(address, "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhi").await,
        "408",
        "too long\n",
    );
    check(
        &exchange(address, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await,
        "503",
        "too long\n",
    );
    // Headers that never end: the server ends the connection by itself.
    let answer = timeout(
        Duration::from_secs(20),
        exchange(address, "GET /live HTTP/1.1\r\nhost:"),
    )
    .await
    .unwrap();
    assert!(!answer.contains("200"), "{answer}");
}

#[tokio::test]
async fn callers_that_never_read_or_never_speak_do_not_keep_others_out() {
    let address = serve().await;
    let mut held = Vec::new();
    for n in 0..12 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let asked = ["GET /big", "", "GET /patient-big"][n % 3];
        if !asked.is_empty() {
            let request = format!("{asked} HTTP/1.1\r\nhost: x\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
        }
        held.push(stream);
    }
    let answer = timeout(
        Duration::from_secs(20),
        exchange(address, "GET /live HTTP/1.1\r\nhost: x\r\n\r\n"),
    )
    .await;
    check(&answer.unwrap(), "200", "live\n");
}

#[tokio::test]
async fn an_address_with_too_many_connections_keeps_no_other_out() {
    let listeners = [
        Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap(),
        Listener::tcp("[::1]:0".parse().unwrap()).await.unwrap(),
    ];
    let [v4, v6] = [0, 1].map(|at: usize| listeners[at].address().unwrap());
    let mut patient = admin_of(2);
    patient.limits.headers = Duration::from_secs(600);
    tokio::spawn(patient.serve(listeners.into()));
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(TcpStream::connect(v4).await.unwrap());
    }
    // The rest is closed at once, and waits for nothing.
    for _ in 0..8 {
        let mut stream = TcpStream::connect(v4).await.unwrap();
        let closed = timeout(Duration::from_secs(20), stream.read_u8()).await.unwrap();
        assert!(closed.is_err(), "{closed:?}");
    }
    let answer = timeout(
        Duration::from_secs(20),
        exchange(v6, "GET /live HTTP/1.1\r\nhost: x\r\n\r\n"),
    );
    check(&answer.await.unwrap(), "200", "live\n");
}

#[tokio::test]
async fn answers_that_are_not_read_bound_how_many_large_ones_there_are_and_no_small_one() {
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address().unwrap();
    let mut admin = admin();
    (admin.limits.large, admin.limits.answer) = (40 << 20, Duration::from_secs(600));
    tokio::spawn(admin.serve(vec![listener]));
    let big = "GET /big HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut held = TcpStream::connect(address).await.unwrap();
    held.write_all(big.as_bytes()).await.unwrap();
    held.read_u8().await.unwrap();
    check(&exchange(address, big).await, "503", "ask again\n");
    let live = exchange(address, "GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await;
    check(&live, "200", "live\n");
    let mut rest = Vec::new();
    held.read_to_end(&mut rest).await.unwrap();
    check(&exchange(address, big).await, "200", "x");
}

#[tokio::test]
async fn a_unix_socket_is_for_its_user_only_and_survives_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    // What a dead process leaves.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = Listener::unix(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let server = tokio::spawn(admin().serve(vec![listener]));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream
        .write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    check(&answer, "200", "live\n");
    // A living one is not pushed aside.
    assert_eq!(Listener::unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    server.abort();
    let _ = server.await;
    assert!(!path.exists());
    std::fs::write(&path, "not a socket").unwrap();
    assert_eq!(Listener::unix(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn query_parameters_are_found_by_name() {
    let request = http::Request::builder()
        .uri("/config?view=names&x")
        .body(Bytes::new())
        .unwrap();
    assert_eq!(query(&request, "view"), Some("names"));
    assert_eq!(query(&request, "x"), Some(""));
    assert_eq!(query(&request, "vie"), None);
}

#[tokio::test]
async fn a_request_says_where_it_comes_from() {
    let answer = exchange(serve().await, "GET /local HTTP/1.1\r\nhost: x\r\n\r\n").await;
    check(&answer, "200", "true");
    let mut request = Request::new(Bytes::new());
    assert!(!is_local(&request));
    for (from, local) in [
        ("127.0.0.1:1", true),
        ("[::ffff:127.0.0.1]:1", true),
        ("[::1]:1", true),
        ("10.0.0.1:1", false),
    ] {
        request.extensions_mut().insert(Caller::Tcp(from.parse().unwrap()));
        assert_eq!(is_local(&request), local, "{from}");
    }
}

#[tokio::test]
async fn a_patient_route_may_take_longer_than_others() {
    let address = serve().await;
    // The connection's own time would be over before: that is 4 times SHORT, and the answer comes after 8.
    let answer = exchange(address, "GET /patient HTTP/1.1\r\nhost: x\r\n\r\n").await;
    check(&answer, "200", "done\n");
}

#[tokio::test]
async fn who_is_hung_up_on_gets_no_answer() {
    let address = serve().await;
    assert_eq!(exchange(address, "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n").await, "");
}
