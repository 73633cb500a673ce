//! Other clusters, as the hub knows them: what they say, how the links to them are, and who of them follows us.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use weft_certs::bundle::{Bundle, TrustBundles};
use weft_proto::discovery;
use weft_proto::resource::{self, FieldError, Kind, Update};

use super::{Facts, Follower, Hash, Hub, Proxy, Subject};
use crate::objects::host_port::HostPort;
use crate::objects::peer::Peer;
use crate::serve::rate::Lines;

/// The peers that act, and the bundles of their trust domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Linked {
    pub(crate) peers: BTreeMap<String, Peer>,
    pub(crate) bundles: TrustBundles,
}

/// How the link to a peer is: what it exports comes by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) state: Link,
    pub(crate) since: SystemTime,
    /// Where it leads.
    pub(crate) endpoint: String,
    /// Why it is not connected, in one word and for people; or empty.
    pub(crate) fault: &'static str,
    pub(crate) reason: String,
    /// The same for who is not told of each attempt.
    pub(crate) lasting: Lasting,
    /// When the peer was last heard of.
    pub(crate) heard: Option<SystemTime>,
    /// Whether all that it exports has come since this process began, or since it was forgotten. Until then what is missing may
    /// only be late.
    pub(crate) complete: bool,
    /// Since when it is waited for that: from when it was first linked. A link that ends and begins anew is waited for no longer.
    pub(crate) linked: Option<SystemTime>,
}

/// Why a link is not connected, for who is not told of each attempt: what broke it, and another reason once that was not seen for
/// several attempts; for each that follows twice as many. So of reasons that take turns it is one, and such as are never the same twice
/// are told ever more seldom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lasting {
    /// Where it led.
    pub(crate) endpoint: String,
    pub(crate) reason: String,
    /// Attempts since that have failed of something else.
    others: u32,
    /// How many are several.
    several: u32,
}

/// The states of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Not connected since this process began.
    Connecting,
    /// What the peer exports comes as it changes.
    Connected,
    /// It was connected, and what is held is kept for now.
    Stale,
    /// It was broken for longer than that is kept.
    Forgotten,
}

/// What is known of a peer beside its object: what it has said, and where its gateways are.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) resources: Vec<discovery::Resource>,
    /// The newest bundle of its trust domain, however it came.
    pub(crate) bundle: Option<Bundle>,
    pub(crate) gateways: Vec<SocketAddr>,
}

/// What came of asking a peer's bundle endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// When a bundle last came from there.
    pub(crate) last: Option<SystemTime>,
    /// Why none came, or it was not taken, in one word and for people; or empty.
    pub(crate) fault: &'static str,
    pub(crate) reason: String,
}

/// What came of trying a gateway of a peer, from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tried {
    pub(crate) gateway: HostPort,
    pub(crate) at: SystemTime,
    /// Why it cannot be reached, in one word and for people; or empty.
    pub(crate) fault: &'static str,
    pub(crate) reason: String,
}

/// What a peer has said that it may not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Since this process began.
    pub(crate) total: u64,
    /// Where it has not said anything better since.
    pub(crate) now: BTreeMap<resource::Name, FieldError>,
    /// When it was logged last, and how often it did since.
    logged: Option<Instant>,
    unlogged: u64,
    /// What was logged of what it would not take of ours.
    pub(super) refusals_told: Lines,
}

/// Why a replica of a cluster may not follow us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwelcome {
    /// Its cluster is no peer any more, or has another control plane by now.
    #[error("the ClusterPeer that names this control plane is another by now, or gone")]
    Stranger,
    /// So many of its cluster follow already.
    #[error("{0} replicas of this cluster follow, and no more may")]
    Crowded(usize),
    /// Too much that they hold waits to be taken away from them.
    #[error(
        "{0} things are to be taken away from replicas of this cluster that follow already; try again when they are"
    )]
    Laden(usize),
}

