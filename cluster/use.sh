# shellcheck shell=bash
# What is done with a cluster that is up. Sourced.

kubectl_() { KUBECONFIG=$STATE/kubeconfig "$KUBERNETES_BIN/kubectl" "$@"; }

use_kubectl() { KUBECONFIG=$STATE/kubeconfig exec "$KUBERNETES_BIN/kubectl" "$@"; }

print_kubeconfig() { echo "export KUBECONFIG=$STATE/kubeconfig"; }

use_status() {
  local number
  [ -e "$STATE/up" ] || say "$NAME is not up: it is starting, or its start was cut short"
  for number in $(seq "$NODES"); do
    [ -n "$(node_pid "$number")" ] || say "node $(node_name "$number") has ended; its logs are in $STATE/n$number/log"
    [ ! -s "$STATE/n$number/ended" ] || sed "s|^|$(node_name "$number"): ended and started again: |" "$STATE/n$number/ended"
  done
  kubectl_ get nodes -o wide -L topology.kubernetes.io/region,topology.kubernetes.io/zone
  print_kubeconfig
}

# A node by its number or its name.
on_node() { # NODE COMMAND…
  local pid
  pid=$(node_pid "${1#"$NAME-"}")
  [ -n "$pid" ] || die "no node $1 runs in $NAME"
  shift
  nsenter --target "$pid" --mount --net --uts --ipc --pid -- "$@"
}

use_node() {
  [ $# -ge 2 ] || die "node needs a node and a command"
  on_node "$@"
}

# By standard input, since a node has its own /run and /var/lib.
use_load() {
  [ $# -gt 0 ] || die "load needs image tars"
  local tar number spooled=
  for tar in "$@"; do
    # Every node reads it.
    if [ "$tar" = - ]; then
      spooled=$(mktemp "$STATE/image.XXXXXX")
      cat >"$spooled"
      tar=$spooled
    fi
    [ -r "$tar" ] || die "$tar can't be read"
    for number in $(seq "$NODES"); do
      on_node "$number" ctr -n k8s.io images import - <"$tar" >&2 ||
        die "$tar could not be loaded on $(node_name "$number")"
    done
    [ -z "$spooled" ] || rm -f "$spooled"
  done
}

checked_channel() {
  case "$1" in
    standard | experimental) echo "$1" ;;
    *) die "a channel of Gateway API is standard or experimental, not \`$1\`" ;;
  esac
}

# Gateway API brings a policy that forbids the experimental channel on top of the standard one; here that is wanted.
use_crds() { # [CHANNEL]
  local channel policy=safe-upgrades.gateway.networking.k8s.io
  channel=$(checked_channel "${1:-standard}")
  build_crds
  if [ "$channel" = experimental ]; then
    kubectl_ delete --ignore-not-found "validatingadmissionpolicybinding/$policy" "validatingadmissionpolicy/$policy" >&2
  fi
  kubectl_ apply --server-side -f "$CRDS/$channel" -f "$CRDS/mcs" >"$STATE/last" 2>&1 ||
    die "the CRDs can't be applied: $(tail -n 3 "$STATE/last")"
  kubectl_ wait --for=condition=Established --timeout="${PATIENCE}s" crd --all >"$STATE/last" 2>&1 ||
    die "the CRDs are not established: $(tail -n 3 "$STATE/last")"
  say "CRDs: Gateway API $GATEWAY_API, $channel channel; MCS $MCS"
}

# Weft as it is in this tree: its image on every node, its objects, and its parts ready.
use_weft() { # VALUES: --set KEY=VALUE…, -f FILE
  local weft=${WEFT_BIN:-} again='' image part
  if [ -z "$weft" ]; then
    cargo build --release --locked --manifest-path "$CLUSTER_HOME/../Cargo.toml" -p weft >&2
    weft=${CARGO_TARGET_DIR:-$CLUSTER_HOME/../target}/release/weft
  fi
  image=$(WEFT_BIN=$(realpath "$weft") "$CLUSTER_HOME/images.sh" weft)
  use_load "$image"
  kubectl_ -n weft-system get deployment weft-control >/dev/null 2>&1 && again=1
  "$weft" install "$@" | kubectl_ apply --server-side --force-conflicts -f - >"$STATE/last" 2>&1 ||
    die "Weft can't be installed: $(tail -n 3 "$STATE/last")"
  # The image has the name that it had before, and is perhaps another one.
  [ -z "$again" ] || kubectl_ -n weft-system rollout restart deployment >&2
  for part in $(kubectl_ -n weft-system get deployments -o name); do
    wait_for "$part" kubectl_ -n weft-system rollout status "$part" --timeout=2s
  done
  say "Weft is installed: kubectl label namespace NAME weft.dev/inject=enabled"
}

# In every node of either cluster: the way to the pods of the other one.
flat() { # A B
  local pair
  for pair in "$1 $2" "$2 $1"; do
    # shellcheck disable=SC2086 # two words
    route_to_pods_of $pair
  done
}

route_to_pods_of() { # FROM TO
  local index network nodes from_network number each
  STATE=$CLUSTERS/$(checked_name "$2")
  load_shape "$STATE"
  index=$INDEX network=$NETWORK nodes=$NODES
  STATE=$CLUSTERS/$(checked_name "$1")
  load_shape "$STATE"
  from_network=$NETWORK
  [ "$network" != "$from_network" ] || die "$1 and $2 have the same addresses; give one of them another --network"
  for number in $(seq "$NODES"); do
    for each in $(seq "$nodes"); do
      on_node "$number" bash -c ". '$CLUSTER_HOME/shape.sh'; route_pods $index $network $each"
    done
  done
}
