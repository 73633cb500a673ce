//! Connect, through a gateway: to an endpoint of a network that ours does not reach.
//!
//! In: an endpoint and the gateways that it is behind. Out: what [`super::reach`] promises, through one gateway or the
//! next. Who is to blame is told by how it went: a gateway that does not answer is; one that leads nowhere is where another
//! has led to the endpoint, and else the endpoint is.

use std::rc::Rc;

use tokio::task::spawn_local;
use tokio::time::Instant;
use weft_model::destination::Target;

use crate::balance::Remote;
use crate::balance::gateways::{Gateway, Gateways};
use crate::connect::{Carries, ConnectError};
use crate::mtls::Hop;
use crate::outbound::reach::{Fault, Reached, Way};
use crate::worker::Worker;

/// Gateways that one attempt at an endpoint tries at most.
const TRIES: usize = 3;

/// Connects through one gateway after the other. Health of the gateways has heard how it went. Not cancel safe.
pub(super) async fn through(way: Way<'_>, gateways: &Gateways) -> Result<Reached, Fault> {
    let endpoints = &way.worker.endpoints;
    // So that no connection has to wait for a gateway that may still be gone.
    if let Some(due) = gateways.due_for_probe(Instant::now()) {
        probe(way.worker, way.target, way.remote, due);
    }
    let mut tried: Vec<Rc<Gateway>> = Vec::with_capacity(TRIES);
    let mut led_nowhere: Vec<(Rc<Gateway>, Fault)> = Vec::new();
    let mut last = Fault::Dial(ConnectError::Refused);
    while tried.len() < TRIES {
        let Some(gateway) = gateways.pick(&tried, &endpoints.chance) else {
            break;
        };
        tried.push(gateway.clone());
        let dialling = gateway.dialling();
        let opened = way.open(gateway.address).await;
        drop(dialling);
        let now = Instant::now();
        let fault = match opened {
            Ok(reached) => {
                way.remote.went_through(&endpoints.metrics, None);
                endpoints.gateway_connected(&gateway, now);
                for (other, fault) in led_nowhere {
                    blame(way.worker, &other, fault, now);
                }
                return Ok(reached);
            }
            Err(fault @ Fault::Own(_)) => return Err(fault),
            Err(fault) => fault,
        };
        way.remote
            .went_through(&endpoints.metrics, Some(fault.error().reason()));
        tracing::debug!(gateway = %gateway.address, error = %fault.error(), "connect through a gateway failed");
        match fault {
            Fault::Shake(_) => led_nowhere.push((gateway, fault)),
            Fault::Own(_) | Fault::Dial(_) => blame(way.worker, &gateway, fault, now),
        }
        // What an endpoint may be to blame for says more than that a gateway is gone.
        if led_nowhere.is_empty() || matches!(fault, Fault::Shake(_)) {
            last = fault;
        }
    }
    Err(last)
}

fn blame(worker: &Worker, gateway: &Gateway, fault: Fault, now: Instant) {
    if let Some(failure) = fault.proves() {
        worker
            .endpoints
            .gateway_failed(gateway, failure, fault.error().reason(), now);
    }
}

/// Connects to an endpoint through a gateway that has been left alone for long enough.
pub(super) fn probe(worker: &Rc<Worker>, target: &Target, remote: &Rc<Remote>, gateway: Rc<Gateway>) {
    let (worker, target, remote) = (worker.clone(), target.clone(), remote.clone());
    spawn_local(async move {
        let Some(expected) = &remote.endpoint.identity else {
            return worker.endpoints.gateway_untried(&gateway, Instant::now());
        };
        let way = Way {
            worker: &worker,
            target: &target,
            remote: &remote,
            expected,
            hop: Hop::H1,
            carries: Carries::Heads,
        };
        // The connection itself is of no use.
        let fault = way.open(gateway.address).await.err();
        let now = Instant::now();
        match shown(fault) {
            Shown::Well => worker.endpoints.gateway_connected(&gateway, now),
            Shown::Untried => worker.endpoints.gateway_untried(&gateway, now),
            Shown::Nothing => worker.endpoints.gateway_unclear(&gateway, now),
            Shown::Gone(fault) => blame(&worker, &gateway, fault, now),
        }
    });
}

/// What a probe has shown of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Well,
    /// It was not asked.
    Untried,
    Nothing,
    Gone(Fault),
}

/// What a probe that ended so has shown of the gateway, whatever it has of the endpoint.
fn shown(fault: Option<Fault>) -> Shown {
    match fault {
        Some(Fault::Own(_)) => Shown::Untried,
        Some(fault @ Fault::Dial(_)) => Shown::Gone(fault),
        // The endpoint may be who says nothing or breaks off, or the gateway for it, and another one is asked for the next time. Or what
        // accepts is a load balancer that has no gateway behind it.
        Some(Fault::Shake(ConnectError::Timeout | ConnectError::Closed)) => Shown::Nothing,
        // It has passed it on.
        None | Some(Fault::Shake(_)) => Shown::Well,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_blamed_where_it_cannot_be_dialled_and_never_for_an_endpoint() {
        for error in [ConnectError::Refused, ConnectError::Timeout] {
            assert_eq!(shown(Some(Fault::Dial(error))), Shown::Gone(Fault::Dial(error)));
        }
        for error in [ConnectError::Identity, ConnectError::Tls] {
            assert_eq!(shown(Some(Fault::Shake(error))), Shown::Well);
        }
        assert_eq!(shown(None), Shown::Well);
    }

    #[test]
    fn a_probe_that_hears_nothing_or_is_broken_off_or_was_not_made_shows_nothing() {
        for error in [ConnectError::Timeout, ConnectError::Closed] {
            assert_eq!(shown(Some(Fault::Shake(error))), Shown::Nothing);
        }
        let not_made = Fault::Own(ConnectError::NoCertificate);
        assert_eq!(shown(Some(not_made)), Shown::Untried);
    }
}
