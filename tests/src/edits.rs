//! A person who edits manifests: in random order, often wrongly, and right in the end. Everything follows from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// What is written into a file, by chance.
type Make = fn(&mut StdRng, usize) -> String;

/// A file with one subject.
struct Subject {
    name: &'static str,
    number: usize,
    /// How often it is edited, compared with others.
    weight: u32,
    /// Whether it may be absent in the end.
    optional: bool,
    make: Make,
}

const fn subject(name: &'static str, number: usize, weight: u32, optional: bool, make: Make) -> Subject {
    Subject {
        name,
        number,
        weight,
        optional,
        make,
    }
}

const SUBJECTS: [Subject; 21] = [
    subject("nodes", 0, 2, false, nodes),
    subject("namespace", 0, 3, false, namespace),
    subject("accounts", 0, 1, false, accounts),
    subject("pod-caller", 0, 1, false, caller),
    subject("pod-r1", 1, 3, false, reviews_pod),
    subject("pod-r2", 2, 3, false, reviews_pod),
    subject("pod-r3", 3, 3, true, reviews_pod),
    subject("pod-ratings", 0, 1, false, ratings_pod),
    subject("service-reviews", 0, 4, false, reviews_service),
    subject("service-extra", 0, 4, false, extra_service),
    subject("service-ratings", 0, 2, false, ratings_service),
    subject("subset-v1", 1, 3, false, subset),
    subject("subset-v2", 2, 3, false, subset),
    subject("subset-west", 0, 2, true, west),
    subject("policy-1", 1, 2, true, policy),
    subject("policy-2", 2, 2, true, policy),
    subject("route-1", 1, 6, true, http_route),
    subject("route-2", 2, 6, true, http_route),
    subject("route-3", 3, 6, true, http_route),
    subject("route-4", 4, 6, true, http_route),
    subject("route-grpc", 0, 3, true, grpc_route),
];

/// Addresses that the Services have in every mesh, with all their ports that ever are, and one that never is.
pub const DESTINATIONS: [&str; 9] = [
    "10.96.1.1:80",
    "10.96.1.1:81",
    "10.96.1.1:82",
    "10.96.1.2:80",
    "10.96.1.2:81",
    "[fd00:10:96::12]:80",
    "10.96.1.3:7070",
    "10.96.1.4:80",
    "10.96.9.9:80",
];

/// One step.
#[derive(Clone, Debug)]
pub enum Edit {
    /// A file is written, the whole at once.
    Write(String, String),
    /// A file is written where it lies, in two parts with a pause between them.
    InPlace(String, String, usize, Duration),
    /// A file is taken away.
    Remove(String),
    /// A file gets another name.
    Rename(String, String),
}

/// A person who edits.
pub struct Editor {
    rng: StdRng,
    /// What lies in the directory: by name, what it is about, the text, and whether it is right.
    files: BTreeMap<String, (usize, String, bool)>,
    /// What was done, for people.
    pub story: Vec<String>,
}

