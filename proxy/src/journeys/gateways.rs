//! From one network to another: an app, its proxy, a gateway, the peer's proxy, the peer's app. What is behind a gateway
//! has the address of somebody who listens and must never be dialled.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::slice::from_ref;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use weft_model::destination::Protocol;
use weft_model::endpoint::{Endpoint, EndpointSet, Place};
use weft_model::reason::Reason;

use super::streams::echo;
use super::world::*;
use crate::connect::Dialer;
use crate::gateway::Gateway;
use crate::gateway::bounds::{Limits, Open};
use crate::gateway::table::Table;
use crate::observe::metrics::Registry;
use crate::serve::Phase;

const LIMITS: Limits = Limits {
    connections: 1000,
    strangers: 1000,
    per_source: 1000,
    dials: 1000,
    idle: std::time::Duration::from_secs(3600),
    silence: std::time::Duration::from_secs(3),
    linger: std::time::Duration::ZERO,
    drain: std::time::Duration::from_millis(200),
};

/// A gateway, until it is dropped.
struct Door {
    address: SocketAddr,
    registry: Arc<Registry>,
    _tables: watch::Sender<Arc<Table>>,
    phase: watch::Sender<Phase>,
    served: JoinHandle<()>,
}

impl Door {
    async fn to(world: &World, endpoints: &[Arc<Endpoint>]) -> Self {
        Self::at(listen().await, world, endpoints)
    }

    fn at(listener: TcpListener, world: &World, endpoints: &[Arc<Endpoint>]) -> Self {
        let set = EndpointSet {
            namespace: "shop".into(),
            service: "reviews".into(),
            port: 80,
            subset: String::new(),
            endpoints: endpoints.to_vec(),
        };
        let (tables, told) = watch::channel(Arc::new(Table::new(world.trust_domain(), [&set])));
        let (phase, phases) = watch::channel(Phase::Running);
        let (registry, address) = (Registry::new(), listener.local_addr().unwrap());
        let dialer = Dialer {
            mark: None,
            connect_timeout: std::time::Duration::from_secs(5),
            handshake_timeout: std::time::Duration::from_secs(5),
        };
        let gateway = Gateway::new(told, dialer, LIMITS, Open::default(), &registry);
        Self {
            address,
            registry,
            _tables: tables,
            phase,
            served: spawn_local(gateway.serve(vec![listener], phases)),
        }
    }

    fn passed(&self) -> f64 {
        let text = self.registry.text().finish();
        let sample = "weft_gateway_connections_total{reason=\"passed\"} ";
        let value = text.lines().find_map(|line| line.strip_prefix(sample));
        value.expect("it is counted").parse().unwrap()
    }
}

/// Whoever has the same address in our own network as an endpoint has in its own: nobody may dial it.
struct Bystander {
    address: SocketAddr,
    dialled: Rc<Cell<bool>>,
}

impl Bystander {
    async fn new() -> Self {
        let (listener, dialled) = (listen().await, Rc::new(Cell::new(false)));
        let (address, seen) = (listener.local_addr().unwrap(), dialled.clone());
        spawn_local(async move {
            let _socket = listener.accept().await.unwrap();
            seen.set(true);
        });
        Self { address, dialled }
    }

    /// An endpoint as the other cluster's clients see it.
    fn behind(&self, endpoint: &Endpoint, gateways: &[SocketAddr]) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            address: self.address,
            gateways: Some(gateways.into()),
            place: Place {
                cluster: "other".into(),
                ..Place::default()
            },
            ..endpoint.clone()
        })
    }

    #[track_caller]
    fn was_left_alone(&self) {
        assert!(!self.dialled.get(), "the address behind a gateway was dialled");
    }
}

/// A client of these endpoints.
async fn client(world: &World, protocol: Protocol, endpoints: Vec<Arc<Endpoint>>) -> Pod {
    let mut told = world.told("web");
    told.service(protocol, None).endpoints("all", endpoints);
    told.start(nobody().await, VIP.parse().unwrap()).await
}

/// How often a client has gone through a gateway with this outcome.
fn dials(client: &Pod, outcome: &str) -> u64 {
    let (text, outcome) = (client.metrics(), format!("outcome=\"{outcome}\""));
    let mut lines = text
        .lines()
        .filter(|line| line.starts_with("weft_gateway_dials_total{") && line.contains(&outcome));
    let value = lines.next().and_then(|line| line.rsplit_once(' '));
    value.map_or(0, |(_, value)| value.parse::<f64>().unwrap() as u64)
}

