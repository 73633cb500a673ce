//! Where a peer's gateways are: their names, looked up again and again; and whether they answer, as far as one can tell from here.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::kept::News;
use crate::objects::host_port::HostPort;
use crate::objects::peer::Peer;
use crate::serve::desk::Desk;
use crate::serve::hub::Tried;
use crate::serve::rate::Lines;

/// How often names are looked up and gateways are tried, and what one look may take.
const AGAIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(3);
/// How soon it is looked again after a gateway did not answer, for so many looks, and how soon from then on. Clusters that begin
/// together have theirs in a moment, and what was cut heals.
const SOON: Duration = Duration::from_secs(2);
const SOONS: u32 = 30;
const LATER: Duration = Duration::from_secs(4);
/// What one connection may take: proxies, too, give up after a second.
const CONNECT: Duration = Duration::from_secs(1);
/// Addresses of one name that are tried, one after the other.
const ADDRESSES: usize = 4;
/// Addresses of one peer's gateways that proxies are told of.
const ADDRESSES_MAX: usize = 16;

/// Looks for a peer's gateways, for ever. What cannot be looked up now is where it was, also before this process began.
/// `passes`: they are needed, and are tried as well.
pub(super) async fn follow(peer: Peer, passes: bool, desk: Desk, news: News) {
    let mut told = Vec::new();
    let mut known: Vec<Vec<SocketAddr>> = vec![Vec::new(); peer.gateways.len()];
    let mut reasons: Vec<String> = vec![String::new(); peer.gateways.len()];
    let mut lines: Vec<Lines> = vec![Lines::default(); peer.gateways.len()];
    let mut failed = 0_u32;
    loop {
        // At once: one name that is slow must not keep the others waiting. There are at most 16.
        let looked = join_all(peer.gateways.iter().map(addresses)).await;
        for (at, (gateway, looked)) in peer.gateways.iter().zip(&looked).enumerate() {
            if let Ok(found) = looked {
                known[at].clone_from(found);
            }
            let reason = looked.as_ref().err().cloned().unwrap_or_default();
            if reason != reasons[at] && lines[at].take(Instant::now()) {
                log(&peer.cluster, gateway, &reason);
                reasons[at] = reason;
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
        if passes {
            let tried = peer
                .gateways
                .iter()
                .zip(looked)
                .map(|(gateway, looked)| tried(gateway, looked));
            let tried = join_all(tried).await;
            failed = match tried.iter().all(|one| one.fault.is_empty()) {
                true => 0,
                false => failed.saturating_add(1),
            };
            if desk.tried(&peer.cluster, tried).await.is_err() {
                return;
            }
        }
        sleep(pause(failed)).await;
    }
}

/// Says what became of a name. `reason`: why it does not resolve, or nothing if it does again.
fn log(peer: &str, gateway: &HostPort, reason: &str) {
    match reason.is_empty() {
        true => tracing::info!(peer, %gateway, "a gateway's name resolves again"),
        false => tracing::warn!(peer, %gateway, reason, "a gateway's name does not resolve"),
    }
}

/// How long until the next look, after so many in a row of which something failed.
fn pause(failed: u32) -> Duration {
    match failed {
        0 => AGAIN,
        1..=SOONS => SOON,
        _ => LATER,
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

/// Tries one gateway: a connection, over which nothing is said. One of its addresses that answers is enough: those of a family
/// that is not here cannot. `looked`: what came of looking it up.
async fn tried(gateway: &HostPort, looked: Result<Vec<SocketAddr>, String>) -> Tried {
    let (fault, reason) = match looked {
        Err(reason) => ("name", reason),
        Ok(addresses) => match answers(&addresses).await {
            Ok(()) => ("", String::new()),
            Err(error) => ("port", error.to_string()),
        },
    };
    Tried {
        gateway: gateway.clone(),
        at: SystemTime::now(),
        fault,
        reason,
    }
}

async fn answers(addresses: &[SocketAddr]) -> io::Result<()> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses.iter().take(ADDRESSES) {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT:?}")),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn looked_and_tried(gateway: &str) -> Tried {
        let gateway: HostPort = gateway.parse().unwrap();
        let looked = addresses(&gateway).await;
        tried(&gateway, looked).await
    }

    #[tokio::test]
    async fn a_gateway_that_answers_a_port_that_is_closed_and_a_name_of_nobody_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let well = looked_and_tried(&address.to_string()).await;
        assert_eq!((well.fault, well.reason.as_str()), ("", ""));
        drop(listener);
        let closed = looked_and_tried(&address.to_string()).await;
        assert_eq!(closed.fault, "port");
        assert!(closed.reason.contains("refused"), "{}", closed.reason);
        assert_eq!(looked_and_tried("gateway.invalid:15443").await.fault, "name");
    }

    #[test]
    fn after_a_gateway_failed_it_is_looked_soon_and_less_soon_when_it_goes_on() {
        assert_eq!([0, 1, SOONS].map(pause), [AGAIN, SOON, SOON]);
        assert_eq!([SOONS + 1, u32::MAX].map(pause), [LATER, LATER]);
    }

    #[tokio::test]
    async fn one_address_of_a_gateway_that_answers_is_enough_and_none_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        assert!(answers(&[closed, open]).await.is_ok());
        assert!(answers(&[closed]).await.is_err());
        assert!(answers(&[]).await.is_err());
    }
}