impl Editor {
    /// Begins with all files right.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut editor = Self {
            rng: StdRng::seed_from_u64(seed),
            files: BTreeMap::new(),
            story: vec![],
        };
        for (index, subject) in SUBJECTS.iter().enumerate() {
            let text = (subject.make)(&mut editor.rng, subject.number);
            editor.files.insert(file(index), (index, text, true));
        }
        editor
    }

    /// The files as they are to be now.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .map(|(name, (_, text, _))| (name.as_str(), text.as_str()))
    }

    /// The next edit.
    pub fn edit(&mut self) -> Edit {
        let total = SUBJECTS.iter().map(|subject| subject.weight).sum();
        let mut at = self.rng.random_range(0..total);
        let index = SUBJECTS.iter().position(|subject| {
            let here = at < subject.weight;
            at = at.saturating_sub(subject.weight);
            here
        });
        let index = index.expect("the weights add up");
        let present: Vec<String> = self.names(index);
        let subject = &SUBJECTS[index];
        match (self.rng.random_range(0..100), present.first()) {
            (0..12, Some(name)) => self.remove(name.clone()),
            (12..17, Some(name)) => self.rename(name.clone(), format!("{}-{}.yml", subject.name, self.story.len())),
            // The same objects once more, in another file.
            (17..20, Some(_)) => self.write(format!("{}-again.yaml", subject.name), index, true),
            (20..37, name) => {
                let name = name.cloned().unwrap_or_else(|| file(index));
                self.write(name, index, false)
            }
            (_, name) => {
                let name = name.cloned().unwrap_or_else(|| file(index));
                self.write(name, index, true)
            }
        }
    }

    /// The edits that make everything right.
    pub fn tidy(&mut self) -> Vec<Edit> {
        let mut edits = Vec::new();
        for (index, subject) in SUBJECTS.iter().enumerate() {
            let names = self.names(index);
            for twice in names.iter().skip(1) {
                edits.push(self.remove(twice.clone()));
            }
            let right = names.first().is_some_and(|name| self.files[name].2);
            match names.first() {
                Some(name) if subject.optional && self.rng.random_ratio(1, 4) => {
                    edits.push(self.remove(name.clone()));
                }
                Some(name) if !right => edits.push(self.write(name.clone(), index, true)),
                None if !subject.optional => edits.push(self.write(file(index), index, true)),
                _ => {}
            }
        }
        edits
    }

    /// How long to wait before the next edit: often shorter than a file must be still.
    pub fn pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(0..90))
    }

    fn names(&self, index: usize) -> Vec<String> {
        let here = self.files.iter().filter(|(_, (subject, _, _))| *subject == index);
        here.map(|(name, _)| name.clone()).collect()
    }

    fn write(&mut self, name: String, index: usize, right: bool) -> Edit {
        let mut text = (SUBJECTS[index].make)(&mut self.rng, SUBJECTS[index].number);
        let mut how = "written";
        if !right {
            (text, how) = broken(&mut self.rng, text);
        }
        self.files.insert(name.clone(), (index, text.clone(), right));
        if self.rng.random_ratio(1, 6) {
            let cut = self.rng.random_range(0..text.len());
            let pause = Duration::from_millis(self.rng.random_range(0..60));
            self.story
                .push(format!("{name}: {how}, in place, with {pause:?} after {cut} bytes"));
            return Edit::InPlace(name, text, cut, pause);
        }
        self.story.push(format!("{name}: {how}"));
        Edit::Write(name, text)
    }

    fn remove(&mut self, name: String) -> Edit {
        self.files.remove(&name);
        self.story.push(format!("{name}: removed"));
        Edit::Remove(name)
    }

    fn rename(&mut self, from: String, to: String) -> Edit {
        if let Some(file) = self.files.remove(&from) {
            self.files.insert(to.clone(), file);
        }
        self.story.push(format!("{from}: renamed to {to}"));
        Edit::Rename(from, to)
    }
}

fn file(index: usize) -> String {
    format!("{}.yaml", SUBJECTS[index].name)
}

/// A text with a fault, and which.
fn broken(rng: &mut StdRng, text: String) -> (String, &'static str) {
    match rng.random_range(0..8) {
        0 => (text + "\n  - [not closed\n", "broken YAML"),
        1 => (text.replace("\nspec:", "\nspec:\n  bogus: 1"), "a field that is not"),
        2 => {
            let cut = rng.random_range(0..text.len());
            (text[..cut].to_owned(), "cut off")
        }
        3 => (
            text.replace("weight: ", "weight: -").replace("port: 80", "port: 80000"),
            "a number out of range",
        ),
        4 => (text.replace("name: ", "nme: "), "no name"),
        5 if text.contains("kind: HTTPRoute") => (http_route_to("nowhere", "([", rng), "a bad regex"),
        5 | 6 if text.contains("kind: HTTPRoute") => (http_route_to("nowhere", "a+", rng), "an unresolved backend"),
        5 | 6 => (text.replace("apiVersion: ", "apiVersion: x"), "an unknown version"),
        _ if text.contains("backendRefs:") => (
            text.replace("backendRefs:", "timeouts: {request: 1s}\n      backendRefs:"),
            "a field that is not honoured",
        ),
        _ => (text.replace("kind: ", "kind: X"), "an unknown kind"),
    }
}

fn pick<'a>(rng: &mut StdRng, all: &[&'a str]) -> &'a str {
    all.choose(rng).expect("there is one")
}

fn nodes(rng: &mut StdRng, _: usize) -> String {
    let mut node = |name: &str| {
        let region = pick(rng, &["west", "east"]);
        let zone = pick(rng, &["a", "b"]);
        format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels: {{topology.kubernetes.io/region: {region}, \
             topology.kubernetes.io/zone: {region}-{zone}}}\n---\n"
        )
    };
    node("one") + &node("two")
}

