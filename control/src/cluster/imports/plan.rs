//! What is to be done for imports, as everything is now (pure): what is there and what is wanted go in, deeds come out. Where all
//! is as it should be there are none, so what a write of ours causes is no other write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use weft_model::name::ObjectRef;
use weft_proto::resource;

use super::owners;
use super::room::{self, Over};
use crate::cluster::conditions;
use crate::cluster::shown::Shown;
use crate::cluster::trust::is_ending;
use crate::federation::derived::{self, Ready, SERVICE_NAME_LABEL};
use crate::federation::merge::{ImportType, IpFamily, Merged};
use crate::federation::slices::{self, Backends, SOURCE_CLUSTER_LABEL, There};
use crate::index::Name;
use crate::objects::kinds::MULTICLUSTER_GROUP;
use crate::objects::{Object, service};
use crate::status::{Import, Wanted};

/// What of an object was last applied, in short: a field that is to go is not there to be compared.
pub(super) const DIGEST: &str = "weft.dev/import-digest";
/// The condition of a ServiceImport that says what clients outside the mesh reach of it.
const OUTSIDE: &str = "weft.dev/OutsideMesh";
/// The version of ServiceImports that may be all there is.
const FIRST_VERSION: &str = "v1alpha1";
/// The kinds that imports come to.
const KINDS: [&str; 3] = ["Service", "ServiceImport", "EndpointSlice"];

/// What is to be done, and what cannot be.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) deeds: Vec<Deed>,
    /// By what it is about.
    pub(super) faults: BTreeMap<String, String>,
}

/// One thing to do.
#[derive(Debug)]
pub(super) struct Deed {
    /// The import that it is done for.
    pub(super) of: Name,
    pub(super) object: ObjectRef,
    /// Where, below the API server's address.
    pub(super) path: String,
    /// The object's uid and resource version, where it is there.
    pub(super) seen: Option<(String, u64)>,
    pub(super) act: Act,
}

/// What to do.
#[derive(Debug)]
pub(super) enum Act {
    /// Applies it where nothing is: takes nothing over, should somebody have been faster.
    Make(Value),
    /// Applies it over what is ours.
    Mend(Value),
    /// The same of its status.
    Status(Value),
    /// Leaves it to somebody else.
    GiveUp(Value),
    /// Deletes it.
    Delete,
}

/// Makes the plan.
struct Planner<'a> {
    shown: &'a Shown,
    wanted: &'a Wanted,
    now: &'a str,
    /// What is there of ours; and the same by the import that it is of.
    ours: BTreeMap<ObjectRef, Arc<Object>>,
    by_import: BTreeMap<Name, Vec<Arc<Object>>>,
    /// Namespaces that are there, and whether they are on their way out.
    namespaces: BTreeMap<String, bool>,
    /// The version in which ServiceImports are read. `None`: the API server has none.
    version: Option<String>,
    /// Imports that there is no room for.
    over: Over,
    /// What is to stay.
    stays: BTreeSet<ObjectRef>,
    plan: Plan,
}

/// What is to be done. `now`: RFC 3339; `most`: how many imports of peers may become objects.
pub(super) fn plan(wanted: &Wanted, shown: &Shown, now: &str, most: usize) -> Plan {
    let ours = KINDS.iter().flat_map(|kind| shown.of_kind(kind));
    let ours: Vec<Arc<Object>> = ours.filter(|object| owners::is_ours(object)).collect();
    let mut by_import: BTreeMap<Name, Vec<Arc<Object>>> = BTreeMap::new();
    for object in &ours {
        by_import.entry(of(object)).or_default().push(object.clone());
    }
    let namespaces = shown.of_kind("Namespace").into_iter();
    let namespaces: BTreeMap<String, bool> = namespaces
        .map(|object| (object.name.clone(), is_ending(&object)))
        .collect();
    let can_be = |import: &&Import| namespaces.get(&import.service.namespace) == Some(&false);
    let imports = wanted.imports.iter().filter(can_be);
    let over = room::over(imports, &wanted.peers, &by_import.keys().collect(), most);
    let mut planner = Planner {
        shown,
        wanted,
        now,
        ours: ours.into_iter().map(|object| (object.reference(), object)).collect(),
        by_import,
        namespaces,
        version: shown.version("ServiceImport"),
        over,
        stays: BTreeSet::new(),
        plan: Plan::default(),
    };
    if planner.version.is_none() && !wanted.imports.is_empty() {
        let why = "the API server has no ServiceImports: install the CRDs of the Multi-Cluster Services API";
        planner.fault("ServiceImport", why.to_owned());
    }
    planner.tell_of_room(most);
    wanted.imports.iter().for_each(|import| planner.import(import));
    planner.delete();
    planner.plan
}