/// Replicas of one cluster's control plane that may follow at a time.
const FOLLOWERS_MAX: usize = 16;
/// What replicas of one cluster may hold that is to be taken away from them. The first message of one has room for less.
const REMOVALS_MAX: usize = 200_000;
/// How much of it is told of one peer.
const FAULTS_MAX: usize = 64;
/// It is logged once in this time: a peer says something each 10 ms if it likes to.
const SILENCE: Duration = Duration::from_secs(60);
/// Attempts of some three seconds.
const SEVERAL: u32 = 5;
/// How something is called whose name cannot be read.
const UNREADABLE: &str = "(unreadable)";

/// A name to tell people of something whose own cannot be read.
pub(crate) fn unreadable(name: Option<&discovery::ResourceName>) -> resource::Name {
    let kind = name.and_then(|name| Kind::from_wire(name.kind).ok());
    resource::Name::new(kind.unwrap_or(Kind::Cluster), UNREADABLE)
}

impl Link {
    /// In one word, for people.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Connecting => "Connecting",
            Self::Connected => "Connected",
            Self::Stale => "Stale",
            Self::Forgotten => "Forgotten",
        }
    }
}

impl LinkState {
    /// The link to a peer that was last heard of before this process began.
    pub(crate) fn before(heard: SystemTime, keep_for: Duration) -> Self {
        // A clock that was set back makes that now.
        let now = SystemTime::now();
        let heard = heard.min(now);
        let is_kept = now.duration_since(heard).unwrap_or_default() < keep_for;
        let reason = "not connected since this control plane began".to_owned();
        Self {
            state: if is_kept { Link::Stale } else { Link::Forgotten },
            since: heard,
            endpoint: String::new(),
            fault: "",
            lasting: Lasting::new("", &reason),
            reason,
            heard: Some(heard),
            complete: false,
            linked: None,
        }
    }

    /// Whether what is known of the peer is what it exports now.
    pub(crate) fn is_whole(&self) -> bool {
        self.state == Link::Connected && self.complete
    }

    /// Is in this state from now on, for this reason: a word, and for people.
    pub(crate) fn enter(&mut self, state: Link, fault: &'static str, reason: String) {
        let is_new = self.state != state;
        self.lasting.take(&self.endpoint, &reason, is_new);
        (self.fault, self.reason) = (fault, reason);
        if !is_new {
            return;
        }
        (self.state, self.since) = (state, SystemTime::now());
        if state == Link::Connected && !self.complete {
            self.linked.get_or_insert(self.since);
        }
    }
}

impl Lasting {
    pub(crate) fn new(endpoint: &str, reason: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            reason: reason.to_owned(),
            others: 0,
            several: SEVERAL,
        }
    }

    /// An attempt has failed of this. `is_new`: it is what broke the link.
    fn take(&mut self, endpoint: &str, reason: &str, is_new: bool) {
        if is_new || self.reason.is_empty() {
            *self = Self::new(endpoint, reason);
            return;
        }
        self.others = if self.reason == reason { 0 } else { self.others + 1 };
        if self.others == self.several {
            *self = Self {
                several: self.several.saturating_mul(2),
                ..Self::new(endpoint, reason)
            };
        }
    }
}

impl Hub {
    /// What the index does not know.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The peers that act, and the bundles of their trust domains.
    pub(crate) fn linked(&self) -> Linked {
        let peers = self.index.peers().map(|(name, peer)| (name.to_owned(), peer.clone()));
        let bundles: Vec<Bundle> = self.index.foreign_bundles().cloned().collect();
        // Two peers of one trust domain do not both act.
        let bundles = TrustBundles::new(bundles).unwrap_or_else(|error| {
            tracing::error!(%error, "no peer is trusted");
            TrustBundles::default()
        });
        Linked {
            peers: peers.collect(),
            bundles,
        }
    }

