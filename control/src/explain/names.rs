//! What a name leads to before anything of the mesh is asked: DNS follows external names, and gives out the addresses of a
//! headless Service's pods.

use std::collections::BTreeSet;

use serde_json::Value;
use weft_model::destination::{Lookup, Target};
use weft_model::endpoint::{Endpoint, Place};

use super::{Explanation, Verdict, places, words};
use crate::compile;
use crate::index::Index;

/// External names that are followed one after the other. They may go round in a circle.
const ALIASES_MAX: usize = 8;
/// Pods that are named; the others are counted.
const NAMED_MAX: usize = 12;

/// Follows Services of type ExternalName, and says how. `None`: the last of them leads out of the cluster.
pub(super) fn follow(index: &Index, target: &Target, namespace: &str) -> (Option<Target>, Vec<String>) {
    let domain = &index.settings.cluster_domain;
    let (mut target, mut aliases) = (target.clone(), Vec::new());
    while let Target::Host { host, port } = &target {
        let service = compile::service_of_host(host, namespace, domain);
        let kept = service.and_then(|name| Some((index.services.get(&name)?.valid.as_ref()?, name)));
        let Some(((object, _), name)) = kept.filter(|((_, service), _)| service.external) else {
            break;
        };
        let written = object.raw.pointer("/spec/externalName").and_then(Value::as_str);
        let next = written.unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        aliases.push(format!("the Service {name} is another name for {next}"));
        // A name in DNS is a whole name: no search domain completes it.
        let inside = next
            .strip_suffix(domain.as_str())
            .is_some_and(|front| front.ends_with('.'));
        if !inside || aliases.len() >= ALIASES_MAX {
            return (None, aliases);
        }
        target = Target::Host {
            host: next,
            port: *port,
        };
    }
    (Some(target), aliases)
}

/// Answers for the name of a headless Service, or of one of its pods: nobody is asked where a client goes that dials a pod's
/// address. False: it is no such name.
pub(super) fn headless(
    index: &Index,
    target: &Target,
    (namespace, here): (&str, &Place),
    into: &mut Explanation,
) -> bool {
    let Target::Host { host, port } = target else {
        return false;
    };
    let domain = &index.settings.cluster_domain;
    let whole = compile::service_of_host(host, namespace, domain).filter(|name| index.services.contains_key(name));
    let (name, pod) = match (whole, host.split_once('.')) {
        (Some(name), _) => (name, None),
        (None, Some((pod, service))) => match compile::service_of_host(service, namespace, domain) {
            Some(name) => (name, Some(pod)),
            None => return false,
        },
        (None, None) => return false,
    };
    let is_headless = index.services.get(&name).and_then(|kept| kept.form());
    if !is_headless.is_some_and(|service| service.headless) {
        return false;
    }
    let derived_of = index.import_behind(&name);
    // Before a derived Service's name is the cluster, too.
    let is_called = |endpoint: &Endpoint| derived_of.is_some() || pod.is_none_or(|pod| endpoint.pod == pod);
    let own = || index.is_of_import_alone(&name).then(|| name.clone());
    if let Some(import) = derived_of.clone().or_else(own) {
        // Its name has the pods of all clusters that export it, but for those whose addresses mean nothing here.
        let set = compile::endpoint_set(index, &compile::import_key(&import, *port));
        let endpoints = set.map(|set| set.value.endpoints).unwrap_or_default();
        let pods: BTreeSet<String> = endpoints
            .iter()
            .filter(|endpoint| !endpoint.draining && endpoint.gateways.is_none() && is_called(endpoint))
            .map(|endpoint| places::pod(endpoint, here))
            .collect();
        into.service = Some(import.to_string());
        let number = pods.len();
        let pods = pods.into_iter().take(NAMED_MAX).collect();
        into.verdict = Verdict::OneOf { pods, number };
        return true;
    }
    let slices = index
        .slices_by_service
        .of(&name)
        .filter_map(|slice| index.slices.get(slice)?.form());
    let endpoints = slices
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.ready);
    let of_pod = |wanted: &Option<&str>, at: &Option<String>| wanted.is_none_or(|wanted| at.as_deref() == Some(wanted));
    let mut found: Vec<(String, std::net::IpAddr)> = endpoints
        .filter(|endpoint| of_pod(&pod, &endpoint.pod.as_ref().map(|pod| pod.name.clone())))
        .map(|endpoint| match &endpoint.pod {
            Some(pod) => (format!("{}/{}", pod.namespace, pod.name), endpoint.address),
            None => (endpoint.address.to_string(), endpoint.address),
        })
        .collect();
    found.sort();
    found.dedup_by(|a, b| a.0 == b.0);
    into.service = Some(name.to_string());
    let first = found
        .first()
        .map(|(_, ip)| compile::lookup(index, &Target::Address((*ip, *port).into()), namespace));
    if let Some(Some(Lookup::Direct { protocol, .. })) = first.map(|compiled| compiled.value) {
        into.protocol = Some(words::protocol(protocol));
    }
    let number = found.len();
    let pods = found.into_iter().take(NAMED_MAX).map(|(pod, _)| pod).collect();
    into.verdict = Verdict::OneOf { pods, number };
    true
}