impl Planner<'_> {
    fn import(&mut self, import: &Import) {
        let (of, merged) = (&import.service, &import.merged);
        match self.namespaces.get(&of.namespace) {
            Some(false) => {}
            // Nothing can be made there.
            Some(true) => return,
            None => {
                let namespace = &of.namespace;
                let why = format!(
                    "the Namespace {namespace} is not in this cluster, so the Service {of} is not imported: make the Namespace"
                );
                return self.fault(&reference("ServiceImport", of).to_string(), why);
            }
        }
        if self.over.imports.contains(of) {
            return;
        }
        if self.is_unheard(of) {
            return self.keep(import);
        }
        let derived = self.derived(of, merged);
        let own = self.own(of, merged);
        for service in derived.iter().chain(&own) {
            self.slices(import, service);
        }
        self.service_import(import, derived.as_deref());
    }

    /// What finds no room is told by peer: it may be thousands.
    fn tell_of_room(&mut self, most: usize) {
        for (peer, (count, first)) in std::mem::take(&mut self.over.by_peer) {
            let why = format!(
                "{count} of the Services that {peer} exports, the first of them {first}, have no objects and no address here, for \
                 {most} imports may have some, of each peer its share: narrow spec.imports of the ClusterPeer, or raise \
                 WEFT_IMPORTS (federation.imports of the chart)"
            );
            self.fault(&format!("ClusterPeer {peer}"), why);
        }
    }

    /// The derived Service. Returns it, if it is there.
    fn derived(&mut self, of: &Name, merged: &Merged) -> Option<Arc<Object>> {
        let name = Name::new(of.namespace.as_str(), derived::derived_name(of));
        let object = reference("Service", &name);
        let there = self.there(&object);
        if let Some(there) = &there
            && !owners::is_ours(there)
        {
            self.leave(&object);
            return None;
        }
        let document = derived::derived_service(of, merged);
        self.service(object, there.as_ref(), document, merged);
        there.filter(|there| !is_ending(there))
    }

    /// The Service of the own name, where this cluster has none. Returns it, if it is there and ours.
    fn own(&mut self, of: &Name, merged: &Merged) -> Option<Arc<Object>> {
        let object = reference("Service", of);
        let there = self.there(&object);
        match &there {
            Some(there) if !derived::is_import(there) => return None,
            Some(there) if !owners::is_ours(there) => {
                let label = derived::IMPORT_LABEL;
                let why = format!("{object} is not Weft's, though its label {label} says so: remove the label");
                self.fault(&object.to_string(), why);
                return None;
            }
            Some(there) if owners::is_claimed(there) && !is_ending(there) => {
                self.stays.insert(object);
                self.give_up(there);
                return None;
            }
            _ => {}
        }
        self.service(object, there.as_ref(), derived::own_service(of, merged), merged);
        there.filter(|there| !is_ending(there))
    }

    fn give_up(&mut self, there: &Arc<Object>) {
        let (object, path) = (there.reference(), self.path(&there.reference()));
        self.deed(object, path, Some(there), Act::GiveUp(owners::give_up(there)));
    }

    /// A Service of ours. Whether it has an address cannot be changed of one that is there.
    fn service(&mut self, object: ObjectRef, there: Option<&Arc<Object>>, document: Value, merged: &Merged) {
        let headless = merged.kind == ImportType::Headless;
        match there {
            Some(there) if (there.raw["spec"]["clusterIP"] == "None") != headless && !is_ending(there) => {
                self.stays.insert(object.clone());
                let path = self.path(&object);
                self.deed(object, path, Some(there), Act::Delete);
            }
            there => self.apply(object, there, document),
        }
    }

    /// What is found behind a Service of an import by who dials pods. The ports are called as it calls them now, not as it will or by
    /// what is known while not all clusters are heard: by these names the two are matched.
    fn slices(&mut self, import: &Import, service: &Object) {
        let of = &import.service;
        let there = self.slices_of(of);
        let there: There = there
            .map(|slice| (slice.name.clone(), slices::addresses(slice)))
            .collect();
        let heard = import.backends.iter();
        let heard = heard.filter(|backends| !self.wanted.is_unheard(&backends.cluster, of));
        let heard: Vec<Backends> = heard.cloned().collect();
        let behind = (service.name.as_str(), &service.raw["spec"]["ports"]);
        for (name, mut document) in slices::slices(of, behind, &heard, &there) {
            // It goes with its Service, whoever deletes that.
            document["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Service", "name": service.name, "uid": service.uid}]);
            let object = reference("EndpointSlice", &Name::new(of.namespace.as_str(), name));
            let there = self.there(&object);
            self.apply(object, there.as_ref(), document);
        }
        // Of whom it is not known yet what they have, what they had stays.
        let held = self.slices_of(of);
        let held = held.filter(|slice| slice.labels.get(service::SERVICE_NAME_LABEL) == Some(&service.name));
        let held = held.filter(|slice| source(slice).is_some_and(|cluster| self.wanted.is_unheard(cluster, of)));
        let held: Vec<ObjectRef> = held.map(|slice| slice.reference()).collect();
        self.stays.extend(held);
    }

    fn service_import(&mut self, import: &Import, derived: Option<&Object>) {
        let (Some(version), of, merged) = (self.version.clone(), &import.service, &import.merged) else {
            return;
        };
        let object = reference("ServiceImport", of);
        let there = self.there(&object);
        if there.as_ref().is_some_and(|there| !owners::is_ours(there)) {
            return self.leave(&object);
        }
        let ips = derived.map_or(&Value::Null, |derived| &derived.raw["spec"]["clusterIPs"]);
        let ips = parsed(ips);
        let before = there.as_ref().map_or(&Value::Null, |there| &there.raw["status"]);
        // It is ready when it says how it is called.
        let said = there.as_ref().map_or(&Value::Null, |there| &there.raw["spec"]["ips"]);
        let ready = ready(merged, &parsed(said));
        let mut document = derived::service_import(of, merged, &ips, (ready, self.now));
        document["apiVersion"] = format!("{MULTICLUSTER_GROUP}/{version}").into();
        if version == FIRST_VERSION {
            reduce(&mut document);
        }
        let mut status = document["status"].take();
        if let Some(fields) = document.as_object_mut() {
            fields.remove("status");
        }
        if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
            conditions.push(outside(import, self.now));
            conditions.iter_mut().for_each(|condition| keep_time(condition, before));
        }
        let head = json!({
            "apiVersion": document["apiVersion"], "kind": "ServiceImport",
            "metadata": {"name": of.name, "namespace": of.namespace}, "status": status
        });
        self.apply(object.clone(), there.as_ref(), document);
        if let Some(there) = there.filter(|there| !has_status(&there.raw["status"], &status)) {
            let path = format!("{}/status", self.path(&object));
            self.deed(object, path, Some(&there), Act::Status(head));
        }
    }

    /// What is ours and of no import any more goes; a ServiceImport when nothing else of it is left, for it says of whom it is.
    fn delete(&mut self) {
        let gone = self.ours.iter().filter(|(name, _)| !self.stays.contains(*name));
        let gone: Vec<Arc<Object>> = gone.map(|(_, object)| object.clone()).collect();
        let rest = gone.iter().filter(|object| !is_service_import(object));
        let rest: BTreeSet<Name> = rest.map(|object| of(object)).collect();
        for object in gone {
            let of = of(&object);
            let heard = source(&object).is_some_and(|cluster| !self.wanted.is_unheard(cluster, &of));
            let waits = self.may_be_late(&of) && !heard && !self.is_orphan(&object, &of);
            if is_ending(&object) {
                continue;
            }
            if object.kind == "Service" && is_given_up(&object, &of) {
                self.give_up(&object);
                continue;
            }
            if waits || (is_service_import(&object) && rest.contains(&of)) {
                continue;
            }
            let (name, path) = (object.reference(), self.path(&object.reference()));
            self.deed(name, path, Some(&object), Act::Delete);
        }
    }

    /// Whether an import may be another than it seems: of a cluster that it is of it is not known yet what that exports.
    fn is_unheard(&self, of: &Name) -> bool {
        match self.ours.get(&reference("ServiceImport", of)) {
            Some(import) => clusters(import).any(|cluster| self.wanted.is_unheard(cluster, of)),
            None => self.wanted.may_be_more(of) && self.by_import.contains_key(of),
        }
    }

    /// The same of one that nobody is known to export. One whose status does not say yet of which clusters it is may be of any.
    fn may_be_late(&self, of: &Name) -> bool {
        let import = self.ours.get(&reference("ServiceImport", of));
        let is_new = import.is_some_and(|import| clusters(import).next().is_none());
        self.is_unheard(of) || (is_new && self.wanted.may_be_more(of))
    }

    /// What is there of an import stays as it is, but for the endpoints of clusters of which it is known what they export.
    fn keep(&mut self, import: &Import) {
        let of = &import.service;
        let its = self.by_import.get(of).into_iter().flatten();
        let its = its.filter(|object| object.kind != "EndpointSlice");
        self.stays.extend(its.map(|object| object.reference()));
        let name = Name::new(of.namespace.as_str(), derived::derived_name(of));
        let services = [&name, of].map(|name| self.ours.get(&reference("Service", name)).cloned());
        for service in services.into_iter().flatten().filter(|service| !is_ending(service)) {
            match is_given_up(&service, of) {
                // Whoever claims it does not wait for a peer, and knows nothing of what was behind it.
                true => self.give_up(&service),
                false => self.slices(import, &service),
            }
        }
    }

    /// Whether an EndpointSlice is behind a Service of the own name that is somebody else's by now, or not there.
    fn is_orphan(&self, slice: &Object, of: &Name) -> bool {
        let own = || {
            self.ours
                .get(&reference("Service", of))
                .filter(|own| !is_given_up(own, of))
        };
        slice.labels.get(service::SERVICE_NAME_LABEL) == Some(&of.name) && own().is_none()
    }

    fn slices_of(&self, of: &Name) -> impl Iterator<Item = &Arc<Object>> {
        let its = self.by_import.get(of).into_iter().flatten();
        its.filter(|object| object.kind == "EndpointSlice")
    }

    fn there(&self, object: &ObjectRef) -> Option<Arc<Object>> {
        self.ours.get(object).cloned().or_else(|| self.shown.object(object))
    }

    /// Applies what is not there, or is there otherwise.
    fn apply(&mut self, object: ObjectRef, there: Option<&Arc<Object>>, mut document: Value) {
        if there.is_some_and(|there| !owners::is_ours(there)) {
            return self.leave(&object);
        }
        self.stays.insert(object.clone());
        document["metadata"]["annotations"][DIGEST] = digest(&document).into();
        let path = self.path(&object);
        match there {
            Some(there) if is_ending(there) || has(&there.raw, &document) => {}
            None => self.deed(object, path, None, Act::Make(document)),
            Some(there) => {
                // Only over what was read, and never over another of its name.
                document["metadata"]["uid"] = there.uid.as_str().into();
                document["metadata"]["resourceVersion"] = there.resource_version.to_string().into();
                self.deed(object, path, Some(there), Act::Mend(document));
            }
        }
    }

    /// Somebody else's object is where one of ours would be.
    fn leave(&mut self, object: &ObjectRef) {
        let why = format!("{object} is somebody else's, and is left as it is: delete it, and it is made anew");
        self.fault(&object.to_string(), why);
    }

    fn deed(&mut self, object: ObjectRef, path: String, there: Option<&Arc<Object>>, act: Act) {
        let seen = there.map(|there| (there.uid.clone(), there.resource_version));
        let raw = match (&act, there) {
            (Act::Make(document) | Act::Mend(document) | Act::Status(document), _) => document,
            (Act::GiveUp(_) | Act::Delete, there) => there.map_or(&Value::Null, |there| &there.raw),
        };
        let label = raw["metadata"]["labels"][SERVICE_NAME_LABEL].as_str();
        let of = match object.kind == "ServiceImport" {
            true => &object.name,
            false => label.unwrap_or_default(),
        };
        self.plan.deeds.push(Deed {
            of: Name::new(object.namespace.as_str(), of),
            object,
            path,
            seen,
            act,
        });
    }

    fn fault(&mut self, what: &str, why: String) {
        self.plan.faults.insert(what.to_owned(), why);
    }

    fn path(&self, object: &ObjectRef) -> String {
        let (namespace, name) = (&object.namespace, &object.name);
        match object.kind.as_str() {
            "Service" => format!("/api/v1/namespaces/{namespace}/services/{name}"),
            "EndpointSlice" => format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}"),
            _ => {
                let version = self.version.as_deref().unwrap_or("v1beta1");
                format!("/apis/{MULTICLUSTER_GROUP}/{version}/namespaces/{namespace}/serviceimports/{name}")
            }
        }
    }
}

