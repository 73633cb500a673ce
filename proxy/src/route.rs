//! Route: where a request goes, resolved.
//!
//! In: what discovery says. Out: tables in which every reference is followed already, so that a request only matches, draws
//! and indexes. Made anew by each worker when the state changes; what did not change is kept, and with it everything that is
//! known of endpoints.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use weft_model::destination::{Lookup, Protocol, Service as ServiceModel, Target};
use weft_model::endpoint::{BackendPlace, Endpoint, EndpointSet, GlobalKey, Place};
use weft_model::inbound::Inbound;
use weft_model::locality::Locality;
use weft_model::name::ServicePort;
use weft_model::reason::Reason;
use weft_model::route::{Backend, RequestHead, RetryBudget, Rule as RuleModel};
use weft_model::stream::Streams;
use weft_model::traffic::{Balance, Traffic};

use crate::balance::{Balancer, Endpoints};
use crate::discover::State;
use crate::observe::metrics::route_template;
use crate::terms::budget::Budget;
use crate::terms::{Copies, Words};

/// One worker's tables, for one state.
#[derive(Debug)]
pub struct Tables {
    /// The state that they were made of. Its inbound configuration and its leaf belong to the same moment.
    pub state: Arc<State>,
    endpoints: Rc<Endpoints>,
    here: Place,
    services: HashMap<String, Rc<Service>>,
    /// By endpoint set: one for each way to spread its traffic.
    balancers: HashMap<String, Vec<Rc<Balancer>>>,
    templates: HashMap<String, Rc<str>>,
    /// By Service, where a rule retries what goes there.
    budgets: HashMap<ServicePort, Rc<Budget>>,
    /// Pods that were addressed directly.
    direct: RefCell<HashMap<GlobalKey, Rc<Service>>>,
}

/// A port of a Service, or a pod addressed directly, with every reference followed.
#[derive(Debug)]
pub struct Service {
    /// What is declared of it.
    pub protocol: Protocol,
    /// `None`: a pod addressed directly.
    model: Option<Arc<ServiceModel>>,
    rules: Option<Vec<Rule>>,
    /// By the model's rules for streams, in the order of their backends. `None` in it: does not resolve.
    streams: Vec<Vec<Option<Rc<Balancer>>>>,
    /// Where everything goes without routes.
    default: Option<Rc<Balancer>>,
    no_template: Rc<str>,
}

/// One rule.
#[derive(Debug)]
struct Rule {
    model: Arc<RuleModel>,
    /// The same, to be shared within the thread.
    shared: Rc<SharedRule>,
    template: Rc<str>,
    /// In the order of the model's backends. `None`: does not resolve.
    backends: Vec<Option<Way>>,
}

/// A rule that requests of one thread hold: counted without an atomic.
#[derive(Debug)]
pub struct SharedRule(pub Arc<RuleModel>);

/// One backend of a rule.
#[derive(Clone, Debug)]
struct Way {
    balancer: Rc<Balancer>,
    words: Option<Rc<Words>>,
    /// `None`: no rule of the Service that is called retries what goes there.
    budget: Option<Rc<Budget>>,
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
    /// The rule. `None`: there are no routes.
    pub rule: Option<Rc<SharedRule>>,
    /// What the rule asks beyond that. `None`: nothing, as most do.
    pub words: Option<Rc<Words>>,
    /// What retries may add to the load of the Service behind it, where this request counts for that.
    pub budget: Option<Rc<Budget>>,
}

