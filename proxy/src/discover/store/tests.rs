use weft_model::destination::Lookup;
use weft_model::inbound::Mode;
use weft_proto::resource::Body;

use super::*;
use crate::discover::testing::*;

const AT: &str = "10.96.0.7:80";

fn store() -> Store {
    Store::new(Duration::from_secs(3), 4)
}

/// A store that follows an address and knows a Service there.
fn told() -> Store {
    let mut store = store();
    follow(&mut store, AT).unwrap();
    let mut resources = basics();
    resources.extend(reviews(AT, &[("reviews-1", 1)], 5));
    assert_eq!(apply(&mut store, batch(1, 1, resources)), []);
    store
}

fn follow(store: &mut Store, at: &str) -> Result<Followed, Reason> {
    store.follow(&target(at), Instant::now(), Duration::ZERO)
}

/// Applies a batch. Gives what was refused: the key and the field.
fn apply(store: &mut Store, batch: discovery::Batch) -> Vec<(String, String)> {
    let applied = store.apply(batch, Instant::now());
    applied
        .refused
        .into_iter()
        .map(|refused| (refused.key, refused.note.field))
        .collect()
}

fn pods(store: &Store) -> Vec<&str> {
    store.state().endpoints["eps"]
        .value
        .endpoints
        .iter()
        .map(|endpoint| endpoint.pod.as_str())
        .collect()
}

fn refused(key: &str, field: &str) -> Vec<(String, String)> {
    vec![(key.to_owned(), field.to_owned())]
}

#[test]
fn a_batch_is_known_as_one() {
    let store = told();
    let state = store.state();
    let Lookup::Service(key) = &*state.lookups[&target(AT)].lookup.value else {
        panic!("a Service is there")
    };
    let service = state.service(key).unwrap();
    assert_eq!(state.endpoint_set(&service.endpoints).unwrap().endpoints.len(), 1);
    assert_eq!(state.inbound().unwrap().mode, Mode::Strict);
}

#[test]
fn a_refused_resource_keeps_the_last_good_and_its_refusal_names_the_field() {
    let mut store = told();
    let mut broken = says("eps", &endpoints(&[("reviews-2", 2)]), 6);
    broken.version.as_mut().unwrap().hash = vec![9; 16].into();
    assert_eq!(
        apply(&mut store, batch(2, 1, vec![broken])),
        refused("eps", "version.hash")
    );
    assert_eq!(pods(&store), ["reviews-1"]);
    let acks = store.acknowledge(u64::MAX);
    assert_eq!(acks.last().unwrap().refusals[0].field, "version.hash");
    assert_eq!(store.state().notes.len(), 1, "people can see it");
    // The next good one takes its place, and nothing is wrong any more.
    assert_eq!(
        apply(
            &mut store,
            batch(3, 1, vec![says("eps", &endpoints(&[("reviews-3", 3)]), 7)])
        ),
        []
    );
    assert_eq!(pods(&store), ["reviews-3"]);
    assert!(store.state().notes.is_empty());
}

#[test]
fn a_bad_resource_refuses_only_itself() {
    let mut store = told();
    let mut broken = says("inbound", &inbound(Mode::Permissive), 2);
    broken.version.as_mut().unwrap().hash = vec![9; 16].into();
    let good = says("eps", &endpoints(&[("reviews-2", 2)]), 6);
    assert_eq!(
        apply(&mut store, batch(2, 1, vec![broken, good])),
        refused("inbound", "version.hash")
    );
    assert_eq!(pods(&store), ["reviews-2"]);
    assert_eq!(store.state().inbound().unwrap().mode, Mode::Strict);
}

#[test]
fn a_service_is_refused_with_the_reference_that_would_dangle() {
    let mut store = told();
    let service = says("svc", &routed_service("eps", "gone"), 6);
    assert_eq!(
        apply(&mut store, batch(2, 1, vec![service])),
        refused("svc", "rules[0]")
    );
    assert!(
        store.state().service("svc").unwrap().rules.is_none(),
        "the last good one stays"
    );
    let lookup = says(AT, &lookup("gone"), 6);
    assert_eq!(apply(&mut store, batch(3, 1, vec![lookup])), refused(AT, "service"));
    assert_eq!(store.state().lookups.len(), 1);
}

