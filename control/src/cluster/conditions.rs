//! What is said of an object, in the form in which its status has it. Pure: a verdict and the status that is there go in, the
//! status to write comes out, or nothing where all is said already. So what a write of ours causes is no other write.
//!
//! Routes have a list of parents, each with a controller and its conditions (GEP-1294, RouteParentStatus); policies of the
//! Gateway API have a list of ancestors (GEP-713); our own kinds and ServiceExports have conditions. Entries of other controllers, and conditions
//! of types that are not ours, stay as they are and where they are.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::index;
use crate::objects::Object;
use crate::status::applied::{Holders, Verdict, is_accepted};

mod peers;

use peers::{CONNECTED, REACHABLE};

/// The controller that entries of ours name.
pub(crate) const CONTROLLER: &str = "weft.dev/mesh";
/// The types of conditions that are ours.
const OURS: [&str; 9] = [
    "Accepted",
    "ResolvedRefs",
    "PartiallyInvalid",
    "Valid",
    "Ready",
    "Conflict",
    "Applied",
    CONNECTED,
    REACHABLE,
];
/// It stays as it was said where nothing is said of it: not before the peers are heard can it be told anew.
const KEPT: &str = "Conflict";
/// The limits of the CustomResourceDefinitions: conditions of one list, parents of a route, ancestors of a policy.
const CONDITIONS_MAX: usize = 8;
const PARENTS_MAX: usize = 32;
const ANCESTORS_MAX: usize = 16;
/// A message, in characters; the CustomResourceDefinitions take eight times as much.
const MESSAGE_MAX: usize = 4096;

/// One condition that is to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    r#type: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

impl Said {
    /// A condition of ours as it was written.
    fn of(condition: &Value) -> Option<Self> {
        let text = |field: &str| condition[field].as_str().map(str::to_owned);
        Some(Self {
            r#type: OURS.into_iter().find(|ours| condition["type"] == *ours)?,
            status: match condition["status"].as_str()? {
                "True" => "True",
                "False" => "False",
                _ => "Unknown",
            },
            reason: text("reason")?,
            message: text("message")?,
        })
    }
}

/// A list of entries by what they are about, where each controller has its own.
struct Entries {
    list: &'static str,
    reference: &'static str,
    most: usize,
}

const PARENTS: Entries = Entries {
    list: "parents",
    reference: "parentRef",
    most: PARENTS_MAX,
};
const ANCESTORS: Entries = Entries {
    list: "ancestors",
    reference: "ancestorRef",
    most: ANCESTORS_MAX,
};

/// The status to write, where it is another than `before`. Both are of one read, so what `before` says of a generation that
/// the object does not have yet is wrong: it is written over. `young`: this replica has just begun to serve or to lead, and
/// proxies that were connected to the one before may not be back yet.
pub(super) fn status(verdict: &Verdict, before: &Value, young: bool, now: &str) -> Option<Value> {
    let object = &verdict.object;
    let scribe = Scribe {
        generation: object.generation,
        young,
        now,
    };
    let holders = &verdict.holders;
    match object.kind.as_str() {
        "HTTPRoute" | "GRPCRoute" | "TCPRoute" | "TLSRoute" => {
            let parents = verdict.status.parents.iter();
            let parents = parents.map(|parent| (parent.reference.clone(), parent.conditions.as_slice()));
            scribe.entries(&PARENTS, &parents.collect::<Vec<_>>(), holders, before)
        }
        "XBackendTrafficPolicy" => {
            let conditions = verdict.status.conditions.as_slice();
            let targets = targets(object).into_iter().map(|target| (target, conditions));
            scribe.entries(&ANCESTORS, &targets.collect::<Vec<_>>(), holders, before)
        }
        "ClusterPeer" => scribe.peer(verdict, before),
        _ => scribe.conditions(&verdict.status.conditions, holders, before),
    }
}

/// The condition of this type that a status has.
pub(super) fn of_type<'a>(status: &'a Value, r#type: &Value) -> Option<&'a Value> {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.find(|condition| condition["type"] == *r#type)
}

/// Now, as conditions have it: in whole seconds.
pub(super) fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let whole = now.replace_nanosecond(0).unwrap_or(now);
    whole.format(&Rfc3339).unwrap_or_default()
}

/// What a policy is about, as ancestors.
fn targets(object: &Object) -> Vec<Value> {
    let targets = object.raw["spec"]["targetRefs"].as_array();
    let mut ancestors: Vec<Value> = Vec::new();
    for target in targets.into_iter().flatten() {
        let group = target["group"].as_str().unwrap_or_default();
        let ancestor = json!({
            "group": group, "kind": target["kind"], "namespace": object.namespace, "name": target["name"]
        });
        if !ancestors.contains(&ancestor) {
            ancestors.push(ancestor);
        }
    }
    ancestors
}

/// Writes conditions of one object.
struct Scribe<'a> {
    generation: u64,
    young: bool,
    now: &'a str,
}