/// What is done with one request.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// It is forwarded.
    Forward(Choice),
    /// It is answered: with this rule's redirect.
    Redirect {
        /// The rule.
        rule: Arc<RuleModel>,
        /// The rule's path template, or empty.
        template: Rc<str>,
    },
    /// It is refused: what this rule leads to does not resolve.
    Unresolved {
        /// The rule.
        rule: Arc<RuleModel>,
        /// The rule's path template, or empty.
        template: Rc<str>,
    },
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
            budgets: previous.map(|previous| previous.budgets.clone()).unwrap_or_default(),
            direct: RefCell::default(),
            state: state.clone(),
        };
        tables.templates.entry(String::new()).or_insert_with(|| Rc::from(""));
        for (key, held) in &state.services {
            let service = tables.service(&held.value, previous, previous.and_then(|p| p.services.get(key)));
            tables.services.insert(key.clone(), service);
        }
        let ways = tables.services.values().flat_map(|s| s.rules.iter().flatten());
        let ways = ways.flat_map(|rule| rule.backends.iter().flatten());
        // Sets, because each of many rules has its own: this is done on the thread that serves.
        let counted: HashSet<*const Budget> = ways.filter_map(|way| way.budget.as_ref().map(Rc::as_ptr)).collect();
        tables.budgets.retain(|_, budget| counted.contains(&Rc::as_ptr(budget)));
        if let Some(previous) = previous {
            tables.keep_direct(previous);
            let rules = tables.services.values().flat_map(|s| s.rules.iter().flatten());
            let used: HashSet<&str> = rules.map(|rule| &*rule.template).collect();
            tables
                .templates
                .retain(|template, _| template.is_empty() || used.contains(template.as_str()));
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

    /// The Service that is called at a destination of which discovery has told.
    pub fn called(&self, target: &Target) -> Option<ServicePort> {
        match &*self.state.lookups.get(target)?.lookup.value {
            Lookup::Service(key) => self.services.get(key)?.port().cloned(),
            Lookup::NoSuchPort { service, .. } => service.clone(),
            Lookup::Direct { .. } | Lookup::Outside { .. } => None,
        }
    }

    fn service(&mut self, model: &Arc<ServiceModel>, old: Option<&Self>, known: Option<&Rc<Service>>) -> Rc<Service> {
        let traffic = model.traffic();
        let default = self.balancer(&model.endpoints, &traffic, old);
        let rules = model.rules.as_ref().map(|rules| {
            let retried = self.retried(&rules.rules, &traffic);
            let rules = rules.rules.iter();
            let rules = rules.map(|rule| self.rule(rule, &traffic, &retried, old));
            rules.collect::<Vec<_>>()
        });
        let streams = model.streams.iter().flat_map(|streams| &streams.rules);
        let streams = streams.map(|rule| {
            let backends = rule.backends.iter();
            let place = |backend: &Backend| {
                let traffic = backend.traffic.as_deref().unwrap_or(&traffic);
                self.place(&backend.place, traffic, old)
            };
            backends.map(place).collect()
        });
        let streams = streams.collect();
        let service = Service {
            protocol: model.protocol,
            model: Some(model.clone()),
            rules,
            streams,
            default,
            no_template: self.template(String::new()),
        };
        match known {
            Some(known) if known.same(&service) => known.clone(),
            _ => Rc::new(service),
        }
    }

    fn rule(
        &mut self,
        model: &Arc<RuleModel>,
        called: &Traffic,
        retried: &HashMap<ServicePort, Rc<Budget>>,
        old: Option<&Self>,
    ) -> Rule {
        let backends = model.backends.iter().map(|backend| {
            let traffic = backend.traffic.as_deref().unwrap_or(called);
            let balancer = self.place(&backend.place, traffic, old)?;
            let mirrors = model.filters.mirrors.iter().chain(&backend.filters.mirrors);
            let copies = mirrors.map(|mirror| Copies {
                mirror: mirror.clone(),
                balancer: self.place(&mirror.place, mirror.traffic.as_deref().unwrap_or(called), old),
            });
            let copies = copies.collect();
            let budget = retried.get(&backend.service).cloned();
            let words = Words::of(model, backend, budget.as_ref(), copies);
            Some(Way {
                balancer,
                words,
                budget,
            })
        });
        let backends = backends.collect();
        Rule {
            model: model.clone(),
            shared: Rc::new(SharedRule(model.clone())),
            template: self.template(route_template(&model.matches)),
            backends,
        }
    }

    fn place(&mut self, place: &BackendPlace, traffic: &Traffic, old: Option<&Self>) -> Option<Rc<Balancer>> {
        match place {
            BackendPlace::Endpoints(key) => self.balancer(key, traffic, old),
            BackendPlace::Unresolved(_) => None,
        }
    }

    /// The budgets of the Services that some rule retries. Every request that goes to one of them counts for it.
    fn retried(&mut self, rules: &[Arc<RuleModel>], called: &Traffic) -> HashMap<ServicePort, Rc<Budget>> {
        let retrying = rules.iter().filter(|rule| rule.retry.is_some());
        let mut retried = HashMap::new();
        for backend in retrying.flat_map(|rule| &rule.backends) {
            let allowed = backend.traffic.as_deref().unwrap_or(called).retry_budget;
            retried
                .entry(backend.service.clone())
                .or_insert_with(|| self.budget(&backend.service, allowed));
        }
        retried
    }

    /// What retries to a Service may add. What was counted of it survives every change.
    fn budget(&mut self, service: &ServicePort, allowed: RetryBudget) -> Rc<Budget> {
        if let Some(known) = self.budgets.get(service) {
            known.allow(allowed);
            return known.clone();
        }
        let (workers, metrics) = (self.endpoints.workers.get(), self.endpoints.metrics.clone());
        let budget = Rc::new(Budget::new(service.clone(), allowed, workers, metrics));
        self.budgets.insert(service.clone(), budget.clone());
        budget
    }

    fn template(&mut self, template: String) -> Rc<str> {
        self.templates
            .entry(template)
            .or_insert_with_key(|template| Rc::from(template.as_str()))
            .clone()
    }

    fn balancer(&mut self, key: &str, traffic: &Traffic, old: Option<&Self>) -> Option<Rc<Balancer>> {
        let Traffic { locality, balance, .. } = traffic;
        let with = |balancers: &HashMap<String, Vec<Rc<Balancer>>>| {
            let mut all = balancers.get(key)?.iter();
            all.find(|known| known.spreads(locality, *balance)).cloned()
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
                let (service, spread) = (Some(service), (locality, *balance));
                Rc::new(Balancer::new(
                    &self.endpoints,
                    set,
                    service,
                    spread,
                    &self.here,
                    known.as_deref(),
                ))
            }
        };
        self.balancers.entry(key.to_owned()).or_default().push(balancer.clone());
        Some(balancer)
    }

    fn direct(&self, endpoint: &Arc<Endpoint>, protocol: Protocol) -> Rc<Service> {
        let mut direct = self.direct.borrow_mut();
        if let Some(known) = direct.get(&endpoint.global_key())
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
        let spread = (&Locality::default(), Balance::default());
        let balancer = Balancer::new(&self.endpoints, Arc::new(set), None, spread, &self.here, None);
        let service = Rc::new(Service {
            protocol,
            model: None,
            rules: None,
            streams: Vec::new(),
            default: Some(Rc::new(balancer)),
            no_template: self.templates.get("").cloned().unwrap_or_else(|| Rc::from("")),
        });
        direct.insert(endpoint.global_key(), service.clone());
        service
    }

    /// Pods addressed directly are kept, with their pools, as long as discovery follows them.
    fn keep_direct(&self, previous: &Self) {
        let followed = self
            .state
            .lookups
            .values()
            .filter_map(|found| match &*found.lookup.value {
                Lookup::Direct { endpoint, .. } => Some(endpoint.global_key()),
                _ => None,
            });
        let known = previous.direct.borrow();
        let kept = followed.filter_map(|key| known.get(&key).map(|service| (key, service.clone())));
        self.direct.borrow_mut().extend(kept);
    }
}

