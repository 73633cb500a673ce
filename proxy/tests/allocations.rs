//! How often a request allocates on its way through one proxy. A budget, so that it is noticed when somebody spends more.
//!
//! Counted over pipes in one thread; what the client and the server of the test allocate is kept out by having both write and
//! read bytes that lie ready.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local};
use weft_model::reason::Reason;
use weft_proxy::http::client::{Upstream, handshake_h1};
use weft_proxy::http::closing::Closing;
use weft_proxy::http::exchange::Exchange;
use weft_proxy::http::limits::Limits;
use weft_proxy::http::server::{RequestService, ServeContext, serve};
use weft_proxy::http::{HttpVersion, Origin};
use weft_proxy::io::Io;

/// What a request over HTTP/1.1 may cost, both heads with a dozen fields.
const BUDGET: u64 = 8;

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

#[allow(unsafe_code, reason = "an allocator cannot be written without")]
// SAFETY: passes everything on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Service {
    upstream: RefCell<Option<Upstream>>,
}

impl RequestService for Service {
    async fn handle(&self, exchange: &mut Exchange<'_>) {
        let Some(mut upstream) = self.upstream.borrow_mut().take() else {
            return;
        };
        let done = exchange.forward(&mut upstream).await;
        assert!(done.is_ok_and(|done| done.reusable));
        *self.upstream.borrow_mut() = Some(upstream);
    }

    fn refused(&self, reason: Reason) {
        panic!("{reason}");
    }
}

const REQUEST: &[u8] = b"GET /reviews/42?full=1 HTTP/1.1\r\nHost: reviews\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\
    Accept-Encoding: gzip\r\nCache-Control: no-cache\r\nCookie: a=b\r\nReferer: http://web/\r\n\
    traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nX-Request-Id: 12345678\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sat, 21 Nov 2026 08:00:00 GMT\r\n\
    Content-Type: application/json\r\nContent-Length: 64\r\nETag: \"x\"\r\nVary: Accept\r\n\r\n\
    0123456789012345678901234567890123456789012345678901234567890123";

#[tokio::test]
async fn a_request_over_http1_stays_within_its_budget() {
    let (mut client, near) = Io::pipe(8192);
    let (far, mut server) = Io::pipe(8192);
    let service = Rc::new(Service {
        upstream: RefCell::new(Some(Upstream::H1(handshake_h1(far, None)))),
    });
    let context = ServeContext {
        limits: Limits::default(),
        closing: Closing::new(),
        origin: Origin::Outside,
        authority: None,
    };
    LocalSet::new()
        .run_until(async move {
            let served = spawn_local(serve(near, HttpVersion::H1, service, context));
            let mut buffer = vec![0; 8192];
            let mut each = 0;
            for round in 0..1100 {
                if round == 100 {
                    each = COUNT.with(Cell::get);
                }
                client.write_all(REQUEST).await.unwrap();
                let mut n = 0;
                while !buffer[..n].ends_with(b"\r\n\r\n") {
                    n += server.read(&mut buffer[n..]).await.unwrap();
                }
                server.write_all(RESPONSE).await.unwrap();
                n = 0;
                while !buffer[..n].ends_with(b"123") {
                    n += client.read(&mut buffer[n..]).await.unwrap();
                }
            }
            let each = (COUNT.with(Cell::get) - each) / 1000;
            drop(client);
            served.await.unwrap().unwrap();
            println!("{each} allocations per request");
            assert!(each <= BUDGET, "{each} allocations per request, {BUDGET} allowed");
        })
        .await;
}
