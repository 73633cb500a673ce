//! What is behind a backend, and how far it is from the caller.

use serde::Serialize;
use weft_model::destination::Service;
use weft_model::endpoint::{BackendPlace, Place};
use weft_model::locality::{Locality, Prefer};
use weft_model::route::Rule;

use super::{Backend, words};
use crate::compile;
use crate::index::Index;

/// Endpoints that are named in one tier; the others are counted.
const NAMED_MAX: usize = 20;

/// What is behind a backend.
#[derive(Clone, Debug, Serialize)]
pub struct Behind {
    /// Which places are preferred, in words.
    pub locality: String,
    /// The tiers that have endpoints, nearest first.
    pub tiers: Vec<Tier>,
}

/// Endpoints that are equally far from the caller.
#[derive(Clone, Debug, Serialize)]
pub struct Tier {
    /// 0: nearest.
    pub tier: u8,
    /// The places, in words.
    pub places: Vec<String>,
    /// Their share of the backend's traffic while all are well, in percent.
    pub percent: f64,
    /// How many there are, those that drain not counted.
    pub endpoints: usize,
    /// Their pods: at most a few.
    pub pods: Vec<String>,
}

/// The candidates of a rule.
pub(super) fn backends(index: &Index, service: &Service, rule: &Rule, here: &Place) -> Vec<Backend> {
    let total: u64 = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let backend = |backend: &weft_model::route::Backend| {
        let (unresolved, behind) = match &backend.place {
            BackendPlace::Unresolved(why) => (Some(why.clone()), None),
            BackendPlace::Endpoints(key) => (None, Some(behind(index, key, &service.locality, here))),
        };
        Backend {
            service: backend.service.to_string(),
            subset: backend.subset.clone(),
            weight: backend.weight,
            percent: match total {
                0 => 0.0,
                total => f64::from(backend.weight) * 100.0 / total as f64,
            },
            filters: words::filters(&backend.filters),
            unresolved,
            behind,
        }
    };
    rule.backends.iter().map(backend).collect()
}

/// The Service itself, where no rule acts.
pub(super) fn whole(index: &Index, service: &Service, here: &Place) -> Backend {
    Backend {
        service: service.port.to_string(),
        subset: String::new(),
        weight: 1,
        percent: 100.0,
        filters: Vec::new(),
        unresolved: None,
        behind: Some(behind(index, &service.endpoints, &service.locality, here)),
    }
}

fn behind(index: &Index, key: &str, locality: &Locality, here: &Place) -> Behind {
    let set = compile::endpoint_set(index, key).map(|set| set.value.endpoints);
    let mut endpoints: Vec<_> = set.unwrap_or_default();
    // Only when nothing else is left do those that drain take anything.
    if endpoints.iter().any(|endpoint| !endpoint.draining) {
        endpoints.retain(|endpoint| !endpoint.draining);
    }
    let mut tiers: Vec<Tier> = Vec::new();
    endpoints.sort_by_key(|endpoint| (locality.tier(here, &endpoint.place), endpoint.pod.clone()));
    for endpoint in &endpoints {
        let tier = locality.tier(here, &endpoint.place).0;
        if tiers.last().is_none_or(|last| last.tier != tier) {
            tiers.push(Tier {
                tier,
                places: Vec::new(),
                percent: 0.0,
                endpoints: 0,
                pods: Vec::new(),
            });
        }
        let Some(last) = tiers.last_mut() else { continue };
        last.endpoints += 1;
        let place = place(&endpoint.place);
        if !last.places.contains(&place) {
            last.places.push(place);
        }
        if last.pods.len() < NAMED_MAX {
            last.pods.push(format!("{}/{}", endpoint.namespace, endpoint.pod));
        }
    }
    let counts: Vec<(usize, usize)> = tiers.iter().map(|tier| (tier.endpoints, tier.endpoints)).collect();
    for (tier, share) in tiers.iter_mut().zip(locality.shares(&counts)) {
        tier.percent = f64::from(share) / 100.0;
    }
    Behind {
        locality: describe(locality),
        tiers,
    }
}

fn place(place: &Place) -> String {
    match (place.region.as_str(), place.zone.as_str()) {
        ("", "") => "nowhere in particular".to_owned(),
        (region, "") => region.to_owned(),
        (region, zone) => format!("{region}/{zone}"),
    }
}

fn describe(locality: &Locality) -> String {
    let prefer = match locality.prefer {
        Prefer::Zone => "the same zone, then the same region, then the rest",
        Prefer::Region => "the same region, then the rest",
        Prefer::None => return "no preference".to_owned(),
    };
    format!("{prefer}; spills over below {}% healthy", locality.spill_below_percent)
}