impl Service {
    /// What is done with a request. `drawn`: uniform from all of `u64`.
    pub fn choose(&self, request: &RequestHead<'_>, drawn: u64) -> Result<Chosen, Reason> {
        let Some(rules) = &self.rules else {
            return self.whole().map(|balancer| {
                Chosen::Forward(Choice {
                    balancer,
                    template: self.no_template.clone(),
                    rule: None,
                    words: None,
                    budget: None,
                })
            });
        };
        let rule = rules
            .iter()
            .find(|rule| rule.model.matches.matches(request))
            .ok_or(Reason::NoRoute)?;
        if rule.model.redirect.is_some() {
            return Ok(Chosen::Redirect {
                rule: rule.model.clone(),
                template: rule.template.clone(),
            });
        }
        let way = rule.model.backend(drawn).and_then(|at| rule.backends[at].clone());
        let Some(way) = way else {
            return Ok(Chosen::Unresolved {
                rule: rule.model.clone(),
                template: rule.template.clone(),
            });
        };
        Ok(Chosen::Forward(Choice {
            balancer: way.balancer,
            template: rule.template.clone(),
            rule: Some(rule.shared.clone()),
            words: way.words,
            budget: way.budget,
        }))
    }

    /// The Service's name. `None`: a pod addressed directly.
    pub fn port(&self) -> Option<&ServicePort> {
        self.model.as_ref().map(|model| &model.port)
    }