#[test]
fn hold_keeps_what_is_there_and_makes_nothing_of_nothing() {
    let mut store = told();
    assert_eq!(
        apply(
            &mut store,
            batch(2, 1, vec![hold(Kind::Endpoints, "eps"), hold(Kind::Service, "other")])
        ),
        []
    );
    assert_eq!(pods(&store), ["reviews-1"]);
    assert!(store.state().service("other").is_none());
    assert_eq!(store.state().notes.len(), 1);
}

#[test]
fn removed_removes() {
    let mut store = told();
    let gone = vec![
        removed(Kind::Lookup, AT),
        removed(Kind::Service, "svc"),
        removed(Kind::Endpoints, "eps"),
    ];
    assert_eq!(apply(&mut store, batch(2, 1, gone)), []);
    let state = store.state();
    assert!(state.lookups.is_empty() && state.services.is_empty() && state.endpoints.is_empty());
}

#[test]
fn what_is_still_referred_to_goes_with_the_last_reference() {
    let mut store = told();
    apply(
        &mut store,
        batch(
            2,
            1,
            vec![removed(Kind::Endpoints, "eps"), removed(Kind::Service, "svc")],
        ),
    );
    assert_eq!(pods(&store), ["reviews-1"], "traffic to it goes on");
    apply(&mut store, batch(3, 1, vec![says(AT, &outside(30), 7)]));
    assert!(store.state().services.is_empty() && store.state().endpoints.is_empty());
}

#[test]
fn what_everything_rests_on_cannot_be_taken_away() {
    let mut store = told();
    assert_eq!(
        apply(&mut store, batch(2, 1, vec![removed(Kind::Inbound, "inbound")])),
        refused("inbound", "removed")
    );
    assert!(store.state().inbound.is_some());
}

#[test]
fn an_older_source_within_an_epoch_is_refused() {
    let mut store = told();
    let older = says("eps", &endpoints(&[("reviews-0", 9)]), 4);
    assert_eq!(
        apply(&mut store, batch(2, 1, vec![older])),
        refused("eps", "version.sources")
    );
    assert_eq!(pods(&store), ["reviews-1"]);
}

#[test]
fn a_new_epoch_may_go_back_and_each_resource_in_its_own_time() {
    let mut store = told();
    assert_eq!(
        apply(
            &mut store,
            batch(2, 2, vec![says("inbound", &inbound(Mode::Permissive), 1)])
        ),
        []
    );
    // The endpoints are still those of epoch 1 when epoch 2's come, older as they are.
    assert_eq!(
        apply(
            &mut store,
            batch(3, 2, vec![says("eps", &endpoints(&[("restored", 9)]), 3)])
        ),
        []
    );
    assert_eq!(pods(&store), ["restored"]);
    assert_eq!(
        apply(
            &mut store,
            batch(4, 2, vec![says("eps", &endpoints(&[("older", 8)]), 2)])
        )
        .len(),
        1
    );
}

#[test]
fn an_epoch_that_has_ended_says_nothing() {
    let mut store = told();
    apply(&mut store, batch(2, 2, Vec::new()));
    let late = says("eps", &endpoints(&[("late", 9)]), 99);
    assert_eq!(
        apply(&mut store, batch(3, 1, vec![late, removed(Kind::Lookup, AT)])).len(),
        2
    );
    assert_eq!(pods(&store), ["reviews-1"]);
    assert_eq!(store.state().epoch, 2);
}

#[test]
fn a_feature_that_is_lacked_is_named() {
    let mut store = told();
    let mut newer = says("svc", &service("eps"), 6);
    newer.requires.push("teleport/1".into());
    assert_eq!(apply(&mut store, batch(2, 1, vec![newer])), refused("svc", "requires"));
    let refusal = store.acknowledge(u64::MAX).pop().unwrap().refusals.pop().unwrap();
    assert_eq!(refusal.missing_features, ["teleport/1"]);
}

#[test]
fn a_kind_that_is_not_known_is_refused_by_its_name() {
    let mut store = told();
    let mut newer = says("svc", &service("eps"), 6);
    newer.name.as_mut().unwrap().kind = 99;
    let applied = store.apply(batch(2, 1, vec![newer]), Instant::now());
    assert_eq!(applied.refused[0].kind, None);
    assert_eq!(
        store.acknowledge(u64::MAX).pop().unwrap().refusals[0]
            .name
            .as_ref()
            .unwrap()
            .kind,
        99
    );
}