#[test]
fn requests_and_streams_go_through_a_gateway_and_identity_is_end_to_end() {
    story(async {
        let world = World::new();
        let bystander = Bystander::new().await;
        let server = world
            .told("reviews")
            .strict()
            .start(app("reviews").await, nobody().await)
            .await;
        let endpoint = world.endpoint(1, server.inbound, Some("reviews"));
        let door = Door::to(&world, from_ref(&endpoint)).await;
        let behind = bystander.behind(&endpoint, &[door.address]);
        let web = client(&world, Protocol::Http, vec![behind]).await;
        let mut connection = Client::to(web.outbound).await;
        for _ in 0..3 {
            let answer = connection.get("/").await.unwrap();
            assert!(
                answer.body.contains("URI=spiffe://demo.weft.internal/ns/shop/sa/web"),
                "{answer:?}"
            );
        }
        assert_eq!(door.passed(), 1.0, "it is pooled like any other connection");
        assert_eq!(dials(&web, "connected"), 1);

        let greeting = echo("220 hello\r\n").await;
        let server = world.told("reviews").strict().start(greeting, nobody().await).await;
        let endpoint = world.endpoint(1, server.inbound, Some("reviews"));
        let door = Door::to(&world, from_ref(&endpoint)).await;
        let behind = bystander.behind(&endpoint, &[door.address]);
        let web = client(&world, Protocol::Opaque, vec![behind]).await;
        let mut socket = TcpStream::connect(web.outbound).await.unwrap();
        socket.write_all(b"EHLO\r\n").await.unwrap();
        socket.shutdown().await.unwrap();
        let mut all = String::new();
        socket.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "220 hello\r\nEHLO\r\n");
        bystander.was_left_alone();
    });
}

#[test]
fn a_foreign_trust_domain_is_reached_through_its_gateway_and_admitted_where_it_may_be() {
    story(async {
        let (ours, theirs) = (World::of("ours.internal"), World::of("theirs.internal"));
        let (bystander, app) = (Bystander::new().await, app("reviews").await);
        for (admitted, status) in [(true, 200), (false, 403)] {
            let mut told = theirs.told("reviews");
            told.know(&[&ours, &theirs]).declare(app.port(), Protocol::Http);
            if admitted {
                told.inbound(|inbound| inbound.ports[0].foreign.push(ours.trust_domain()));
            }
            let server = told.start(app, nobody().await).await;
            let endpoint = theirs.endpoint(1, server.inbound, Some("reviews"));
            let door = Door::to(&theirs, from_ref(&endpoint)).await;
            let mut told = ours.told("web");
            told.know(&[&ours, &theirs])
                .service(Protocol::Http, None)
                .endpoints("all", vec![bystander.behind(&endpoint, &[door.address])]);
            let web = told.start(nobody().await, VIP.parse().unwrap()).await;
            let answer = Client::to(web.outbound).await.get("/").await.unwrap();
            assert_eq!(answer.status, status, "{answer:?}");
            assert_eq!(door.passed(), 1.0);
        }
        bystander.was_left_alone();
    });
}

#[test]
fn one_of_two_gateways_is_gone_and_no_request_fails() {
    story(async {
        let world = World::new();
        let bystander = Bystander::new().await;
        let server = world.told("reviews").start(app("reviews").await, nobody().await).await;
        let exported: Vec<_> = (1..=8)
            .map(|id| world.endpoint(id, server.inbound, Some("reviews")))
            .collect();
        let door = Door::to(&world, &exported).await;
        let gateways = [nobody().await, door.address];
        let mut found_out = 0;
        // By chance a client may never come to the one that is gone.
        for _ in 0..8 {
            let behind = exported.iter().map(|endpoint| bystander.behind(endpoint, &gateways));
            let web = client(&world, Protocol::Http, behind.collect()).await;
            let mut connection = Client::to(web.outbound).await;
            for _ in 0..25 {
                assert_eq!(connection.get("/").await.unwrap().status, 200);
            }
            assert!(dials(&web, "connected") > 1, "each endpoint has a pool of its own");
            let failed = dials(&web, "connect-failed");
            assert!(failed <= 1, "one endpoint has found it out for all of them");
            found_out += failed;
        }
        assert!(found_out > 0);
        bystander.was_left_alone();
    });
}