    /// Whether a stream's server name decides where it goes.
    pub fn by_server_name(&self) -> bool {
        let streams = self.model.as_ref().and_then(|model| model.streams.as_ref());
        streams.is_some_and(Streams::by_name)
    }

    /// Whether an opaque stream that names no server goes anywhere.
    pub fn takes_nameless(&self) -> bool {
        let streams = self.model.as_ref().and_then(|model| model.streams.as_ref());
        streams.is_none_or(|streams| streams.pick(None).is_some())
    }

    /// Where an opaque stream goes. `name`: the server name that its TLS asks for, if it is TLS and says; `drawn`: uniform
    /// from all of `u64`.
    pub fn opaque(&self, name: Option<&str>, drawn: u64) -> Result<Rc<Balancer>, Reason> {
        let Some(streams) = self.model.as_ref().and_then(|model| model.streams.as_ref()) else {
            return self.whole();
        };
        let at = streams.pick(name).ok_or(Reason::NoRoute)?;
        let backend = streams.rules[at].backend(drawn).ok_or(Reason::BackendUnresolved)?;
        let balancer = self.streams.get(at).and_then(|backends| backends.get(backend)?.clone());
        balancer.ok_or(Reason::BackendUnresolved)
    }

    fn whole(&self) -> Result<Rc<Balancer>, Reason> {
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
        let mirrors = |way: &Way| way.words.as_ref().map_or(0, |words| words.mirrors.len());
        let same_mirrors = |a: &Way, b: &Way| {
            let all = |way: &Way, n: usize| way.words.as_ref().and_then(|words| words.mirrors[n].balancer.clone());
            mirrors(a) == mirrors(b) && (0..mirrors(a)).all(|n| same(&all(a, n), &all(b, n)))
        };
        let same_way = |a: &Option<Way>, b: &Option<Way>| match (a, b) {
            (Some(a), Some(b)) => {
                a.budget.is_some() == b.budget.is_some() && Rc::ptr_eq(&a.balancer, &b.balancer) && same_mirrors(a, b)
            }
            (None, None) => true,
            _ => false,
        };
        let all_same = |a: &Rule, b: &Rule| a.backends.iter().zip(&b.backends).all(|(a, b)| same_way(a, b));
        same_model
            && same(&self.default, &other.default)
            && self
                .streams
                .iter()
                .flatten()
                .zip(other.streams.iter().flatten())
                .all(|(a, b)| same(a, b))
            && self
                .rules
                .iter()
                .flatten()
                .zip(other.rules.iter().flatten())
                .all(|(a, b)| all_same(a, b))
    }
}
