//! Table. The fields of each kind, and what becomes of them in a local cluster.
//!
//! Everything that Kubernetes 1.34 knows is here, so that what is not here is a typing error.

mod workloads;

pub(super) use workloads::{DAEMON_SET, DEPLOYMENT, JOB, STATEFUL_SET};

use super::schema::Field;
use super::schema::Rule::{Empty, Harmless, Honoured, Ignored, Image, List, Object, Off, OneOf, Refused};

const fn f(name: &'static str, rule: super::schema::Rule) -> Field {
    Field { name, rule }
}

const LATER: &str = "remove it; this version of Weft has no such thing";
const NO_HOST: &str = "remove it; a local pod has a network, processes and files of its own";

/// Metadata, of every kind.
const META: &[Field] = &[
    f("name", Honoured),
    f("namespace", Honoured),
    f("labels", Honoured),
    f("annotations", Honoured),
    f("generateName", Refused("give it a name; nothing here makes one up")),
    f("creationTimestamp", Harmless),
    f("deletionGracePeriodSeconds", Harmless),
    f("deletionTimestamp", Harmless),
    f("finalizers", Harmless),
    f("generation", Harmless),
    f("managedFields", Harmless),
    f("ownerReferences", Harmless),
    f("resourceVersion", Harmless),
    f("selfLink", Harmless),
    f("uid", Harmless),
];

/// A Namespace.
pub(super) const NAMESPACE: &[Field] = &[
    f("apiVersion", Honoured),
    f("kind", Honoured),
    f("metadata", Object(META)),
    f("spec", Harmless),
    f("status", Harmless),
];

/// A Node: only its labels count.
pub(super) const NODE: &[Field] = &[
    f("apiVersion", Honoured),
    f("kind", Honoured),
    f("metadata", Object(META)),
    f(
        "spec",
        Object(&[
            f("taints", Ignored(EVERY_POD)),
            f("unschedulable", Ignored(EVERY_POD)),
            f("configSource", Harmless),
            f("externalID", Harmless),
            f("podCIDR", Harmless),
            f("podCIDRs", Harmless),
            f("providerID", Harmless),
        ]),
    ),
    f("status", Harmless),
];
const EVERY_POD: &str = "remove it; keep pods away with a label on other Nodes and their nodeSelector";

/// A ServiceAccount.
pub(super) const SERVICE_ACCOUNT: &[Field] = &[
    f("apiVersion", Honoured),
    f("kind", Honoured),
    f("metadata", Object(META)),
    f("automountServiceAccountToken", Harmless),
    f("imagePullSecrets", Harmless),
    f("secrets", Harmless),
];

/// A ConfigMap.
pub(super) const CONFIG_MAP: &[Field] = &[
    f("apiVersion", Honoured),
    f("kind", Honoured),
    f("metadata", Object(META)),
    f("data", Honoured),
    f("binaryData", Honoured),
    f("immutable", Harmless),
];

/// A Secret.
pub(super) const SECRET: &[Field] = &[
    f("apiVersion", Honoured),
    f("kind", Honoured),
    f("metadata", Object(META)),
    f("data", Honoured),
    f("stringData", Honoured),
    f("type", Harmless),
    f("immutable", Harmless),
];

/// A Service.
pub(super) const SERVICE: &[Field] = &[
    f("apiVersion", Honoured),
    f("kind", Honoured),
    f("metadata", Object(META)),
    f("spec", Object(SERVICE_SPEC)),
    f("status", Harmless),
];

const SERVICE_SPEC: &[Field] = &[
    f("selector", Honoured),
    f("ports", List(SERVICE_PORT)),
    f(
        "type",
        OneOf(
            &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"],
            "take one of these",
        ),
    ),
    f("clusterIP", Honoured),
    f("clusterIPs", Honoured),
    f("ipFamilies", Honoured),
    f(
        "ipFamilyPolicy",
        OneOf(
            &["SingleStack", "PreferDualStack", "RequireDualStack"],
            "take one of these",
        ),
    ),
    f("publishNotReadyAddresses", Honoured),
    f(
        "sessionAffinity",
        OneOf(&["None"], "remove it; requests are balanced one by one"),
    ),
    f(
        "sessionAffinityConfig",
        Empty("remove it; requests are balanced one by one"),
    ),
    f(
        "internalTrafficPolicy",
        OneOf(&["Cluster"], "remove it; say what to prefer with a TrafficPolicy"),
    ),
    f(
        "externalIPs",
        Empty("remove it; nothing outside reaches a local mesh; see `weft port-forward`"),
    ),
    f("externalName", Honoured),
    f(
        "trafficDistribution",
        Refused("remove it; say what to prefer with a TrafficPolicy"),
    ),
    f("allocateLoadBalancerNodePorts", Harmless),
    f("externalTrafficPolicy", Harmless),
    f("healthCheckNodePort", Harmless),
    f("loadBalancerClass", Harmless),
    f("loadBalancerIP", Harmless),
    f("loadBalancerSourceRanges", Harmless),
];