#[test]
fn a_gateway_drains_and_no_request_fails() {
    story(async {
        let world = World::new();
        let bystander = Bystander::new().await;
        let server = world.told("reviews").start(app("reviews").await, nobody().await).await;
        let exported: Vec<_> = (1..=8)
            .map(|id| world.endpoint(id, server.inbound, Some("reviews")))
            .collect();
        let (ends, stays) = (Door::to(&world, &exported).await, Door::to(&world, &exported).await);
        let gateways = [ends.address, stays.address];
        let behind = exported.iter().map(|endpoint| bystander.behind(endpoint, &gateways));
        let web = client(&world, Protocol::Http, behind.collect()).await;
        let mut connection = Client::to(web.outbound).await;
        // By chance it is some time before one leads through it.
        while ends.passed() == 0.0 {
            let mut another = Client::to(web.outbound).await;
            let (one, two) = tokio::join!(connection.get("/"), another.get("/"));
            assert_eq!((one.unwrap().status, two.unwrap().status), (200, 200));
        }
        ends.phase.send_replace(Phase::Draining);
        // It ends by itself once nothing is left, and nothing cuts it short here.
        while !ends.served.is_finished() {
            assert_eq!(connection.get("/").await.unwrap().status, 200);
        }
        for _ in 0..20 {
            assert_eq!(connection.get("/").await.unwrap().status, 200);
        }
        assert!(stays.passed() > 0.0);
        bystander.was_left_alone();
    });
}

#[test]
fn both_gateways_are_gone_and_another_clusters_endpoint_answers() {
    story(async {
        let world = World::new();
        let bystander = Bystander::new().await;
        let server = world.told("reviews").start(app("far").await, nobody().await).await;
        let gone = bystander.behind(
            &world.endpoint(1, server.inbound, Some("reviews")),
            &[nobody().await, nobody().await],
        );
        let far = world.endpoint(2, server.inbound, Some("reviews"));
        let door = Door::to(&world, from_ref(&far)).await;
        let far = bystander.behind(&far, &[door.address]);
        let web = client(&world, Protocol::Http, vec![gone.clone(), far]).await;
        let mut connection = Client::to(web.outbound).await;
        for _ in 0..20 {
            let answer = connection.get("/").await.unwrap();
            assert!(answer.body.starts_with("far\n"), "{answer:?}");
        }
        // Without another one it fails, and still nothing is dialled but gateways.
        let web = client(&world, Protocol::Http, vec![gone.clone()]).await;
        let answer = Client::to(web.outbound).await.get("/").await.unwrap();
        assert!(
            answer.status >= 502 && answer.head.contains("connect-failed"),
            "{answer:?}"
        );
        let web = client(&world, Protocol::Opaque, vec![gone]).await;
        let mut socket = TcpStream::connect(web.outbound).await.unwrap();
        socket.write_all(&[0, 1, 2, 3]).await.unwrap();
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all).await;
        assert!(all.is_empty(), "{all:?}");
        assert_eq!(web.refusals(Reason::ConnectFailed), 1);
        bystander.was_left_alone();
    });
}

#[test]
fn a_gateway_that_leads_to_somebody_else_is_a_failure_and_is_counted() {
    story(async {
        let world = World::new();
        let bystander = Bystander::new().await;
        let wrong = world.told("ratings").start(app("ratings").await, nobody().await).await;
        let right = world.told("reviews").start(app("reviews").await, nobody().await).await;
        let misled = Door::to(&world, &[world.endpoint(1, wrong.inbound, Some("reviews"))]).await;
        let sound = Door::to(&world, &[world.endpoint(1, right.inbound, Some("reviews"))]).await;
        let endpoint = world.endpoint(1, right.inbound, Some("reviews"));

        let web = client(
            &world,
            Protocol::Http,
            vec![bystander.behind(&endpoint, &[misled.address])],
        )
        .await;
        let answer = Client::to(web.outbound).await.get("/").await.unwrap();
        assert!(
            answer.status == 502 && answer.head.contains("identity-mismatch"),
            "{answer:?}"
        );
        assert!(misled.passed() >= 1.0 && web.refusals(Reason::IdentityMismatch) >= 1);
        assert!(dials(&web, "identity-mismatch") >= 1);

        // Beside a sound one it costs no request, and is left alone once it was found out.
        let both = [misled.address, sound.address];
        for _ in 0..8 {
            let web = client(&world, Protocol::Http, vec![bystander.behind(&endpoint, &both)]).await;
            let answer = Client::to(web.outbound).await.get("/").await.unwrap();
            assert!(answer.body.starts_with("reviews\n"), "{answer:?}");
            assert!(dials(&web, "identity-mismatch") <= 1);
        }
        bystander.was_left_alone();
    });
}

