# shellcheck shell=bash
# What is built from Go modules: which versions, and where it is kept. Sourced.

# The version of a Go module that the cluster is made of. Its go.mod is the one place that says it; go.sum pins the content.
pinned() { # MODULE-DIRECTORY PATH
  awk -v path="$2" '$1 == "require" {$1 = ""; $0 = $0} $1 == path && $2 ~ /^v/ {print $2; exit}' "$CLUSTER_HOME/$1/go.mod"
}

KUBERNETES=$(pinned kubernetes k8s.io/kubernetes)
COREDNS=$(pinned coredns github.com/coredns/coredns)
GATEWAY_API=$(pinned crds sigs.k8s.io/gateway-api)
MCS=$(pinned crds sigs.k8s.io/mcs-api)

KUBERNETES_BIN=$CACHE/kubernetes-$KUBERNETES
COREDNS_BIN=$CACHE/coredns-$COREDNS
PAUSE_BIN=$CACHE/pause-1
CRDS=$CACHE/crds-$GATEWAY_API-$MCS
