//! `weft uninstall`: what to delete, for `kubectl delete`.
//!
//! In: nothing but the namespace. Out: every object that `weft install` prints with any values, and those that the running mesh
//! made. Only their names: a deletion needs no more.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use weft_daemon::exit;

use crate::install::{self, CRDS, ValuesArgs, WEFT};
use crate::{paper, yaml};

/// Values with which there is everything.
const EVERYTHING: &str =
    "control.replicas=2,injector.replicas=2,networkPolicy.own=true,federation.enabled=true,gateways.enabled=true";

/// Print what Weft is on a cluster, for `kubectl delete`.
///
/// The objects of `weft install`, and those that the mesh made as it ran: the Secrets with the authority and the webhook's
/// certificate, the ConfigMaps weft-state, weft-replicas, weft-peers (also with numbers) and weft-trust and the Lease of the control
/// plane. The webhook's configuration comes first, so that no pod is refused meanwhile. What lies in meshed namespaces, the ConfigMaps weft-trust and
/// perhaps a NetworkPolicy, is found by its label: only the cluster knows where.
///
/// First take the label off the namespaces, and restart what runs there: it starts without a proxy. `weft check` names the pods that
/// still have one, of all namespaces, with what makes each anew. One that keeps its proxy beyond the uninstallation breaks: that
/// learns of no new address, and its certificate ends.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kubectl annotate namespaces --all config.weft.dev/inbound-  # at once: who has no proxy any more is still served
  kubectl label namespaces -l weft.dev/inject weft.dev/inject-  # new pods start without a proxy
  kubectl rollout restart deployment,statefulset,daemonset -n shop  # and those that run, too: in each of those namespaces
  weft check                                                 # pods that still have one, of all namespaces, and what to do
  weft uninstall | kubectl delete --ignore-not-found -f -
  kubectl delete configmaps,networkpolicies -A -l app.kubernetes.io/part-of=weft

  weft uninstall --crds=false --keep-authority               # for an installation that comes again

Exit codes: 0 it is printed, 64 wrong usage.")]
pub(crate) struct UninstallArgs {
    /// Weft's own namespace.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "weft-system", value_parser = install::namespace)]
    pub(crate) namespace: String,
    /// Delete the CustomResourceDefinitions, too, and with them every ServiceSubset, TrafficPolicy and ClusterPeer.
    #[arg(long, value_name = "WHETHER", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) crds: bool,
    /// Leave the Secret with the authority, and so the Namespace: a mesh that is installed again has the same root.
    #[arg(long)]
    pub(crate) keep_authority: bool,
    /// Delete the Namespace, too, and whatever else is in it. By default only weft-system, which nobody else has things in.
    #[arg(long, value_name = "WHETHER", num_args = 0..=1, default_missing_value = "true", conflicts_with = "keep_authority")]
    pub(crate) delete_namespace: Option<bool>,
}

impl UninstallArgs {
    fn with_namespace(&self) -> bool {
        !self.keep_authority && self.delete_namespace.unwrap_or(self.namespace == "weft-system")
    }
}

/// Prints what to delete.
pub(crate) fn main(args: &UninstallArgs) -> Result<ExitCode> {
    let mut out = String::new();
    for object in objects(args)? {
        out.push_str("---\n");
        out.push_str(&yaml::text(&object));
    }
    if !args.with_namespace() {
        let namespace = &args.namespace;
        out.push_str(&format!(
            "# The Namespace {namespace} is left, with what is not Weft's: kubectl delete namespace {namespace}\n"
        ));
    }
    paper::print(&out);
    Ok(ExitCode::from(exit::OK))
}

