//! How traffic to a Service is spread: locality, choice of endpoint, retry budget.

use weft_model::locality::{Distribution, Locality, Prefer, Share};
use weft_model::traffic::{Balance, Traffic};

use super::field::{self, FieldError};
use super::filter;
use crate::discovery;

/// Reads what a backend's own Service says.
pub(super) fn decode(wire: discovery::Traffic) -> Result<Traffic, FieldError> {
    Ok(Traffic {
        locality: decode_locality(wire.locality).map_err(|error| error.within("locality"))?,
        balance: decode_balance(wire.balance)?,
        retry_budget: filter::decode_budget(wire.retry_budget).map_err(|error| error.within("retry_budget"))?,
    })
}

/// Writes what a backend's own Service says.
pub(super) fn encode(traffic: &Traffic) -> discovery::Traffic {
    discovery::Traffic {
        locality: Some(encode_locality(&traffic.locality)),
        balance: encode_balance(traffic.balance) as i32,
        retry_budget: Some(filter::encode_budget(&traffic.retry_budget)),
    }
}

/// Reads how an endpoint is chosen.
pub(super) fn decode_balance(wire: i32) -> Result<Balance, FieldError> {
    match discovery::Balance::try_from(wire) {
        Ok(discovery::Balance::PeakEwma) => Ok(Balance::PeakEwma),
        Ok(discovery::Balance::LeastRequest) => Ok(Balance::LeastRequest),
        Ok(discovery::Balance::RoundRobin) => Ok(Balance::RoundRobin),
        Ok(discovery::Balance::Random) => Ok(Balance::Random),
        Err(_) => Err(unknown("balance", wire)),
    }
}

/// Writes how an endpoint is chosen.
pub(super) fn encode_balance(balance: Balance) -> discovery::Balance {
    match balance {
        Balance::PeakEwma => discovery::Balance::PeakEwma,
        Balance::LeastRequest => discovery::Balance::LeastRequest,
        Balance::RoundRobin => discovery::Balance::RoundRobin,
        Balance::Random => discovery::Balance::Random,
    }
}

/// Reads a preference for places. None is the default.
pub(super) fn decode_locality(wire: Option<discovery::Locality>) -> Result<Locality, FieldError> {
    let Some(wire) = wire else {
        return Ok(Locality::default());
    };
    let prefer = match discovery::Prefer::try_from(wire.prefer) {
        Ok(discovery::Prefer::Zone) => Prefer::Zone,
        Ok(discovery::Prefer::Region) => Prefer::Region,
        Ok(discovery::Prefer::None) => Prefer::None,
        Err(_) => return Err(unknown("prefer", wire.prefer)),
    };
    let spill_below_percent = wire.spill_below_percent;
    if !(1..=100).contains(&spill_below_percent) {
        let reason = format!("must be from 1 to 100, and is {spill_below_percent}");
        return Err(FieldError::new("spill_below_percent", reason));
    }
    Ok(Locality {
        prefer,
        spill_below_percent,
        failover: field::list("failover", wire.failover, field::PLACES_MAX, |region| {
            field::word("", region)
        })?,
        distribute: field::list("distribute", wire.distribute, field::PLACES_MAX, decode_distribution)?,
    })
}

/// Writes a preference for places.
pub(super) fn encode_locality(locality: &Locality) -> discovery::Locality {
    let prefer = match locality.prefer {
        Prefer::Zone => discovery::Prefer::Zone,
        Prefer::Region => discovery::Prefer::Region,
        Prefer::None => discovery::Prefer::None,
    };
    let share = |share: &Share| discovery::Share {
        region: share.region.clone(),
        zone: share.zone.clone(),
        weight: share.weight,
    };
    let distribute = locality.distribute.iter().map(|each| discovery::Distribution {
        from: each.from.clone(),
        to: each.to.iter().map(share).collect(),
    });
    discovery::Locality {
        prefer: prefer as i32,
        spill_below_percent: locality.spill_below_percent.clamp(1, 100),
        failover: locality.failover.clone(),
        distribute: distribute.collect(),
    }
}

fn decode_distribution(wire: discovery::Distribution) -> Result<Distribution, FieldError> {
    Ok(Distribution {
        from: field::word("from", wire.from)?,
        to: field::list("to", wire.to, field::PLACES_MAX, |share| {
            field::at_most("weight", share.weight as usize, field::WEIGHT_MAX as usize)?;
            Ok(Share {
                region: field::word("region", share.region)?,
                zone: field::word("zone", share.zone)?,
                weight: share.weight,
            })
        })?,
    })
}

fn unknown(field: &str, number: i32) -> FieldError {
    FieldError::new(field, format!("is {number}, which this proxy does not know"))
}
