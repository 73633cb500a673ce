//! Who decides by what, of all replicas together. Each proxy is connected to one replica, so each replica knows a part: those
//! that do not lead write theirs into one ConfigMap, a key for each, and the one that leads adds it to its own.
//!
//! A replica also says how far it has seen: of an object that it has not seen as it is now, nothing that it says counts, and
//! the object is not applied. The same goes for a replica that proxies are sent to and that says nothing, or nothing that can
//! be read. What one that ends has said it removes itself; of one that is gone it does not count any more: its proxies are
//! connected to another one or to none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::{Api, Fault};
use super::kinds::Kind;
use super::lease;
use super::shown::Shown;
use crate::objects::Object;
use crate::status::applied::{Holders, Verdict, Verdicts};

/// The ConfigMap, in the control plane's namespace.
const CONFIG_MAP: &str = "weft-replicas";
/// A replica writes at least so often.
const BEAT: Duration = Duration::from_secs(10);
/// And at most so often; or so often for each 64 KiB, as it is written as a whole.
const SPACING: Duration = Duration::from_millis(250);
const SPACING_BY_SIZE: Duration = Duration::from_secs(1);
/// What has not changed for so long does not count.
const STALE: Duration = Duration::from_secs(30);
/// After this it is removed.
const GONE: Duration = Duration::from_secs(120);
/// What all replicas tell, in bytes: the ConfigMap holds 1 MiB, with what else is kept of it.
const ROOM: usize = 768 << 10;
/// What one of them tells.
const BYTES_MAX: usize = 256 << 10;
/// Proxies of it that are connected, and that are not: less than half of its bytes, one taking this many.
const HERE_MAX: usize = 7000;
const APART_MAX: usize = 1024;
const MARK_BYTES: usize = 15;
/// Proxies that are named for one object. Fewer than elsewhere, for the same reason.
const NAMED_MAX: usize = 4;
/// The Service that leads proxies to replicas.
const SERVICE: &str = "weft-control";
/// The label of an EndpointSlice that names its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What one replica knows, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct View {
    /// When it was written.
    at: String,
    /// By kind: the latest resource version that is seen.
    seen: BTreeMap<String, u64>,
    /// Objects of which there is something to tell.
    objects: BTreeMap<String, Holders>,
    /// There are more, and proxies that do not decide by them.
    more: bool,
    /// There are others, and whoever needs those decides by them.
    #[serde(default)]
    rest: bool,
    /// The connected proxies: digests of their names.
    here: BTreeSet<String>,
    /// The same of those that are not connected and decided by an older version of anything.
    #[serde(default)]
    apart: BTreeSet<String>,
}

/// What a replica that does not lead writes.
pub(super) struct Writer {
    api: Api,
    namespace: String,
    replica: String,
    written: Option<Written>,
    /// There may be something of ours.
    told: bool,
}

/// What was last written.
struct Written {
    view: View,
    at: Instant,
    bytes: usize,
}

/// What the replica that leads reads.
pub(super) struct Reader {
    api: Api,
    namespace: String,
    replica: String,
    /// It is known what others have written.
    complete: bool,
    views: BTreeMap<String, Read>,
    /// Replicas that proxies are sent to and that have written nothing, by their pods' names.
    silent: BTreeSet<String>,
    /// The names of proxies that one replica misses and another one has.
    back: BTreeSet<String>,
}

/// The view of another replica.
struct Read {
    text: String,
    /// When it changed last, by this clock.
    since: Instant,
    /// `None`: it cannot be read.
    view: Option<View>,
    standing: Standing,
    /// Its pod was there once.
    pod: bool,
    /// It was removed; that is not shown yet.
    removed: bool,
    /// So many of the proxies that it misses are connected to others.
    moved: usize,
}

/// What a view is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// What it says is so.
    Counts,
    /// Nobody knows what its proxies have.
    Unheard,
    /// It has no proxies any more.
    Over,
}

/// The ConfigMap of that name, and no other.
pub(super) fn maps(namespace: &str) -> Kind {
    Kind {
        group: String::new(),
        kind: "ConfigMap".to_owned(),
        versions: vec!["v1".to_owned()],
        namespaced: true,
        query: format!("fieldSelector=metadata.name%3D{CONFIG_MAP}&"),
        within: Some(namespace.to_owned()),
    }
}

