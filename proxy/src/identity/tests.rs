//! The schedule, under paused time; the exchange itself is tested with discovery, against a control plane over TLS.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::*;
use crate::discover::testing;
use crate::observe::metrics::Registry;

/// Drives [`keep`] with an issuer that does what the test says. Gives when it was asked, with or without a leaf to show.
async fn run(
    current: Option<Duration>,
    within: Duration,
    renew_at: Option<Duration>,
    answer: impl Fn(usize) -> Result<Duration, IssueError>,
) -> (Vec<(Duration, bool)>, Vec<(Duration, &'static str)>) {
    let authority = testing::authority();
    let who = testing::identity("shop", "web");
    let made = Arc::new(testing::credential(&authority, &who, Duration::from_secs(86_400), 1));
    let began = Instant::now();
    let asked: Rc<RefCell<Vec<(Duration, bool)>>> = Rc::default();
    let issue = async |shown: Option<Arc<Credential>>| {
        let count = asked.borrow().len();
        asked.borrow_mut().push((began.elapsed(), shown.is_some()));
        answer(count).map(|valid_for| Issued {
            credential: made.clone(),
            valid_for,
            skew: 0.0,
        })
    };
    let (send, mut news) = mpsc::channel(1);
    let (renew_now, registry) = (Notify::new(), Registry::new());
    let meters = Meters::new(&registry.writer());
    let current = current.map(|valid_for| {
        (
            made.clone(),
            Life {
                received: began.into_std(),
                valid_for,
            },
        )
    });
    let heard = RefCell::new(Vec::new());
    let listen = async {
        while let Some(news) = news.recv().await {
            let what = match news {
                News::Issued(..) => "issued",
                News::Ended => "ended",
            };
            heard.borrow_mut().push((began.elapsed(), what));
        }
    };
    let hurry = async {
        if let Some(at) = renew_at {
            sleep_until(began + at).await;
            renew_now.notify_one();
        }
        std::future::pending::<()>().await;
    };
    let _ = tokio::time::timeout(within, async {
        tokio::join!(keep(issue, current, &renew_now, &send, &meters), listen, hurry)
    })
    .await;
    (asked.take(), heard.take())
}

fn unreachable() -> IssueError {
    IssueError::Slow
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn the_first_certificate_is_asked_for_at_once_and_renewed_after_two_thirds() {
    let (asked, heard) = run(None, 23 * HOUR, None, |_| Ok(24 * HOUR)).await;
    assert_eq!(asked.len(), 2);
    assert_eq!((asked[0].0, asked[0].1), (Duration::ZERO, false));
    let renewed = asked[1].0;
    // Up to a tenth of the life earlier, so that not all renew together.
    assert!(
        renewed <= 16 * HOUR && renewed >= 16 * HOUR - 24 * HOUR / 10,
        "{renewed:?}"
    );
    assert!(asked[1].1, "the leaf is shown");
    assert_eq!(
        heard.iter().map(|(_, what)| *what).collect::<Vec<_>>(),
        ["issued", "issued"]
    );
}

#[tokio::test(start_paused = true)]
async fn one_of_an_earlier_process_is_used_and_not_asked_for_again() {
    let (asked, heard) = run(Some(24 * HOUR), 12 * HOUR, None, |_| Ok(24 * HOUR)).await;
    assert!(asked.is_empty() && heard.is_empty());
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_with_growing_capped_pauses_and_the_leaf_ends_only_when_it_ends() {
    let (asked, heard) = run(Some(HOUR), 2 * HOUR, None, |_| Err(unreachable())).await;
    assert_eq!(heard, [(HOUR, "ended")], "not before, and only once");
    let pauses: Vec<Duration> = asked.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(
        pauses
            .iter()
            .all(|pause| *pause <= renew::BACKOFF_MAX + Duration::from_secs(1)),
        "{pauses:?}"
    );
    assert!(
        pauses
            .iter()
            .filter(|pause| **pause < Duration::from_millis(400))
            .count()
            <= 8,
        "no hammering: {pauses:?}"
    );
    assert!(asked.last().unwrap().0 > HOUR, "it goes on");
    assert!(
        asked.iter().any(|(_, shown)| *shown) && asked.iter().any(|(_, shown)| !*shown),
        "with the leaf, and without"
    );
    assert!(
        asked.iter().filter(|(at, _)| *at > HOUR).all(|(_, shown)| !shown),
        "one that has ended is not shown"
    );
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_comes_back_ends_the_failures() {
    let (_, heard) = run(None, HOUR, None, |count| {
        if count < 5 { Err(unreachable()) } else { Ok(24 * HOUR) }
    })
    .await;
    assert_eq!(heard.len(), 1);
    assert!(heard[0].0 < Duration::from_secs(60), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_removed_root_renews_at_once() {
    let at = Duration::from_secs(100);
    let (asked, heard) = run(Some(24 * HOUR), HOUR, Some(at), |_| Ok(24 * HOUR)).await;
    assert_eq!(asked.len(), 1);
    assert!(
        asked[0].0 >= at && asked[0].0 <= at + Duration::from_secs(2),
        "{asked:?}"
    );
    assert_eq!(heard.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn leaves_of_seconds_are_renewed_in_time() {
    let count = Cell::new(0);
    let (_, heard) = run(None, Duration::from_secs(60), None, |_| {
        count.set(count.get() + 1);
        Ok(Duration::from_secs(10))
    })
    .await;
    assert!(heard.iter().all(|(_, what)| *what == "issued"), "{heard:?}");
    assert!((9..=12).contains(&count.get()), "{}", count.get());
}

#[test]
fn what_went_wrong_is_counted_apart() {
    let refused = IssueError::Refused(tonic::Status::permission_denied("no"));
    let away = IssueError::Refused(tonic::Status::unavailable("restarting"));
    assert_eq!(
        [
            refused.outcome(),
            away.outcome(),
            unreachable().outcome(),
            IssueError::Invalid(String::new()).outcome()
        ],
        [1, 2, 2, 3]
    );
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = issue::Trust::read(directory.path()).unwrap_err();
    assert!(error.to_string().contains("trust-domain"), "{error}");
}