fn reference(kind: &str, name: &Name) -> ObjectRef {
    ObjectRef {
        kind: kind.to_owned(),
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    }
}

/// Leaves out what ServiceImports do not have where there is only their first version: CRDs from before v0.5.0 of the API declare none
/// of it, and undeclared fields are refused. Whoever installs those of v0.5.0 has them in `v1beta1`.
fn reduce(document: &mut Value) {
    if let Some(spec) = document["spec"].as_object_mut() {
        spec.retain(|field, _| {
            !matches!(
                field.as_str(),
                "internalTrafficPolicy" | "ipFamilies" | "trafficDistribution"
            )
        });
        if let Some(ips) = spec.get_mut("ips").and_then(Value::as_array_mut) {
            ips.truncate(1);
        }
    }
    if let Some(status) = document["status"].as_object_mut() {
        status.remove("conditions");
    }
}

/// The clusters that an import is of, as its status says.
fn clusters(import: &Object) -> impl Iterator<Item = &str> {
    let clusters = import.raw["status"]["clusters"].as_array().into_iter().flatten();
    clusters.filter_map(|cluster| cluster["cluster"].as_str())
}

/// The cluster whose endpoints an EndpointSlice has.
fn source(object: &Object) -> Option<&String> {
    let cluster = object.labels.get(SOURCE_CLUSTER_LABEL);
    cluster.filter(|_| object.kind == "EndpointSlice")
}

