//! The balancer under a clock that stands still until it is told.

use std::time::Duration;

use tokio::time::{Instant, advance};
use weft_model::endpoint::{EndpointId, EndpointKey};
use weft_model::version::Source;

use super::*;
use crate::observe::metrics::Registry;

fn endpoints() -> Rc<Endpoints> {
    Endpoints::new(7, Rc::new(Metrics::new(&Registry::new())))
}

fn endpoint(id: u64, zone: &str, draining: bool) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        key: EndpointKey {
            id: EndpointId(id),
            port: 80,
        },
        address: ([127, 0, 0, 1], 80).into(),
        gateways: None,
        identity: None,
        namespace: "shop".into(),
        pod: format!("pod-{id}"),
        workload: "reviews".into(),
        version: String::new(),
        place: Place {
            region: "north".into(),
            zone: zone.into(),
            cluster: "c".into(),
        },
        draining,
        source: Source::default(),
    })
}

fn set(endpoints: Vec<Arc<Endpoint>>) -> Arc<EndpointSet> {
    let (namespace, service) = ("shop".into(), "reviews".into());
    Arc::new(EndpointSet {
        namespace,
        service,
        port: 80,
        subset: String::new(),
        endpoints,
    })
}

fn balancer(known: &Rc<Endpoints>, members: Vec<Arc<Endpoint>>, previous: Option<&Balancer>) -> Balancer {
    spread(known, members, (&Locality::default(), Balance::default()), previous)
}

fn spread(
    known: &Rc<Endpoints>,
    members: Vec<Arc<Endpoint>>,
    how: (&Locality, Balance),
    previous: Option<&Balancer>,
) -> Balancer {
    let here = Place {
        region: "north".into(),
        zone: "a".into(),
        cluster: "c".into(),
    };
    let service = ServicePort {
        namespace: "shop".into(),
        name: "reviews".into(),
        port: 80,
    };
    Balancer::new(known, set(members), Some(service), how, &here, previous)
}

/// How often each of the endpoints 0.. is chosen.
fn hits(balancer: &Balancer, endpoints: usize) -> Vec<u32> {
    let mut hits = vec![0; endpoints];
    for _ in 0..10_000 {
        let picked = balancer.pick(&[], Instant::now()).unwrap();
        hits[picked.remote.endpoint.key.id.0 as usize] += 1;
    }
    hits
}

fn remote(balancer: &Balancer, id: u64) -> Rc<Remote> {
    balancer
        .members
        .iter()
        .find(|(_, remote)| remote.endpoint.key.id.0 == id)
        .unwrap()
        .1
        .clone()
}

fn refused(balancer: &Balancer, id: u64) {
    balancer.failed(
        &remote(balancer, id),
        Failure::Proof,
        Reason::ConnectFailed,
        Instant::now(),
    );
}