    /// Takes in when peers were last heard of, as their status has it. Files say nothing of that: what a status in one says was
    /// copied there.
    pub(super) fn begin_links(&mut self) {
        let heard = self.index.peers().filter_map(|(name, peer)| {
            let heard = self.index.last_heard(name)?;
            Some((name.to_owned(), LinkState::before(heard, peer.keep_for)))
        });
        self.links = heard.collect();
    }

    /// Takes in what a peer says. Returns what of it was refused.
    /// `unread`: what else came, and could not be read.
    pub(crate) fn hear(
        &mut self,
        cluster: &str,
        updates: Vec<Update>,
        unread: &[(resource::Name, FieldError)],
    ) -> Vec<(resource::Name, FieldError)> {
        let said: Vec<resource::Name> = updates.iter().map(|update| update.name.clone()).collect();
        let (refused, changed) = self.index.hear(cluster, updates);
        let faults = self.faults.entry(cluster.to_owned()).or_default();
        faults.take(&said, &refused);
        faults.take(&[], unread);
        if let Some((name, error)) = unread.iter().chain(&refused).next()
            && let Some(all) = faults.due_log(unread.len() + refused.len(), Instant::now())
        {
            let (field, reason) = (&error.field, &error.reason);
            tracing::warn!(cluster, resource = %name, field, reason, all, "a peer said what it may not");
        }
        self.spread(&changed);
        refused
    }

    /// Takes in what was known of a peer before this process began. It is judged like anything that a peer says.
    pub(crate) fn restore(&mut self, cluster: &str, heard: Heard) {
        let updates = heard.resources.into_iter();
        let updates = updates.filter_map(|wire| resource::from_wire(wire).ok()).collect();
        self.hear(cluster, updates, &[]);
        if let Some(bundle) = heard.bundle {
            // Refused where the object has a newer one by now.
            let _ = self.index.offer(cluster, bundle);
        }
        // It counted before this process began: no proxy is told anything new.
        let changed = self.index.take_offer(cluster);
        self.spread(&changed);
        if !heard.gateways.is_empty() {
            self.set_gateways(cluster, &heard.gateways);
        }
    }

    /// What is known of a peer, to be kept.
    pub(crate) fn heard(&self, cluster: &str) -> Heard {
        let gateways = self.index.gateways_of(cluster);
        Heard {
            resources: self.index.said(cluster),
            bundle: self.index.told_bundle(cluster).cloned(),
            gateways: gateways.map(|all| all.to_vec()).unwrap_or_default(),
        }
    }

    /// A peer shows its bundle at its bundle endpoint. Returns whether it is news, or why it is refused.
    pub(crate) fn offer(&mut self, cluster: &str, bundle: Bundle) -> Result<bool, FieldError> {
        self.index.offer(cluster, bundle)
    }

    /// Takes the bundles that peers offer, each as often as it may change. Returns when there is more to do.
    pub(crate) fn take_bundles(&mut self, now: Instant) -> Option<Instant> {
        let mut due: Option<Instant> = None;
        for cluster in self.index.offers() {
            match self.pace.take(&cluster, now) {
                Ok(()) => {
                    let changed = self.index.take_offer(&cluster);
                    self.spread(&changed);
                }
                Err(next) => due = Some(due.map_or(next, |due| due.min(next))),
            }
        }
        due
    }

    /// What came of asking a peer's bundle endpoint. Of peers that are gone nothing is kept.
    pub(crate) fn fetched(&mut self, cluster: String, fetched: Fetched) {
        if self.index.peer(&cluster).is_some() {
            self.fetched.insert(cluster, fetched);
        }
    }

    /// What came of trying a peer's gateways. Of peers that are gone nothing is kept.
    pub(crate) fn tried(&mut self, cluster: String, tried: Vec<Tried>) {
        if self.index.peer(&cluster).is_some() {
            self.tried.insert(cluster, tried);
        }
    }

