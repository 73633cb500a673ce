//! Which proxies decide by which objects: what the condition `Applied` rests on.
//!
//! A resource that is sent to proxies names the objects that it was made of. A proxy needs an object if it is subscribed to a
//! resource that was made of it, and decides by it when it has acknowledged what that resource is now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_model::name::ObjectRef;
use weft_proto::resource::Kind;

use super::{ConditionStatus, PeerVerdict};
use crate::index::{self, ConditionType, Index};
use crate::objects::Object;
use crate::serve::cache::{Cache, ProxyId};
use crate::serve::hub::{Hub, Proxy};

/// Proxies that are named; the others are counted.
pub(super) const NAMED_MAX: usize = 32;
/// The same in a condition's message, which people read on one line.
const TOLD_MAX: usize = 8;
/// The reason that a proxy gives for a refusal, as far as it is told.
const REASON_MAX: usize = 200;
/// Objects that are remembered of a proxy that is not connected.
const DECIDED_MAX: usize = 1024;

/// Who needs an object, and who decides by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holders {
    /// Connected proxies that need it.
    pub(crate) subscribers: usize,
    /// Those of them that do not decide by its current version.
    pub(crate) waiting: Named,
    /// What those of them said that would not take it; at most a few.
    #[serde(default)]
    pub(crate) refusals: Vec<String>,
    /// Those that are not connected, and decided by an older version when they last were.
    pub(crate) apart: Named,
    /// Replicas of the control plane that have not said yet what their proxies have. Not told to others.
    #[serde(skip)]
    pub(crate) unheard: Vec<String>,
}

/// Proxies: how many, and some of them by name, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) count: usize,
    pub(crate) names: Vec<String>,
}

/// What is to be said of an object that has a status.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// The object as it was looked at.
    pub(crate) object: Arc<Object>,
    pub(crate) status: index::ObjectStatus,
    pub(crate) holders: Holders,
    /// Of a ClusterPeer that acts.
    pub(crate) peer: Option<PeerVerdict>,
}

/// Of all objects that have a status.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdicts {
    pub(crate) of: Vec<Verdict>,
    /// The proxies that are connected here, by their pods' names.
    pub(crate) connected: Vec<String>,
}

/// The same, while it is counted.
#[derive(Debug, Default)]
pub(super) struct Need {
    subscribers: BTreeSet<ProxyId>,
    /// With the refusal, where a proxy would not take it.
    waiting: BTreeMap<ProxyId, Option<String>>,
    apart: BTreeSet<String>,
}

