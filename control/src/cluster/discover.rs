//! Asks every other second which kinds the API server serves, so that a kind is honoured soon after its CRD has come.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::api::{Api, Fault};
use super::kinds::{Kind, Served};
use super::pause::Pause;
use super::shown::Shown;

/// The document has a tag: asking again costs next to nothing while nothing changes.
const SPACING: Duration = Duration::from_secs(2);

/// Asks for ever. While nothing is known, these kinds cannot be followed.
pub(super) async fn run(api: Api, served: watch::Sender<Option<Arc<Served>>>, kinds: Vec<Kind>, shown: Arc<Shown>) {
    let mut pause = Pause::default();
    let mut tag = None;
    loop {
        match ask(&api, tag.as_deref()).await {
            Ok(news) => {
                pause.reset();
                if let Some((now, new_tag)) = news {
                    tag = new_tag;
                    served.send_if_modified(|before| {
                        let changed = before.as_deref() != Some(&now);
                        *before = Some(Arc::new(now));
                        changed
                    });
                }
                tokio::time::sleep(SPACING).await;
            }
            Err(fault) => {
                if pause.is_first() {
                    tracing::warn!(error = %fault, "which kinds the API server serves is not known");
                }
                if served.borrow().is_none() {
                    kinds.iter().for_each(|kind| shown.failed(kind, &fault));
                }
                pause.wait().await;
            }
        }
    }
}

async fn ask(api: &Api, tag: Option<&str>) -> Result<Option<(Served, Option<String>)>, Fault> {
    let Some((document, tag)) = api.served(tag).await? else {
        return Ok(None);
    };
    let served = Served::read(&document).ok_or_else(|| Fault::Answer {
        what: "GET /apis".to_owned(),
        why: "no aggregated discovery, which API servers have since 1.26".to_owned(),
    })?;
    Ok(Some((served, tag)))
}
