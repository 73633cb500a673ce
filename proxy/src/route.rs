//! Route: where a request goes, resolved.
//!
//! In: what discovery says. Out: tables in which every reference is followed already, so that a request only matches, draws
//! and indexes. Made anew by each worker when the state changes; what did not change is kept, and with it everything that is
//! known of endpoints.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use weft_model::destination::{Lookup, Protocol, Service as ServiceModel};
use weft_model::endpoint::{BackendPlace, Endpoint, EndpointKey, EndpointSet, Place};
use weft_model::inbound::Inbound;
use weft_model::locality::Locality;
use weft_model::name::ServicePort;
use weft_model::reason::Reason;
use weft_model::route::{RequestHead, Rule as RuleModel};

use crate::balance::{Balancer, Endpoints};
use crate::discover::State;
use crate::observe::metrics::route_template;

/// One worker's tables, for one state.
#[derive(Debug)]
pub struct Tables {
    /// The state that they were made of. Its inbound configuration and its leaf belong to the same moment.
    pub state: Arc<State>,
    endpoints: Rc<Endpoints>,
    here: Place,
    services: HashMap<String, Rc<Service>>,
    balancers: HashMap<String, Vec<(Locality, Rc<Balancer>)>>,
    templates: HashMap<String, Rc<str>>,
    /// Pods that were addressed directly.
    direct: RefCell<HashMap<EndpointKey, Rc<Service>>>,
}

/// A port of a Service, or a pod addressed directly, with every reference followed.
#[derive(Debug)]
pub struct Service {
    /// What is declared of it.
    pub protocol: Protocol,
    /// `None`: a pod addressed directly.
    model: Option<Arc<ServiceModel>>,
    rules: Option<Vec<Rule>>,
    /// Where everything goes without routes, and opaque streams always.
    default: Option<Rc<Balancer>>,
    no_template: Rc<str>,
}

/// One rule.
#[derive(Debug)]
struct Rule {
    model: Arc<RuleModel>,
    template: Rc<str>,
    /// In the order of the model's backends. `None`: does not resolve.
    backends: Vec<Option<Rc<Balancer>>>,
}

/// What is at a destination.
#[derive(Clone, Debug)]
pub enum Found {
    /// Something of the mesh, or known to it.
    Service(Rc<Service>),
    /// Nothing of the mesh.
    Outside,
}

/// Where one request goes.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The endpoints.
    pub balancer: Rc<Balancer>,
    /// The rule's path template, or empty.
    pub template: Rc<str>,
}

impl Tables {
    /// Tables of a state, with what `previous` knows.
    pub fn new(endpoints: &Rc<Endpoints>, state: Arc<State>, previous: Option<&Self>) -> Self {
        let here = state
            .inbound()
            .map(|inbound| inbound.workload.place.clone())
            .unwrap_or_default();
        // Tiers depend on where this pod runs; that is told once, so starting over then costs nothing.
        let previous = previous.filter(|previous| previous.here == here);
        let mut tables = Self {
            endpoints: endpoints.clone(),
            here,
            services: HashMap::new(),
            balancers: HashMap::new(),
            templates: previous.map(|previous| previous.templates.clone()).unwrap_or_default(),
            direct: RefCell::default(),
            state: state.clone(),
        };
        tables.templates.entry(String::new()).or_insert_with(|| Rc::from(""));
        for (key, held) in &state.services {
            let service = tables.service(&held.value, previous, previous.and_then(|p| p.services.get(key)));
            tables.services.insert(key.clone(), service);
        }
        if let Some(previous) = previous {
            tables.keep_direct(previous);
            let used: Vec<&Rc<str>> = tables
                .services
                .values()
                .flat_map(|s| s.rules.iter().flatten())
                .map(|r| &r.template)
                .collect();
            let keep: Vec<String> = used.into_iter().map(|template| template.to_string()).collect();
            tables
                .templates
                .retain(|template, _| template.is_empty() || keep.contains(template));
        }
        endpoints.sweep();
        tables
    }

    /// What this pod accepts, if that is known yet.
    pub fn inbound(&self) -> Option<&Arc<Inbound>> {
        self.state.inbound()
    }

    /// Follows an answer of discovery. `None`: what it refers to is gone, so it has to be looked up again.
    pub fn find(&self, lookup: &Lookup) -> Result<Option<Found>, Reason> {
        match lookup {
            Lookup::Service(key) => Ok(self.services.get(key).cloned().map(Found::Service)),
            Lookup::Direct { endpoint, protocol } => Ok(Some(Found::Service(self.direct(endpoint, *protocol)))),
            Lookup::Outside { .. } => Ok(Some(Found::Outside)),
            Lookup::NoSuchPort { .. } => Err(Reason::NoSuchPort),
        }
    }

    fn service(&mut self, model: &Arc<ServiceModel>, old: Option<&Self>, known: Option<&Rc<Service>>) -> Rc<Service> {
        let default = self.balancer(&model.endpoints, model.locality, old);
        let rules = model.rules.as_ref().map(|rules| {
            let rules = rules.rules.iter().map(|rule| self.rule(rule, model.locality, old));
            rules.collect::<Vec<_>>()
        });
        let service = Service {
            protocol: model.protocol,
            model: Some(model.clone()),
            rules,
            default,
            no_template: self.template(String::new()),
        };
        match known {
            Some(known) if known.same(&service) => known.clone(),
            _ => Rc::new(service),
        }
    }