impl Scribe<'_> {
    /// The list with our entries as they must be. Ours of which nothing is said any more are left out.
    fn entries(
        &self,
        kind: &Entries,
        wanted: &[(Value, &[index::Condition])],
        holders: &Holders,
        before: &Value,
    ) -> Option<Value> {
        let written = before[kind.list].as_array().cloned().unwrap_or_default();
        let is_ours = |entry: &&Value| entry["controllerName"] == CONTROLLER;
        let ours: Vec<&Value> = written.iter().filter(is_ours).collect();
        let find = |reference: &Value| ours.iter().find(|entry| entry[kind.reference] == *reference);
        let entry = |(reference, conditions): &(Value, &[index::Condition])| {
            let there = find(reference).map_or(&Value::Null, |entry| &entry["conditions"]);
            let conditions = self.merged(&self.said(conditions, holders, there), there);
            json!({kind.reference: reference, "controllerName": CONTROLLER, "conditions": conditions})
        };
        let mut entries: Vec<Value> = Vec::new();
        for old in &written {
            let same = wanted.iter().find(|(reference, _)| old[kind.reference] == *reference);
            match (is_ours(&old), same) {
                (false, _) => entries.push(old.clone()),
                (true, Some(wanted)) => entries.push(entry(wanted)),
                (true, None) => {}
            }
        }
        let new = wanted.iter().filter(|(reference, _)| find(reference).is_none());
        entries.extend(new.map(entry));
        entries.truncate(kind.most.max(written.len()));
        (entries != written).then(|| json!({kind.list: entries}))
    }

    fn conditions(&self, wanted: &[index::Condition], holders: &Holders, before: &Value) -> Option<Value> {
        let there = &before["conditions"];
        let (conditions, differ) = self.ours(&self.said(wanted, holders, there), there);
        differ.then(|| json!({"conditions": conditions}))
    }

    /// Our conditions as they must be, and whether they are not. Others are not named: whoever applied them keeps them.
    fn ours(&self, said: &[Said], there: &Value) -> (Vec<Value>, bool) {
        let is_ours = |condition: &Value| OURS.iter().any(|ours| condition["type"] == *ours);
        let keep = |all: Vec<Value>| all.into_iter().filter(is_ours).collect::<Vec<_>>();
        let before = keep(there.as_array().cloned().unwrap_or_default());
        let merged = keep(self.merged(said, there));
        let differ = merged != before;
        (merged, differ)
    }

    /// All that is to be said: what the index says, and whether proxies decide by it.
    fn said(&self, conditions: &[index::Condition], holders: &Holders, before: &Value) -> Vec<Said> {
        let mut said: Vec<Said> = conditions.iter().map(told).collect();
        let (applied, reason, message) = holders.applied(is_accepted(conditions));
        let status = if applied { "True" } else { "False" };
        let mut applied = Said {
            r#type: "Applied",
            status,
            reason: reason.to_owned(),
            message: short(&message),
        };
        if self.young && reason == "NoSubscribers" {
            applied = self.kept(before).unwrap_or_else(|| Said {
                status: "Unknown",
                reason: "Pending".to_owned(),
                message: "this replica has just begun to serve or to lead, and proxies may not be back yet".to_owned(),
                ..applied
            });
        }
        said.push(applied);
        said
    }

    /// What was said before of whether proxies decide by this generation.
    fn kept(&self, before: &Value) -> Option<Said> {
        let mut conditions = before.as_array().into_iter().flatten();
        let applied = conditions.find(|condition| condition["type"] == "Applied")?;
        let of_this = applied["observedGeneration"].as_u64() == Some(self.generation);
        Said::of(applied).filter(|_| of_this)
    }

    /// What is there, with our conditions as they must be: in place, or behind the others. A status that stays keeps its time.
    fn merged(&self, said: &[Said], there: &Value) -> Vec<Value> {
        let there = there.as_array().cloned().unwrap_or_default();
        let mut merged: Vec<Value> = Vec::new();
        for old in &there {
            let Some(r#type) = OURS.iter().find(|ours| old["type"] == **ours) else {
                merged.push(old.clone());
                continue;
            };
            match said.iter().find(|said| said.r#type == *r#type) {
                Some(said) => merged.push(self.condition(said, Some(old))),
                None if *r#type == KEPT => merged.push(old.clone()),
                None => {}
            }
        }
        let is_there = |said: &&Said| there.iter().any(|old| old["type"] == said.r#type);
        let new = said.iter().filter(|said| !is_there(said));
        merged.extend(new.map(|said| self.condition(said, None)));
        merged.truncate(CONDITIONS_MAX.max(there.len()));
        merged
    }

    fn condition(&self, said: &Said, before: Option<&Value>) -> Value {
        let same = before.filter(|before| before["status"] == said.status);
        let since = same.and_then(|before| before["lastTransitionTime"].as_str());
        json!({
            "type": said.r#type, "status": said.status, "reason": said.reason, "message": said.message,
            "observedGeneration": self.generation, "lastTransitionTime": since.unwrap_or(self.now)
        })
    }
}

/// A condition as people read it: the field, what is the matter with it, and what would be right.
fn told(condition: &index::Condition) -> Said {
    let mut message = match condition.field.is_empty() || condition.message.starts_with(&condition.field) {
        true => condition.message.clone(),
        false => format!("{}: {}", condition.field, condition.message),
    };
    if !condition.fix.is_empty() {
        message = format!("{message} (fix: {})", condition.fix);
    }
    Said {
        r#type: condition.r#type.as_str(),
        status: if condition.status { "True" } else { "False" },
        reason: condition.reason.clone(),
        message: short(&message),
    }
}

fn short(message: &str) -> String {
    message.chars().take(MESSAGE_MAX).collect()
}

/// What is ours of an object: its name, and its status.
pub(super) fn document(object: &Object, version: u64, status: &Value) -> Value {
    let mut metadata = Map::new();
    for (field, value) in [
        ("name", object.name.as_str()),
        ("namespace", object.namespace.as_str()),
        ("uid", object.uid.as_str()),
    ] {
        // An object without a namespace must not name one.
        if !value.is_empty() {
            metadata.insert(field.to_owned(), value.into());
        }
    }
    // Lists of parents are written as a whole (listType atomic), so only over the one that was read.
    metadata.insert("resourceVersion".to_owned(), version.to_string().into());
    json!({"apiVersion": object.api_version, "kind": object.kind, "metadata": metadata, "status": status})
}

#[cfg(test)]
mod tests;
