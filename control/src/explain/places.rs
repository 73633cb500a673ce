//! What is behind a backend, and how far it is from the caller.

use serde::Serialize;
use weft_model::destination::Service;
use weft_model::endpoint::{BackendPlace, Endpoint, Place};
use weft_model::locality::{self, Locality, Prefer, Share};
use weft_model::name::ServicePort;
use weft_model::route::RetryBudget;
use weft_model::traffic::Traffic;

use super::{Backend, Said, said, words};
use crate::compile::{self, policies};
use crate::index::{Index, Name, Part};

/// Endpoints that are named in one tier; the others are counted.
const NAMED_MAX: usize = 20;

/// What is behind a backend.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Behind {
    /// Which places are preferred, in words.
    pub locality: String,
    /// Who says so. `None`: nobody, it is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// How an endpoint is chosen within a place.
    pub balancer: &'static str,
    /// How much retries may add, in words.
    pub retry_budget: String,
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
    /// Their pods, each of another cluster with its name: at most a few.
    pub pods: Vec<String>,
}

/// Candidates.
pub(super) fn backends(
    index: &Index,
    service: &Service,
    all: &[weft_model::route::Backend],
    here: &Place,
) -> Vec<Backend> {
    let total: u64 = all.iter().map(|backend| u64::from(backend.weight)).sum();
    let called = service.traffic();
    let backend = |backend: &weft_model::route::Backend| {
        let (unresolved, behind) = match &backend.place {
            BackendPlace::Unresolved(why) => (Some(why.clone()), None),
            BackendPlace::Endpoints(key) => {
                let traffic = backend.traffic.as_deref().unwrap_or(&called);
                (None, Some(behind(index, (&backend.service, key), traffic, here)))
            }
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
    all.iter().map(backend).collect()
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
        behind: Some(behind(
            index,
            (&service.port, &service.endpoints),
            &service.traffic(),
            here,
        )),
    }
}

fn behind(index: &Index, (port, key): (&ServicePort, &str), traffic: &Traffic, here: &Place) -> Behind {
    let locality = &traffic.locality;
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
        let place = place(&endpoint.place, here);
        if !last.places.contains(&place) {
            last.places.push(place);
        }
        if last.pods.len() < NAMED_MAX {
            last.pods.push(pod(endpoint, here));
        }
    }
    let well = tiers
        .iter()
        .map(|tier| (locality::Tier(tier.tier), tier.endpoints, tier.endpoints));
    let shares = locality.split(here, &well.collect::<Vec<_>>());
    for (tier, share) in tiers.iter_mut().zip(shares) {
        tier.percent = f64::from(share) / 100.0;
    }
    let service = policies::service_object(&Name::new(port.namespace.as_str(), port.name.as_str()));
    let acting = index.acting(&service, None, Part::Locality);
    let RetryBudget {
        percent,
        interval,
        min_retries,
        min_interval,
    } = traffic.retry_budget;
    Behind {
        locality: describe(locality, here),
        said: acting.map(|(policy, _)| said(index, &policy.reference(), "spec.locality")),
        balancer: traffic.balance.as_str(),
        retry_budget: format!("{percent}% of {interval:?}, or {min_retries} in {min_interval:?}"),
        tiers,
    }
}

fn place(place: &Place, here: &Place) -> String {
    let within = match (place.region.as_str(), place.zone.as_str()) {
        ("", "") => "nowhere in particular".to_owned(),
        (region, "") => region.to_owned(),
        (region, zone) => format!("{region}/{zone}"),
    };
    format!("{within}{}", of_cluster(place, here))
}

/// A pod's name, with its cluster where that is another one.
pub(super) fn pod(endpoint: &Endpoint, here: &Place) -> String {
    let cluster = of_cluster(&endpoint.place, here);
    format!("{}/{}{cluster}", endpoint.namespace, endpoint.pod)
}

fn of_cluster(place: &Place, here: &Place) -> String {
    match place.cluster == here.cluster {
        true => String::new(),
        false => format!(" of cluster {}", place.cluster),
    }
}

fn describe(locality: &Locality, here: &Place) -> String {
    let spills = locality.spill_below_percent;
    if let Some(shares) = locality.distribution(here) {
        let share = |share: &Share| match share.zone.as_str() {
            "" => format!("{} {}", share.region, share.weight),
            zone => format!("{}/{zone} {}", share.region, share.weight),
        };
        let shares: Vec<String> = shares.iter().map(share).collect();
        return format!("by weight: {}; less below {spills}% healthy", shares.join(", "));
    }
    let failover = match locality.failover.is_empty() {
        true => String::new(),
        false => format!("then {}, ", locality.failover.join(", then ")),
    };
    let prefer = match locality.prefer {
        Prefer::Zone => "the same zone, then the same region",
        Prefer::Region => "the same region",
        Prefer::None => return "no preference".to_owned(),
    };
    format!("{prefer}, {failover}then the rest; spills over below {spills}% healthy")
}