#[test]
fn a_batch_is_acknowledged_when_the_slowest_worker_decides_by_it() {
    let mut store = told();
    let first = store.state().generation;
    apply(&mut store, batch(2, 1, Vec::new()));
    assert!(store.acknowledge(first - 1).is_empty());
    assert_eq!(
        store.acknowledge(first).iter().map(|ack| ack.nonce).collect::<Vec<_>>(),
        [1]
    );
    assert_eq!(
        store
            .acknowledge(first + 1)
            .iter()
            .map(|ack| ack.nonce)
            .collect::<Vec<_>>(),
        [2]
    );
    assert!(store.acknowledge(u64::MAX).is_empty());
}

#[test]
fn another_stream_hears_no_acknowledgement_of_the_last_one() {
    let mut store = told();
    store.disconnected();
    assert!(store.acknowledge(u64::MAX).is_empty());
}

#[test]
fn the_same_content_keeps_its_value() {
    let mut store = told();
    let before = store.state().endpoint_set("eps").unwrap().clone();
    apply(
        &mut store,
        batch(2, 1, vec![says("eps", &endpoints(&[("reviews-1", 1)]), 6)]),
    );
    let state = store.state();
    assert!(Arc::ptr_eq(&before, state.endpoint_set("eps").unwrap()));
    assert_eq!(state.endpoints["eps"].wire.version.sources[0].resource_version, 6);
}

#[test]
fn an_answer_that_nobody_waits_for_is_not_kept() {
    let mut store = told();
    assert_eq!(
        apply(&mut store, batch(2, 1, vec![says("10.96.0.8:80", &lookup("svc"), 6)])),
        []
    );
    assert_eq!(store.state().lookups.len(), 1);
}

#[test]
fn one_destination_more_than_the_limit_is_refused() {
    let mut store = told();
    for last in 1..4 {
        assert_eq!(
            follow(&mut store, &format!("10.0.0.{last}:80")),
            Ok(Followed::New { given_up: None })
        );
    }
    assert_eq!(follow(&mut store, "10.0.0.4:80"), Err(Reason::SubscriptionLimit));
    assert_eq!(follow(&mut store, AT), Ok(Followed::Already), "what is followed stays");
}

#[test]
fn over_the_limit_the_idlest_is_given_up_and_unanswered_ones_first() {
    let mut store = told();
    for last in 1..4 {
        follow(&mut store, &format!("10.0.0.{last}:80")).unwrap();
    }
    let later = Duration::from_secs(3600);
    store.follows[&target("10.0.0.1:80")].used.touch(later);
    let followed = store.follow(&target("10.0.0.4:80"), Instant::now(), later);
    let Ok(Followed::New {
        given_up: Some(given_up),
    }) = followed
    else {
        panic!("{followed:?}")
    };
    assert!([target("10.0.0.2:80"), target("10.0.0.3:80")].contains(&given_up));
    assert!(
        store.state().lookups.contains_key(&target(AT)),
        "it was answered, and is idle no longer than the others"
    );
}

#[test]
fn a_destination_that_is_given_up_is_forgotten() {
    let mut store = told();
    for last in 1..4 {
        follow(&mut store, &format!("10.0.0.{last}:80")).unwrap();
        store.follows[&target(&format!("10.0.0.{last}:80"))]
            .used
            .touch(Duration::from_secs(3600));
    }
    let followed = store.follow(&target("10.0.0.4:80"), Instant::now(), Duration::from_secs(3600));
    assert_eq!(
        followed,
        Ok(Followed::New {
            given_up: Some(target(AT))
        })
    );
    assert!(store.state().lookups.is_empty());
}

#[test]
fn more_resources_than_the_limit_are_refused() {
    let mut store = told();
    let many = (0..100)
        .map(|index| says(&format!("eps-{index}"), &endpoints(&[("x", 1)]), 1))
        .collect();
    let refused = apply(&mut store, batch(2, 1, many));
    assert!(!refused.is_empty());
    assert_eq!(store.state().endpoints.len() + store.state().services.len(), 4 * 16);
}

#[test]
fn a_hello_says_what_is_held_and_followed() {
    let hello = told().hello(discovery::Pod::default(), "1.2.3", Instant::now());
    assert_eq!(hello.epoch, 1);
    assert_eq!(hello.targets.len(), 1);
    assert_eq!(hello.held.len(), 5);
    assert_eq!(hello.features, weft_model::feature::SUPPORTED);
}

