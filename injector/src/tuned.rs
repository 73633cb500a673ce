//! What the annotations of a pod and of its Namespace say about the sidecar.

use std::num::NonZeroU16;

use serde_json::Value;

use crate::annotations::{self, Tune};
use crate::redirect::RedirectSettings;
use crate::settings::{InjectSettings, Resources, sampling};

/// What tunes one pod's sidecar.
pub(crate) struct Tuned {
    /// What is redirected.
    pub(crate) redirect: RedirectSettings,
    /// Variables of the proxy.
    pub(crate) env: Vec<(String, String)>,
    /// What the containers ask for and get.
    pub(crate) resources: Resources,
}

impl Tuned {
    /// Unknown annotations under our prefix and values that can't be read are refused: a typing error must not go unseen.
    pub(crate) fn read(pod: &Value, namespace: &Value, settings: &InjectSettings) -> Result<Self, String> {
        check(namespace, "the Namespace's annotation")?;
        check(pod, "annotation")?;
        let mut tuned = Self {
            redirect: RedirectSettings {
                exempt: settings.exempt,
                skip_inbound_ports: vec![],
                skip_outbound_ports: vec![],
                skip_outbound_subnets: vec![],
            },
            env: vec![],
            resources: settings.resources.clone(),
        };
        for tune in Tune::ALL {
            if let Some(text) = text(tune, pod, namespace) {
                tuned
                    .set(tune, &text)
                    .ok_or_else(|| format!("annotation {}: {text:?} can't be read", tune.key()))?;
            }
        }
        if !tuned.redirect.skip_inbound_ports.is_empty() && is_strict(pod, namespace) {
            return Err(format!(
                "annotation {}: where {} is strict no port may take connections without mutual TLS; remove one of the two",
                Tune::SkipInboundPorts.key(),
                Tune::Inbound.key(),
            ));
        }
        Ok(tuned)
    }

    fn set(&mut self, tune: Tune, text: &str) -> Option<()> {
        let mut variable = |name: &str| self.env.push((name.to_owned(), text.to_owned()));
        let amount = Some(text.to_owned());
        match tune {
            Tune::SkipInboundPorts => self.redirect.skip_inbound_ports = annotations::list(text)?,
            Tune::SkipOutboundPorts => self.redirect.skip_outbound_ports = annotations::list(text)?,
            Tune::SkipOutboundSubnets => self.redirect.skip_outbound_subnets = annotations::list(text)?,
            Tune::AccessLog => variable("WEFT_ACCESS_LOG"),
            Tune::LogLevel => variable("WEFT_LOG"),
            Tune::Workers => variable("WEFT_WORKERS"),
            Tune::TraceSampling => self.env.extend(sampling(text)),
            Tune::CpuRequest => self.resources.cpu_request = amount,
            Tune::CpuLimit => self.resources.cpu_limit = amount,
            Tune::MemoryRequest => self.resources.memory_request = amount,
            Tune::MemoryLimit => self.resources.memory_limit = amount,
            // Read by the control plane.
            Tune::Inbound | Tune::OpaquePorts => {}
        }
        Some(())
    }
}

/// What a pod's author should know although nothing is refused.
pub(crate) fn warnings(pod: &Value, namespace: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(ports) = skipped_inbound(pod, namespace) {
        warnings.push(format!(
            "{}: ports {ports} take connections past the proxy: no mutual TLS, no policy, no metrics",
            Tune::SkipInboundPorts.key()
        ));
    }
    if let Some(policy @ ("Default" | "None")) = pod["spec"]["dnsPolicy"].as_str() {
        warnings.push(format!(
            "spec.dnsPolicy: {policy}: the proxy must find the control plane by the cluster's DNS; take ClusterFirst"
        ));
    }
    warnings
}

/// Whether ports of the pod take connections past the proxy.
pub(crate) fn skips_inbound(pod: &Value, namespace: &Value) -> bool {
    skipped_inbound(pod, namespace).is_some()
}

/// The ports as they are written. An empty list, by which a pod takes back its Namespace's, is none.
fn skipped_inbound(pod: &Value, namespace: &Value) -> Option<String> {
    let is_some = |ports: &String| annotations::list::<NonZeroU16>(ports).is_none_or(|ports| !ports.is_empty());
    text(Tune::SkipInboundPorts, pod, namespace).filter(is_some)
}

fn text(tune: Tune, pod: &Value, namespace: &Value) -> Option<String> {
    let key = tune.key();
    let of = |object: &Value| object["metadata"]["annotations"][&key].as_str().map(str::to_owned);
    of(pod).or_else(|| of(namespace))
}

/// As the control plane reads it: a pod only tightens what its Namespace says, and what can't be read is strict.
pub fn is_strict(pod: &Value, namespace: &Value) -> bool {
    let key = Tune::Inbound.key();
    [pod, namespace]
        .iter()
        .any(|object| match &object["metadata"]["annotations"][&key] {
            Value::Null => false,
            mode => mode != "permissive",
        })
}

fn check(object: &Value, what: &str) -> Result<(), String> {
    for (key, value) in object["metadata"]["annotations"].as_object().into_iter().flatten() {
        if let Some(mistake) = annotations::mistake(key, value.as_str().unwrap_or_default()) {
            let fix = if mistake.fix.is_empty() {
                String::new()
            } else {
                format!("; {}", mistake.fix)
            };
            return Err(format!("{what} {key}: {}{fix}", mistake.message));
        }
    }
    Ok(())
}
