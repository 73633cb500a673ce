//! The first message of a stream: who calls, and what it has.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use weft_model::destination::Target;
use weft_model::identity::Identity;
use weft_model::version::Source;
use weft_proto::discovery::{self, FromProxy, Held, Hello, from_proxy::Message};
use weft_proto::resource::name;

use super::{Callers, Discovery, End, Stream, read_targets, unread};
use crate::config::AddressCheck;
use crate::index;
use crate::serve::desk::PodFacts;
use crate::serve::hub::{HELD_PER_TARGET, Join, Subject, Who};
use crate::serve::metrics::Ended;
use crate::serve::outbox::Hash;
use crate::serve::wire::Name;

/// A caller that opens a stream says Hello at once.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// The service account of east-west gateways, in our own namespace.
const GATEWAY_ACCOUNT: &str = "weft-gateway";
/// Names of features and builds that are kept for status.
const WORDS_MAX: usize = 64;
const WORD_MAX: usize = 128;
/// Objects that a caller's resources were made of: the newest of them are compared with ours.
const SOURCES_MAX: usize = 16_384;
/// Bytes that each thing which a caller has said takes beside its names.
const WEIGHT: usize = 64;
/// Bytes of what names a pod (RFC 1123, a label and a subdomain; and what an API server makes of RFC 9562, with room to spare).
const NAMESPACE_MAX: usize = 63;
const NAME_MAX: usize = 253;
const UID_MAX: usize = 128;

impl Stream {
    /// Reads and checks the first message.
    pub(super) async fn hello(&mut self) -> Result<(Join, Vec<Source>), End> {
        let first = timeout(HELLO_WAIT, self.messages.next());
        let hello = match first.await {
            Ok(Ok(Some(FromProxy {
                message: Some(Message::Hello(hello)),
            }))) => hello,
            Ok(Ok(Some(_))) => return Err(End::broken("the first message of a stream is Hello")),
            Ok(Ok(None)) => {
                return Err(End {
                    why: Ended::Closed,
                    status: None,
                });
            }
            Ok(Err(status)) => return Err(unread(&status)),
            Err(_) => return Err(End::broken("no Hello came")),
        };
        self.discovery.may_call(self.peer.address.ip())?;
        match self.discovery.callers {
            Callers::Pods(_) => self.pod_joins(hello).await,
            Callers::Peers => Ok((self.peer_joins(hello).await?, Vec::new())),
        }
    }

    /// Whether the pod that a Hello names may join, and as what.
    async fn pod_joins(&mut self, hello: Hello) -> Result<(Join, Vec<Source>), End> {
        // While the pod is waited for, nothing is kept of the message but what counts.
        let most = self.discovery.rules.targets_max.saturating_mul(HELD_PER_TARGET);
        let (held, sources) = held(hello.held, most);
        let targets = read_targets(hello.targets, self.discovery.rules.targets_max)?;
        let (build, features) = (word(hello.build), words(hello.features));
        let (epoch, is_gateway) = (hello.epoch, hello.gateway);
        let claimed = claimed(hello.pod.unwrap_or_default())?;
        drop(hello.peer);
        let pod = index::Name {
            namespace: claimed.namespace,
            name: claimed.name,
        };
        // For who holds much there may be no room: it was here before, and so was its pod; or it calls again.
        let wait = match self.messages.place.keep(weight(&held, &sources, &targets)) {
            true => self.discovery.rules.pod_wait,
            false => Duration::ZERO,
        };
        self.check_pod(&pod, &claimed.uid, wait).await?;
        self.discovery.may_open(self.peer.address.ip(), &pod.to_string())?;
        let who = Who {
            subject: match is_gateway {
                true => self.gateway(pod)?,
                false => Subject::Pod(pod),
            },
            uid: claimed.uid,
            build,
            features,
            since: SystemTime::now(),
            skew_ms: None,
        };
        let held = held.into_iter().collect();
        Ok((
            Join {
                who,
                epoch,
                held,
                targets,
            },
            sources,
        ))
    }

    /// A pod as a gateway: one of our own namespace that runs as the gateways' service account.
    fn gateway(&self, pod: index::Name) -> Result<Subject, End> {
        let identity = &self.leaf.identity;
        let own = &self.discovery.rules.control_namespace;
        if (identity.namespace(), identity.service_account()) == (own.as_str(), GATEWAY_ACCOUNT) {
            return Ok(Subject::Gateway(pod));
        }
        Err(End::refused(&format!(
            "{identity} is none of a gateway: that is the service account {GATEWAY_ACCOUNT} of the namespace {own}"
        )))
    }