#[test]
fn a_hello_says_of_what_came_in_an_earlier_epoch_only_that_it_is_held() {
    let mut store = told();
    // A store was restored: what is the same as before is not sent again.
    let older = says("eps", &endpoints(&[("reviews-2", 2)]), 3);
    assert_eq!(apply(&mut store, batch(2, 2, vec![older])), []);
    let hello = store.hello(discovery::Pod::default(), "", Instant::now());
    assert_eq!((hello.epoch, hello.held.len()), (2, 5));
    let versions = hello.held.iter().map(|held| held.version.as_ref().unwrap());
    assert!(versions.clone().all(|version| version.hash.len() == 16));
    let sources: Vec<u64> = versions
        .flat_map(|version| &version.sources)
        .map(|source| source.resource_version)
        .collect();
    assert_eq!(sources, [3]);
}

#[test]
fn a_hello_does_not_claim_negative_answers_that_are_too_old() {
    let mut store = told();
    follow(&mut store, "10.0.0.1:80").unwrap();
    let now = Instant::now();
    store.apply(batch(2, 1, vec![says("10.0.0.1:80", &outside(30), 1)]), now);
    let held = |seconds| {
        let hello = store.hello(discovery::Pod::default(), "", now + Duration::from_secs(seconds));
        (hello.held.len(), hello.targets.len())
    };
    assert_eq!(held(30), (6, 2));
    assert_eq!(held(31), (5, 2), "it is followed all the same, so it comes anew");
}

#[test]
fn one_destination_is_asked_about_at_most_once_a_second() {
    let mut store = told();
    let now = Instant::now() + Duration::from_secs(2);
    assert!(store.may_ask(&target(AT), now));
    assert!(!store.may_ask(&target(AT), now + Duration::from_millis(999)));
    assert!(store.may_ask(&target(AT), now + Duration::from_secs(1)));
    assert!(
        !store.may_ask(&target("10.9.9.9:80"), now),
        "one that is not followed is not asked about"
    );
}

#[test]
fn new_bundles_make_a_new_credential_of_the_same_leaf() {
    let (old, new) = (authority(), authority());
    let mut store = told();
    let shown = store
        .set_credential(Some(&credential(
            &old,
            &identity("shop", "web"),
            Duration::from_secs(60),
            1,
        )))
        .unwrap();
    let both = Body::Bundles(vec![TrustRootsOf(&[&old, &new], 2).into()]);
    assert_eq!(apply(&mut store, batch(2, 1, vec![says("bundles", &both, 1)])), []);
    let now = store.state().credential.clone().unwrap();
    assert_eq!(now.chain(), shown.chain());
    assert!(now.generation() > shown.generation());
    assert_eq!(now.bundles().get(&domain()).unwrap().roots().len(), 2);
}

#[test]
fn bundles_never_go_back_nor_forget_our_own() {
    let (old, new) = (authority(), authority());
    let mut store = told();
    store.set_credential(Some(&credential(
        &old,
        &identity("shop", "web"),
        Duration::from_secs(60),
        5,
    )));
    let back = bundles(&new, 4);
    assert_eq!(
        apply(&mut store, batch(2, 1, vec![says("bundles", &back, 1)])),
        refused("bundles", "bundles")
    );
    let elsewhere = weft_model::identity::TrustDomain::new("elsewhere").unwrap();
    let foreign = weft_certs::authority::Authority::create(elsewhere, std::time::SystemTime::now()).unwrap();
    let foreign = Body::Bundles(vec![roots(&foreign.bundle(9))]);
    assert_eq!(
        apply(&mut store, batch(3, 1, vec![says("bundles", &foreign, 2)])),
        refused("bundles", "bundles")
    );
    let held = store.state().credential.clone().unwrap();
    assert_eq!(held.bundles().get(&domain()).unwrap().roots(), old.bundle(5).roots());
}

