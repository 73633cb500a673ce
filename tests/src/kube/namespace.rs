//! A namespace of a test: what is in it, and waiting for it.

use std::process::Output;

use serde_json::Value;

use super::{Cluster, PATIENCE, said, until};

/// A namespace of the cluster. Dropping it deletes it, without waiting for that.
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Namespace<'a> {
    /// Makes it, and waits for what its pods need: without its ServiceAccount they would be refused.
    #[track_caller]
    pub(super) fn new(cluster: &'a Cluster, name: String, labels: &[(&str, &str)]) -> Self {
        cluster.kubectl(["create", "namespace", &name]);
        let namespace = Self { cluster, name };
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        namespace.kubectl(&["wait", "--for=create", "serviceaccount/default", &timeout]);
        if !labels.is_empty() {
            let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
            let mut args = vec!["label".to_owned(), "namespace".to_owned(), namespace.name.clone()];
            args.extend(labels);
            cluster.kubectl(args);
        }
        namespace
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `kubectl apply` of manifests that name no namespace, or this one.
    #[track_caller]
    pub fn apply(&self, manifests: &str) {
        self.cluster.apply(&["-n", &self.name], manifests);
    }

    /// The same of the first meshed pods since the webhook was installed.
    #[track_caller]
    pub fn apply_meshed(&self, manifests: &str) {
        self.cluster.apply_meshed(&["-n", &self.name], manifests);
    }

    /// The same, whatever comes of it.
    pub fn try_apply(&self, manifests: &str) -> Output {
        self.cluster.try_apply(&["-n", &self.name], manifests)
    }

    /// What `kubectl ARGS` prints here. It must succeed.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.cluster.kubectl(["-n", &self.name].iter().chain(args))
    }

    /// `kubectl get WHAT -o json` here.
    #[track_caller]
    pub fn get(&self, what: &[&str]) -> Value {
        self.cluster.get(["-n", &self.name].iter().chain(what))
    }

    /// Waits until all pods of a Deployment, DaemonSet or StatefulSet (`deployment/web`) are there and ready.
    #[track_caller]
    pub fn rolled_out(&self, workload: &str) {
        let patience = format!("--timeout={}s", PATIENCE.as_secs());
        let args = ["-n", &self.name, "rollout", "status", workload, &patience];
        let output = self.cluster.try_kubectl(args);
        assert!(
            output.status.success(),
            "{workload}: {}\n{}",
            said(&output),
            self.state()
        );
    }

    /// Waits until a pod is ready.
    #[track_caller]
    pub fn ready(&self, pod: &str) {
        let so = || self.condition(pod, "Ready").then_some(());
        until(&format!("{pod} is ready"), so, || self.state());
    }

    /// Waits until a pod has ended, and returns what it said and whether all went well.
    #[track_caller]
    pub fn ended(&self, pod: &str) -> (bool, String) {
        let phase = || self.get(&["pod", pod])["status"]["phase"].as_str().map(str::to_owned);
        let so = || phase().filter(|phase| phase == "Succeeded" || phase == "Failed");
        let phase = until(&format!("{pod} has ended"), so, || self.state());
        (phase == "Succeeded", self.kubectl(&["logs", pod, "--all-containers"]))
    }

    /// What a command in a pod does.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Output {
        let args = ["-n", &self.name, "exec", pod, "--"];
        self.cluster.try_kubectl(args.iter().chain(command))
    }

    /// The pods with a label (`app=web`).
    #[track_caller]
    pub fn pods(&self, selector: &str) -> Vec<Value> {
        let list = self.get(&["pods", "-l", selector]);
        list["items"].as_array().cloned().unwrap_or_default()
    }

    fn condition(&self, pod: &str, kind: &str) -> bool {
        let pod = self.get(&["pod", pod]);
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|each| each["type"] == kind && each["status"] == "True")
    }

    /// What a person would look at after a failure.
    fn state(&self) -> String {
        let look = |args: &[&str]| said(&self.cluster.try_kubectl(["-n", &self.name].iter().chain(args)));
        let pods = look(&["get", "pods", "-o", "wide"]);
        let events = look(&["get", "events", "--sort-by=.lastTimestamp"]);
        format!("{pods}\n{events}")
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // The cluster goes anyway, or its owner sees what a failed test left.
        let _ = self
            .cluster
            .try_kubectl(["delete", "namespace", &self.name, "--wait=false"]);
    }
}
