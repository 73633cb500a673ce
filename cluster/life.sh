# shellcheck shell=bash
# How a cluster begins and ends. Sourced.
#
# Two locks, neither of which leaves a file: on /var/tmp, for what clusters share (their numbers, the wire), and on a
# cluster's directory, held by the one `up` or `down` that works on it.

# `up` waits that long for anything. A machine that is busy with a build takes half of it.
PATIENCE=300

# What must live while the cluster comes up: process id, log and name of each, one a line.
WATCHED=''

hold_machine() { exec 8</var/tmp && flock -w "$PATIENCE" 8 || die "another ./x cluster holds its lock for $PATIENCE s"; }
free_machine() { exec 8<&-; }
hold_cluster() { exec 9<"$STATE" && flock -n 9 || die "another ./x cluster works on \`$NAME\` right now"; }

up() {
  local began=$SECONDS
  build_all
  hold_machine
  if [ -d "$STATE" ]; then
    hold_cluster
    if is_up; then
      free_machine
      # It is not the holder's, and would end with it.
      [ -z "${HELD:-}" ] || die "$NAME is up already; a cluster that is held is one of its own"
      # What a start was cut short of. Else with what it has: Weft was perhaps given values that are to stay.
      [ ! -e "$STATE/half" ] || put_on
      say "$NAME is up already, with $NODES nodes; \`./x cluster weft\` puts this tree's Weft on it"
      print_kubeconfig
      return
    fi
    say "cleaning up what an earlier run left of $NAME"
    end_cluster
  fi
  trap 'abandon' EXIT
  claim
  enough_room
  make_wire
  free_machine
  make_pki
  local number
  for number in $(seq "$NODES"); do start_node "$number"; done
  await_cluster "$began"
  : >"$STATE/half"
  : >"$STATE/up"
  # One that is held ends with its holder also when that is ended now.
  [ -n "${HELD:-}" ] || trap - EXIT
  put_on
  say "$NAME is up: $NODES nodes, $((SECONDS - began)) s"
  print_kubeconfig
}

# Where the disk is nearly full the kubelets evict every pod, and images can't be unpacked.
enough_room() {
  local free
  free=$(df --output=avail -BM "$CLUSTERS" | tail -n 1 | tr -dc '0-9')
  [ "$free" -ge "$ROOM" ] || die "$CLUSTERS has $free MiB left on its disk, and a cluster needs $ROOM: make room, or name another directory by WEFT_CLUSTERS"
}

# What is wanted beside the cluster itself.
put_on() {
  [ -z "$WANT_CRDS" ] || use_crds "$WANT_CRDS"
  [ -z "$WANT_WEFT" ] || use_weft
  rm -f "$STATE/half"
}

# After a failure: nothing stays.
abandon() {
  free_machine
  say "ending what was begun of $NAME"
  hold_machine
  end_cluster
}

# The cluster's lock is waited for without the machine's, which its holder may need to get done.
down() {
  if { exec 9<"$STATE"; } 2>/dev/null; then
    flock -w "$PATIENCE" 9 || die "another ./x cluster works on \`$NAME\` since $PATIENCE s"
  fi
  hold_machine
  if [ ! -d "$STATE" ] && [ -z "$(members "$NAME")" ]; then
    say "there is no cluster $NAME"
    return
  fi
  end_cluster
  say "$NAME is gone"
}

# A program that dies, however it dies, closes its end of the pipe. What ends it at a terminal reaches this script, too.
hold() {
  HELD=1 up
  trap '' INT TERM HUP
  exec 9<&-
  cat >/dev/null
  trap - EXIT
  down
}

# With both locks held. Everything that a cluster is, is in its cgroups and in its directory.
end_cluster() {
  end_cgroup "$NAME"
  rm -rf --one-file-system "$STATE"
  exec 9<&-
  # The last one takes the wire along.
  if [ -z "$(ls -A "$CLUSTERS" 2>/dev/null)" ]; then
    end_cgroup wire
    rmdir "$CLUSTERS" 2>/dev/null || true
  fi
}

