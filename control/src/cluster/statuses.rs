//! The status of routes, subsets, policies, peers and exports, kept by the replica that leads: what
//! [`conditions`](super::conditions) says is to be there and is not. Each object is written for itself, by server-side apply
//! over the version that was read.
//!
//! What bounds it: changes are gathered, the desk is left alone for a while after each answer, so many objects are written in
//! a round, and one whose proxies are about to acknowledge it waits for them a moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use weft_daemon::drain::Tasks;
use weft_model::name::ObjectRef;

use super::api::{Api, CALL, Fault};
use super::conditions;
use super::kinds::Kind;
use super::pause::Pause;
use super::replicas::{Reader, Writer};
use super::shown::Shown;
use crate::objects::Object;
use crate::serve::desk::{Closed, Desk};
use crate::status::applied::{Verdict, Verdicts};

/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(50);
/// The desk serves proxies: it is asked again after so many times as long as its last answer took.
const REST: u32 = 9;
/// But after this at the latest: what is said of an object must not wait for long.
const REST_MAX: Duration = Duration::from_secs(5);
/// Proxies that have something for less than this are likely to acknowledge it before anybody has read that they did not.
const SETTLE: Duration = Duration::from_millis(300);
/// Who lags is told again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// Everything is looked at again after this: what was refused is tried again.
const LOOK: Duration = Duration::from_secs(300);
/// An object whose status the API server failed to take, where it did take others, is tried again after this.
const RETRY: Duration = Duration::from_secs(30);
/// Objects that are written in one round, if they take no longer than one write may; the others come in the next.
pub(super) const ROUND: usize = 64;
/// Rounds that follow on each other begin so far apart.
pub(super) const SPACING: Duration = Duration::from_millis(500);
/// Writes at once.
const WRITERS: usize = 8;
/// Objects whose status could not be written and that are told of.
pub(super) const FAILURES_MAX: usize = 100;
/// Who does not lead so long after the start has another one that does, and tells it what it knows.
const FOLLOWS: Duration = Duration::from_secs(1);
/// After this process began to serve, or to lead, proxies that were connected to another one come back within this.
const YOUNG: Duration = Duration::from_secs(10);

/// What is told of it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Told(Arc<Mutex<Figures>>);

/// Numbers since the start, and what is wrong now.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) written: u64,
    pub(super) conflicts: u64,
    pub(super) failed: u64,
    /// Objects whose status could not be written, and why.
    pub(super) failures: BTreeMap<String, String>,
}

/// The task.
pub(super) struct Statuses {
    api: Api,
    desk: Desk,
    leads: watch::Receiver<bool>,
    told: Told,
    /// What replicas tell each other.
    maps: Arc<Shown>,
    shown: Arc<Shown>,
    writer: Writer,
    reader: Reader,
    begun: Instant,
    /// Since when proxies can connect.
    serving: Arc<OnceLock<Instant>>,
    /// Since when this replica leads.
    led: Option<Instant>,
    kinds: Vec<Kind>,
    known: BTreeMap<ObjectRef, Known>,
    /// The last object that was tried: a round begins behind it, so that none waits for ever.
    last: Option<ObjectRef>,
}

/// What is known of one object beyond what the index shows.
#[derive(Debug, Default)]
struct Known {
    /// Its uid and generation, and the resource version at which that was first seen.
    since: Option<(String, u64, u64)>,
    /// What our last write made of it, until the API server has shown that.
    written: Option<(String, u64, Value)>,
    /// Since when proxies have something to acknowledge.
    waiting: Option<Instant>,
    /// When it was last told who lags.
    told: Option<Instant>,
    /// The resource version that the API server would not take a status for, and when that is tried again.
    refused: Option<(u64, Instant)>,
}

/// A status that is to be written.
struct Due {
    object: Arc<Object>,
    version: u64,
    status: Value,
}

/// What a round comes to.
enum Round {
    /// All is said; there may be something to say after this.
    Well(Duration),
    /// The API server is away, or what this replica knows is refused.
    Away,
}

impl Round {
    /// Waits for the next one: for news, where there is no failure to get over first.
    async fn rest(self, pause: &mut Pause, news: impl Future<Output = ()>) {
        match self {
            Self::Away => pause.wait().await,
            Self::Well(next) => {
                pause.reset();
                tokio::select! {
                    () = news => {}
                    () = sleep(next) => {}
                }
            }
        }
    }
}