fn namespace(rng: &mut StdRng, _: usize) -> String {
    let mode = pick(
        rng,
        &[
            "",
            "config.weft.dev/inbound: strict",
            "config.weft.dev/inbound: permissive",
        ],
    );
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels: {{weft.dev/inject: enabled}}\n  annotations: {{{mode}}}\n"
    )
}

fn accounts(_: &mut StdRng, _: usize) -> String {
    let account = |name: &str| {
        format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: shop}}\n---\n")
    };
    account("reviews") + &account("guest") + &account("caller")
}

fn pod(name: &str, labels: &str, annotations: &str, account: &str, node: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: shop\n  labels: {{{labels}}}\n  annotations: {{{annotations}}}\n\
         spec:\n  serviceAccountName: {account}\n  nodeName: {node}\n  containers:\n    - name: app\n      command: [{command}]\n      \
         ports: [{{name: http, containerPort: 8080}}]\n"
    )
}

fn caller(rng: &mut StdRng, _: usize) -> String {
    let labels = pick(rng, &["app: caller", "app: caller, version: v9"]);
    pod("caller", labels, "", "caller", "one", "visitor")
}

fn reviews_pod(rng: &mut StdRng, number: usize) -> String {
    let version = pick(rng, &["v1", "v2", "v3"]);
    let more = pick(
        rng,
        &[
            "",
            ", app.kubernetes.io/version: v7",
            ", app.kubernetes.io/name: critics",
        ],
    );
    let mode = pick(rng, &["", "", "config.weft.dev/inbound: strict"]);
    // A pod with another account or node is another pod: seldom.
    let account = pick(rng, &["reviews", "reviews", "reviews", "reviews", "reviews", "guest"]);
    let node = pick(rng, &["one", "one", "one", "one", "one", "two"]);
    let labels = format!("app: reviews, version: {version}{more}");
    pod(&format!("r{number}"), &labels, mode, account, node, "reviews")
}

fn ratings_pod(rng: &mut StdRng, _: usize) -> String {
    let labels = pick(rng, &["app: ratings", "app: ratings, version: v2"]);
    pod("ratings", labels, "", "default", "two", "ratings")
}

fn service(name: &str, address: &str, selector: &str, ports: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  {address}\n  selector: {{{selector}}}\n{more}  ports:\n{ports}"
    )
}

fn reviews_service(rng: &mut StdRng, _: usize) -> String {
    let selector = pick(rng, &["app: reviews", "app: reviews", "app: reviews, version: v1"]);
    let port = pick(
        rng,
        &[
            "name: http, port: 80, targetPort: 8080",
            "name: web, port: 80, targetPort: http",
            "name: web, port: 80, targetPort: 8080, appProtocol: http",
            "name: web, port: 80, targetPort: 8080, appProtocol: kubernetes.io/h2c",
            "name: http, port: 80, targetPort: 8080, appProtocol: tcp",
        ],
    );
    let second = pick(
        rng,
        &[
            "",
            "    - {name: tcp-raw, port: 81, targetPort: 8080}\n",
            "    - {name: grpc-x, port: 81, targetPort: 9999}\n",
        ],
    );
    let more = pick(rng, &["", "", "  publishNotReadyAddresses: true\n"]);
    service(
        "reviews",
        "clusterIP: 10.96.1.1",
        selector,
        &format!("    - {{{port}}}\n{second}"),
        more,
    )
}

fn extra_service(rng: &mut StdRng, _: usize) -> String {
    let selector = pick(rng, &["app: reviews, version: v2", "app: nobody", "app: reviews"]);
    let address = pick(
        rng,
        &[
            "clusterIP: 10.96.1.2",
            "clusterIPs: [10.96.1.2, 'fd00:10:96::12']\n  ipFamilyPolicy: RequireDualStack",
        ],
    );
    let ports = pick(
        rng,
        &[
            "    - {port: 80, targetPort: 8080}\n",
            "    - {name: http, port: 80, targetPort: 8080}\n    - {name: b, port: 81}\n",
        ],
    );
    service("extra", address, selector, ports, "")
}

fn ratings_service(rng: &mut StdRng, _: usize) -> String {
    let port = pick(
        rng,
        &[
            "name: grpc, port: 7070",
            "name: r, port: 7070, appProtocol: grpc",
            "name: r, port: 7070",
        ],
    );
    service(
        "ratings",
        "clusterIP: 10.96.1.3",
        "app: ratings",
        &format!("    - {{{port}}}\n"),
        "",
    )
}