#[test]
fn roots_of_another_cluster_that_were_written_wrongly_are_mended_at_the_same_sequence_and_our_own_never() {
    let elsewhere = weft_model::identity::TrustDomain::new("elsewhere").unwrap();
    let of = |domain| weft_certs::authority::Authority::create(domain, std::time::SystemTime::now()).unwrap();
    let (own, other, wrong, right) = (authority(), authority(), of(elsewhere.clone()), of(elsewhere.clone()));
    let mut store = told();
    let (who, life) = (identity("shop", "web"), Duration::from_secs(60));
    store.set_credential(Some(&credential(&own, &who, life, 1)));
    let mut say =
        |version, own: &weft_certs::authority::Authority, foreign: &weft_certs::authority::Authority, sequence| {
            let both = Body::Bundles(vec![roots(&own.bundle(1)), roots(&foreign.bundle(sequence))]);
            apply(&mut store, batch(version, 1, vec![says("bundles", &both, version)]))
        };
    assert_eq!(say(2, &own, &wrong, 1), []);
    assert_eq!(say(3, &own, &right, 1), []);
    assert_eq!(say(4, &own, &wrong, 0), refused("bundles", "bundles"), "an older one");
    assert_eq!(say(5, &other, &right, 1), refused("bundles", "bundles"), "our own");
    let held = store.state().credential.clone().unwrap();
    assert_eq!(held.bundles().get(&elsewhere), Some(&right.bundle(1)));
    assert_eq!(held.bundles().get(&domain()), Some(&own.bundle(1)));
}

#[test]
fn bundles_that_come_with_a_certificate_do_not_go_back_either() {
    let (old, new) = (authority(), authority());
    let mut store = told();
    apply(&mut store, batch(2, 1, vec![says("bundles", &bundles(&new, 7), 1)]));
    let shown = store
        .set_credential(Some(&credential(
            &old,
            &identity("shop", "web"),
            Duration::from_secs(60),
            1,
        )))
        .unwrap();
    assert_eq!(shown.bundles().get(&domain()).unwrap().roots(), new.bundle(7).roots());
}

/// The roots of several authorities in one bundle.
struct TrustRootsOf<'a>(&'a [&'a weft_certs::authority::Authority], u64);

impl From<TrustRootsOf<'_>> for weft_proto::resource::TrustRoots {
    fn from(of: TrustRootsOf<'_>) -> Self {
        let roots =
            of.0.iter()
                .map(|authority| bytes::Bytes::copy_from_slice(authority.root()))
                .collect();
        Self {
            trust_domain: domain(),
            roots,
            sequence: of.1,
        }
    }
}

const EXPORTED: &str = "shop/reviews:80";

/// What a gateway is told to pass.
fn to_pass(pods: &[(&str, u8)], resource_version: u64) -> Vec<discovery::Resource> {
    let gateway = Body::Gateway(vec![EXPORTED.to_owned()]);
    vec![
        says(EXPORTED, &exported(pods), resource_version),
        says("gateway", &gateway, resource_version),
    ]
}

#[test]
fn a_gateway_knows_what_to_pass_and_is_complete_without_an_inbound_side() {
    let mut store = store().of_gateway();
    assert!(store.hello(discovery::Pod::default(), "", Instant::now()).gateway);
    assert!(!store.state().is_configured());
    let mut resources = to_pass(&[("reviews-1", 1), ("reviews-2", 2)], 5);
    resources.push(says("mesh", &mesh(), 1));
    assert_eq!(apply(&mut store, batch(1, 1, resources)), []);
    assert!(
        store.state().is_configured() && !store.state().is_complete(),
        "no credential yet"
    );
    let passes = |store: &Store| {
        let passes = store.state().passes.clone().unwrap();
        let exported = passes
            .exported
            .get(EXPORTED)
            .map_or(0, |held| held.value.endpoints.len());
        (passes.gateway.unwrap().value.len(), exported)
    };
    assert_eq!(passes(&store), (1, 2));
    assert_eq!(
        apply(&mut store, batch(2, 1, vec![removed(Kind::Exported, EXPORTED)])),
        []
    );
    assert_eq!(passes(&store), (1, 0));
    // What it passes can be emptied, and not taken away.
    let removed = vec![removed(Kind::Gateway, "gateway")];
    assert_eq!(apply(&mut store, batch(3, 1, removed)), refused("gateway", "removed"));
}

#[test]
fn a_sidecar_is_not_told_what_a_gateway_passes() {
    let mut store = told();
    let refused = apply(&mut store, batch(2, 1, to_pass(&[("reviews-1", 1)], 5)));
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused.iter().all(|(_, field)| field == "name.kind"));
    assert!(store.state().passes.is_none());
}