    fn rule(&mut self, model: &Arc<RuleModel>, locality: Locality, old: Option<&Self>) -> Rule {
        let backends = model.backends.iter().map(|backend| match &backend.place {
            BackendPlace::Endpoints(key) => self.balancer(key, locality, old),
            BackendPlace::Unresolved(_) => None,
        });
        let backends = backends.collect();
        Rule {
            model: model.clone(),
            template: self.template(route_template(&model.matches)),
            backends,
        }
    }

    fn template(&mut self, template: String) -> Rc<str> {
        self.templates
            .entry(template)
            .or_insert_with_key(|template| Rc::from(template.as_str()))
            .clone()
    }

    fn balancer(&mut self, key: &str, locality: Locality, old: Option<&Self>) -> Option<Rc<Balancer>> {
        let with = |balancers: &HashMap<String, Vec<(Locality, Rc<Balancer>)>>| {
            let same = balancers.get(key)?.iter().find(|(known, _)| *known == locality);
            same.map(|(_, balancer)| balancer.clone())
        };
        if let Some(made) = with(&self.balancers) {
            return Some(made);
        }
        let set = self.state.endpoint_set(key)?.clone();
        let known = old.and_then(|old| with(&old.balancers));
        let balancer = match known {
            Some(known) if Arc::ptr_eq(&known.set, &set) => known,
            known => {
                let service = ServicePort {
                    namespace: set.namespace.clone(),
                    name: set.service.clone(),
                    port: set.port,
                };
                let service = Some(service);
                Rc::new(Balancer::new(
                    &self.endpoints,
                    set,
                    service,
                    locality,
                    &self.here,
                    known.as_deref(),
                ))
            }
        };
        self.balancers
            .entry(key.to_owned())
            .or_default()
            .push((locality, balancer.clone()));
        Some(balancer)
    }

    fn direct(&self, endpoint: &Arc<Endpoint>, protocol: Protocol) -> Rc<Service> {
        let mut direct = self.direct.borrow_mut();
        if let Some(known) = direct.get(&endpoint.key)
            && known.protocol == protocol
            && known
                .default
                .as_ref()
                .is_some_and(|balancer| *balancer.set.endpoints[0] == **endpoint)
        {
            return known.clone();
        }
        let set = EndpointSet {
            namespace: endpoint.namespace.clone(),
            service: String::new(),
            port: endpoint.key.port,
            subset: String::new(),
            endpoints: vec![endpoint.clone()],
        };
        let locality = Locality::default();
        let balancer = Balancer::new(&self.endpoints, Arc::new(set), None, locality, &self.here, None);
        let service = Rc::new(Service {
            protocol,
            model: None,
            rules: None,
            default: Some(Rc::new(balancer)),
            no_template: self.templates.get("").cloned().unwrap_or_else(|| Rc::from("")),
        });
        direct.insert(endpoint.key, service.clone());
        service
    }

    /// Pods addressed directly are kept, with their pools, as long as discovery follows them.
    fn keep_direct(&self, previous: &Self) {
        let followed = self
            .state
            .lookups
            .values()
            .filter_map(|found| match &*found.lookup.value {
                Lookup::Direct { endpoint, .. } => Some(endpoint.key),
                _ => None,
            });
        let known = previous.direct.borrow();
        let kept = followed.filter_map(|key| known.get(&key).map(|service| (key, service.clone())));
        self.direct.borrow_mut().extend(kept);
    }
}

impl Service {
    /// Where a request goes. `drawn`: uniform from all of `u64`.
    pub fn choose(&self, request: &RequestHead<'_>, drawn: u64) -> Result<Choice, Reason> {
        let Some(rules) = &self.rules else {
            return self.opaque().map(|balancer| Choice {
                balancer,
                template: self.no_template.clone(),
            });
        };
        let rule = rules
            .iter()
            .find(|rule| rule.model.matches.matches(request))
            .ok_or(Reason::NoRoute)?;
        let backend = rule.model.backend(drawn).ok_or(Reason::BackendUnresolved)?;
        let balancer = rule.backends[backend].clone().ok_or(Reason::BackendUnresolved)?;
        Ok(Choice {
            balancer,
            template: rule.template.clone(),
        })
    }

    /// Where an opaque stream goes: routes are about requests.
    pub fn opaque(&self) -> Result<Rc<Balancer>, Reason> {
        self.default.clone().ok_or(Reason::NoEndpoints)
    }

    /// The path template of what has no rule.
    pub fn no_template(&self) -> &Rc<str> {
        &self.no_template
    }

    fn same(&self, other: &Self) -> bool {
        let same = |a: &Option<Rc<Balancer>>, b: &Option<Rc<Balancer>>| match (a, b) {
            (Some(a), Some(b)) => Rc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let same_model = matches!((&self.model, &other.model), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
        let all_same = |a: &Rule, b: &Rule| a.backends.iter().zip(&b.backends).all(|(a, b)| same(a, b));
        same_model
            && same(&self.default, &other.default)
            && self
                .rules
                .iter()
                .flatten()
                .zip(other.rules.iter().flatten())
                .all(|(a, b)| all_same(a, b))
    }
}