impl Told {
    pub(super) fn get(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Statuses {
    pub(super) fn new(
        ours: (Api, &str, &str),
        desk: Desk,
        leads: watch::Receiver<bool>,
        told: Told,
        (maps, shown): (Arc<Shown>, Arc<Shown>),
        serving: Arc<OnceLock<Instant>>,
    ) -> Self {
        let (api, namespace, replica) = ours;
        Self {
            desk,
            leads,
            told,
            maps,
            shown,
            writer: Writer::new(api.clone(), namespace, replica),
            reader: Reader::new(api.clone(), namespace, replica),
            api,
            begun: Instant::now(),
            serving,
            led: None,
            kinds: Kind::all(),
            known: BTreeMap::new(),
            last: None,
        }
    }

    /// Keeps them until tasks drain; then takes back what others were told.
    pub(super) async fn keep(mut self, tasks: Tasks) {
        tokio::select! {
            () = tasks.draining() => {}
            () = self.run() => {}
        }
        self.writer.end().await;
    }

    /// Keeps them for as long as the desk answers.
    async fn run(&mut self) {
        let (mut stirred, mut leads) = (self.desk.stirred(), self.leads.clone());
        let mut told = self.maps.revisions();
        let mut pause = Pause::default();
        loop {
            stirred.mark_unchanged();
            told.mark_unchanged();
            let leading = *leads.borrow_and_update();
            let looked = match leading {
                true => self.lead(pause.is_first()).await,
                false => self.follow(pause.is_first()).await,
            };
            let Ok((round, rest)) = looked else { return };
            let news = async {
                tokio::select! {
                    _ = stirred.changed() => {}
                    _ = told.changed(), if leading => {}
                    _ = leads.changed() => {}
                }
            };
            round.rest(&mut pause, news).await;
            sleep(rest).await;
        }
    }

    /// Tells the one that leads what this one knows. `first`: if that fails, it did not before.
    async fn follow(&mut self, first: bool) -> Result<(Round, Duration), Closed> {
        self.known.clear();
        self.led = None;
        self.told.get().failures.clear();
        if self.begun.elapsed() < FOLLOWS {
            return Ok((Round::Well(FOLLOWS), GATHER));
        }
        let (verdicts, rest) = self.look().await?;
        let round = match self.writer.write(&verdicts, &self.shown).await {
            Ok(next) => Round::Well(next),
            Err(fault) => {
                if first {
                    tracing::warn!(error = %fault, "the replica that leads is not told what this one knows");
                }
                Round::Away
            }
        };
        Ok((round, rest))
    }

    async fn look(&self) -> Result<(Verdicts, Duration), Closed> {
        let asked = Instant::now();
        let verdicts = self.desk.verdicts().await?;
        Ok((verdicts, (asked.elapsed() * REST).clamp(GATHER, REST_MAX)))
    }

    /// Looks at everything, and writes what is to be written. Returns with how long the desk is left alone. `first`: if the
    /// API server is away, it was not before.
    async fn lead(&mut self, first: bool) -> Result<(Round, Duration), Closed> {
        self.writer.forget();
        self.led.get_or_insert_with(Instant::now);
        let (mut verdicts, rest) = self.look().await?;
        if let Err(fault) = self.reader.read(&self.maps, &self.shown).await {
            tracing::debug!(error = %fault, "what a replica that is gone has said is not removed");
        }
        self.gather(&mut verdicts);
        let (due, mut next) = self.due(&verdicts.of);
        next = self.reader.next().map_or(next, |heard| next.min(heard));
        let names: Vec<ObjectRef> = due.iter().map(|due| due.object.reference()).collect();
        let done = in_a_round(due, |due| write(&self.api, &self.kinds, due)).await;
        self.last = names[..done.len()].last().cloned();
        if done.len() < names.len() {
            next = next.min(SPACING);
        }
        if let Some(fault) = away(done.iter().map(|(_, result)| result)) {
            if first {
                tracing::warn!(error = %fault, "statuses wait for the API server");
            }
            return Ok((Round::Away, rest));
        }
        for (due, result) in done {
            next = next.min(self.settle(due, result));
        }
        Ok((Round::Well(next), rest))
    }

    /// Adds what other replicas know.
    fn gather(&mut self, verdicts: &mut Verdicts) {
        self.reader.meet(verdicts);
        for verdict in &mut verdicts.of {
            let object = &verdict.object;
            let known = self.known.entry(object.reference()).or_default();
            let (of, now) = ((&object.uid, object.generation), object.resource_version);
            let since = known
                .since
                .take()
                .filter(|(uid, generation, _)| (uid, *generation) == of);
            let (.., version) = known
                .since
                .insert(since.unwrap_or_else(|| (object.uid.clone(), of.1, now)));
            self.reader.add(verdict, *version);
        }
    }

    /// What is to be written now, and when there may be more.
    fn due(&mut self, verdicts: &[Verdict]) -> (Vec<Due>, Duration) {
        let (now, time) = (Instant::now(), conditions::now());
        let young = young(self.serving.get().copied(), self.led, now);
        let mut next = young.map_or(LOOK, |left| left + GATHER);
        let mut all = Vec::new();
        let mut known = std::mem::take(&mut self.known);
        for verdict in verdicts {
            let name = verdict.object.reference();
            let mut of = known.remove(&name).unwrap_or_default();
            match of.due(verdict, young.is_some(), now, &time) {
                Ok(due) => all.extend(due),
                Err(later) => next = next.min(later),
            }
            self.known.insert(name, of);
        }
        // What is gone has no status any more.
        let gone: Vec<String> = known.keys().map(ToString::to_string).collect();
        self.told.get().failures.retain(|name, _| !gone.contains(name));
        let first = match &self.last {
            Some(last) => all.partition_point(|due: &Due| due.object.reference() <= *last),
            None => 0,
        };
        all.rotate_left(first);
        if all.len() > ROUND {
            all.truncate(ROUND);
            next = next.min(SPACING);
        }
        (all, next)
    }

    /// Remembers what came of a write. Returns when to look again.
    fn settle(&mut self, due: Due, result: Result<Value, Fault>) -> Duration {
        let name = due.object.reference();
        let known = self.known.entry(name.clone()).or_default();
        let mut told = self.told.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(object) => {
                told.written += 1;
                told.failures.remove(&name.to_string());
                known.refused = None;
                let version = object["metadata"]["resourceVersion"].as_str();
                if let Some(version) = version.and_then(|version| version.parse().ok()) {
                    known.written = Some((due.object.uid.clone(), version, object["status"].clone()));
                }
                LOOK
            }
            // Somebody else has written it: what they wrote will be shown.
            Err(fault) if fault.is_conflict() => {
                told.conflicts += 1;
                known.written = None;
                SPACING
            }
            Err(fault) => {
                told.failed += 1;
                // Of one object alone: what a webhook answers for it, say, or what is too large.
                let rest = if fault.is_away() { RETRY } else { LOOK };
                known.refused = Some((due.version, Instant::now() + rest));
                // It may be gone; then that will be shown.
                if !fault.is_missing() {
                    tracing::warn!(object = %name, error = %fault, "a status is not written");
                }
                if told.failures.len() < FAILURES_MAX {
                    told.failures.insert(name.to_string(), fault.to_string());
                }
                rest
            }
        }
    }
}

impl Known {
    /// What is to be written of an object, if anything is. `Err`: not before this.
    fn due(&mut self, verdict: &Verdict, young: bool, now: Instant, time: &str) -> Result<Option<Due>, Duration> {
        let object = &verdict.object;
        let ours = self.written.take();
        self.written = ours.filter(|(uid, version, _)| *uid == object.uid && *version > object.resource_version);
        let shown = &object.raw["status"];
        let (version, before) = match &self.written {
            Some((_, version, status)) => (*version, status),
            None => (object.resource_version, shown),
        };
        if let Some((refused, again)) = self.refused
            && refused == version
            && now < again
        {
            return Ok(None);
        }
        let waits = verdict.holders.wait();
        self.waiting = waits.then(|| self.waiting.unwrap_or(now));
        let Some(status) = conditions::status(verdict, before, young, time) else {
            return Ok(None);
        };
        if let Some(since) = self.waiting {
            let settled = since + SETTLE;
            let again = self.told.map_or(settled, |told| settled.max(told + AGAIN));
            if again > now {
                return Err(again - now);
            }
            self.told = Some(now);
        }
        Ok(Some(Due {
            object: object.clone(),
            version,
            status,
        }))
    }
}

/// For how long proxies may still be on their way back. `serving`, `led`: since when this replica serves them, and leads.
fn young(serving: Option<Instant>, led: Option<Instant>, now: Instant) -> Option<Duration> {
    let Some(serving) = serving else {
        return Some(YOUNG);
    };
    let since = led.map_or(serving, |led| led.max(serving));
    YOUNG.checked_sub(now.saturating_duration_since(since))
}

/// Why nothing at all could be written, if it is the API server that is away: one object alone is no reason to keep the
/// others waiting.
pub(super) fn away<'a, T: 'a>(results: impl Iterator<Item = &'a Result<T, Fault>>) -> Option<&'a Fault> {
    let faults = results.map(|result| result.as_ref().err().filter(|fault| fault.is_away_for_all()));
    faults.collect::<Option<Vec<_>>>()?.first().copied()
}

/// Does it for each of these in turn, some at once. None is begun after the time that one may take: what hangs, though others
/// do not, must not keep verdicts from being looked at for as long as all of it would. Returns what came of those that were begun.
pub(super) async fn in_a_round<T, F: Future>(due: Vec<T>, act: impl FnMut(T) -> F) -> Vec<F::Output> {
    let until = Instant::now() + CALL;
    let begun = due.into_iter().take_while(|_| Instant::now() < until);
    // The stream takes the next one when there is room for it.
    futures_util::stream::iter(begun.map(act))
        .buffer_unordered(WRITERS)
        .collect()
        .await
}

async fn write(api: &Api, kinds: &[Kind], due: Due) -> (Due, Result<Value, Fault>) {
    let object = &due.object;
    let path = kinds.iter().find_map(|kind| kind.status_of(object));
    let document = conditions::document(object, due.version, &due.status);
    let result = match path {
        Some(path) => api.apply(&path, &document).await,
        // Only kinds that are followed are shown.
        None => Err(Fault::Answer {
            what: object.reference().to_string(),
            why: "it is of no kind that is followed".to_owned(),
        }),
    };
    (due, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_have_time_to_come_back_from_when_this_replica_serves_and_leads() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        // A first list may take long.
        assert_eq!(young(None, Some(at(0)), at(300)), Some(YOUNG));
        assert_eq!(young(Some(at(300)), Some(at(0)), at(304)), Some(Duration::from_secs(6)));
        assert_eq!(young(Some(at(300)), Some(at(0)), at(311)), None);
        // One that takes over has others' proxies come to it.
        assert_eq!(young(Some(at(0)), Some(at(300)), at(301)), Some(Duration::from_secs(9)));
    }

    #[test]
    fn the_api_server_is_away_only_where_no_object_at_all_was_written() {
        let gone = || Err(Fault::Away("connection refused".to_owned()));
        let of_webhook = || {
            Err(Fault::Refused {
                what: "PATCH".to_owned(),
                code: 500,
                reason: "InternalError".to_owned(),
                message: "failed calling webhook".to_owned(),
            })
        };
        let is_away = |results: Vec<Result<(), Fault>>| away(results.iter()).is_some();
        assert!(is_away(vec![gone(), gone()]));
        assert!(!is_away(vec![gone(), Ok(())]));
        assert!(!is_away(vec![of_webhook(), of_webhook()]), "it answers");
        assert!(!is_away(Vec::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_of_writes_that_hang_ends_after_twice_the_time_of_one_also_where_others_are_well() {
        let of = async |well: &[usize]| {
            let begun = Instant::now();
            let done = in_a_round((0..ROUND).collect(), |due| match well.contains(&due) {
                true => sleep(Duration::from_millis(10)),
                false => sleep(CALL),
            });
            let done = done.await.len();
            assert!(begun.elapsed() < CALL * 2, "{:?}", begun.elapsed());
            done
        };
        assert_eq!(of(&[]).await, WRITERS);
        assert_eq!(of(&[3]).await, WRITERS + 1, "another took the place of what was quick");
        let all: Vec<usize> = (0..ROUND).collect();
        assert_eq!(of(&all).await, ROUND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_round_is_rested_from_however_much_changes() {
        let (mut pause, begun) = (Pause::default(), Instant::now());
        for _ in 0..10 {
            Round::Away.rest(&mut pause, std::future::ready(())).await;
        }
        assert!(begun.elapsed() > Duration::from_secs(20), "{:?}", begun.elapsed());
        let begun = Instant::now();
        Round::Well(LOOK).rest(&mut pause, std::future::ready(())).await;
        assert!(begun.elapsed().is_zero() && pause.is_first());
    }
}
