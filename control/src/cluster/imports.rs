//! What imports come to, kept by the replica that leads: derived Services, ServiceImports, Services that only other clusters have,
//! and EndpointSlices for clients outside the mesh. `plan.rs` says what is to be done, `owners.rs` whose an object is.
//!
//! All is compared with what is watched, and written where it differs. What bounds it, whatever peers do: changes are gathered, the
//! desk is left alone for a while after each answer, so many imports become objects (`room.rs`), so many objects are written in a
//! round, each import in its turn (`turns.rs`), one object a few times at once and then seldom, and what is refused is tried ever more
//! rarely. A replica that takes over sees what is there, and goes on from that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use weft_model::name::ObjectRef;

use super::api::{Api, Fault};
use super::conditions;
use super::pause::Pause;
use super::shown::Shown;
use super::statuses::{FAILURES_MAX, ROUND, SPACING, Told, away, in_a_round};
use crate::index::Name;
use crate::serve::desk::{Closed, Desk};

mod owners;
mod plan;
mod room;
mod turns;

use owners::MANAGER;
use plan::{Act, Deed, Plan};
use turns::Turns;

/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(200);
/// The desk serves proxies: it is asked again after so many times as long as its answer took, and what is made of it. Not the
/// writes: the API server's time is its own.
const REST: u32 = 9;
/// But after this at the latest.
const REST_MAX: Duration = Duration::from_secs(5);
/// Everything is looked at again after this.
const LOOK: Duration = Duration::from_secs(300);
/// The same while it is not known of all peers what they export.
const LOOK_UNHEARD: Duration = Duration::from_secs(5);
/// What was written is shown within this; if not, it is written again.
const SHOWN: Duration = Duration::from_secs(10);
/// What is refused is tried again after this, and twice as long each time, up to a cap.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// One object is written so often at once: it comes to be in two or three writes, of which one is of another's answer.
const BURST: u32 = 4;
/// And then once in this time, however often what a peer exports changes.
const SPARE: Duration = Duration::from_secs(5);
/// What cannot be is logged again after this, where it comes and goes.
const SILENCE: Duration = Duration::from_secs(60);

/// The task.
pub(super) struct Imports {
    pub(super) api: Api,
    pub(super) desk: Desk,
    pub(super) shown: Arc<Shown>,
    pub(super) leads: watch::Receiver<bool>,
    pub(super) told: Told,
    /// How many imports of peers may become objects.
    pub(super) most: usize,
}

/// What is known of what was done.
#[derive(Debug, Default)]
struct Done {
    /// By object, and whether it was its status.
    last: BTreeMap<(ObjectRef, bool), Last>,
    turns: Turns,
    logged: Logged,
}

/// What cannot be and was logged, with the reason, and when.
#[derive(Debug, Default)]
struct Logged(BTreeMap<String, (String, Instant)>);

/// The last attempt.
#[derive(Debug)]
struct Last {
    at: Instant,
    /// What was to be written.
    digest: u64,
    became: Became,
    /// Until when it is paid for: each write costs [`SPARE`], and [`BURST`] of them are lent.
    paid: Instant,
}

/// What came of it.
#[derive(Debug)]
enum Became {
    /// The object of this uid, in this version.
    Written(String, u64),
    /// The object of this uid is gone, or will be.
    Gone(String),
    /// It was refused, so often in a row.
    Refused(u32),
}

/// What comes next.
enum Next {
    After(Duration),
    /// When the API server may be back.
    Away,
}

impl Imports {
    /// Keeps them for as long as the desk answers.
    pub(super) async fn run(self) {
        let (mut changed, mut shown, mut leads) = (self.desk.changed(), self.shown.revisions(), self.leads.clone());
        let (mut done, mut pause) = (Done::default(), Pause::default());
        loop {
            changed.mark_unchanged();
            shown.mark_unchanged();
            let leading = *leads.borrow_and_update();
            // What is not listed yet is not missing.
            let looked = match leading && self.shown.has_begun() {
                true => self.keep(&mut done, pause.is_first()).await,
                false => {
                    done = Done::default();
                    self.told.get().failures.clear();
                    Ok((Next::After(LOOK), GATHER))
                }
            };
            let Ok((next, rest)) = looked else { return };
            match next {
                Next::Away => {
                    pause.wait().await;
                    continue;
                }
                Next::After(next) => {
                    pause.reset();
                    tokio::select! {
                        _ = changed.changed() => {}
                        _ = shown.changed(), if leading => {}
                        _ = leads.changed() => {}
                        () = sleep(next) => {}
                    }
                }
            }
            sleep(rest).await;
        }
    }