const SERVICE_PORT: &[Field] = &[
    f("name", Honoured),
    f("port", Honoured),
    f("targetPort", Honoured),
    f("protocol", OneOf(&["TCP", "UDP"], "take TCP or UDP")),
    f("appProtocol", Honoured),
    f("nodePort", Harmless),
];

/// A Pod.
pub(super) const POD: &[Field] = &[
    f("apiVersion", Honoured),
    f("kind", Honoured),
    f("metadata", Object(META)),
    f("spec", Object(POD_SPEC)),
    f("status", Harmless),
];

const POD_SPEC: &[Field] = &[
    f("containers", List(CONTAINER)),
    f("initContainers", List(CONTAINER)),
    f("volumes", List(VOLUME)),
    f(
        "restartPolicy",
        OneOf(&["Always", "OnFailure", "Never"], "take one of these"),
    ),
    f("terminationGracePeriodSeconds", Honoured),
    f("serviceAccountName", Honoured),
    f("serviceAccount", Honoured),
    f("nodeName", Honoured),
    f("nodeSelector", Honoured),
    f("hostname", Honoured),
    f("hostAliases", Honoured),
    f("securityContext", Object(POD_SECURITY)),
    f(
        "dnsPolicy",
        OneOf(
            &["ClusterFirst", "ClusterFirstWithHostNet"],
            "remove it; only the mesh's names resolve",
        ),
    ),
    f("dnsConfig", Empty("remove it; pods ask the mesh's DNS server")),
    f("hostNetwork", Off(NO_HOST)),
    f("hostPID", Off(NO_HOST)),
    f("hostIPC", Off(NO_HOST)),
    f(
        "shareProcessNamespace",
        Off("remove it; containers have processes of their own"),
    ),
    f("setHostnameAsFQDN", Off("remove it")),
    f("subdomain", Honoured),
    f("activeDeadlineSeconds", Refused(LATER)),
    f("ephemeralContainers", Empty("remove it; use `weft exec`")),
    f("readinessGates", Empty("remove it; nobody here would open the gate")),
    f("resourceClaims", Empty(LATER)),
    f("schedulingGates", Empty("remove it; nobody here would open the gate")),
    f(
        "os",
        Object(&[f(
            "name",
            OneOf(&["linux"], "remove it; local pods are Linux processes"),
        )]),
    ),
    f("affinity", Harmless),
    f("automountServiceAccountToken", Harmless),
    f("enableServiceLinks", Harmless),
    f("hostUsers", Harmless),
    f("imagePullSecrets", Harmless),
    f("overhead", Harmless),
    f("preemptionPolicy", Harmless),
    f("priority", Harmless),
    f("priorityClassName", Harmless),
    f("resources", Harmless),
    f("runtimeClassName", Harmless),
    f("schedulerName", Harmless),
    f("tolerations", Harmless),
    f("topologySpreadConstraints", Harmless),
];

const POD_SECURITY: &[Field] = &[
    f("runAsUser", Honoured),
    f("runAsGroup", Honoured),
    f("runAsNonRoot", Honoured),
    f("fsGroup", Honoured),
    f("supplementalGroups", Honoured),
    f("sysctls", Empty("remove it; low ports may be listened on anyhow")),
    f("windowsOptions", Refused("remove it; local pods are Linux processes")),
    f("appArmorProfile", Harmless),
    f("fsGroupChangePolicy", Harmless),
    f("seLinuxChangePolicy", Harmless),
    f("seLinuxOptions", Harmless),
    f("seccompProfile", Harmless),
    f("supplementalGroupsPolicy", Harmless),
];

