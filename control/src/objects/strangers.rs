//! Table. Kinds of others that manifests have, and that no reader of ours takes: what leaving one means.

/// What leaving an object means for whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing: without it everything is as it is with it.
    Nothing,
    /// A rule that nothing enforces.
    Unenforced,
    /// Something is not there; what to do instead.
    Missing(&'static str),
}

/// Groups of kinds that say who may do what.
const RULES: [&str; 8] = [
    "cilium.io",
    "constraints.gatekeeper.sh",
    "crd.projectcalico.org",
    "kyverno.io",
    "policy.linkerd.io",
    "policy.networking.k8s.io",
    "projectcalico.org",
    "security.istio.io",
];

const LEAD_IN: &str = "reach Services from this machine with `weft port-forward`";
const REPLICAS: &str = "the workload keeps the replicas that are written";
const VOLUME: &str = "take emptyDir, or volumeClaimTemplates of a StatefulSet";

/// What leaving an object of this kind means. `None`: nobody here knows the kind.
pub(super) fn left(group: &str, kind: &str) -> Option<Left> {
    use Left::{Missing, Nothing, Unenforced};
    Some(match (group, kind) {
        ("networking.k8s.io", "NetworkPolicy") => Unenforced,
        (group, _) if RULES.contains(&group) => Unenforced,
        // Rights of an API server that is not there, leave that a mesh's routes do not need (GEP-1294), limits of what is not limited, and what watches from outside.
        ("rbac.authorization.k8s.io", _)
        | ("gateway.networking.k8s.io", "ReferenceGrant")
        | ("policy", "PodDisruptionBudget")
        | ("scheduling.k8s.io", "PriorityClass")
        | ("storage.k8s.io", "StorageClass")
        | ("", "ResourceQuota" | "LimitRange")
        | ("apiextensions.k8s.io", "CustomResourceDefinition")
        | ("monitoring.coreos.com", _) => Nothing,
        ("batch", "CronJob") => Missing("write its jobTemplate as a Job"),
        ("apps", "ReplicaSet") | ("", "ReplicationController") => Missing("write a Deployment"),
        ("networking.k8s.io", "Ingress") | ("gateway.networking.k8s.io", "Gateway") => Missing(LEAD_IN),
        ("networking.istio.io", "Gateway") => Missing(LEAD_IN),
        ("networking.istio.io", "VirtualService") => Missing("write an HTTPRoute, GRPCRoute, TCPRoute or TLSRoute"),
        ("networking.istio.io", "DestinationRule") => Missing("write ServiceSubsets and a TrafficPolicy"),
        ("linkerd.io", "ServiceProfile") => Missing("write an HTTPRoute and a TrafficPolicy"),
        ("autoscaling" | "autoscaling.k8s.io" | "keda.sh", _) => Missing(REPLICAS),
        ("", "PersistentVolumeClaim" | "PersistentVolume") => Missing(VOLUME),
        ("", "Endpoints") => Missing("write an EndpointSlice"),
        _ => return None,
    })
}
