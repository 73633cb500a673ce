//! The first message of a stream: who calls, and what it has.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use weft_model::identity::Identity;
use weft_model::version::Source;
use weft_proto::discovery::{FromProxy, from_proxy::Message};
use weft_proto::resource::name;

use super::{End, Stream, read_targets, unread};
use crate::index;
use crate::serve::desk::PodFacts;
use crate::serve::hub::{Join, Who};
use crate::serve::metrics::Ended;
use crate::serve::wire::Name;

/// A caller that opens a stream says Hello at once.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// Names of features and builds that are kept for status.
const WORDS_MAX: usize = 64;
const WORD_MAX: usize = 128;

impl Stream {
    /// Reads and checks the first message.
    pub(super) async fn hello(&mut self) -> Result<(Join, Vec<Source>), End> {
        let first = timeout(HELLO_WAIT, self.messages.message());
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
        let claimed = hello.pod.unwrap_or_default();
        let pod = index::Name {
            namespace: claimed.namespace,
            name: claimed.name,
        };
        self.check_pod(&pod, &claimed.uid).await?;
        self.discovery.may_open(&pod)?;
        let mut held = HashMap::with_capacity(hello.held.len());
        let mut sources = Vec::new();
        for one in hello.held {
            // A resource of a kind that we do not know is of no concern to us: the proxy keeps it.
            let Ok((name, version)) = name::held_from_wire(one) else {
                continue;
            };
            held.insert(Name::from(name), version.hash);
            sources.extend(version.sources);
        }
        let targets = read_targets(hello.targets, self.discovery.rules.targets_max)?;
        let word = |word: String| {
            word.chars()
                .filter(|c| !c.is_control())
                .take(WORD_MAX)
                .collect::<String>()
        };
        let who = Who {
            pod,
            uid: claimed.uid,
            build: word(hello.build),
            features: hello.features.into_iter().take(WORDS_MAX).map(word).collect(),
            since: SystemTime::now(),
        };
        Ok((
            Join {
                who,
                epoch: hello.epoch,
                held: held.into_iter().collect(),
                targets,
            },
            sources,
        ))
    }

    /// The pod must exist, with this uid, and run as the service account of the certificate.
    async fn check_pod(&self, pod: &index::Name, uid: &str) -> Result<(), End> {
        let identity = &self.leaf.identity;
        if pod.namespace != identity.namespace() {
            return Err(End::refused(&format!(
                "Pod {pod} is not of the namespace of {identity}"
            )));
        }
        let fits = |facts: Option<PodFacts>| fits(pod, uid, identity, facts.as_ref());
        let patience = self.discovery.rules.pod_wait;
        let fitted = self
            .discovery
            .desk
            .wait_for_pod(&pod.namespace, &pod.name, patience, fits)
            .await?;
        fitted.map_err(|message| End::refused(&message))
    }
}

/// Whether this is the pod of the certificate. Outer error: not yet, but a little later perhaps.
fn fits(
    pod: &index::Name,
    uid: &str,
    identity: &Identity,
    facts: Option<&PodFacts>,
) -> Result<Result<(), String>, String> {
    let Some(facts) = facts else {
        return Err(format!("Pod {pod} is not known"));
    };
    if facts.uid != uid {
        return Err(format!("Pod {pod} has the uid {}, not {uid:?}", facts.uid));
    }
    if facts.service_account != identity.service_account() {
        return Ok(Err(format!(
            "Pod {pod} runs as {}, and the certificate is of {identity}",
            facts.service_account
        )));
    }
    Ok(Ok(()))
}
