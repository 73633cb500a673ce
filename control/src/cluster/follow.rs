//! Follows one kind: lists it, watches from there, and lists again where the watch cannot go on.
//!
//! A list is consistent (no resource version is asked for), so it also answers whoever must know that nothing newer exists.
//! While the API server is away, what is known stays as it is.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;

use super::api::{Api, Events, Fault, failed_watch};
use super::kinds::{Kind, Served};
use super::object;
use super::pause::Pause;
use super::shown::{Read, Shown};
use crate::objects::ObjectRef;

/// Objects on a page of a list, as most clients of Kubernetes ask for.
const PAGE: usize = 500;
/// A watch lives so long, and up to half as long again, so that not all begin anew at once.
const LIFE: Duration = Duration::from_secs(240);
/// Bookmarks come about every minute. A watch that is silent for longer may have lost its other end.
const SILENCE: Duration = Duration::from_secs(100);
/// A watch that fails so often in a row is begun from a new list, whatever it failed of.
const FAILURES: u32 = 3;

/// Follows one kind for ever.
pub(super) struct Follow {
    pub(super) api: Api,
    pub(super) kind: Kind,
    pub(super) shown: Arc<Shown>,
    pub(super) served: watch::Receiver<Option<Arc<Served>>>,
    pub(super) looks: watch::Receiver<u64>,
}

/// One line of a watch.
#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: Value,
}

/// Why a watch is over.
enum Over {
    /// It lived its time: it can go on where it was.
    InTime,
    /// The kind is to be listed again.
    ListAgain,
    /// It failed.
    Failed(Fault),
}

/// What came of watching after a list.
enum Watched {
    /// Something was heard, or it was silent for long, or a list was asked for.
    Well,
    /// Nothing but failures.
    Badly,
}

impl Follow {
    pub(super) async fn run(mut self) {
        let mut pause = Pause::default();
        let mut page = PAGE;
        loop {
            let look = *self.looks.borrow_and_update();
            let Some(version) = self.version().await else {
                self.wait_for_kind(look, &mut pause).await;
                continue;
            };
            let path = self.kind.path(&version);
            match self.list(&path, &version, page, look).await {
                Ok(collection) => match self.watch(&path, &version, collection).await {
                    Watched::Well => pause.reset(),
                    // A list is dear: one that no watch comes of is not asked for again and again.
                    Watched::Badly => tokio::select! {
                        () = pause.wait() => {}
                        _ = self.looks.changed() => {}
                    },
                },
                Err(fault) => {
                    if matches!(fault, Fault::Large { .. }) {
                        page = (page / 2).max(1);
                    }
                    if fault.is_missing() && !self.kind.is_core() {
                        self.is_settled(look).await;
                    } else {
                        self.shown.failed(&self.kind, &fault);
                    }
                    pause.wait().await;
                }
            }
        }
    }

    /// The version to read. `None`: the API server does not serve the kind, as far as it says.
    async fn version(&mut self) -> Option<String> {
        if self.kind.is_core() {
            return self.kind.versions.first().cloned();
        }
        // An error is an ended task: the process is ending, and so is this one.
        let served = self.served.wait_for(Option::is_some).await.ok()?.clone()?;
        self.kind.version(&served).map(str::to_owned)
    }

    /// The kind is not served. Where its definition says that it is, that is a matter of moments; else of what people do.
    async fn wait_for_kind(&mut self, look: u64, pause: &mut Pause) {
        if !self.is_settled(look).await {
            return pause.wait().await;
        }
        pause.reset();
        tokio::select! {
            Ok(()) = self.served.changed() => {}
            _ = self.looks.changed() => {}
        }
    }

    /// Whether the kind stays away until people change that: its definition is gone, or serves no version that is understood.
    /// The definition decides: an API server that just starts does not serve all that it will, and to take that for a removal
    /// would take every route away.
    async fn is_settled(&self, look: u64) -> bool {
        let kind = &self.kind;
        let answer = |why: String| Fault::Answer {
            what: format!("GET {}", kind.definition()),
            why,
        };
        match self.api.get(&kind.definition()).await {
            Err(fault) if fault.is_not_found() => {
                self.shown.absent(kind, look);
                true
            }
            Err(fault) => {
                self.shown.failed(kind, &fault);
                false
            }
            Ok(definition) if !kind.is_served(&definition) => {
                let (name, versions) = (&kind.kind, kind.versions.join(", "));
                let why = format!("{name} is served in none of the versions that are read: {versions}; update its CRD");
                self.shown.unreadable(kind, look, &answer(why));
                true
            }
            Ok(_) => {
                let why = format!("{} is defined, but not served (yet)", kind.kind);
                self.shown.failed(kind, &answer(why));
                false
            }
        }
    }