impl View {
    /// In so many bytes. Where that is too few, those come first that something is waited for: of all others it is enough to
    /// know that there are some.
    fn of(verdicts: &Verdicts, room: usize) -> Self {
        let behind = verdicts.of.iter().flat_map(|verdict| &verdict.holders.apart.names);
        let part = |most: usize| most * room / BYTES_MAX;
        let here = verdicts.connected.iter().take(part(HERE_MAX));
        let mut view = Self {
            here: here.map(|pod| mark(pod)).collect(),
            apart: distinct(behind).take(part(APART_MAX)).map(mark).collect(),
            ..Self::default()
        };
        let mut bytes = MARK_BYTES * (view.here.len() + view.apart.len());
        let mut of: Vec<&Verdict> = verdicts.of.iter().collect();
        of.sort_by_key(|verdict| (verdict.holders.waiting.count == 0, verdict.holders.apart.count == 0));
        for verdict in of {
            let object = &verdict.object;
            let seen = view.seen.entry(object.kind.clone()).or_default();
            *seen = object.resource_version.max(*seen);
            let mut holders = verdict.holders.clone();
            if holders.subscribers == 0 && holders.apart.count == 0 {
                continue;
            }
            holders.waiting.names.truncate(NAMED_MAX);
            holders.apart.names.truncate(NAMED_MAX);
            holders.refusals.truncate(NAMED_MAX);
            let name = object.reference().to_string();
            // With quotes, a colon and a comma.
            let more = name.len() + 4 + serde_json::to_string(&holders).map_or(BYTES_MAX, |text| text.len());
            if bytes + more > room {
                match holders.waiting.count {
                    0 => view.rest = true,
                    _ => view.more = true,
                }
                continue;
            }
            bytes += more;
            view.objects.insert(name, holders);
        }
        view
    }

    /// What it says of an object. `None`: it has not seen it as it is now, or there was no room for it.
    fn says(&self, object: &Object, version: u64) -> Option<Holders> {
        let seen = self.seen.get(&object.kind).is_some_and(|seen| *seen >= version);
        let said = self.objects.get(&object.reference().to_string());
        match said {
            _ if !seen => None,
            Some(holders) => Some(holders.clone()),
            None if self.more => None,
            // Who they are is not said where all is well: one stands for all.
            None => Some(Holders {
                subscribers: usize::from(self.rest),
                ..Holders::default()
            }),
        }
    }
}

/// How many bytes one replica may write: each that does not lead has an equal part.
fn room(replicas: usize) -> usize {
    (ROOM / replicas.saturating_sub(1).max(1)).min(BYTES_MAX)
}

/// Each once.
fn distinct<'a>(names: impl Iterator<Item = &'a String>) -> impl Iterator<Item = &'a str> {
    names.map(String::as_str).collect::<BTreeSet<_>>().into_iter()
}