    /// Looks at everything, and does what is to be done. Returns with how long the desk is left alone. `first`: if the API server is
    /// away, it was not before.
    async fn keep(&self, done: &mut Done, first: bool) -> Result<(Next, Duration), Closed> {
        let begun = Instant::now();
        let wanted = self.desk.wanted().await?;
        let Plan { deeds, faults } = plan::plan(&wanted, &self.shown, &conditions::now(), self.most);
        let rest = (begun.elapsed() * REST).clamp(GATHER, REST_MAX);
        let (due, mut next) = done.due(deeds, Instant::now());
        if !wanted.unheard.is_empty() || !wanted.unclear.is_empty() {
            next = next.min(LOOK_UNHEARD);
        }
        self.tell(faults, done);
        let api = &self.api;
        let imports: Vec<Name> = due.iter().map(|deed| deed.of.clone()).collect();
        let acted = in_a_round(due, |deed| async move {
            let result = act(api, &deed).await;
            (deed, result)
        });
        let acted = acted.await;
        if let Some(last) = imports[..acted.len()].last() {
            done.turns.took(last.clone());
        }
        if acted.len() < imports.len() {
            next = next.min(SPACING);
        }
        if let Some(fault) = away(acted.iter().map(|(_, result)| result)) {
            if first {
                tracing::warn!(error = %fault, "imports wait for the API server");
            }
            return Ok((Next::Away, rest));
        }
        for (deed, result) in acted {
            next = next.min(self.settle(done, &deed, result));
        }
        Ok((Next::After(next), rest))
    }

    /// Tells what cannot be done; what could not be done is told of as long as it is to be.
    fn tell(&self, mut faults: BTreeMap<String, String>, done: &mut Done) {
        let mut told = self.told.get();
        for (what, why) in done.logged.news(&faults, Instant::now()) {
            tracing::warn!(what, why, "an import is not as it should be");
        }
        let refused = done
            .last
            .iter()
            .filter(|(_, last)| matches!(last.became, Became::Refused(_)));
        for name in refused.map(|((name, _), _)| name.to_string()) {
            if let Some(why) = told.failures.remove(&name) {
                faults.entry(name).or_insert(why);
            }
        }
        told.failures = faults.into_iter().take(FAILURES_MAX).collect();
    }

    /// Remembers what came of a deed. Returns when to look again.
    fn settle(&self, done: &mut Done, deed: &Deed, result: Result<Value, Fault>) -> Duration {
        let mut told = self.told.get();
        let name = deed.object.to_string();
        let uid = || deed.seen.as_ref().map_or_else(String::new, |(uid, _)| uid.clone());
        let became = match result {
            // It may have been gone already.
            Err(fault) if !(fault.is_missing() && matches!(deed.act, Act::Delete)) => {
                let failures = done.failures(deed) + 1;
                match fault.is_conflict() {
                    true => told.conflicts += 1,
                    false => told.failed += 1,
                }
                // The first conflict is, as a rule, with what is not shown yet.
                if failures > 1 || !fault.is_conflict() {
                    tracing::warn!(object = name, error = %fault, "what an import comes to is not written");
                    if told.failures.len() < FAILURES_MAX {
                        told.failures.insert(name, fault.to_string());
                    }
                }
                Became::Refused(failures)
            }
            result => {
                told.written += 1;
                told.failures.remove(&name);
                let (what, object) = (deed.act.word(), &name);
                tracing::debug!(object, what, "an import is as it should be");
                let written = result.ok().and_then(|object| version(&object));
                written.map_or_else(|| Became::Gone(uid()), |(uid, version)| Became::Written(uid, version))
            }
        };
        done.put(deed, became)
    }
}

impl Done {
    /// What is to be done now, and when there may be more.
    fn due(&mut self, deeds: Vec<Deed>, now: Instant) -> (Vec<Deed>, Duration) {
        let mut next = LOOK;
        let mut before = std::mem::take(&mut self.last);
        let mut due = Vec::new();
        for deed in deeds {
            if let Some(last) = before.remove(&deed.key()) {
                let waits = last.waits(&deed, now);
                self.last.insert(deed.key(), last);
                match waits {
                    Some(Duration::MAX) => continue,
                    Some(wait) => {
                        next = next.min(wait);
                        continue;
                    }
                    None => {}
                }
            }
            due.push(deed);
        }
        // What is as it should be now may not be shown yet as it became.
        before.retain(|_, last| now.duration_since(last.at) < SHOWN || last.paid > now);
        self.last.append(&mut before);
        let mut due = self.turns.ordered(due);
        if due.len() > ROUND {
            due.truncate(ROUND);
            next = next.min(SPACING);
        }
        (due, next)
    }

    fn failures(&self, deed: &Deed) -> u32 {
        match self.last.get(&deed.key()).map(|last| &last.became) {
            Some(Became::Refused(failures)) => *failures,
            _ => 0,
        }
    }