/// What the condition `Applied` says: status, reason and message.
pub(crate) type Applied = (bool, &'static str, String);

impl Hub {
    /// What is to be said of routes, subsets, policies, peers and exports.
    pub(crate) fn verdicts(&self) -> Verdicts {
        let statuses = self.index.written_statuses();
        let needs = self.needs(&statuses);
        let verdict = |status: index::ObjectStatus| {
            let need = needs.get(&status.object.to_string());
            Some(Verdict {
                object: self.index.written(&status.object)?.clone(),
                holders: need.map(|need| self.holders(need)).unwrap_or_default(),
                peer: match status.object.kind.as_str() {
                    "ClusterPeer" => self.peer_verdict(&status.object.name),
                    _ => None,
                },
                status,
            })
        };
        Verdicts {
            of: statuses.into_iter().filter_map(verdict).collect(),
            connected: self.proxies.values().filter_map(pod_name).collect(),
        }
    }

    /// Who needs which of these objects, by their names.
    pub(super) fn needs(&self, statuses: &[index::ObjectStatus]) -> BTreeMap<String, Need> {
        let wanted: BTreeMap<String, &ObjectRef> = statuses
            .iter()
            .map(|status| (status.object.to_string(), &status.object))
            .collect();
        let mut needs: BTreeMap<String, Need> = BTreeMap::new();
        for entry in self.cache.entries() {
            let Some(made) = &entry.made else { continue };
            if matches!(
                made.name.kind,
                Kind::Cluster | Kind::Export | Kind::Exported | Kind::Gateway
            ) {
                // What other clusters do with it is for them to say.
                continue;
            }
            let late = |id: &ProxyId| {
                let proxy = self.proxies.get(id)?;
                let decides = proxy.acked.get(&made.name) == Some(&made.version.hash);
                let refused = proxy.refusals.get(&made.name);
                let refused = refused.filter(|refused| refused.hash == made.version.hash);
                (!decides).then(|| (*id, refused.map(|refused| refusal(&refused.field, &refused.reason))))
            };
            let waiting: Vec<(ProxyId, Option<String>)> = entry.users.iter().filter_map(late).collect();
            let sources = made.version.sources.iter();
            for source in sources.filter(|source| wanted.contains_key(&source.object)) {
                let need = needs.entry(source.object.clone()).or_default();
                need.subscribers.extend(&entry.users);
                for (id, refused) in &waiting {
                    let known = need.waiting.entry(*id).or_default();
                    *known = known.take().or_else(|| refused.clone());
                }
            }
        }
        for proxy in self.gone.iter().filter(|proxy| is_there(&self.index, proxy)) {
            for (object, held) in &proxy.decided {
                let now = wanted.get(object).and_then(|name| mark(&self.index, name));
                if now.is_some_and(|now| now > *held) {
                    let need = needs.entry(object.clone()).or_default();
                    need.apart.extend(pod_name(proxy));
                }
            }
        }
        needs
    }

    /// The same by name, bounded. Those apart are all named: another replica may know better of them.
    pub(super) fn holders(&self, need: &Need) -> Holders {
        let name = |id: &ProxyId| pod_name(self.proxies.get(id)?);
        let refusal = |(id, refused): (&ProxyId, &Option<String>)| {
            let refused = refused.as_deref()?;
            Some(format!("{} refused {refused}", name(id)?))
        };
        let refusals = need.waiting.iter().filter_map(refusal).take(TOLD_MAX).collect();
        let mut waiting: Vec<String> = need.waiting.keys().filter_map(name).collect();
        waiting.sort();
        let mut waiting = Named::new(waiting);
        waiting.cut();
        Holders {
            subscribers: need.subscribers.len(),
            waiting,
            refusals,
            apart: Named::new(need.apart.iter().cloned().collect()),
            unheard: Vec::new(),
        }
    }
}

/// What a proxy decides by, to be remembered when it is gone: objects, each with the mark of the version that it has. A version
/// that was not acknowledged counts as older than any.
pub(crate) fn decided(proxy: &Proxy, index: &Index, cache: &Cache) -> Vec<(String, u64)> {
    let mut decided: BTreeMap<String, u64> = BTreeMap::new();
    for (name, item) in &proxy.needs {
        let Some(made) = cache.get(item).and_then(|entry| entry.made.as_ref()) else {
            continue;
        };
        let decides = proxy.acked.get(name) == Some(&made.version.hash);
        for source in &made.version.sources {
            let Some(now) = object_of(&source.object).and_then(|name| mark(index, &name)) else {
                continue;
            };
            let held = if decides { now } else { 0 };
            let known = decided.entry(source.object.clone()).or_insert(held);
            *known = held.min(*known);
        }
    }
    decided.into_iter().take(DECIDED_MAX).collect()
}

/// Rises with every change of what an object says. Its resource version would rise with its status, too.
fn mark(index: &Index, name: &ObjectRef) -> Option<u64> {
    let object = index.written(name)?;
    Some(match object.generation {
        0 => object.resource_version,
        generation => generation,
    })
}

/// Reads what an [`ObjectRef`] is printed as.
fn object_of(text: &str) -> Option<ObjectRef> {
    let (kind, name) = text.split_once(' ')?;
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Some(ObjectRef {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// Whether the pod of a proxy that is not connected is still there, and runs.
fn is_there(index: &Index, proxy: &Proxy) -> bool {
    let pod = proxy
        .who
        .subject
        .pod()
        .and_then(|pod| index.pod(&pod.namespace, &pod.name));
    pod.is_some_and(|entry| entry.uid == proxy.who.uid && !entry.pod.finished)
}

/// The name of a proxy's pod.
fn pod_name(proxy: &Proxy) -> Option<String> {
    proxy.who.subject.pod().map(ToString::to_string)
}

fn refusal(field: &str, reason: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let reason: String = reason.chars().take(REASON_MAX).map(clean).collect();
    format!("{field}: {reason}")
}

impl Named {
    /// All of these, by name.
    fn new(names: Vec<String>) -> Self {
        let count = names.len();
        Self { count, names }
    }

    /// These as well.
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.names.extend(other.names.iter().cloned());
        self.names.sort();
        self.cut();
    }

    /// With a few names at most.
    pub(super) fn cut(&mut self) {
        self.names.truncate(NAMED_MAX);
    }

    /// Without those of which this is so.
    pub(crate) fn drop(&mut self, so: impl Fn(&String) -> bool) {
        let before = self.names.len();
        self.names.retain(|name| !so(name));
        self.count -= before - self.names.len();
    }

    /// The first few, and how many more.
    fn told(&self) -> String {
        let named: Vec<&str> = self.names.iter().map(String::as_str).take(TOLD_MAX).collect();
        match self.count.saturating_sub(named.len()) {
            0 => named.join(", "),
            more if named.is_empty() => format!("{more} proxies"),
            more => format!("{}, and {more} more", named.join(", ")),
        }
    }
}

impl Holders {
    /// What another replica knows as well.
    pub(crate) fn add(&mut self, other: &Self) {
        self.subscribers += other.subscribers;
        self.waiting.add(&other.waiting);
        self.refusals.extend(other.refusals.iter().cloned());
        self.refusals.truncate(TOLD_MAX);
        self.apart.add(&other.apart);
    }

    /// Whether there is something to wait for.
    pub(crate) fn wait(&self) -> bool {
        self.waiting.count > 0 || !self.unheard.is_empty()
    }

    /// True when every connected proxy that needs the object decides by its current version; and where none needs it. How many
    /// they are is not said where all is well: it would change with every pod.
    pub(crate) fn applied(&self, accepted: bool) -> Applied {
        let (applied, reason, mut message) = if !accepted {
            let message = "the object is not accepted: its last valid form acts, or nothing";
            (false, "NotAccepted", message.to_owned())
        } else if !self.unheard.is_empty() {
            let replicas = self.unheard.join(", ");
            let message = format!("it is not known yet what the proxies have that are connected to {replicas}");
            (false, "Waiting", message)
        } else if self.subscribers == 0 {
            (true, "NoSubscribers", "no connected proxy needs it".to_owned())
        } else if self.waiting.count == 0 {
            let message = "all connected proxies that need it decide by it";
            (true, "Acknowledged", message.to_owned())
        } else {
            let (waiting, all) = (self.waiting.count, self.subscribers);
            let told = self.waiting.told();
            let mut message = format!("{waiting} of {all} proxies that need it do not decide by it yet: {told}");
            if !self.refusals.is_empty() {
                message = format!("{message}; {}", self.refusals.join("; "));
            }
            (false, "Waiting", message)
        };
        if self.apart.count > 0 {
            let apart = self.apart.told();
            message = format!("{message}; not connected, and with an older version: {apart}");
        }
        (applied, reason, message)
    }
}

/// Whether these say that the object acts as written.
pub(crate) fn is_accepted(conditions: &[index::Condition]) -> bool {
    let says_so = |of: &index::Condition| matches!(of.r#type, ConditionType::Accepted | ConditionType::Valid);
    conditions
        .iter()
        .all(|condition| !says_so(condition) || condition.status)
}

pub(super) fn condition((applied, reason, message): Applied) -> ConditionStatus {
    ConditionStatus {
        r#type: "Applied",
        status: if applied { "True" } else { "False" },
        reason: reason.to_owned(),
        message,
        field: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Named {
        Named::new(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn holders(subscribers: usize, waiting: &[&str], apart: &[&str]) -> Holders {
        let (waiting, apart) = (named(waiting), named(apart));
        Holders {
            subscribers,
            waiting,
            apart,
            ..Holders::default()
        }
    }

    #[test]
    fn an_object_is_applied_when_nobody_who_needs_it_lags() {
        let of = |holders: Holders, accepted| {
            let (applied, reason, _) = holders.applied(accepted);
            (applied, reason)
        };
        assert_eq!(of(holders(0, &[], &[]), true), (true, "NoSubscribers"));
        assert_eq!(of(holders(2, &[], &[]), true), (true, "Acknowledged"));
        assert_eq!(of(holders(2, &["shop/a"], &[]), true), (false, "Waiting"));
        assert_eq!(of(holders(2, &[], &[]), false), (false, "NotAccepted"));
        // Who is not connected can acknowledge nothing, and holds nobody up.
        assert_eq!(of(holders(2, &[], &["shop/b"]), true), (true, "Acknowledged"));
    }

    #[test]
    fn laggards_are_named_and_those_apart_are_named_apart() {
        let (_, _, message) = holders(3, &["shop/a"], &["shop/b"]).applied(true);
        assert!(
            message.contains("1 of 3") && message.contains("yet: shop/a;"),
            "{message}"
        );
        assert!(message.ends_with("older version: shop/b"), "{message}");
        let many: Vec<String> = (0..1000).map(|n| format!("shop/p{n:04}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let (_, _, message) = holders(1000, &many, &[]).applied(true);
        assert!(message.contains("shop/p0007, and 992 more"), "{message}");
        let unnamed = Named {
            names: Vec::new(),
            ..named(&many)
        };
        assert_eq!(unnamed.told(), "1000 proxies");
        let mut some = named(&many);
        some.drop(|name| name.as_str() >= "shop/p0040");
        some.cut();
        assert_eq!((some.count, some.names.len()), (40, NAMED_MAX));
    }

    #[test]
    fn what_a_reference_is_printed_as_is_read() {
        for (kind, namespace, name) in [("HTTPRoute", "shop", "web.example"), ("ClusterPeer", "", "west")] {
            let name = ObjectRef {
                kind: kind.to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            };
            assert_eq!(object_of(&name.to_string()), Some(name));
        }
        assert_eq!(object_of("shop"), None);
    }
}