#[test]
fn a_gateway_that_takes_connections_and_says_nothing_is_left_alone() {
    story(async {
        let world = World::new();
        let bystander = Bystander::new().await;
        let server = world.told("reviews").start(app("reviews").await, nobody().await).await;
        let exported: Vec<_> = (1..=4)
            .map(|id| world.endpoint(id, server.inbound, Some("reviews")))
            .collect();
        let (silent, door) = (listen().await, Door::to(&world, &exported).await);
        let gateways = [silent.local_addr().unwrap(), door.address];
        let behind = exported.iter().map(|endpoint| bystander.behind(endpoint, &gateways));
        let web = client(&world, Protocol::Http, behind.collect()).await;
        let mut connection = Client::to(web.outbound).await;
        for _ in 0..50 {
            assert_eq!(connection.get("/").await.unwrap().status, 200);
        }
        // Twice in a row: once may be the network's fault.
        assert!(dials(&web, "connect-timeout") <= 2, "{}", web.metrics());
        bystander.was_left_alone();
    });
}

#[test]
fn a_gateway_that_takes_connections_and_resets_them_is_left_alone_however_often_it_is_probed() {
    story(async {
        let world = World::new();
        let bystander = Bystander::new().await;
        let server = world
            .told("reviews")
            .start(echo("220 hello\r\n").await, nobody().await)
            .await;
        let endpoint = world.endpoint(1, server.inbound, Some("reviews"));
        let (listener, taken) = (listen().await, Rc::new(Cell::new(0)));
        let door = Door::to(&world, from_ref(&endpoint)).await;
        let gateways = [listener.local_addr().unwrap(), door.address];
        let counted = taken.clone();
        // As a load balancer that has nobody behind it.
        spawn_local(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                counted.set(counted.get() + 1);
                socket.read_u8().await.unwrap();
                socket2::SockRef::from(&socket)
                    .set_linger(Some(std::time::Duration::ZERO))
                    .unwrap();
            }
        });
        let behind = bystander.behind(&endpoint, &gateways);
        let web = client(&world, Protocol::Opaque, vec![behind]).await;
        // A stream goes there once, and what comes later are probes.
        while taken.get() < 3 {
            let mut socket = TcpStream::connect(web.outbound).await.unwrap();
            let mut greeting = [0; 11];
            socket.read_exact(&mut greeting).await.unwrap();
        }
        assert_eq!(dials(&web, "connect-failed"), 1, "{}", web.metrics());
        bystander.was_left_alone();
    });
}

#[test]
fn a_gateway_that_is_back_is_used_again() {
    story(async {
        let world = World::new();
        let bystander = Bystander::new().await;
        let server = world.told("reviews").start(app("reviews").await, nobody().await).await;
        let endpoint = world.endpoint(1, server.inbound, Some("reviews"));
        let place = tokio::net::TcpSocket::new_v4().unwrap();
        place.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let behind = bystander.behind(&endpoint, &[place.local_addr().unwrap()]);
        let web = client(&world, Protocol::Http, vec![behind]).await;
        assert!(Client::to(web.outbound).await.get("/").await.unwrap().status >= 502);
        let _door = Door::at(place.listen(16).unwrap(), &world, &[endpoint]);
        while Client::to(web.outbound).await.get("/").await.unwrap().status != 200 {
            tokio::task::yield_now().await;
        }
        bystander.was_left_alone();
    });
}

#[test]
fn what_is_behind_a_gateway_is_never_this_pod_whatever_its_name_and_address() {
    story(async {
        let world = World::new();
        let own = app("own").await;
        let server = world.told("web").start(app("other").await, nobody().await).await;
        let there = world.endpoint(1, server.inbound, Some("web"));
        let door = Door::to(&world, from_ref(&there)).await;
        let behind = Endpoint {
            address: own,
            pod: format!("pod-of-{own}"),
            gateways: Some([door.address].into()),
            ..Endpoint::clone(&there)
        };
        let mut told = world.told("web");
        told.service(Protocol::Http, None)
            .endpoints("all", vec![Arc::new(behind)]);
        let pod = told.start(own, VIP.parse().unwrap()).await;
        let answer = Client::to(pod.outbound).await.get("/").await.unwrap();
        assert!(answer.body.starts_with("other\n"), "{answer:?}");
    });
}
