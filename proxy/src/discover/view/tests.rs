use weft_model::inbound::Mode;
use weft_proto::resource::{Body, Kind};

use super::*;
use crate::discover::store::{Followed, Store};
use crate::discover::testing::*;

const AT: &str = "10.96.0.7:80";

/// A store with views, driven by hand.
struct Back {
    store: Store,
    shared: Arc<Shared>,
    asks: mpsc::Receiver<Ask>,
}

fn back(limit: usize, workers: usize) -> (Back, Vec<View>) {
    let mut store = Store::new(Duration::from_secs(3), limit);
    store.apply(batch(1, 1, basics()), Instant::now());
    let (shared, asks, views) = channel(store.state().clone(), workers, SystemTime::now());
    (Back { store, shared, asks }, views)
}

impl Back {
    /// Takes one question as the client does. Gives what it was.
    async fn take(&mut self) -> &'static str {
        match self.asks.recv().await.unwrap() {
            Ask::Follow(target, reply) => {
                let followed = self.store.follow(&target, Instant::now(), self.shared.since_start());
                reply.send(followed.map(|_| ())).unwrap();
                "follow"
            }
            Ask::Renew(_) => "renew",
            Ask::Suspect(_) => "suspect",
        }
    }

    fn apply(&mut self, resources: Vec<weft_proto::discovery::Resource>) {
        let applied = self.store.apply(batch(2, 1, resources), Instant::now());
        assert_eq!(applied.refused, []);
        self.shared.states.send_replace(Arc::new(self.store.state().clone()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_destination_is_refused_after_a_bounded_wait() {
    let (mut back, views) = back(4, 1);
    let began = Instant::now();
    let at = target(AT);
    let (answer, asked) = tokio::join!(views[0].lookup(&at), back.take());
    assert_eq!(asked, "follow");
    assert_eq!(answer, Err(Reason::DiscoveryTimeout));
    assert_eq!(began.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_is_there_and_names_nothing_is_not_blamed() {
    let (mut back, views) = back(4, 1);
    let at = target(AT);
    back.shared.set_connected(true);
    // Until the stream has said what changed, nobody knows what it knows.
    let (answer, _) = tokio::join!(views[0].lookup(&at), back.take());
    assert_eq!(answer, Err(Reason::DiscoveryTimeout));
    back.shared.confirm();
    let (answer, _) = tokio::join!(views[0].lookup(&at), back.take());
    assert_eq!(answer, Err(Reason::UnknownAddress));
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_bounded_though_nobody_takes_questions() {
    let (_back, views) = back(4, 1);
    assert_eq!(views[0].lookup(&target(AT)).await, Err(Reason::DiscoveryTimeout));
}

#[tokio::test(start_paused = true)]
async fn the_answer_ends_the_wait_and_is_known_from_then_on() {
    let (mut back, views) = back(4, 1);
    let at = target(AT);
    let told = async {
        back.take().await;
        back.apply(reviews(AT, &[("reviews-1", 1)], 5));
        back.asks.try_recv().unwrap_err();
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(views[0].lookup(&at), told);
    assert_eq!(answer, Ok(Lookup::Service("svc".into())));
    assert!(
        views[0].state().service("svc").is_some(),
        "the state has what the answer refers to"
    );
    assert_eq!(views[0].lookup(&at).await, Ok(Lookup::Service("svc".into())));
    assert!(back.asks.try_recv().is_err(), "nobody was asked again");
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_is_outside_the_mesh_is_neither_waited_for_nor_followed() {
    let (mut back, views) = back(4, 1);
    assert_eq!(
        views[0].lookup(&target("203.0.113.9:443")).await,
        Ok(Lookup::Outside { ttl: Duration::ZERO })
    );
    assert!(back.asks.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_outside_before_the_networks_are_known() {
    let store = Store::new(Duration::from_secs(3), 4);
    let (_shared, _asks, views) = channel(store.state().clone(), 1, SystemTime::now());
    assert_eq!(
        views[0].lookup(&target("203.0.113.9:443")).await,
        Err(Reason::DiscoveryTimeout)
    );
}

#[tokio::test(start_paused = true)]
async fn a_negative_answer_expires_and_is_then_asked_for_and_waited_for() {
    let (mut back, views) = back(4, 1);
    let at = target(AT);
    back.shared.set_connected(true);
    let told = async {
        back.take().await;
        back.apply(vec![says(AT, &outside(30), 5)]);
    };
    tokio::join!(views[0].lookup(&at), told).0.unwrap();
    tokio::time::advance(Duration::from_secs(20)).await;
    assert!(
        views[0].lookup(&at).await.is_ok(),
        "it ages, and is asked again meanwhile"
    );
    assert_eq!(back.take().await, "renew");
    tokio::time::advance(Duration::from_secs(11)).await;
    let (answer, asked) = tokio::join!(views[0].lookup(&at), back.take());
    assert_eq!((answer, asked), (Err(Reason::DiscoveryTimeout), "renew"));
    // The same answer again, heard anew, is good again.
    let told = async {
        back.take().await;
        back.apply(vec![says(AT, &outside(30), 5)]);
    };
    assert!(tokio::join!(views[0].lookup(&at), told).0.is_ok());
}

/// Looks a destination up, and answers.
async fn answer(back: &mut Back, view: &View, at: &Target, resources: Vec<weft_proto::discovery::Resource>) {
    let told = async {
        back.take().await;
        back.apply(resources);
    };
    tokio::join!(view.lookup(at), told).0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn while_nobody_can_be_asked_what_is_known_of_the_mesh_stays_good() {
    let (mut back, views) = back(8, 1);
    let (service_at, no_port) = (target(AT), target("10.0.0.3:81"));
    let none = Body::Lookup(Lookup::NoSuchPort {
        reason: "no port 81".into(),
        service: None,
        ttl: Duration::from_secs(5),
    });
    answer(&mut back, &views[0], &service_at, reviews(AT, &[("r", 1)], 5)).await;
    answer(&mut back, &views[0], &no_port, vec![says("10.0.0.3:81", &none, 5)]).await;
    tokio::time::advance(Duration::from_secs(24 * 3600)).await;
    assert_eq!(views[0].lookup(&service_at).await, Ok(Lookup::Service("svc".into())));
    let refused = views[0].lookup(&no_port).await;
    assert!(matches!(refused, Ok(Lookup::NoSuchPort { .. })), "{refused:?}");
    assert_eq!(
        views[0].lookup(&target("10.0.0.2:80")).await,
        Err(Reason::DiscoveryTimeout),
        "what is not known is not guessed"
    );
}

#[tokio::test(start_paused = true)]
async fn plaintext_inside_ends_some_minutes_after_the_last_confirmation() {
    for ttl in [30, 0] {
        let (mut back, views) = back(8, 1);
        let (inside, outside_at) = (target("10.0.0.1:80"), target("203.0.113.9:443"));
        back.shared.set_connected(true);
        back.shared.confirm();
        answer(
            &mut back,
            &views[0],
            &inside,
            vec![says("10.0.0.1:80", &outside(ttl), 5)],
        )
        .await;
        // For long the control plane would have said if it were otherwise.
        tokio::time::advance(Duration::from_secs(24 * 3600)).await;
        back.shared.set_connected(false);
        tokio::time::advance(UNCONFIRMED).await;
        assert!(views[0].lookup(&inside).await.is_ok());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(views[0].lookup(&inside).await, Err(Reason::DiscoveryTimeout));
        assert!(
            views[0].lookup(&outside_at).await.is_ok(),
            "that is no address of the mesh"
        );
        // A stream that is there again, and has not answered yet, changes nothing.
        back.shared.set_connected(true);
        assert_eq!(views[0].lookup(&inside).await, Err(Reason::DiscoveryTimeout));
        let told = async {
            tokio::task::yield_now().await;
            back.shared.confirm();
            back.apply(vec![says("10.0.0.1:80", &outside(ttl), 5)]);
        };
        assert!(tokio::join!(views[0].lookup(&inside), told).0.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_not_inside_any_more_is_passed_through_though_an_old_answer_is_held() {
    let (mut back, views) = back(8, 1);
    let at = target("10.0.0.1:80");
    answer(&mut back, &views[0], &at, vec![says("10.0.0.1:80", &outside(30), 5)]).await;
    let mut narrow = mesh();
    let Body::Mesh(said) = &mut narrow else { unreachable!() };
    said.outside = vec!["10.0.0.0/24".parse().unwrap()];
    back.apply(vec![says("mesh", &narrow, 2)]);
    tokio::time::advance(Duration::from_secs(24 * 3600)).await;
    assert!(views[0].lookup(&at).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_more_than_may_be_followed_is_refused_at_once() {
    let (mut back, views) = back(1, 1);
    assert_eq!(
        back.store
            .follow(&target("10.0.0.1:80"), Instant::now(), Duration::ZERO),
        Ok(Followed::New { given_up: None })
    );
    let began = Instant::now();
    let at = target(AT);
    let (answer, _) = tokio::join!(views[0].lookup(&at), back.take());
    assert_eq!(answer, Err(Reason::SubscriptionLimit));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_applied_by_all_before_the_last_worker_has_applied_it() {
    let (back, mut views) = back(4, 2);
    let generation = views[0].state().generation;
    assert_eq!(back.shared.applied_by_all(), 0);
    views[0].applied(generation);
    assert_eq!(back.shared.applied_by_all(), 0);
    views[1].applied(generation);
    assert_eq!(back.shared.applied_by_all(), generation);
    // A worker that has ended holds nobody up.
    views[0].applied(generation + 1);
    drop(views.pop());
    assert_eq!(back.shared.applied_by_all(), generation + 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_wakes_who_waits_for_a_newer_state() {
    let (mut back, views) = back(4, 1);
    let seen = views[0].state().generation;
    let changed = async {
        tokio::task::yield_now().await;
        back.apply(vec![says("inbound", &inbound(Mode::Permissive), 2)]);
    };
    let (state, ()) = tokio::join!(views[0].newer(seen), changed);
    assert_eq!(state.inbound().unwrap().mode, Mode::Permissive);
    assert_eq!(views[0].state().generation, state.generation);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_taken_away_is_waited_for_again() {
    let (mut back, views) = back(4, 1);
    let at = target(AT);
    let told = async {
        back.take().await;
        back.apply(reviews(AT, &[("reviews-1", 1)], 5));
    };
    tokio::join!(views[0].lookup(&at), told).0.unwrap();
    back.apply(vec![removed(Kind::Lookup, AT)]);
    let (answer, _) = tokio::join!(views[0].lookup(&at), back.take());
    assert_eq!(answer, Err(Reason::DiscoveryTimeout));
}

#[tokio::test(start_paused = true)]
async fn the_configuration_ages_from_its_last_confirmation() {
    let hour = Duration::from_secs(3600);
    let store = Store::new(Duration::from_secs(3), 4);
    let (shared, _asks, _views) = channel(store.state().clone(), 1, SystemTime::now() - hour);
    let age = || shared.config_age().as_secs();
    assert_eq!(age(), 3600, "what an earlier process was told");
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(age(), 3610);
    shared.set_connected(true);
    assert_eq!(age(), 3610, "a stream that has said nothing confirms nothing");
    shared.confirm();
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(age(), 0);
    shared.set_connected(false);
    tokio::time::advance(Duration::from_secs(7)).await;
    shared.set_connected(true);
    shared.set_connected(false);
    assert_eq!(age(), 7);
}