fn is_service_import(object: &Object) -> bool {
    object.kind == "ServiceImport"
}

/// The import that an object of ours is of.
fn of(object: &Object) -> Name {
    let name = match is_service_import(object) {
        true => Some(&object.name),
        false => object.labels.get(SERVICE_NAME_LABEL),
    };
    Name::new(object.namespace.as_str(), name.map_or("", String::as_str))
}

/// The addresses of a list.
fn parsed(ips: &Value) -> Vec<IpAddr> {
    let ips = ips.as_array().into_iter().flatten();
    ips.filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}

fn ready(merged: &Merged, ips: &[IpAddr]) -> Ready {
    let has = |family: &IpFamily| ips.iter().any(|ip| ip.is_ipv4() == (*family == IpFamily::V4));
    match merged.kind {
        ImportType::Headless => Ready::Ready,
        ImportType::ClusterSetIP if ips.is_empty() => Ready::Pending,
        // Who says no family may have any.
        ImportType::ClusterSetIP if merged.ip_families.is_empty() || merged.ip_families.iter().any(has) => Ready::Ready,
        ImportType::ClusterSetIP => Ready::IpFamilyNotSupported,
    }
}

/// Whether a Service of ours is the one of the own name, and somebody else says what it is.
fn is_given_up(service: &Object, of: &Name) -> bool {
    service.name == of.name && owners::is_claimed(service)
}

