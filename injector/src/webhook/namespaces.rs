//! The Namespace of a pod, whose labels and annotations count.
//!
//! An answer is never older than the question: the API server asks about a pod as soon as it knows of a label, and what a
//! watch here had not seen yet would leave the pod without its sidecar. Questions that wait for the same Namespace share one
//! request. Only where the API server does not answer is the last known one handed out, and not for ever, and with the reason.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout};

/// Namespaces that are remembered.
const MOST: usize = 4096;
/// What one request may take: two of them fit into the time of a review.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long what was known counts while the API server does not answer.
const LAST_GOOD: Duration = Duration::from_secs(600);

/// How a Namespace is asked for: its name in, the object out, `None` where there is none.
pub(super) type Fetch =
    Box<dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<Option<Value>, String>> + Send>> + Send + Sync>;

/// A Namespace as it is, or as it was.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) object: Arc<Value>,
    /// Why it is the last known one, where it is: the API server did not answer.
    pub(super) stale: Option<String>,
}

/// Namespaces by name.
pub(super) struct Namespaces {
    fetch: Fetch,
    /// Only locked to find an entry.
    entries: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Entry>>>>,
}

#[derive(Default)]
struct Entry {
    /// When the last request began, and how it ended.
    asked: Option<(Instant, Result<(), String>)>,
    /// The last answer, and when it was asked for.
    known: Option<(Instant, Arc<Value>)>,
}

impl Namespaces {
    pub(super) fn new(fetch: Fetch) -> Self {
        Self {
            fetch,
            entries: Mutex::default(),
        }
    }

    /// The Namespace. The error is for people.
    pub(super) async fn get(&self, name: &str) -> Result<Found, String> {
        let arrived = Instant::now();
        let shared = self.entry(name)?;
        let mut entry = shared.lock().await;
        if entry.asked.as_ref().is_none_or(|(began, _)| *began < arrived) {
            let began = Instant::now();
            let fetched = timeout(PATIENCE, (self.fetch)(name.to_owned())).await;
            let ended = match fetched {
                Ok(Ok(Some(object))) => {
                    entry.known = Some((began, Arc::new(object)));
                    Ok(())
                }
                Ok(Ok(None)) => {
                    entry.known = None;
                    Err("there is no such Namespace".to_owned())
                }
                Ok(Err(error)) => Err(error),
                Err(_) => Err(format!("no answer within {} ms", PATIENCE.as_millis())),
            };
            entry.asked = Some((began, ended));
            if entry.known.is_none() {
                self.forget(name, &shared);
            }
        }
        let stale = match &entry.asked {
            Some((_, Err(failure))) => Some(failure.clone()),
            _ => None,
        };
        match (&entry.known, stale) {
            (Some((began, object)), stale) if stale.is_none() || began.elapsed() < LAST_GOOD => Ok(Found {
                object: object.clone(),
                stale,
            }),
            (_, stale) => Err(stale.unwrap_or_default()),
        }
    }

    /// Nothing is kept of a name that nothing is known of, as anybody may have made it up.
    fn forget(&self, name: &str, entry: &Arc<tokio::sync::Mutex<Entry>>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.get(name).is_some_and(|kept| Arc::ptr_eq(kept, entry)) {
            entries.remove(name);
        }
    }

    fn entry(&self, name: &str) -> Result<Arc<tokio::sync::Mutex<Entry>>, String> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MOST && !entries.contains_key(name) {
            // Nobody waits for the others. They are asked for again.
            entries.retain(|_, entry| Arc::strong_count(entry) > 1);
            if entries.len() >= MOST {
                return Err("too many Namespaces are asked for at once".to_owned());
            }
        }
        Ok(entries.entry(name.to_owned()).or_default().clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;
    use tokio::time::sleep;

    use super::*;

    /// A source that answers after a second with the number of the request, and the count of requests.
    fn counting() -> (Arc<Namespaces>, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let asked = count.clone();
        let fetch = move |_| {
            let asked = asked.clone();
            Box::pin(async move {
                let number = asked.fetch_add(1, Ordering::Relaxed) + 1;
                sleep(Duration::from_secs(1)).await;
                Ok(Some(json!(number)))
            }) as Pin<Box<dyn Future<Output = _> + Send>>
        };
        (Arc::new(Namespaces::new(Box::new(fetch))), count)
    }

    fn fresh(number: usize) -> Found {
        Found {
            object: Arc::new(json!(number)),
            stale: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_never_older_than_its_question() {
        let (namespaces, _) = counting();
        assert_eq!(namespaces.get("shop").await.unwrap(), fresh(1));
        assert_eq!(namespaces.get("shop").await.unwrap(), fresh(2));
    }

    #[tokio::test(start_paused = true)]
    async fn questions_that_wait_share_a_request() {
        let (namespaces, count) = counting();
        let ask = |after: u64| {
            let namespaces = namespaces.clone();
            async move {
                sleep(Duration::from_millis(after)).await;
                namespaces.get("shop").await.unwrap()
            }
        };
        let (first, second, third) = tokio::join!(ask(0), ask(100), ask(200));
        assert_eq!([first, second, third], [fresh(1), fresh(2), fresh(2)]);
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn while_nobody_answers_the_last_known_one_counts_for_a_while() {
        let works = Arc::new(AtomicUsize::new(1));
        let switch = works.clone();
        let fetch = move |_| {
            let works = switch.load(Ordering::Relaxed);
            Box::pin(async move {
                match works {
                    0 => std::future::pending().await,
                    1 => Ok(Some(json!("known"))),
                    _ => Ok(None),
                }
            }) as Pin<Box<dyn Future<Output = _> + Send>>
        };
        let namespaces = Namespaces::new(Box::new(fetch));
        namespaces.get("shop").await.unwrap();
        works.store(0, Ordering::Relaxed);
        sleep(Duration::from_millis(1)).await;
        let known = namespaces.get("shop").await.unwrap();
        assert_eq!(*known.object, json!("known"));
        assert!(known.stale.is_some_and(|why| why.contains("no answer")));
        assert!(namespaces.get("other").await.unwrap_err().contains("no answer"));
        assert_eq!(namespaces.entries.lock().unwrap().len(), 1, "a made-up name is kept");
        sleep(LAST_GOOD).await;
        assert!(namespaces.get("shop").await.unwrap_err().contains("no answer"));
        works.store(1, Ordering::Relaxed);
        assert_eq!(namespaces.get("shop").await.unwrap().stale, None);
        works.store(2, Ordering::Relaxed);
        sleep(Duration::from_millis(1)).await;
        assert!(namespaces.get("shop").await.unwrap_err().contains("no such Namespace"));
    }

    #[tokio::test(start_paused = true)]
    async fn names_of_namespaces_are_not_kept_without_a_bound() {
        let (namespaces, _) = counting();
        for n in 0..MOST + 2 {
            drop(namespaces.entry(&n.to_string()).unwrap());
        }
        assert!(namespaces.entries.lock().unwrap().len() <= MOST);
    }
}
