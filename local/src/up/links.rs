//! Links between clusters, cut and healed: what a partition of networks does, for tests and demonstrations.
//!
//! In: an [`Order`] on the socket in a cluster's state directory. Out: the rules of [`crate::net::router`], and an answer.
//! Nothing outside of the sandbox is touched, and with the clusters every cut is gone.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Settings;
use crate::api::wire::Wire;
use crate::net::router::{Cuts, Router};
use crate::state::StateDir;

/// How long either side may take for its part of a conversation.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to become of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// One of the clusters: the one that is asked.
    pub from: String,
    /// The other one.
    pub to: String,
    /// Packets from the first to the second only.
    pub one_way: bool,
    /// Whether it is to be cut; else it is to be healed.
    pub cut: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    Refused(String),
}

struct Server {
    names: Vec<String>,
    router: Router,
    /// One order after the other: each puts rules in place of all.
    cuts: Mutex<Cuts>,
}

/// Listens in the state directory of each cluster, until what is returned is dropped.
pub(super) fn listen(all: &[Settings], router: Router) -> io::Result<JoinSet<()>> {
    let server = Arc::new(Server {
        names: names(all),
        router,
        cuts: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    for settings in all {
        let listener = bind(&settings.state.links())?;
        tasks.spawn(Arc::clone(&server).serve(listener));
    }
    Ok(tasks)
}

/// The names of the clusters, each at the place that is its number.
fn names(all: &[Settings]) -> Vec<String> {
    let numbered = all
        .iter()
        .filter_map(|settings| Some((settings.among.as_ref()?.number, &settings.mesh)));
    let mut numbered: Vec<_> = numbered.collect();
    numbered.sort();
    numbered.into_iter().map(|(_, name)| name.clone()).collect()
}

/// A socket for its owner only, in place of what an earlier cluster left there.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl Server {
    /// One conversation after the other: each is short.
    async fn serve(self: Arc<Self>, listener: UnixListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, at worst: the others need time to close theirs.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            if let Ok(Err(error)) = timeout(PATIENCE, self.converse(stream)).await {
                tracing::debug!(%error, "a conversation about links");
            }
        }
    }

    async fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let mut wire = Wire::new(stream);
        let Some((order, _)) = wire.receive::<Order>().await? else {
            return Ok(());
        };
        let answer = match self.carry_out(&order).await {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Refused(format!("{error:#}")),
        };
        wire.send(&answer, &[]).await
    }

    async fn carry_out(&self, order: &Order) -> Result<()> {
        let mut cuts = self.cuts.lock().await;
        let wanted = changed(&self.names, &cuts, order)?;
        // Before: what is begun goes on, also when whoever asked does not wait any more, and the next order counts on it.
        let before = std::mem::replace(&mut *cuts, wanted.clone());
        let Err(error) = self.router.cut(&wanted).await else {
            return Ok(());
        };
        *cuts = before;
        // One family of addresses may have taken it.
        if let Err(error) = self.router.cut(&cuts).await {
            tracing::warn!(%error, "a link may be cut or healed for one family of addresses only");
        }
        Err(error).context("changing the link")
    }
}

/// The cuts that there are once an order is carried out.
fn changed(names: &[String], cuts: &Cuts, order: &Order) -> Result<Cuts> {
    let number = |name: &String| {
        let at = names.iter().position(|known| known == name);
        at.and_then(|at| u8::try_from(at).ok())
            .with_context(|| format!("there is no cluster {name:?} beside: take one of {}", names.join(", ")))
    };
    let (from, to) = (number(&order.from)?, number(&order.to)?);
    if from == to {
        bail!("a link is between two clusters: name another than {:?}", order.to);
    }
    let mut cuts = cuts.clone();
    let ways = [(from, to), (to, from)];
    for way in &ways[..if order.one_way { 1 } else { 2 }] {
        match order.cut {
            true => cuts.insert(*way),
            false => cuts.remove(way),
        };
    }
    Ok(cuts)
}

/// Has an order carried out by the clusters that run. `state`: that of the first one it names.
///
/// # Errors
/// They don't run, or the order makes no sense; for people.
pub async fn order(state: &StateDir, order: &Order) -> Result<()> {
    let from = &order.from;
    let stream = UnixStream::connect(state.links()).await;
    let stream =
        stream.with_context(|| format!("no cluster {from:?} runs beside others: `weft up --cluster {from}`"))?;
    let mut wire = Wire::new(stream);
    let talk = async {
        wire.send(order, &[]).await?;
        wire.receive::<Answer>().await
    };
    match timeout(PATIENCE, talk).await.context("the clusters do not answer")?? {
        Some((Answer::Done, _)) => Ok(()),
        Some((Answer::Refused(why), _)) => bail!(why),
        None => bail!("the clusters have ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(cuts: &[(u8, u8)], from: &str, to: &str, one_way: bool, cut: bool) -> Result<Vec<(u8, u8)>, String> {
        let names = ["a", "b", "c"].map(str::to_owned);
        let order = Order {
            from: from.to_owned(),
            to: to.to_owned(),
            one_way,
            cut,
        };
        let changed = changed(&names, &cuts.iter().copied().collect(), &order);
        changed
            .map(|cuts| cuts.into_iter().collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_link_is_cut_in_both_directions_or_in_one_and_others_stay_as_they_are() {
        assert_eq!(after(&[], "a", "b", false, true), Ok(vec![(0, 1), (1, 0)]));
        assert_eq!(after(&[(1, 2)], "c", "a", true, true), Ok(vec![(1, 2), (2, 0)]));
        assert_eq!(
            after(&[(0, 1), (1, 0), (1, 2)], "b", "a", false, false),
            Ok(vec![(1, 2)])
        );
        assert_eq!(after(&[(0, 1), (1, 0)], "b", "a", true, false), Ok(vec![(0, 1)]));
    }

    #[test]
    fn what_is_done_already_changes_nothing() {
        assert_eq!(after(&[(0, 1)], "a", "b", true, true), Ok(vec![(0, 1)]));
        assert_eq!(after(&[], "a", "b", false, false), Ok(vec![]));
    }

    #[test]
    fn a_cluster_that_is_not_there_is_refused_with_those_that_are() {
        let said = after(&[], "a", "d", false, true).unwrap_err();
        assert!(said.contains("\"d\"") && said.contains("a, b, c"), "{said}");
        assert!(after(&[], "b", "b", false, true).unwrap_err().contains("two clusters"));
    }
}
