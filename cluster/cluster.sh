#!/usr/bin/env bash
# Real Kubernetes clusters on one machine. See `./x cluster help` and README.md.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$CLUSTER_HOME/versions.sh"
. "$CLUSTER_HOME/build.sh"
. "$CLUSTER_HOME/shape.sh"
. "$CLUSTER_HOME/cgroups.sh"
. "$CLUSTER_HOME/pki.sh"
. "$CLUSTER_HOME/life.sh"
. "$CLUSTER_HOME/use.sh"

usage() {
  cat <<'HELP'
./x cluster [--name NAME] VERB …      NAME is `weft` unless it is given, there or after `up` and `down`

  up [NAME] [--nodes N] [--network N] [--crds CHANNEL] [--bare]
                          a cluster of N nodes (2), each in a region and zone, with the Gateway API's CRDs (standard) and
                          Weft as it is in this tree (WEFT_BIN names one that is built); prints `export KUBECONFIG=…`.
                          Clusters of one --network (1 to 40) have the same addresses of pods and Services.
                          --bare: without Weft, and without CRDs unless --crds asks for them
  down [NAME]             ends it, and whatever an earlier run left of it
  status                  its nodes, its daemons, and what of them ended
  kubectl ARGS…           kubectl against it
  load TAR…               loads image tars (OCI, docker save) into every node; `-` is standard input
  crds [CHANNEL]          Gateway API's CRDs of a channel, standard (default) or experimental, and those of MCS
  node NODE COMMAND…      a command on a node, by name or number, in its namespaces
  weft [VALUES…]          installs Weft again, after a change, or with values (--set …, -f …)
  flat A B                routes between the pods of two clusters
  hold [NAME] [OPTIONS]   `up`, then `down` when standard input ends: for a program that wants one as long as it lives
  assets                  prints where Kubernetes' programs are, for KUBEBUILDER_ASSETS
  build                   only builds what it is made of, into ~/.cache/weft
HELP
}

# A name is part of host names, of paths and of names in DNS.
checked_name() {
  [[ "$1" =~ ^[a-z][a-z0-9-]{0,30}$ && "$1" != wire ]] ||
    die "\`$1\` can't be a cluster's name: a-z, 0-9 and -, at most 31, not \`wire\`"
  echo "$1"
}

checked_number() { # OPTION VALUE MOST
  [[ "$2" =~ ^[1-9][0-9]?$ && "$2" -le "$3" ]] || die "$1 is a number from 1 to $3, not \`$2\`"
  echo "$2"
}

# What `up` and `hold` are asked for.
parse_up() {
  WANT_NODES=2 WANT_NETWORK='' WANT_CRDS='' WANT_WEFT=1
  while [ $# -gt 0 ]; do
    case "$1" in
      --nodes) WANT_NODES=$(checked_number --nodes "${2:-}" "$MOST_NODES"); shift ;;
      --network) WANT_NETWORK=$(checked_number --network "${2:-}" "$MOST_CLUSTERS"); shift ;;
      --crds) WANT_CRDS=$(checked_channel "${2:-}"); shift ;;
      --bare) WANT_WEFT='' ;;
      -*) die "\`$1\` is no option of up; see ./x cluster help" ;;
      *) NAME=$(checked_name "$1") ;;
    esac
    shift
  done
  # Without routes there is little to see.
  [ -z "$WANT_WEFT" ] || WANT_CRDS=${WANT_CRDS:-standard}
  STATE=$CLUSTERS/$NAME
}

main() {
  NAME=${WEFT_CLUSTER:-weft}
  if [ "${1:-}" = --name ]; then
    NAME=${2:-}
    shift 2 || die "--name needs a name"
  fi
  NAME=$(checked_name "$NAME")
  STATE=$CLUSTERS/$NAME
  local verb=${1:-help}
  [ $# -eq 0 ] || shift
  case "$verb" in
    help | -h | --help) usage; return ;;
    build) build_all; return ;;
    assets) echo "$KUBERNETES_BIN"; return ;;
  esac
  [ "$(id -u)" -eq 0 ] || die "a cluster's nodes are namespaces that root makes; run: sudo ./x cluster $verb"
  case "$verb" in
    up) parse_up "$@"; up ;;
    hold) parse_up "$@"; hold ;;
    down) [ $# -eq 0 ] || { NAME=$(checked_name "$1"); STATE=$CLUSTERS/$NAME; }; down ;;
    status | kubectl | load | crds | weft | node) load_shape "$STATE"; "use_$verb" "$@" ;;
    flat) [ $# -eq 2 ] || die "flat needs the names of two clusters"; flat "$@" ;;
    *) usage >&2; exit 64 ;;
  esac
}

main "$@"