    /// What is held of a peer.
    pub(crate) fn held(&self, cluster: &str) -> Vec<(resource::Name, Hash)> {
        let remote = self.index.heard_of(cluster);
        let held = remote.into_iter().flat_map(|(_, _, remote)| &remote.held);
        held.map(|(name, hash)| (name.clone(), *hash)).collect()
    }

    /// The addresses of a peer's gateways are these now. Returns whether more is to be made of it than before.
    pub(crate) fn set_gateways(&mut self, cluster: &str, addresses: &[SocketAddr]) -> bool {
        let changed = self.index.set_gateways(cluster, addresses);
        self.spread(&changed);
        !changed.topics.is_empty()
    }

    /// What a peer has said counts no more.
    pub(crate) fn forget(&mut self, cluster: &str) {
        let changed = self.index.forget(cluster);
        self.spread(&changed);
    }

    /// How the link to a peer is. Of peers that are gone nothing is kept. Returns whether more is to be made, or said, of it than before.
    pub(crate) fn link(&mut self, cluster: String, state: LinkState) -> bool {
        if self.index.peer(&cluster).is_none() {
            return false;
        }
        let of = |link: &LinkState| (link.state, link.complete, link.lasting.reason.clone());
        let now = of(&state);
        let faults = self.faults.get_mut(&cluster);
        let before = self.links.insert(cluster, state);
        let is_newly_linked = before.as_ref().is_none_or(|before| before.state != now.0) && now.0 == Link::Connected;
        if let Some(faults) = faults.filter(|_| is_newly_linked) {
            // It says anew what was not taken, and of this nothing else tells that it does not.
            faults.now.retain(|name, _| name.key != UNREADABLE);
        }
        before.is_none_or(|before| of(&before) != now)
    }

    /// Whether a replica of a cluster that holds so much may follow us: its cluster is a peer, with this control plane, and not too
    /// many do, nor hold too much that is nothing of ours any more.
    pub(crate) fn may_follow(&self, follower: &Follower, held: usize) -> Result<(), Unwelcome> {
        let peer = self.index.peer(&follower.cluster);
        if peer.is_none_or(|peer| peer.control_plane != follower.control_plane) {
            return Err(Unwelcome::Stranger);
        }
        let others: Vec<&Proxy> = self.other_followers(follower).collect();
        if others.len() >= FOLLOWERS_MAX {
            return Err(Unwelcome::Crowded(others.len()));
        }
        let removals: usize = others.iter().map(|proxy| proxy.outlet.outbox().removals()).sum();
        match removals + held <= REMOVALS_MAX {
            true => Ok(()),
            false => Err(Unwelcome::Laden(removals)),
        }
    }

    /// The replicas of a cluster that follow us beside this one.
    fn other_followers(&self, follower: &Follower) -> impl Iterator<Item = &Proxy> {
        let is_other = |subject: &Subject| match subject {
            Subject::Peer(other) => other.cluster == follower.cluster && other.instance != follower.instance,
            Subject::Pod(_) | Subject::Gateway(_) => false,
        };
        self.proxies.values().filter(move |proxy| is_other(&proxy.who.subject))
    }

    /// Ends the streams of peers whose control plane or roots are others by now: what was proved counts no more.
    pub(crate) fn drop_followers(&mut self, before: &Linked, now: &Linked) {
        let same = |cluster: &str| {
            let (Some(old), Some(new)) = (before.peers.get(cluster), now.peers.get(cluster)) else {
                return false;
            };
            let roots = before
                .bundles
                .get(&old.trust_domain)
                .zip(now.bundles.get(&new.trust_domain));
            old.control_plane == new.control_plane && roots.is_some_and(|(old, new)| new.has_all_of(old))
        };
        let dropped = self.proxies.iter().filter(|(_, proxy)| match &proxy.who.subject {
            Subject::Peer(follower) => !same(&follower.cluster),
            Subject::Pod(_) | Subject::Gateway(_) => false,
        });
        for id in dropped.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.leave(id);
        }
        // Another object of the same name is another peer.
        let is_same = |cluster: &str| {
            let of = |linked: &Linked| {
                let peer = linked.peers.get(cluster)?;
                Some((peer.uid.clone(), peer.trust_domain.clone()))
            };
            of(before).is_none_or(|before| of(now) == Some(before)) && now.peers.contains_key(cluster)
        };
        self.links.retain(|cluster, _| is_same(cluster));
        self.faults.retain(|cluster, _| is_same(cluster));
        self.fetched.retain(|cluster, _| is_same(cluster));
        self.tried.retain(|cluster, _| is_same(cluster));
        self.pace.retain(is_same);
    }
}