    /// The pod must exist, with this uid, run as the service account of the certificate, and have the caller's address: pods of
    /// one account have equal certificates, and one must not end another's stream or acknowledge in its name.
    async fn check_pod(&self, pod: &index::Name, uid: &str, wait: Duration) -> Result<(), End> {
        let identity = &self.leaf.identity;
        if pod.namespace != identity.namespace() {
            return Err(End::refused(&format!(
                "Pod {pod} is not of the namespace of {identity}"
            )));
        }
        let address = self.peer.address.ip();
        let Discovery {
            desk, rules, metrics, ..
        } = &*self.discovery;
        let fits = |facts: Option<PodFacts>| fits(pod, uid, identity, address, facts.as_ref());
        let fitted = desk.wait_for_pod(&pod.namespace, &pod.name, wait, fits).await?;
        match fitted {
            Ok(()) => Ok(()),
            Err(Misfit::Address(message)) if rules.address_check == AddressCheck::Warn => {
                tracing::warn!(%pod, reason = message, "a discovery stream from another address");
                metrics.tolerated_address();
                Ok(())
            }
            Err(Misfit::Address(message) | Misfit::Pod(message)) => Err(End::refused(&message)),
        }
    }
}

/// What a caller holds, and the newest of what that was made of. A resource of a kind that we do not know is of no concern to us: the
/// caller keeps it. `most`: of what is held.
pub(super) fn held(wire: Vec<Held>, most: usize) -> (HashMap<Name, Hash>, Vec<Source>) {
    let mut held = HashMap::new();
    // Whoever is ahead of us is so in what is newest, as a rule: where there is more, the proxy itself refuses what is older.
    let mut newest = BTreeSet::new();
    for one in wire {
        let Ok((name, version)) = name::held_from_wire(one) else {
            continue;
        };
        if held.len() < most {
            held.insert(Name::from(name), version.hash);
        }
        for source in version.sources {
            newest.insert((source.resource_version, source));
            if newest.len() > SOURCES_MAX {
                newest.pop_first();
            }
        }
    }
    let sources = newest.into_iter().map(|(_, source)| source).collect();
    (held, sources)
}

/// How many bytes that takes, about.
fn weight(held: &HashMap<Name, Hash>, sources: &[Source], targets: &[Target]) -> usize {
    let held = held.keys().map(|name| name.key.len());
    let sources = sources.iter().map(|one| one.object.len() + one.uid.len());
    let targets = targets.iter().map(|one| match one {
        Target::Address(_) => 0,
        Target::Host { host, .. } => host.len(),
    });
    let all = held.chain(sources).chain(targets);
    all.map(|bytes| WEIGHT + bytes).sum()
}

/// A pod as a caller names it. What cannot be its name, or its uid, is not kept, nor told.
fn claimed(pod: discovery::Pod) -> Result<discovery::Pod, End> {
    let lengths = [
        (pod.namespace.len(), NAMESPACE_MAX),
        (pod.name.len(), NAME_MAX),
        (pod.uid.len(), UID_MAX),
    ];
    match lengths.iter().all(|(length, most)| length <= most) {
        true => Ok(pod),
        false => Err(End::broken(
            "pod: its namespace has at most 63 bytes, its name 253, its uid 128",
        )),
    }
}

/// The first of them, as words for people, in room of their own.
pub(super) fn words(all: Vec<String>) -> Vec<String> {
    let mut words = Vec::with_capacity(all.len().min(WORDS_MAX));
    words.extend(all.into_iter().take(WORDS_MAX).map(word));
    words
}

/// A word for people.
pub(super) fn word(word: String) -> String {
    word.chars().filter(|c| !c.is_control()).take(WORD_MAX).collect()
}

/// Why a pod is not the caller's.
#[derive(Debug, PartialEq, Eq)]
enum Misfit {
    /// It is another, or has ended.
    Pod(String),
    /// It has another address than the caller.
    Address(String),
}