#[tokio::test(start_paused = true)]
async fn the_faster_endpoint_gets_more_and_a_slow_one_next_to_nothing() {
    let known = endpoints();
    let balancer = balancer(&known, (0..3).map(|id| endpoint(id, "a", false)).collect(), None);
    // Two seconds of traffic: endpoint 0 answers ten times slower than the others.
    let mut hits = [0; 3];
    for _ in 0..2_000 {
        let picked = balancer.pick(&[], Instant::now()).unwrap();
        let id = picked.remote.endpoint.key.id.0 as usize;
        hits[id] += 1;
        let flight = picked.remote.begin();
        advance(Duration::from_millis(1)).await;
        flight.observe(
            Duration::from_millis(if id == 0 { 50 } else { 5 }),
            false,
            Instant::now(),
        );
    }
    assert!(
        hits[0] * 5 < 2_000 / 3,
        "the slow one has at most a fifth of a fair share: {hits:?}"
    );
    assert!(hits[1] > 600 && hits[2] > 600, "{hits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_answer_over_a_new_connection_does_not_starve_an_endpoint() {
    let known = endpoints();
    let balancer = balancer(&known, (0..2).map(|id| endpoint(id, "a", false)).collect(), None);
    let mut hits = [0_u32; 2];
    for _ in 0..48 {
        let picked = balancer.pick(&[], Instant::now()).unwrap();
        let id = picked.remote.endpoint.key.id.0 as usize;
        let flight = picked.remote.begin();
        let first = hits[id] == 0;
        hits[id] += 1;
        let took = Duration::from_millis(if id == 0 && first { 250 } else { 5 });
        advance(took).await;
        flight.observe(took, first, Instant::now());
        advance(Duration::from_millis(200)).await;
    }
    assert!(hits.iter().all(|n| *n >= 12), "{hits:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_counts_at_once() {
    let known = endpoints();
    let balancer = balancer(&known, (0..2).map(|id| endpoint(id, "a", false)).collect(), None);
    let busy: Vec<InFlight> = (0..10).map(|_| remote(&balancer, 0).begin()).collect();
    assert_eq!(hits(&balancer, 2), [0, 10_000]);
    drop(busy);
    assert!(hits(&balancer, 2)[0] > 4_000);
}

#[tokio::test(start_paused = true)]
async fn traffic_stays_in_its_zone_spills_when_that_is_ill_and_returns() {
    let known = endpoints();
    let members = vec![
        endpoint(0, "a", false),
        endpoint(1, "a", false),
        endpoint(2, "b", false),
    ];
    let balancer = balancer(&known, members, None);
    assert_eq!(hits(&balancer, 3)[2], 0);
    refused(&balancer, 0);
    // Half of the zone is well, and 70 % are needed: two sevenths go on.
    let spilled = hits(&balancer, 3);
    assert_eq!(spilled[0], 0);
    assert!((2_600..3_100).contains(&spilled[2]), "{spilled:?}");
    balancer.connected(&remote(&balancer, 0), Instant::now());
    assert_eq!(hits(&balancer, 3)[2], 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_zone_is_counted_as_spilled_although_nothing_of_it_is_left() {
    let registry = Registry::new();
    let known = Endpoints::new(7, Rc::new(Metrics::new(&registry)));
    let before = balancer(&known, vec![endpoint(0, "a", false), endpoint(1, "b", false)], None);
    let after = balancer(&known, vec![endpoint(1, "b", false)], Some(&before));
    after.pick(&[], Instant::now()).unwrap();
    let text = registry.text().finish();
    let line = text
        .lines()
        .find(|line| line.starts_with("weft_spillover_total{"))
        .expect("it is counted");
    assert!(line.contains("absent") && line.ends_with(" 1"), "{line}");
}

fn due_endpoint(balancer: &Balancer) -> Option<Rc<Remote>> {
    match balancer.due_for_probe(Instant::now())? {
        Due::Endpoint(remote) => Some(remote),
        Due::Gateway(_, gateway) => panic!("{gateway:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_is_probed_once_and_comes_back() {
    let known = endpoints();
    let balancer = balancer(&known, (0..3).map(|id| endpoint(id, "a", false)).collect(), None);
    assert!(balancer.due_for_probe(Instant::now()).is_none());
    refused(&balancer, 0);
    assert_eq!(hits(&balancer, 3)[0], 0);
    assert!(balancer.due_for_probe(Instant::now()).is_none(), "not at once");
    advance(Duration::from_secs(1)).await;
    let probed = due_endpoint(&balancer).expect("after the back-off");
    assert_eq!(probed.endpoint.key.id.0, 0);
    advance(Duration::from_secs(1)).await;
    assert!(
        balancer.due_for_probe(Instant::now()).is_none(),
        "one probe is under way"
    );
    balancer.connected(&probed, Instant::now());
    assert!(hits(&balancer, 3)[0] > 2_000);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_could_not_be_made_is_made_later() {
    let known = endpoints();
    let balancer = balancer(&known, (0..3).map(|id| endpoint(id, "a", false)).collect(), None);
    refused(&balancer, 0);
    assert_eq!(hits(&balancer, 3)[0], 0);
    advance(Duration::from_secs(1)).await;
    let probed = due_endpoint(&balancer).expect("after the back-off");
    balancer.untried(&probed, Instant::now());
    assert!(!probed.is_well(), "nothing was learnt");
    advance(Duration::from_secs(1)).await;
    assert!(balancer.due_for_probe(Instant::now()).is_some(), "it is not forgotten");
    // Of an endpoint that is well it says nothing either.
    let well = remote(&balancer, 1);
    balancer.untried(&well, Instant::now());
    assert!(well.is_well());
}

#[tokio::test(start_paused = true)]
async fn when_all_are_ejected_all_are_tried() {
    let known = endpoints();
    let balancer = balancer(&known, (0..2).map(|id| endpoint(id, "a", false)).collect(), None);
    refused(&balancer, 0);
    refused(&balancer, 1);
    assert!(hits(&balancer, 2).iter().all(|n| *n > 4_000));
}

#[tokio::test(start_paused = true)]
async fn draining_endpoints_serve_only_when_nothing_else_is_left() {
    let known = endpoints();
    let balancer = balancer(&known, vec![endpoint(0, "a", true), endpoint(1, "a", false)], None);
    assert_eq!(hits(&balancer, 2), [0, 10_000]);
    refused(&balancer, 1);
    assert_eq!(hits(&balancer, 2), [10_000, 0]);
}

#[tokio::test(start_paused = true)]
async fn what_was_tried_is_not_tried_again() {
    let known = endpoints();
    let balancer = balancer(&known, vec![endpoint(0, "a", false), endpoint(1, "b", false)], None);
    let mut tried = Vec::new();
    while let Some(picked) = balancer.pick(&tried, Instant::now()) {
        tried.push(picked.remote.key);
    }
    assert_eq!(tried.len(), 2, "the other zone comes after the own one");
    assert_eq!(tried[0], endpoint(0, "a", false).global_key());
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_an_endpoint_survives_a_change_of_its_set() {
    let known = endpoints();
    let before = balancer(&known, vec![endpoint(0, "a", false), endpoint(1, "a", false)], None);
    refused(&before, 0);
    let pool = remote(&before, 1).pool.clone();
    let after = balancer(
        &known,
        vec![
            endpoint(0, "a", false),
            endpoint(1, "a", false),
            endpoint(2, "a", false),
        ],
        Some(&before),
    );
    assert_eq!(hits(&after, 3)[0], 0, "still ejected");
    assert!(Rc::ptr_eq(&remote(&after, 1).pool, &pool), "its connections are kept");
    // With another identity at the same key, its connections are not for it any more.
    let mut other = Endpoint::clone(&endpoint(1, "a", false));
    other.address = ([127, 0, 0, 2], 80).into();
    let moved = balancer(&known, vec![Arc::new(other)], Some(&after));
    assert!(!Rc::ptr_eq(&remote(&moved, 1).pool, &pool));
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_begins_with_a_fair_estimate() {
    let known = endpoints();
    let before = balancer(&known, vec![endpoint(0, "a", false), endpoint(1, "a", false)], None);
    for id in 0..2 {
        remote(&before, id)
            .load
            .ewma
            .observe(Duration::from_millis(200), Instant::now());
    }
    let after = balancer(
        &known,
        (0..3).map(|id| endpoint(id, "a", false)).collect(),
        Some(&before),
    );
    let cost = remote(&after, 2).load.ewma.cost(Instant::now());
    assert!((0.15..0.25).contains(&cost), "neither flooded nor shunned: {cost}");
}

fn by(balance: Balance, known: &Rc<Endpoints>) -> Balancer {
    let members = (0..4).map(|id| endpoint(id, "a", false)).collect();
    spread(known, members, (&Locality::default(), balance), None)
}

#[tokio::test(start_paused = true)]
async fn round_robin_takes_its_turns_whatever_answers_cost() {
    let known = endpoints();
    let balancer = by(Balance::RoundRobin, &known);
    remote(&balancer, 1)
        .begin()
        .observe(Duration::from_secs(9), false, Instant::now());
    assert_eq!(hits(&balancer, 4), [2500; 4]);
    refused(&balancer, 2);
    let hits = hits(&balancer, 4);
    assert_eq!(hits[2], 0);
    assert!(hits.iter().all(|n| *n == 0 || (3333..=3334).contains(n)), "{hits:?}");
}

#[tokio::test(start_paused = true)]
async fn random_leaves_out_what_is_ejected_and_nothing_else() {
    let known = endpoints();
    let balancer = by(Balance::Random, &known);
    let _busy: Vec<InFlight> = (0..9).map(|_| remote(&balancer, 0).begin()).collect();
    refused(&balancer, 3);
    let hits = hits(&balancer, 4);
    assert_eq!(hits[3], 0);
    assert!(hits[..3].iter().all(|n| (3_000..3_700).contains(n)), "{hits:?}");
}

#[tokio::test(start_paused = true)]
async fn least_request_counts_what_is_in_flight_and_not_how_long_answers_took() {
    let known = endpoints();
    let balancer = by(Balance::LeastRequest, &known);
    remote(&balancer, 1)
        .begin()
        .observe(Duration::from_secs(9), false, Instant::now());
    let _busy = remote(&balancer, 0).begin();
    let hits = hits(&balancer, 4);
    assert_eq!(hits[0], 0);
    assert!(hits[1..].iter().all(|n| *n > 2_500), "{hits:?}");
}

#[tokio::test(start_paused = true)]
async fn another_endpoint_is_tried_whatever_chooses_them() {
    for balance in Balance::ALL {
        let known = endpoints();
        let balancer = by(balance, &known);
        let mut tried = Vec::new();
        while let Some(picked) = balancer.pick(&tried, Instant::now()) {
            tried.push(picked.remote.key);
        }
        tried.sort_unstable();
        tried.dedup();
        assert_eq!(tried.len(), 4, "{balance:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn traffic_is_shared_among_places_by_weight_and_none_of_it_counts_as_spilled() {
    use weft_model::locality::{Distribution, Share};
    let share = |zone: &str, weight| Share {
        region: "north".into(),
        zone: zone.into(),
        weight,
    };
    let locality = Locality {
        distribute: vec![Distribution {
            from: "north".into(),
            to: vec![share("a", 80), share("b", 20)],
        }],
        ..Locality::default()
    };
    let known = endpoints();
    let members = vec![
        endpoint(0, "a", false),
        endpoint(1, "b", false),
        endpoint(2, "z", false),
    ];
    let balancer = spread(&known, members, (&locality, Balance::default()), None);
    let before = hits(&balancer, 3);
    assert!((7_800..8_200).contains(&before[0]) && before[2] == 0, "{before:?}");
    assert!(balancer.spills.borrow().is_empty());
    refused(&balancer, 0);
    assert_eq!(hits(&balancer, 3)[1], 10_000);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_weighed_with_nothing_gets_no_second_try_and_one_that_is_merely_far_does() {
    use weft_model::locality::{Distribution, Share};
    let share = |zone: &str, weight| Share {
        region: "north".into(),
        zone: zone.into(),
        weight,
    };
    let weighed = Locality {
        distribute: vec![Distribution {
            from: String::new(),
            to: vec![share("a", 1), share("b", 0)],
        }],
        ..Locality::default()
    };
    let members = || vec![endpoint(0, "a", false), endpoint(1, "b", false)];
    let tried = [members()[0].global_key()];
    for (locality, second) in [(weighed, None), (Locality::default(), Some(members()[1].key))] {
        let known = endpoints();
        let balancer = spread(&known, members(), (&locality, Balance::default()), None);
        let picked = balancer.pick(&tried, Instant::now());
        assert_eq!(picked.map(|picked| picked.remote.endpoint.key), second);
        // Better there than nowhere.
        refused(&balancer, 0);
        assert_eq!(hits(&balancer, 2), [0, 10_000]);
    }
}

#[tokio::test(start_paused = true)]
async fn beyond_the_own_region_the_failovers_order_counts() {
    let locality = Locality {
        failover: vec!["south".into()],
        ..Locality::default()
    };
    let of = |id, region: &str| {
        let mut endpoint = Endpoint::clone(&endpoint(id, "x", false));
        endpoint.place.region = region.into();
        Arc::new(endpoint)
    };
    let known = endpoints();
    let members = vec![of(0, "north"), of(1, "west"), of(2, "south")];
    let balancer = spread(&known, members, (&locality, Balance::default()), None);
    assert_eq!(hits(&balancer, 3), [10_000, 0, 0]);
    refused(&balancer, 0);
    assert_eq!(hits(&balancer, 3), [0, 0, 10_000]);
    refused(&balancer, 2);
    assert_eq!(hits(&balancer, 3), [0, 10_000, 0]);
}

/// An endpoint behind gateways of these ports.
fn behind(id: u64, gateways: &[u16]) -> Arc<Endpoint> {
    let address = |port: &u16| SocketAddr::from(([192, 0, 2, 1], *port));
    Arc::new(Endpoint {
        gateways: Some(gateways.iter().map(address).collect()),
        ..Endpoint::clone(&endpoint(id, "a", false))
    })
}

fn gateway(balancer: &Balancer, place: usize) -> Rc<Gateway> {
    let gateways = balancer.members[place].1.gateways.as_ref().unwrap();
    gateways.pick(&[], &balancer.endpoints.chance).unwrap()
}

fn gone(balancer: &Balancer, gateway: &Gateway) {
    let endpoints = &balancer.endpoints;
    endpoints.gateway_failed(gateway, Failure::Proof, Reason::ConnectFailed, Instant::now());
}

#[tokio::test(start_paused = true)]
async fn all_that_is_behind_gateways_that_are_gone_is_left_alone_until_one_is_back() {
    let known = endpoints();
    let members = vec![
        behind(0, &[1, 2]),
        behind(1, &[2, 1]),
        behind(2, &[3]),
        endpoint(3, "a", false),
    ];
    let balancer = balancer(&known, members, None);
    assert!(hits(&balancer, 4).iter().all(|n| *n > 1_000));
    let first = gateway(&balancer, 0);
    gone(&balancer, &first);
    assert!(hits(&balancer, 4).iter().all(|n| *n > 1_000), "the other is there");
    let second = gateway(&balancer, 1);
    assert!(!Rc::ptr_eq(&first, &second), "the one that is well");
    gone(&balancer, &second);
    let hit = hits(&balancer, 4);
    assert_eq!(hit[..2], [0, 0]);
    assert!(hit[2] > 1_000 && hit[3] > 1_000);
    assert!(balancer.due_for_probe(Instant::now()).is_none(), "not at once");
    advance(Duration::from_secs(1)).await;
    let Some(Due::Gateway(remote, due)) = balancer.due_for_probe(Instant::now()) else {
        panic!("a gateway is due");
    };
    assert!(remote.endpoint.key.id.0 < 2);
    known.gateway_connected(&due, Instant::now());
    assert!(hits(&balancer, 4).iter().all(|n| *n > 1_000), "all at once");
}

#[tokio::test(start_paused = true)]
async fn another_clusters_endpoint_that_calls_itself_like_one_of_ours_is_another() {
    let known = endpoints();
    let ours = endpoint(0, "a", false);
    let mut theirs = (*ours).clone();
    theirs.place.cluster = "d".into();
    let own = balancer(&known, vec![ours.clone()], None);
    let other = balancer(&known, vec![Arc::new(theirs), ours], None);
    let mut remotes = other.members.iter().map(|(_, remote)| remote);
    let remote = remotes.find(|remote| remote.endpoint.place.cluster == "d").unwrap();
    let now = Instant::now();
    other.failed(remote, Failure::Proof, Reason::ConnectFailed, now);
    assert!(!remote.load.health.is_well());
    let own = own.pick(&[], now).unwrap().remote;
    assert!(
        own.load.health.is_well(),
        "what one cluster's endpoint does is not another's fault"
    );
    let next = other.pick(&[remote.key], now).unwrap().remote;
    assert_eq!(next.endpoint.place.cluster, "c", "nor was it tried");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_gateway_survives_changes_of_the_set_and_is_forgotten_with_it() {
    let known = endpoints();
    let before = balancer(&known, vec![behind(0, &[1]), endpoint(1, "a", false)], None);
    gone(&before, &gateway(&before, 0));
    let after = balancer(&known, vec![behind(2, &[1]), endpoint(1, "a", false)], Some(&before));
    drop(before);
    known.sweep();
    let picked = (0..100).all(|_| after.pick(&[], Instant::now()).unwrap().remote.endpoint.key.id.0 == 1);
    assert!(picked, "another endpoint behind the same gateway");
    assert_eq!(known.gateways.borrow().len(), 1);
    drop(after);
    known.sweep();
    assert!(known.gateways.borrow().is_empty());
}