const CONTAINER: &[Field] = &[
    f("name", Honoured),
    f("image", Image),
    f("command", Honoured),
    f("args", Honoured),
    f("workingDir", Honoured),
    f("env", List(ENV)),
    f(
        "envFrom",
        List(&[
            f("prefix", Honoured),
            f("configMapRef", Object(WHOLE_REF)),
            f("secretRef", Object(WHOLE_REF)),
        ]),
    ),
    f("ports", List(PORT)),
    f("volumeMounts", List(VOLUME_MOUNT)),
    f("volumeDevices", Empty("remove it; there are no block devices")),
    f("startupProbe", Object(PROBE)),
    f("readinessProbe", Object(PROBE)),
    f("livenessProbe", Object(PROBE)),
    f(
        "lifecycle",
        Object(&[
            f("postStart", Object(HOOK)),
            f("preStop", Object(HOOK)),
            f("stopSignal", Refused("remove it, and let the app end on SIGTERM")),
        ]),
    ),
    f("restartPolicy", Honoured),
    f("restartPolicyRules", Empty(LATER)),
    f("securityContext", Object(CONTAINER_SECURITY)),
    f("stdin", Off("remove it; use `weft exec`")),
    f("stdinOnce", Off("remove it; use `weft exec`")),
    f("tty", Off("remove it; use `weft exec`")),
    f("imagePullPolicy", Harmless),
    f("resizePolicy", Harmless),
    f("resources", Honoured),
    f("terminationMessagePath", Harmless),
    f("terminationMessagePolicy", Harmless),
];

const CONTAINER_SECURITY: &[Field] = &[
    f("runAsUser", Honoured),
    f("runAsGroup", Honoured),
    f("runAsNonRoot", Honoured),
    f("readOnlyRootFilesystem", Honoured),
    f(
        "privileged",
        Off("remove it; local containers have no rights on this machine"),
    ),
    f(
        "allowPrivilegeEscalation",
        Off("remove it, or set it to false; local containers can't gain rights"),
    ),
    f("capabilities", Object(&[f("drop", Harmless), f("add", Honoured)])),
    f("procMount", OneOf(&["Default"], "remove it")),
    f("windowsOptions", Refused("remove it; local pods are Linux processes")),
    f("appArmorProfile", Harmless),
    f("seLinuxOptions", Harmless),
    f("seccompProfile", Harmless),
];

const PORT: &[Field] = &[
    f("name", Honoured),
    f("containerPort", Honoured),
    f("protocol", OneOf(&["TCP", "UDP"], "take TCP or UDP")),
    f("hostPort", Refused("remove it; reach the pod with `weft port-forward`")),
    f("hostIP", Refused("remove it; reach the pod with `weft port-forward`")),
];

const ENV: &[Field] = &[
    f("name", Honoured),
    f("value", Honoured),
    f(
        "valueFrom",
        Object(&[
            f("fieldRef", Object(FIELD_REF)),
            f("configMapKeyRef", Object(KEY_REF)),
            f("secretKeyRef", Object(KEY_REF)),
            f(
                "resourceFieldRef",
                Object(&[
                    f("containerName", Honoured),
                    f("resource", Honoured),
                    f("divisor", Honoured),
                ]),
            ),
            f("fileKeyRef", Refused(LATER)),
        ]),
    ),
];

const FIELD_REF: &[Field] = &[f("apiVersion", Harmless), f("fieldPath", Honoured)];
const KEY_REF: &[Field] = &[f("name", Honoured), f("key", Honoured), f("optional", Honoured)];

const WHOLE_REF: &[Field] = &[f("name", Honoured), f("optional", Honoured)];

const HOOK: &[Field] = &[
    f("exec", Object(&[f("command", Honoured)])),
    f("httpGet", Object(HTTP_GET)),
    f("sleep", Object(&[f("seconds", Honoured)])),
    f(
        "tcpSocket",
        Refused("take exec, httpGet or sleep; Kubernetes runs no such hook either"),
    ),
];

const VOLUME_MOUNT: &[Field] = &[
    f("name", Honoured),
    f("mountPath", Honoured),
    f("subPath", Honoured),
    f("readOnly", Honoured),
    f("subPathExpr", Refused("write the path out as subPath")),
    f(
        "mountPropagation",
        OneOf(&["None"], "remove it; a local container's mounts are its own"),
    ),
    f("recursiveReadOnly", Harmless),
];