    /// Lists the kind, and returns the resource version to watch from.
    async fn list(&self, path: &str, version: &str, page: usize, look: u64) -> Result<String, Fault> {
        let mut all: Vec<Read> = Vec::new();
        let mut next = String::new();
        loop {
            let page = self.api.page(path, &self.kind.query, page, &next).await?;
            let items = page.items.unwrap_or_default().into_iter();
            all.extend(items.map(|raw| object::read(&self.kind, version, raw)));
            if page.metadata.next.is_empty() {
                let collection = page.metadata.resource_version;
                let Ok(number) = collection.parse() else {
                    let what = format!("GET {path}");
                    let why = format!("the list's resource version {collection:?} is no number (KEP-5504)");
                    return Err(Fault::Answer { what, why });
                };
                tracing::debug!(kind = self.kind.kind, version, objects = all.len(), "listed");
                self.shown.listed(&self.kind, version, number, look, all);
                return Ok(collection);
            }
            next = page.metadata.next;
        }
    }

    /// Watches, and goes on after every end, until the kind is to be listed again.
    async fn watch(&mut self, path: &str, version: &str, mut collection: String) -> Watched {
        let mut pause = Pause::default();
        let mut watched = Watched::Badly;
        loop {
            let from = collection.clone();
            let begun = tokio::time::Instant::now();
            let over = tokio::select! {
                over = watch_once(&self.api, &self.kind, &self.shown, (path, version), &mut collection) => over,
                () = list_again(&self.kind, version, &mut self.looks, &mut self.served) => Over::ListAgain,
            };
            // One that was silent to its end, and not cut off for its silence, has done its work too.
            if collection != from || (matches!(over, Over::InTime) && begun.elapsed() > SILENCE) {
                pause.reset();
                watched = Watched::Well;
            }
            match over {
                Over::ListAgain => return Watched::Well,
                // One that ends at once, again and again, is no good watch either.
                Over::InTime if begun.elapsed() > Duration::from_secs(1) => {}
                Over::InTime => pause.wait().await,
                Over::Failed(fault) if fault.is_gone() || fault.is_missing() => return watched,
                Over::Failed(fault) => {
                    match fault {
                        // Where the API server makes no bookmarks for a kind of which nothing happens. If it is away, the next watch
                        // says so.
                        Fault::Silent(_) => tracing::debug!(kind = self.kind.kind, %fault, "watched anew"),
                        _ => self.shown.failed(&self.kind, &fault),
                    }
                    pause.wait().await;
                }
            }
            if pause.failures() >= FAILURES {
                return watched;
            }
        }
    }
}

/// Waits until everything, or this kind in another version, is to be listed. Cancel safe.
async fn list_again(
    kind: &Kind,
    version: &str,
    looks: &mut watch::Receiver<u64>,
    served: &mut watch::Receiver<Option<Arc<Served>>>,
) {
    let other = |served: &Option<Arc<Served>>| {
        let now = served.as_ref().and_then(|served| kind.version(served));
        now.is_some_and(|now| now != version)
    };
    tokio::select! {
        _ = looks.changed() => {}
        Ok(_) = served.wait_for(other) => {}
    }
}

/// One watch, to its end. `collection` is how far it came.
async fn watch_once(
    api: &Api,
    kind: &Kind,
    shown: &Shown,
    (path, version): (&str, &str),
    collection: &mut String,
) -> Over {
    let life = LIFE.mul_f64(1.0 + rand::random::<f64>() / 2.0);
    let mut events = match api.watch(path, &kind.query, collection, life).await {
        Ok(events) => events,
        Err(fault) => return Over::Failed(fault),
    };
    shown.progressed(kind, 0);
    loop {
        match event(&mut events, path).await {
            Ok(Some(event)) => match take(kind, version, shown, event, path) {
                Ok(Some(at)) => *collection = at,
                Ok(None) => {}
                Err(fault) => return Over::Failed(fault),
            },
            Ok(None) => return Over::InTime,
            Err(fault) => return Over::Failed(fault),
        }
    }
}

async fn event(events: &mut Events, path: &str) -> Result<Option<Event>, Fault> {
    let Some(line) = events.next(SILENCE).await? else {
        return Ok(None);
    };
    let event = serde_json::from_slice(&line).map_err(|error| Fault::Answer {
        what: format!("WATCH {path}"),
        why: format!("no event: {error}"),
    })?;
    Ok(Some(event))
}

/// Takes one event in, and returns the resource version that it brings the watch to, if that is a number.
fn take(kind: &Kind, version: &str, shown: &Shown, event: Event, path: &str) -> Result<Option<String>, Fault> {
    let raw = event.object;
    let written = raw["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let number = written.parse::<u64>().ok();
    let at = number.unwrap_or_default();
    match event.r#type.as_str() {
        "ADDED" | "MODIFIED" => shown.put(kind, object::read(kind, version, raw)),
        "DELETED" => {
            let text = |field: &str| raw["metadata"][field].as_str().unwrap_or_default().to_owned();
            let name = ObjectRef {
                kind: kind.kind.clone(),
                namespace: text("namespace"),
                name: text("name"),
            };
            shown.gone(kind, name, at);
        }
        "BOOKMARK" => shown.progressed(kind, at),
        "ERROR" => return Err(failed_watch(path, &raw)),
        other => {
            let why = format!("an event of the unknown type {other:?}");
            return Err(Fault::Answer {
                what: format!("WATCH {path}"),
                why,
            });
        }
    }
    Ok(number.map(|_| written))
}