/// Their kind and name, in the order in which they go.
fn objects(args: &UninstallArgs) -> Result<Vec<Value>> {
    // The optional ones are among them where the values ask for all of them; those of other namespaces go with `helm` or by label.
    let all = ValuesArgs {
        namespace: args.namespace.clone(),
        set: vec![EVERYTHING.to_owned()],
        files: Vec::new(),
    };
    let mut rendered = install::documents(&WEFT.render(&install::values(&all)?, &args.namespace)?)?;
    if args.crds {
        let crds = CRDS.render(&json!({}), &args.namespace)?;
        rendered.extend(install::documents(&crds)?);
    }
    let made = |api: &str, kind: &str, name: &str| json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": args.namespace}});
    rendered.push(made("v1", "Secret", "weft-webhook"));
    rendered.push(made("v1", "ConfigMap", "weft-state"));
    rendered.push(made("v1", "ConfigMap", "weft-replicas"));
    rendered.push(made("v1", "ConfigMap", "weft-trust"));
    rendered.extend(weft_control::peer_maps().map(|name| made("v1", "ConfigMap", &name)));
    rendered.push(made("coordination.k8s.io/v1", "Lease", "weft-control"));
    if !args.keep_authority {
        rendered.push(made("v1", "Secret", "weft-authority"));
    }
    if args.with_namespace() {
        rendered.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": args.namespace}}));
    }
    // A webhook that nobody answers refuses pods; so it goes before what answers.
    rendered.sort_by_key(|object| object["kind"] != "MutatingWebhookConfiguration");
    let mut seen = BTreeSet::new();
    let named = rendered.iter().map(|object| {
        let mut metadata = json!({"name": object["metadata"]["name"]});
        if let Some(namespace) = object["metadata"].get("namespace") {
            metadata["namespace"] = namespace.clone();
        }
        json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": metadata})
    });
    Ok(named.filter(|object| seen.insert(object.to_string())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(keep_authority: bool, crds: bool) -> Vec<String> {
        of(&UninstallArgs {
            namespace: "weft-system".to_owned(),
            crds,
            keep_authority,
            delete_namespace: None,
        })
    }

    fn of(args: &UninstallArgs) -> Vec<String> {
        let shown = |object: &Value| format!("{}/{}", object["kind"], object["metadata"]["name"]).replace('"', "");
        objects(args).unwrap().iter().map(shown).collect()
    }

    #[test]
    fn the_webhook_goes_first_and_everything_that_was_made_goes_too() {
        let all = kinds(false, true);
        assert_eq!(all[0], "MutatingWebhookConfiguration/weft-injector");
        assert_eq!(all.last().unwrap(), "Namespace/weft-system");
        for made in [
            "Secret/weft-authority",
            "Secret/weft-webhook",
            "ConfigMap/weft-state",
            "ConfigMap/weft-replicas",
            "ConfigMap/weft-trust",
            "ConfigMap/weft-peers",
            "ConfigMap/weft-peers-7",
            "Deployment/weft-gateway",
            "Service/weft-federation",
            "Lease/weft-control",
            "PodDisruptionBudget/weft-control",
            "CustomResourceDefinition/trafficpolicies.weft.dev",
        ] {
            assert!(all.iter().any(|object| object == made), "{made} is not in {all:?}");
        }
    }

    #[test]
    fn a_namespace_of_another_name_stays_unless_it_is_asked_for() {
        let mut args = UninstallArgs {
            namespace: "ops".to_owned(),
            crds: true,
            keep_authority: false,
            delete_namespace: None,
        };
        assert!(
            !of(&args).contains(&"Namespace/ops".to_owned()) && of(&args).contains(&"Secret/weft-authority".to_owned())
        );
        args.delete_namespace = Some(true);
        assert_eq!(of(&args).last().unwrap(), "Namespace/ops");
    }

    #[test]
    fn an_authority_that_is_kept_keeps_its_namespace() {
        let kept = kinds(true, false);
        let goes = |kind: &str| kept.iter().any(|object| object.starts_with(kind));
        assert!(!goes("Secret/weft-authority") && !goes("Namespace") && !goes("CustomResourceDefinition"));
        assert!(goes("Secret/weft-webhook"));
    }
}