const PROBE: &[Field] = &[
    f("httpGet", Object(HTTP_GET)),
    f("tcpSocket", Object(&[f("port", Honoured), f("host", Honoured)])),
    f("exec", Object(&[f("command", Honoured)])),
    f("grpc", Object(&[f("port", Honoured), f("service", Honoured)])),
    f("initialDelaySeconds", Honoured),
    f("periodSeconds", Honoured),
    f("timeoutSeconds", Honoured),
    f("successThreshold", Honoured),
    f("failureThreshold", Honoured),
    f("terminationGracePeriodSeconds", Honoured),
];

const HTTP_GET: &[Field] = &[
    f("path", Honoured),
    f("port", Honoured),
    f("host", Honoured),
    f("scheme", OneOf(&["HTTP", "HTTPS"], "take HTTP or HTTPS")),
    f("httpHeaders", List(&[f("name", Honoured), f("value", Honoured)])),
];

const NO_VOLUME: &str = "take emptyDir, configMap, secret, projected or downwardAPI";

const VOLUME: &[Field] = &[
    f("name", Honoured),
    f(
        "emptyDir",
        Object(&[
            f("medium", OneOf(&["", "Memory"], "remove it, or take Memory")),
            f("sizeLimit", Honoured),
        ]),
    ),
    f(
        "configMap",
        Object(&[
            f("name", Honoured),
            f("items", List(ITEM)),
            f("defaultMode", Honoured),
            f("optional", Honoured),
        ]),
    ),
    f(
        "secret",
        Object(&[
            f("secretName", Honoured),
            f("items", List(ITEM)),
            f("defaultMode", Honoured),
            f("optional", Honoured),
        ]),
    ),
    f(
        "downwardAPI",
        Object(&[f("items", List(DOWNWARD_ITEM)), f("defaultMode", Honoured)]),
    ),
    f(
        "projected",
        Object(&[f("sources", List(PROJECTED)), f("defaultMode", Honoured)]),
    ),
    f("awsElasticBlockStore", Refused(NO_VOLUME)),
    f("azureDisk", Refused(NO_VOLUME)),
    f("azureFile", Refused(NO_VOLUME)),
    f("cephfs", Refused(NO_VOLUME)),
    f("cinder", Refused(NO_VOLUME)),
    f("csi", Refused(NO_VOLUME)),
    f("ephemeral", Refused(NO_VOLUME)),
    f("fc", Refused(NO_VOLUME)),
    f("flexVolume", Refused(NO_VOLUME)),
    f("flocker", Refused(NO_VOLUME)),
    f("gcePersistentDisk", Refused(NO_VOLUME)),
    f("gitRepo", Refused(NO_VOLUME)),
    f("glusterfs", Refused(NO_VOLUME)),
    f("hostPath", Refused(NO_VOLUME)),
    f("image", Refused(NO_VOLUME)),
    f("iscsi", Refused(NO_VOLUME)),
    f("nfs", Refused(NO_VOLUME)),
    f("persistentVolumeClaim", Refused(NO_VOLUME)),
    f("photonPersistentDisk", Refused(NO_VOLUME)),
    f("portworxVolume", Refused(NO_VOLUME)),
    f("quobyte", Refused(NO_VOLUME)),
    f("rbd", Refused(NO_VOLUME)),
    f("scaleIO", Refused(NO_VOLUME)),
    f("storageos", Refused(NO_VOLUME)),
    f("vsphereVolume", Refused(NO_VOLUME)),
];

const ITEM: &[Field] = &[f("key", Honoured), f("path", Honoured), f("mode", Honoured)];

const DOWNWARD_ITEM: &[Field] = &[
    f("path", Honoured),
    f("mode", Honoured),
    f("fieldRef", Object(FIELD_REF)),
    f(
        "resourceFieldRef",
        Refused("remove it; local containers have no limits"),
    ),
];

const PROJECTED: &[Field] = &[
    f(
        "configMap",
        Object(&[f("name", Honoured), f("items", List(ITEM)), f("optional", Honoured)]),
    ),
    f(
        "secret",
        Object(&[f("name", Honoured), f("items", List(ITEM)), f("optional", Honoured)]),
    ),
    f("downwardAPI", Object(&[f("items", List(DOWNWARD_ITEM))])),
    f(
        "serviceAccountToken",
        Object(&[
            f("audience", Honoured),
            f("expirationSeconds", Honoured),
            f("path", Honoured),
        ]),
    ),
    f("clusterTrustBundle", Refused(LATER)),
    f("podCertificate", Refused(LATER)),
];