is_up() {
  local number
  [ -e "$STATE/up" ] || return 1
  load_shape "$STATE"
  for number in $(seq "$NODES"); do [ -n "$(node_pid "$number")" ] || return 1; done
}

# Takes the directory and the lowest number that no cluster has.
claim() {
  local index taken
  case "$CLUSTERS/" in
    /run/* | /var/run/* | /var/lib/* | /var/log/*) die "WEFT_CLUSTERS is $CLUSTERS: nodes have their own of that" ;;
  esac
  mkdir -p -m 755 "$CLUSTERS"
  [ -O "$CLUSTERS" ] && [ ! -L "$CLUSTERS" ] || die "$CLUSTERS is not yours; remove it, or name another one by WEFT_CLUSTERS"
  taken=$({ cat "$CLUSTERS"/*/shape 2>/dev/null || true; } | cut -d" " -f3)
  for index in $(seq "$MOST_CLUSTERS"); do grep -qx "$index" <<<"$taken" || break; done
  ! grep -qx "$index" <<<"$taken" || die "$MOST_CLUSTERS clusters run already"
  mkdir -m 755 "$STATE"
  hold_cluster
  echo "$NAME $WANT_NODES $index ${WANT_NETWORK:-$index}" >"$STATE/shape"
  : >"$STATE/resolv.conf"
  load_shape "$STATE"
}

# --- the wire: a network namespace with a bridge that all nodes of all clusters are on, held by a process that sleeps

wire_pid() { members wire | head -n 1; }

make_wire() {
  local pid
  if [ -z "$(wire_pid)" ]; then
    make_cgroup wire
    spawn wire /dev/null unshare --net sleep infinity
  fi
  wait_for "the wire" in_own_network
  pid=$(wire_pid)
  on_wire() { nsenter --net="/proc/$pid/ns/net" "$@"; }
  on_wire ip link show "$BRIDGE" >/dev/null 2>&1 || on_wire ip link add "$BRIDGE" type bridge
  on_wire ip link set "$BRIDGE" up
  clear_ports
}

# The kernel takes a network namespace apart some time after its last process has ended, on a busy machine seconds after.
# Until then the ports of a cluster that is gone stay on the wire, under the names that the one with its number now wants.
clear_ports() {
  local number
  for number in $(seq "$MOST_NODES"); do
    # It may go away by itself at any moment: what counts is that it is gone.
    on_wire ip link del "$(wire_port "$number")" 2>/dev/null || true
    ! on_wire ip link show "$(wire_port "$number")" >/dev/null 2>&1 || die "$(wire_port "$number") stays on the wire"
  done
}

in_own_network() {
  local pid
  pid=$(wire_pid)
  [ -n "$pid" ] && [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ]
}

# --- nodes

start_node() { # NUMBER
  local number=$1 here=$STATE/n$1 node
  node=$(node_name "$number")
  mkdir -p "$here/log" "$here/lib"
  make_cgroup "$NAME/n$number"
  make_cgroup "$NAME/daemons"
  write_kubeconfig "$STATE/$node.kubeconfig" "$node" "$(node4 1):6443"
  local component
  for component in controllers scheduler kube-proxy; do
    write_kubeconfig "$STATE/$component.kubeconfig" "$component" "$(node4 1):6443"
  done
  render "$number" config/kubelet.yaml >"$here/kubelet.yaml"
  render "$number" config/kube-proxy.yaml >"$here/kube-proxy.yaml"
  render "$number" config/pods.conflist >"$here/pods.conflist"
  spawn "$NAME/daemons" "$here/log/node.log" unshare --net --mount --uts --ipc --pid --fork --mount-proc \
    "$CLUSTER_HOME/node.sh" "$STATE" "$number" 7<"/proc/$(wire_pid)/ns/net"
  echo $! >"$here/unshare.pid"
  watch "$here/log/node.log" "process 1 of $node"
}