    fn put(&mut self, deed: &Deed, became: Became) -> Duration {
        let at = Instant::now();
        let before = self.last.get(&deed.key());
        let last = Last {
            at,
            digest: deed.digest(),
            became,
            paid: before.map_or(at, |before| before.paid.max(at)) + SPARE,
        };
        let rest = last.rest();
        self.last.insert(deed.key(), last);
        rest
    }
}

impl Logged {
    /// What of it is to be logged now: what was not, and is not too much; what comes and goes, or is for another reason each time,
    /// once in a while.
    fn news<'a>(&mut self, faults: &'a BTreeMap<String, String>, now: Instant) -> Vec<(&'a str, &'a str)> {
        let is_fresh = |at: &Instant| now.duration_since(*at) < SILENCE;
        self.0.retain(|what, (_, at)| faults.contains_key(what) || is_fresh(at));
        let mut news = Vec::new();
        for (what, why) in faults {
            let is_known = match self.0.get(what) {
                Some((known, at)) => known == why || is_fresh(at),
                None => self.0.len() >= FAILURES_MAX,
            };
            if !is_known {
                self.0.insert(what.clone(), (why.clone(), now));
                news.push((what.as_str(), why.as_str()));
            }
        }
        news
    }
}

impl Last {
    /// After what time it is to be looked at again.
    fn rest(&self) -> Duration {
        match self.became {
            Became::Refused(failures) => RETRY
                .saturating_mul(1 << failures.saturating_sub(1).min(16))
                .min(RETRY_MAX),
            Became::Written(..) | Became::Gone(_) => SHOWN,
        }
    }

    /// For how long a deed has to wait. `None`: not at all. For ever: until what is shown is another.
    fn waits(&self, deed: &Deed, now: Instant) -> Option<Duration> {
        let unpaid = self.paid.checked_duration_since(now + SPARE * (BURST - 1));
        let left = |rest: Duration| rest.checked_sub(now.duration_since(self.at));
        let same = self.digest == deed.digest();
        let waits = match (&self.became, &deed.seen) {
            (Became::Written(uid, version), Some((seen, shown))) if uid == seen && version == shown => {
                // It is what comes of that: the API server has it otherwise, and would again.
                same.then_some(Duration::MAX)
            }
            (Became::Written(uid, version), Some((seen, shown))) if uid != seen || version < shown => None,
            (Became::Gone(uid), seen) if seen.as_ref().is_none_or(|(seen, _)| uid != seen) => None,
            // It was something else that was refused.
            (Became::Refused(_), _) if !same => left(RETRY),
            // It is not shown yet, or was refused.
            _ => left(self.rest()),
        };
        waits.max(unpaid).filter(|left| !left.is_zero())
    }
}

impl Deed {
    fn key(&self) -> (ObjectRef, bool) {
        (self.object.clone(), matches!(self.act, Act::Status(_)))
    }

    /// What is to be written, in short; not over what.
    fn digest(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        let digest = match &self.act {
            Act::Make(document) | Act::Mend(document) => document["metadata"]["annotations"][plan::DIGEST].to_string(),
            Act::Status(document) => {
                // When it became so is not what it says: it would never be the same twice.
                let mut status = document["status"].clone();
                let conditions = status["conditions"].as_array_mut().into_iter().flatten();
                conditions.for_each(|condition| condition["lastTransitionTime"] = Value::Null);
                status.to_string()
            }
            Act::GiveUp(_) | Act::Delete => self.act.word().to_owned(),
        };
        digest.hash(&mut hasher);
        hasher.finish()
    }
}

impl Act {
    const fn word(&self) -> &'static str {
        match self {
            Self::Make(_) => "made",
            Self::Mend(_) => "mended",
            Self::Status(_) => "status",
            Self::GiveUp(_) => "given up",
            Self::Delete => "deleted",
        }
    }
}

/// The uid and resource version of an object, as an answer has it.
fn version(object: &Value) -> Option<(String, u64)> {
    let text = |field: &str| object["metadata"][field].as_str();
    Some((text("uid")?.to_owned(), text("resourceVersion")?.parse().ok()?))
}

async fn act(api: &Api, deed: &Deed) -> Result<Value, Fault> {
    let path = &deed.path;
    match &deed.act {
        Act::Make(document) => api.apply_beside(path, MANAGER, document).await,
        Act::Mend(document) | Act::Status(document) => api.apply_as(path, MANAGER, document).await,
        Act::GiveUp(patch) => api.patch(path, MANAGER, patch).await,
        Act::Delete => {
            // Somebody may have brought their own at this moment: then it is planned anew.
            let (uid, version) = deed.seen.clone().unwrap_or_default();
            let version = version.to_string();
            api.delete_as_seen(path, &uid, &version).await.map(|()| Value::Null)
        }
    }
}

#[cfg(test)]
mod tests;