/// What stands for a proxy's name.
fn mark(pod: &str) -> String {
    let hash = digest(&SHA256, pod.as_bytes());
    hash.as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The pod of a replica, whose name begins with that of its host.
fn pod_of(replica: &str) -> &str {
    replica.rsplit_once('_').map_or(replica, |(pod, _)| pod)
}

/// The replicas that proxies are sent to, by their pods' names.
fn ready(shown: &Shown, namespace: &str) -> BTreeSet<String> {
    let slices = shown.within("EndpointSlice", namespace);
    let ours = |slice: &&Arc<Object>| slice.labels.get(SERVICE_LABEL).is_some_and(|name| name == SERVICE);
    let endpoints = slices
        .iter()
        .filter(ours)
        .filter_map(|slice| slice.raw["endpoints"].as_array());
    // Where nothing is said, it is.
    let ready = endpoints.flatten().filter(|one| one["conditions"]["ready"] != false);
    let pods = ready
        .map(|one| &one["targetRef"])
        .filter(|target| target["kind"] == "Pod");
    pods.filter_map(|pod| pod["name"].as_str().map(str::to_owned)).collect()
}

impl Writer {
    pub(super) fn new(api: Api, namespace: &str, replica: &str) -> Self {
        Self {
            api,
            namespace: namespace.to_owned(),
            replica: replica.to_owned(),
            written: None,
            told: false,
        }
    }

    /// Writes what this replica knows, if that is news. Returns when to come again. `shown`: where the other ones are.
    pub(super) async fn write(&mut self, verdicts: &Verdicts, shown: &Shown) -> Result<Duration, Fault> {
        let view = View::of(verdicts, room(ready(shown, &self.namespace).len()));
        if let Some(Written {
            view: written,
            at,
            bytes,
        }) = &self.written
        {
            let spacing = if *written == view { BEAT } else { spacing(*bytes) };
            let left = spacing.saturating_sub(at.elapsed());
            if !left.is_zero() {
                return Ok(left);
            }
        }
        let stamped = View {
            at: lease::now(),
            ..view.clone()
        };
        // A map of texts and numbers is always text.
        let text = serde_json::to_string(&stamped).unwrap_or_default();
        self.told = true;
        apply(&self.api, &self.namespace, &self.replica, Some(&text)).await?;
        let (at, bytes) = (Instant::now(), text.len());
        self.written = Some(Written { view, at, bytes });
        Ok(BEAT)
    }

    /// This replica leads now, and writes nothing any more.
    pub(super) fn forget(&mut self) {
        self.written = None;
    }

    /// This replica ends: what it has said is not so any more.
    pub(super) async fn end(self) {
        if self.told
            && let Err(fault) = apply(&self.api, &self.namespace, &self.replica, None).await
        {
            tracing::debug!(error = %fault, "what this replica has said is not removed");
        }
    }
}

/// How long a view of that size is left as it is.
fn spacing(bytes: usize) -> Duration {
    let parts = u32::try_from(bytes).unwrap_or(u32::MAX);
    (SPACING_BY_SIZE * parts / (64 << 10)).max(SPACING)
}

impl Read {
    /// What it is worth. `ready`: proxies are sent to its replica; `here`: its pod is there.
    fn judge(&mut self, newer: bool, ready: bool, here: bool) {
        let stale = self.since.elapsed() >= STALE;
        let gone = self.pod && !here;
        self.pod |= here;
        self.standing = match () {
            () if newer || gone || (stale && !ready) => Standing::Over,
            () if stale || self.view.is_none() => Standing::Unheard,
            () => Standing::Counts,
        };
        self.removed &= self.standing == Standing::Over;
    }

    fn at(&self) -> &str {
        self.view.as_ref().map_or("", |view| &view.at)
    }
}

impl Reader {
    pub(super) fn new(api: Api, namespace: &str, replica: &str) -> Self {
        Self {
            api,
            namespace: namespace.to_owned(),
            replica: replica.to_owned(),
            complete: false,
            views: BTreeMap::new(),
            silent: BTreeSet::new(),
            back: BTreeSet::new(),
        }
    }

    /// Reads what there is now, and removes what is nobody's any more. `maps`: what replicas have written; `shown`: where
    /// they are.
    pub(super) async fn read(&mut self, maps: &Shown, shown: &Shown) -> Result<(), Fault> {
        self.complete = maps.is_complete();
        let maps = maps.of_kind("ConfigMap");
        let data = maps.first().and_then(|map| map.raw["data"].as_object().cloned());
        let data = data.unwrap_or_default();
        self.views.retain(|replica, _| data.contains_key(replica));
        for (replica, text) in &data {
            let text = text.as_str().unwrap_or_default();
            let before = self.views.get(replica);
            if before.is_some_and(|read| read.text == text) {
                continue;
            }
            let read = Read {
                text: text.to_owned(),
                since: Instant::now(),
                view: serde_json::from_str(text).ok(),
                standing: Standing::Unheard,
                pod: before.is_some_and(|read| read.pod),
                removed: false,
                moved: 0,
            };
            self.views.insert(replica.clone(), read);
        }
        self.judge(shown);
        let is_over = |(replica, read): (&String, &Read)| {
            let soon = read.pod || pod_of(replica) == pod_of(&self.replica) || read.since.elapsed() > GONE;
            (read.standing == Standing::Over && soon && !read.removed).then(|| replica.clone())
        };
        let over: Vec<String> = self.views.iter().filter_map(is_over).collect();
        for replica in over {
            apply(&self.api, &self.namespace, &replica, None).await?;
            if let Some(read) = self.views.get_mut(&replica) {
                read.removed = true;
            }
        }
        Ok(())
    }

    /// What each view is worth now, and who has written none.
    fn judge(&mut self, shown: &Shown) {
        let own = pod_of(&self.replica);
        let pods = shown.within("Pod", &self.namespace);
        let pods: BTreeSet<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
        self.silent = ready(shown, &self.namespace);
        self.silent.remove(own);
        // Of several processes in one pod, the last one lives.
        let mut last: BTreeMap<String, String> = BTreeMap::new();
        for (replica, read) in &self.views {
            let last = last.entry(pod_of(replica).to_owned()).or_default();
            *last = read.at().max(last).to_owned();
        }
        let ready = self.silent.clone();
        for (replica, read) in &mut self.views {
            let pod = pod_of(replica);
            let newer = pod == own || last.get(pod).is_some_and(|last| read.at() < last.as_str());
            read.judge(newer, ready.contains(pod), pods.contains(pod));
            if read.standing != Standing::Over {
                self.silent.remove(pod);
            }
        }
    }

    /// Which proxies have gone from one replica to another.
    pub(super) fn meet(&mut self, verdicts: &Verdicts) {
        let mut here: BTreeSet<String> = verdicts.connected.iter().map(|pod| mark(pod)).collect();
        let counting = || self.views.values().filter(|read| read.standing == Standing::Counts);
        let views: Vec<&View> = counting().filter_map(|read| read.view.as_ref()).collect();
        here.extend(views.iter().flat_map(|view| view.here.iter().cloned()));
        let own = verdicts.of.iter().map(|verdict| &verdict.holders);
        let others = views.iter().flat_map(|view| view.objects.values());
        let apart = own.chain(others).flat_map(|holders| &holders.apart.names);
        let back = distinct(apart).filter(|pod| here.contains(&mark(pod)));
        self.back = back.map(str::to_owned).collect();
        for read in self.views.values_mut() {
            read.moved = read
                .view
                .as_ref()
                .map_or(0, |view| view.apart.intersection(&here).count());
        }
    }

    /// When what others have said may count no more, if nothing is heard of them until then.
    pub(super) fn next(&self) -> Option<Duration> {
        (!self.views.is_empty()).then_some(BEAT)
    }

    /// What all replicas know of an object. `version`: the resource version at which it came to say what it says.
    pub(super) fn add(&self, verdict: &mut Verdict, version: u64) {
        let holders = &mut verdict.holders;
        holders.apart.drop(|pod| self.back.contains(pod));
        if !self.complete {
            holders.unheard.push("other replicas".to_owned());
        }
        holders.unheard.extend(self.silent.iter().cloned());
        for (replica, read) in &self.views {
            let says = read.view.as_ref().and_then(|view| view.says(&verdict.object, version));
            match (read.standing, says) {
                (Standing::Over, _) => {}
                (Standing::Counts, Some(mut said)) => {
                    // Most are not named: of those at least so many are still apart.
                    let left = said.apart.count.saturating_sub(read.moved);
                    said.apart.drop(|pod| self.back.contains(pod));
                    said.apart.count = left.max(said.apart.names.len());
                    holders.add(&said);
                }
                (Standing::Counts, None) if read.view.as_ref().is_some_and(|view| view.more) => {
                    holders
                        .unheard
                        .push(format!("{replica} (more is waited for there than it can tell)"));
                }
                (Standing::Unheard, _) | (Standing::Counts, None) => holders.unheard.push(replica.clone()),
            }
        }
    }
}

/// Writes one replica's key, or removes it. Each key has a field manager of its own, so that nobody else's goes with it. One that
/// removes its key says nothing else either: it would be kept for ever as the manager of that.
async fn apply(api: &Api, namespace: &str, replica: &str, text: Option<&str>) -> Result<Value, Fault> {
    let mut map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": namespace}
    });
    if let Some(text) = text {
        map["metadata"]["labels"] =
            json!({"app.kubernetes.io/managed-by": "weft", "app.kubernetes.io/part-of": "weft"});
        map["data"] = json!({replica: text});
    }
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}");
    api.apply_as(&path, replica, &map).await
}

#[cfg(test)]
mod tests;
