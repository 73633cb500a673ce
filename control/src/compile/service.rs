//! One port of a Service, as one client sees it: protocol, rules in order of precedence, locality.

use std::sync::Arc;

use weft_model::destination::{Protocol, Service};
use weft_model::endpoint::BackendPlace;
use weft_model::filter::Filters;
use weft_model::locality::Locality;
use weft_model::route::{Backend, Match, RetryBudget, Rule, Rules};
use weft_model::traffic::Balance;

use super::key::{ServiceKey, SetKey};
use super::ledger::Ledger;
use super::policies::{self, Terms};
use super::{Compiled, ports, rules, streams};
use crate::index::{Index, Topic, takes_routes};

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
    let import = index.import_behind(name);
    // What is said of a Service is said of its import, and both are known by its name.
    let known = import.as_ref().unwrap_or(name);
    ledger.topic(Topic::Service(known.clone()));
    let mut value = Service {
        port: rules::service_port(known, *port),
        protocol: Protocol::Undeclared,
        rules: None,
        streams: None,
        endpoints: SetKey {
            service: known.clone(),
            port: *port,
            subset: None,
            import: import.is_some(),
        }
        .to_string(),
        locality: Locality::default(),
        balance: Balance::default(),
        retry_budget: RetryBudget::default(),
    };
    let Some((object, service)) = &kept.valid else {
        return kept.hold().map(|_| ledger.close(value));
    };
    let declared = service.port(*port).filter(|_| !service.external)?;
    ledger.source(object);
    value.protocol = ports::of_service(index, name, service, declared, client.as_deref(), &mut ledger);
    let traffic = policies::traffic(index, name, &mut ledger);
    value.locality.clone_from(&traffic.locality);
    value.balance = traffic.balance;
    value.retry_budget = traffic.retry_budget;
    if takes_routes(service) {
        value.rules = rules::rules(
            index,
            (name, &traffic),
            (declared.port, &declared.name),
            client.as_deref(),
            &mut ledger,
        );
        value.streams = streams::streams(
            index,
            (name, &traffic),
            (declared.port, &declared.name),
            client.as_deref(),
            &mut ledger,
        );
        if value.rules.is_none() {
            let terms = policies::terms(index, name, None, &mut ledger);
            value.rules = everything(&value, terms);
        }
    }
    Some(ledger.close(value))
}

/// What a Service's policies say of requests where no route says anything: one rule for everything.
fn everything(value: &Service, terms: Terms) -> Option<Rules> {
    let opaque = matches!(value.protocol, Protocol::Opaque | Protocol::Tls);
    let (_, policy, _) = terms.said.first().filter(|_| !opaque)?;
    let rule = Rule {
        route: policy.clone(),
        index: 0,
        name: String::new(),
        matches: Match::default(),
        backends: vec![Backend {
            weight: 1,
            place: BackendPlace::Endpoints(value.endpoints.clone()),
            service: value.port.clone(),
            subset: String::new(),
            filters: Filters::default(),
            traffic: None,
        }],
        redirect: None,
        filters: Filters::default(),
        timeouts: terms.timeouts,
        retry: terms.retry,
    };
    Some(Rules {
        rules: vec![Arc::new(rule)],
    })
}