fn subset(rng: &mut StdRng, number: usize) -> String {
    let selector = format!("version: v{number}");
    let selector = pick(rng, &[&selector, &selector, "version: v3", ""]).to_owned();
    our_kind(
        "ServiceSubset",
        &format!("v{number}"),
        &format!("  service: reviews\n  selector: {{{selector}}}\n"),
    )
}

fn west(rng: &mut StdRng, _: usize) -> String {
    let regions = pick(rng, &["west", "west, east", "north"]);
    our_kind(
        "ServiceSubset",
        "west",
        &format!("  service: reviews\n  regions: [{regions}]\n"),
    )
}

fn policy(rng: &mut StdRng, number: usize) -> String {
    let targets = pick(
        rng,
        &[
            "{kind: Service, name: reviews}",
            "{kind: Service, name: extra}",
            "{kind: Service, name: reviews}, {kind: Service, name: ratings}",
        ],
    );
    let prefer = pick(rng, &["Zone", "Region", "None"]);
    let percent = rng.random_range(1..=100);
    let spec = format!("  targetRefs: [{targets}]\n  locality: {{prefer: {prefer}, spillBelowPercent: {percent}}}\n");
    our_kind("TrafficPolicy", &format!("policy-{number}"), &spec)
}

fn our_kind(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: weft.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n{spec}")
}

fn http_route(rng: &mut StdRng, number: usize) -> String {
    let rules: String = (0..rng.random_range(1..4))
        .map(|_| http_rule(rng, "v1", "/r[0-9]+/.*"))
        .collect();
    route(
        "HTTPRoute",
        &format!("route-{number}"),
        pick(rng, &["reviews", "reviews", "extra"]),
        &rules,
    )
}

fn http_route_to(subset: &str, regex: &str, rng: &mut StdRng) -> String {
    let rules: String = (0..3).map(|_| http_rule(rng, subset, regex)).collect();
    route(
        "HTTPRoute",
        &format!("route-{}", rng.random_range(1..5)),
        "reviews",
        &rules,
    )
}

fn route(kind: &str, name: &str, parent: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         parentRefs:\n    - {{group: '', kind: Service, name: {parent}}}\n  rules:\n{rules}"
    )
}

fn http_rule(rng: &mut StdRng, subset: &str, regex: &str) -> String {
    let regex = format!("path: {{type: RegularExpression, value: '{regex}'}}");
    let matches = [
        "path: {type: Exact, value: /reviews/1}",
        "path: {type: PathPrefix, value: /reviews}",
        "path: {type: PathPrefix, value: /}, method: POST",
        "headers: [{name: x-canary, value: '1'}]",
        "headers: [{name: x-canary, type: RegularExpression, value: 'b.*'}, {name: x-b, value: b}]",
        "queryParams: [{name: q, value: a}], method: GET",
        &regex,
    ];
    let matches: String = (0..rng.random_range(0..3))
        .map(|_| format!("        - {{{}}}\n", pick(rng, &matches)))
        .collect();
    let matches = if matches.is_empty() {
        matches
    } else {
        format!("      matches:\n{matches}")
    };
    let subset = format!("group: weft.dev, kind: ServiceSubset, name: {subset}");
    let backends = [
        &subset,
        "group: weft.dev, kind: ServiceSubset, name: v2",
        "name: reviews",
        "name: extra",
    ];
    let backends: String = (0..rng.random_range(1..4))
        .map(|_| {
            let weight = rng.random_range(0..100);
            format!("        - {{{}, port: 80, weight: {weight}}}\n", pick(rng, &backends))
        })
        .collect();
    format!(
        "    - name: rule-{}\n{matches}      backendRefs:\n{backends}",
        rng.random_range(0..1000)
    )
}

fn grpc_route(rng: &mut StdRng, _: usize) -> String {
    let method = pick(
        rng,
        &[
            "service: shop.v1.Ratings",
            "service: shop.v1.Ratings, method: Get",
            "method: Get",
        ],
    );
    let rule = format!(
        "    - matches:\n        - {{method: {{{method}}}}}\n      backendRefs:\n        - {{name: ratings, port: 7070}}\n"
    );
    route("GRPCRoute", "grpc", "ratings", &rule)
}
