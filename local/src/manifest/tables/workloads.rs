//! Table. The fields of workloads.

use super::super::schema::Rule::{self, Empty, Harmless, Honoured, List, Object, Off, OneOf, Refused};
use super::{Field, META, POD_SPEC, f};

/// A Deployment.
pub(in crate::manifest) const DEPLOYMENT: &[Field] = &[
    f("apiVersion", Honoured),
    f("kind", Honoured),
    f("metadata", Object(META)),
    f("spec", Object(DEPLOYMENT_SPEC)),
    f("status", Harmless),
];

const DEPLOYMENT_SPEC: &[Field] = &[
    f("replicas", Honoured),
    f("selector", Object(SELECTOR)),
    f("template", Object(TEMPLATE)),
    f("minReadySeconds", Honoured),
    f("strategy", Honoured),
    f("paused", Off("remove it; edit the file when the change is to be made")),
    f("progressDeadlineSeconds", Harmless),
    f("revisionHistoryLimit", Harmless),
];

const SELECTOR: &[Field] = &[f("matchLabels", Honoured), f("matchExpressions", Honoured)];
const TEMPLATE: &[Field] = &[f("metadata", Object(META)), f("spec", Object(POD_SPEC))];
const NOT_BY_HAND: &str = "take RollingUpdate; nothing here deletes pods by hand";

/// A StatefulSet.
pub(in crate::manifest) const STATEFUL_SET: &[Field] = &[
    f("apiVersion", Honoured),
    f("kind", Honoured),
    f("metadata", Object(META)),
    f("spec", Object(STATEFUL_SET_SPEC)),
    f("status", Harmless),
];

const STATEFUL_SET_SPEC: &[Field] = &[
    f("replicas", Honoured),
    f("selector", Object(SELECTOR)),
    f("template", Object(TEMPLATE)),
    f("serviceName", Honoured),
    f(
        "podManagementPolicy",
        OneOf(&["OrderedReady", "Parallel"], "take one of these"),
    ),
    f("minReadySeconds", Honoured),
    f("ordinals", Object(&[f("start", Honoured)])),
    f("volumeClaimTemplates", List(CLAIM)),
    f(
        "updateStrategy",
        Object(&[
            f("type", OneOf(&["RollingUpdate"], NOT_BY_HAND)),
            f(
                "rollingUpdate",
                Empty("remove it; all pods are replaced, one after the other"),
            ),
        ]),
    ),
    f(
        "persistentVolumeClaimRetentionPolicy",
        Object(&[f("whenDeleted", RETAIN), f("whenScaled", RETAIN)]),
    ),
    f("revisionHistoryLimit", Harmless),
];

const RETAIN: Rule = OneOf(&["Retain"], "remove it; the directories go when the mesh ends");

/// A claim of a StatefulSet: a directory, of whatever size and class.
const CLAIM: &[Field] = &[
    f("apiVersion", Honoured),
    f("kind", Honoured),
    f("metadata", Object(META)),
    f("spec", Object(CLAIM_SPEC)),
    f("status", Harmless),
];

const CLAIM_SPEC: &[Field] = &[
    f("accessModes", Harmless),
    f("resources", Harmless),
    f("storageClassName", Harmless),
    f("volumeAttributesClassName", Harmless),
    f(
        "volumeMode",
        OneOf(&["Filesystem"], "remove it; there are no block devices"),
    ),
    f("selector", Refused("remove it; a claim is a new directory")),
    f("volumeName", Refused("remove it; a claim is a new directory")),
    f("dataSource", Refused("remove it; a claim is a new directory")),
    f("dataSourceRef", Refused("remove it; a claim is a new directory")),
];

/// A DaemonSet.
pub(in crate::manifest) const DAEMON_SET: &[Field] = &[
    f("apiVersion", Honoured),
    f("kind", Honoured),
    f("metadata", Object(META)),
    f(
        "spec",
        Object(&[
            f("selector", Object(SELECTOR)),
            f("template", Object(TEMPLATE)),
            f("minReadySeconds", Honoured),
            f(
                "updateStrategy",
                Object(&[
                    f("type", OneOf(&["RollingUpdate"], NOT_BY_HAND)),
                    f(
                        "rollingUpdate",
                        Object(&[
                            f("maxUnavailable", Honoured),
                            f("maxSurge", Refused("take maxUnavailable; a node has one pod at a time")),
                        ]),
                    ),
                ]),
            ),
            f("revisionHistoryLimit", Harmless),
        ]),
    ),
    f("status", Harmless),
];

/// A Job.
pub(in crate::manifest) const JOB: &[Field] = &[
    f("apiVersion", Honoured),
    f("kind", Honoured),
    f("metadata", Object(META)),
    f("spec", Object(JOB_SPEC)),
    f("status", Harmless),
];

const JOB_SPEC: &[Field] = &[
    f("template", Object(TEMPLATE)),
    f("completions", Honoured),
    f("parallelism", Honoured),
    f("backoffLimit", Honoured),
    f("activeDeadlineSeconds", Honoured),
    f("ttlSecondsAfterFinished", Honoured),
    f(
        "completionMode",
        OneOf(&["NonIndexed"], "remove it; the pods of a local Job have no index"),
    ),
    f("podReplacementPolicy", OneOf(&["TerminatingOrFailed"], "remove it")),
    f(
        "suspend",
        Off("remove it; take the manifest away until the Job is to run"),
    ),
    f("manualSelector", Off("remove it; a Job finds its pods by itself")),
    f("selector", Refused("remove it; a Job finds its pods by itself")),
    f("backoffLimitPerIndex", Refused("take backoffLimit")),
    f("maxFailedIndexes", Refused("take backoffLimit")),
    f("podFailurePolicy", Refused("take backoffLimit")),
    f("successPolicy", Refused("take completions")),
    f("managedBy", Refused("remove it; nobody else is here to manage it")),
];
