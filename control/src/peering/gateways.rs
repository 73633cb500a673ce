//! Where a peer's gateways are: their names, looked up again and again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::kept::News;
use crate::objects::host_port::HostPort;
use crate::objects::peer::Peer;
use crate::serve::desk::Desk;

/// How often names are looked up, and what one look may take.
const AGAIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(3);
/// Addresses of one peer's gateways that proxies are told of.
const ADDRESSES_MAX: usize = 16;

/// Looks for a peer's gateways, for ever. What cannot be looked up now is where it was, also before this process began.
pub(super) async fn follow(peer: Peer, desk: Desk, news: News) {
    let mut told = Vec::new();
    let mut known: Vec<Vec<SocketAddr>> = vec![Vec::new(); peer.gateways.len()];
    loop {
        for (gateway, known) in peer.gateways.iter().zip(&mut known) {
            match addresses(gateway).await {
                Ok(found) => *known = found,
                Err(reason) => {
                    tracing::warn!(peer = peer.cluster, %gateway, reason, "a gateway's name does not resolve")
                }
            }
        }
        let all: BTreeSet<SocketAddr> = known.iter().flatten().copied().collect();
        let all: Vec<SocketAddr> = all.into_iter().take(ADDRESSES_MAX).collect();
        // Where none can be looked up, those that another look found still count.
        let knows = !all.is_empty() || peer.gateways.is_empty();
        if knows && desk.set_gateways(&peer.cluster, all.clone()).await.is_err() {
            return;
        }
        if knows && all != told {
            told = all;
            news.tell();
        }
        sleep(AGAIN).await;
    }
}

async fn addresses(gateway: &HostPort) -> Result<Vec<SocketAddr>, String> {
    let looked = timeout(LOOK, tokio::net::lookup_host(gateway.to_string())).await;
    let found = looked
        .map_err(|_| "it takes too long".to_owned())?
        .map_err(|error| error.to_string())?;
    Ok(found
        .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
        .collect())
}
