//! One port of a Service, as one client sees it: protocol, rules in order of precedence, locality.

use weft_model::destination::{Protocol, Service};
use weft_model::locality::Locality;
use weft_model::route::RetryBudget;

use super::key::{ServiceKey, SetKey};
use super::ledger::Ledger;
use super::{Compiled, ports, rules};
use crate::index::{Index, Name, Topic, takes_routes};

/// The port of a Service. `None`: there is none.
pub(super) fn service(index: &Index, key: &ServiceKey) -> Option<Compiled<Service>> {
    let mut ledger = Ledger::default();
    let ServiceKey {
        service: name,
        port,
        client,
    } = key;
    ledger.topic(Topic::Service(name.clone()));
    let kept = index.services.get(name)?;
    ledger.hold(kept.hold());
    let mut value = Service {
        port: rules::service_port(name, *port),
        protocol: Protocol::Undeclared,
        rules: None,
        endpoints: SetKey {
            service: name.clone(),
            port: *port,
            subset: None,
        }
        .to_string(),
        locality: Locality::default(),
        retry_budget: RetryBudget::default(),
    };
    let Some((object, service)) = &kept.valid else {
        return kept.hold().map(|_| ledger.close(value));
    };
    let declared = service.port(*port).filter(|_| !service.external)?;
    ledger.source(object);
    value.protocol = ports::of_service(index, name, service, declared, client.as_deref(), &mut ledger);
    value.locality = locality(index, name, &mut ledger);
    if takes_routes(service) {
        value.rules = rules::rules(
            index,
            name,
            (declared.port, &declared.name),
            client.as_deref(),
            &mut ledger,
        );
    }
    Some(ledger.close(value))
}

fn locality(index: &Index, service: &Name, ledger: &mut Ledger) -> Locality {
    for policy in index.policies_by_service.of(service) {
        ledger.hold(index.policies.get(policy).and_then(|kept| kept.hold()));
    }
    let acting = index
        .acting_policy(service)
        .and_then(|name| index.policies.get(name)?.valid.as_ref());
    let Some((object, policy)) = acting else {
        return Locality::default();
    };
    ledger.source(object);
    policy.locality.unwrap_or_default()
}