impl Faults {
    fn take(&mut self, said: &[resource::Name], refused: &[(resource::Name, FieldError)]) {
        said.iter().for_each(|name| drop(self.now.remove(name)));
        self.total += refused.len() as u64;
        for (name, error) in refused {
            // What it says of itself decides what all the rest is worth.
            if self.now.len() < FAULTS_MAX || name.kind == Kind::Cluster {
                self.now.insert(name.clone(), error.clone());
            }
        }
    }

    /// How many to log now: these, and what was not logged before. `None`: the last time was a moment ago.
    fn due_log(&mut self, more: usize, now: Instant) -> Option<u64> {
        self.unlogged += more as u64;
        if self.logged.is_some_and(|logged| now.duration_since(logged) < SILENCE) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_a_peer_may_not_say_is_logged_at_once_and_then_once_a_minute_with_its_number() {
        let (mut faults, begun) = (Faults::default(), Instant::now());
        assert_eq!(faults.due_log(2, begun), Some(2));
        for at in 1..60 {
            assert_eq!(faults.due_log(10, begun + Duration::from_secs(at)), None);
        }
        assert_eq!(faults.due_log(1, begun + SILENCE), Some(591));
        assert_eq!(faults.due_log(1, begun + SILENCE * 3), Some(1));
    }

    #[test]
    fn what_lasts_is_what_broke_the_link_or_what_several_attempts_have_failed_of_since() {
        let mut link = LinkState::before(SystemTime::now(), Duration::from_secs(3600));
        let mut fails = |state, reason: &str| {
            link.enter(state, "refused", reason.to_owned());
            link.lasting.reason.clone()
        };
        assert_eq!(fails(Link::Connected, ""), "");
        assert_eq!(fails(Link::Stale, "ended"), "ended");
        let mut again = |reason: &str, times: u32| (0..times).map(|_| fails(Link::Stale, reason)).last().unwrap();
        assert_eq!(again("unknown CA", SEVERAL - 1), "ended");
        assert_eq!(again("ended", 1), "ended");
        assert_eq!(again("unknown CA", SEVERAL), "unknown CA");
        // Two that take turns are one; and what is never the same twice is told ever more seldom.
        for _ in 0..100 {
            assert_eq!(again("not connected", 1), "unknown CA");
            assert_eq!(again("unknown CA", 1), "unknown CA");
        }
        let told: BTreeSet<String> = (0..1000).map(|n| again(&format!("wait {n} ms"), 1)).collect();
        assert!(told.len() < 10, "{told:?}");
        assert_eq!(fails(Link::Forgotten, "no route"), "no route");
    }

    #[test]
    fn what_has_no_name_that_can_be_read_is_told_by_its_kind_as_far_as_that_is_known() {
        let wire = |kind: i32| discovery::ResourceName {
            kind,
            ..discovery::ResourceName::default()
        };
        let exported = wire(Kind::Exported.to_wire() as i32);
        assert_eq!(unreadable(Some(&exported)).to_string(), "exported (unreadable)");
        assert_eq!(unreadable(Some(&wire(99))).to_string(), "cluster (unreadable)");
        assert_eq!(unreadable(None).to_string(), "cluster (unreadable)");
    }
}