/// Whether this is the pod of the certificate, at the caller's address. Outer error: not yet, but a little later perhaps.
fn fits(
    pod: &index::Name,
    uid: &str,
    identity: &Identity,
    address: IpAddr,
    facts: Option<&PodFacts>,
) -> Result<Result<(), Misfit>, Misfit> {
    let Some(facts) = facts else {
        return Err(Misfit::Pod(format!("Pod {pod} is not known")));
    };
    if facts.uid != uid {
        let message = format!("Pod {pod} has the uid {}, not {uid:?}", facts.uid);
        return Err(Misfit::Pod(message));
    }
    if facts.service_account != identity.service_account() {
        let runs = &facts.service_account;
        let message = format!("Pod {pod} runs as {runs}, and the certificate is of {identity}");
        return Ok(Err(Misfit::Pod(message)));
    }
    if facts.finished {
        return Ok(Err(Misfit::Pod(format!("Pod {pod} has ended"))));
    }
    if facts.ips.is_empty() {
        return Err(Misfit::Address(format!("no address of Pod {pod} is known")));
    }
    if !facts.ips.contains(&address.to_canonical()) {
        let known: Vec<String> = facts.ips.iter().map(ToString::to_string).collect();
        let message = format!(
            "Pod {pod} has the address {}, and the caller {address}",
            known.join(" or ")
        );
        return Ok(Err(Misfit::Address(message)));
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use weft_model::version::Version;
    use weft_proto::resource::Kind;

    use super::*;

    #[test]
    fn of_what_a_caller_says_of_itself_no_more_is_kept_than_is_told() {
        let words = words(vec![String::new(); 1_000_000]);
        assert_eq!((words.len(), words.capacity()), (WORDS_MAX, WORDS_MAX));
        let one = |n: u64| {
            let source = |m: u64| Source {
                object: String::new(),
                uid: "a".to_owned(),
                resource_version: n * 10_000 + m,
            };
            let sources = (0..10_000).map(source).collect();
            let name = name::Name::new(Kind::Exported, format!("shop/s{n}:80"));
            name::held_to_wire(&name, &Version { hash: [7; 16], sources })
        };
        let (held, sources) = held((0..3).map(one).collect(), 2);
        assert_eq!((held.len(), sources.len()), (2, SOURCES_MAX));
        let newest = sources.iter().map(|source| source.resource_version);
        assert!(newest.eq(30_000 - SOURCES_MAX as u64..30_000));
        let pod = |uid: usize| discovery::Pod {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "\u{7f}".repeat(uid),
        };
        assert!(claimed(pod(128)).is_ok() && claimed(pod(129)).is_err());
    }

    #[test]
    fn all_that_a_caller_has_said_weighs_what_it_holds_what_that_was_made_of_and_where_it_goes() {
        let key = |bytes| HashMap::from([(Name::new(Kind::Service, "k".repeat(bytes)), [7; 16])]);
        let source = |bytes: usize| Source {
            object: "o".repeat(bytes),
            uid: "u".repeat(bytes),
            resource_version: 1,
        };
        let host = |bytes: usize| Target::Host {
            host: "h".repeat(bytes),
            port: 80,
        };
        assert_eq!(weight(&HashMap::new(), &[], &[]), 0);
        assert_eq!(weight(&key(100), &[], &[]), WEIGHT + 100);
        assert_eq!(weight(&HashMap::new(), &[source(100)], &[]), WEIGHT + 200);
        assert_eq!(weight(&HashMap::new(), &[], &[host(100)]), WEIGHT + 100);
        assert_eq!(weight(&key(1), &[source(1)], &[host(1)]), 3 * WEIGHT + 4);
    }

    #[test]
    fn a_pod_that_has_ended_or_has_no_address_yet_is_not_the_callers() {
        let trust_domain = weft_model::identity::TrustDomain::new("td").unwrap();
        let identity = Identity::new(trust_domain, "shop", "web").unwrap();
        let pod = index::Name::new("shop", "web-1");
        let address: IpAddr = "10.244.0.7".parse().unwrap();
        let facts = PodFacts {
            uid: "u".to_owned(),
            service_account: "web".to_owned(),
            ips: vec!["fd00::7".parse().unwrap(), address],
            finished: false,
        };
        let fits = |facts: &PodFacts| fits(&pod, "u", &identity, address, Some(facts));
        assert_eq!(fits(&facts), Ok(Ok(())));
        let finished = PodFacts {
            finished: true,
            ..facts.clone()
        };
        assert_eq!(
            fits(&finished),
            Ok(Err(Misfit::Pod("Pod shop/web-1 has ended".to_owned())))
        );
        let nowhere = PodFacts {
            ips: Vec::new(),
            ..facts
        };
        assert!(matches!(fits(&nowhere), Err(Misfit::Address(_))), "it may get one");
    }
}