render() { # NUMBER TEMPLATE
  sed -e "s|@NODE@|$(node_name "$1")|" -e "s|@STATE@|$STATE|" -e "s|@CGROUP@|/$CGROUP_ROOT/$NAME/n$1|" \
    -e "s|@DNS@|$DNS|" -e "s|@COREDNS@|$COREDNS|" -e "s|@CLUSTER4@|$CLUSTER4|" -e "s|@CLUSTER6@|$CLUSTER6|" \
    -e "s|@PODS4@|$(pods4 "$NETWORK" "$1")|" -e "s|@PODS6@|$(pods6 "$NETWORK" "$1")|" "$CLUSTER_HOME/$2"
}

# The process 1 of a node as the host numbers it; nothing if it has ended. The number alone could be anybody's by now.
node_pid() { # NUMBER
  local parent pid
  parent=$(cat "$STATE/n$1/unshare.pid" 2>/dev/null) || return 0
  pid=$(pgrep -P "$parent" | head -n 1)
  # To the end: what still writes when `grep -q` has read enough would fail, and the whole line with it.
  [ -z "$pid" ] || members "$NAME" | grep -x "$pid" || true
}

# --- waiting

# Waits until a command succeeds. A process or daemon that ends meanwhile is what it fails with.
wait_for() { # WHAT COMMAND…
  local what=$1 deadline=$((SECONDS + PATIENCE))
  shift
  until "$@" >"$STATE/last" 2>&1; do
    ended_process
    ended_daemon
    [ "$SECONDS" -lt "$deadline" ] || die "$what: not within $PATIENCE s: $(tail -n 5 "$STATE/last")"
    sleep 0.1
  done
}

# After `spawn`: it is waited for no longer than it lives.
watch() { # LOG NAME
  WATCHED+="$! $1 $2"$'\n'
}

ended_process() {
  local pid log name
  while read -r pid log name; do
    [ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null || continue
    tail -n 25 "$log" >&2 || true
    die "$name ended; above is the end of what it said"
  done <<<"$WATCHED"
}

ended_daemon() {
  local file name code
  for file in "$STATE"/n*/ended; do
    [ -s "$file" ] || continue
    read -r name code <"$file"
    file=${file%/ended}
    tail -n 25 "$file/log/$name.log" >&2 || true
    die "$name on $(node_name "${file##*/n}") ended ($code); above is the end of what it said"
  done
}

await_cluster() { # BEGAN
  local number nodes=()
  for number in $(seq "$NODES"); do
    wait_for "process 1 of node $number" node_lives "$number"
    nodes+=("node/$(node_name "$number")")
  done
  spawn "$NAME/daemons" "$STATE/relay.log" "$CLUSTER_HOME/relay.py" "$(node_pid 1)" "$(node4 1)" 6443 "$STATE/relay.port"
  watch "$STATE/relay.log" "the relay to the API server"
  wait_for "the relay to the API server" test -s "$STATE/relay.port"
  write_kubeconfig "$STATE/kubeconfig" admin "127.0.0.1:$(cat "$STATE/relay.port")"
  # Who is root by sudo goes on as themselves.
  [ -z "${SUDO_UID:-}" ] || chown "$SUDO_UID:${SUDO_GID:-}" "$STATE/kubeconfig"
  wait_for "the API server" kubectl_ get --raw /readyz
  say "the API server is ready ($((SECONDS - $1)) s)"
  render 1 manifests/coredns.yaml >"$STATE/coredns.yaml"
  wait_for "CoreDNS's objects" kubectl_ apply -f "$STATE/coredns.yaml"
  wait_for "nodes to be ready" kubectl_ wait --for=condition=Ready --timeout=2s "${nodes[@]}"
  say "nodes that are ready: ${#nodes[@]} ($((SECONDS - $1)) s)"
  wait_for "CoreDNS" kubectl_ -n kube-system rollout status deployment/coredns --timeout=2s
}

node_lives() { [ -n "$(node_pid "$1")" ]; }