/// What clients outside the mesh reach of an import.
fn outside(import: &Import, now: &str) -> Value {
    let apart: Vec<&str> = import.apart.iter().map(String::as_str).collect();
    let headless = import.merged.kind == ImportType::Headless;
    let (status, reason, message) = match apart.is_empty() {
        true => (
            "True",
            "Reachable",
            "clients outside the mesh reach the pods of every cluster".to_owned(),
        ),
        false if headless => (
            "False",
            "OtherNetwork",
            format!(
                "no client here reaches the pods of {}, which are in other networks: a headless Service is called by its pods' \
                 addresses, which mean nothing here, so its names have none of them (fix: export a Service with an address; or, where \
                 pods of these clusters reach each other, give both the same network)",
                apart.join(", ")
            ),
        ),
        false => (
            "False",
            "OtherNetwork",
            format!(
                "clients outside the mesh do not reach the pods of {}, which are in other networks: only meshed clients do, \
                 through gateways (fix: bring clients into the mesh; or, where pods of these clusters reach each other, give \
                 both the same network)",
                apart.join(", ")
            ),
        ),
    };
    json!({"type": OUTSIDE, "status": status, "reason": reason, "message": message, "lastTransitionTime": now})
}

/// A status that stays keeps its time.
fn keep_time(condition: &mut Value, before: &Value) {
    let there = conditions::of_type(before, &condition["type"]);
    if let Some(there) = there.filter(|there| there["status"] == condition["status"]) {
        condition["lastTransitionTime"] = there["lastTransitionTime"].clone();
    }
}

/// Whether a status says all that it must. Conditions of others are nobody's business.
fn has_status(there: &Value, wanted: &Value) -> bool {
    let conditions = wanted["conditions"].as_array().into_iter().flatten();
    let mut conditions = conditions.map(|wanted| (conditions::of_type(there, &wanted["type"]), wanted));
    conditions.all(|(there, wanted)| there.is_some_and(|there| has(there, wanted)))
        && has(&there["clusters"], &wanted["clusters"])
}

/// Whether all of this is there, whatever else there is.
fn has(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| there.get(key).is_some_and(|there| has(there, wanted))),
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len() && there.iter().zip(wanted).all(|(there, wanted)| has(there, wanted))
        }
        _ => there == wanted,
    }
}

fn digest(document: &Value) -> String {
    let hash = resource::hash(document.to_string().as_bytes());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
