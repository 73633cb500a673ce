#!/usr/bin/env bash
# A node of a cluster: process 1 of its own network, mount, process, host name and IPC namespaces. When it ends, the kernel
# takes away all that it was: daemons, pods, links and mounts.
#
#   node.sh STATE NUMBER      file descriptor 7 is the network namespace of the wire
#
# It starts what a node runs, in order, and starts again what ends. Before the cluster is up an end is final: it is written
# to `ended`, and `up` tells it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$CLUSTER_HOME/versions.sh"
. "$CLUSTER_HOME/shape.sh"
STATE=$1 NUMBER=$2
load_shape "$STATE"
NODE=$(node_name "$NUMBER") HERE=$STATE/n$NUMBER

# The paths that daemons insist on are this node's own ones. Those that grow lie on the disk.
mounts() {
  mount --make-rshared /
  mount -t tmpfs -o mode=755 tmpfs /run
  mount --bind "$HERE/log" /var/log
  mount --bind "$HERE/lib" /var/lib
  mkdir -p /run/containerd /var/lib/kubelet /var/lib/cni/net.d /var/lib/containerd
  cp "$HERE/pods.conflist" /var/lib/cni/net.d/10-pods.conflist
  shield vm/overcommit_memory 1
  shield vm/panic_on_oom 0
  shield kernel/panic 10
  shield kernel/panic_on_oops 1
  shield kernel/keys/root_maxkeys 1000000
  shield kernel/keys/root_maxbytes 25000000
}

# Kubelet wants settings of the whole kernel, which are the host's: it finds them as it wants them, and none is changed.
shield() { # SETTING VALUE
  local file
  file=/run/shield-$(tr / - <<<"$1")
  echo "$2" >"$file"
  mount --bind "$file" "/proc/sys/$1"
}

# A link to the wire, and routes to the pods of the other nodes. Pods see each other's addresses: nothing is masqueraded, but for
# what they send to nodes of other clusters, which have no way back to them.
network() {
  local port other
  port=$(wire_port "$NUMBER")
  hostname "$NODE"
  ip link set lo up
  ip link add eth0 type veth peer name "$port" netns /proc/self/fd/7
  nsenter --net=/proc/self/fd/7 ip link set "$port" master "$BRIDGE" up
  ip addr add "$(node4 "$NUMBER")/16" dev eth0
  ip addr add "$(node6 "$NUMBER")/64" dev eth0 nodad
  ip link set eth0 up
  # Whatever has no route of its own, a Service's address above all, must get as far as kube-proxy's rules.
  ip route add default dev eth0
  ip -6 route add default dev eth0
  sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
  for other in $(seq "$NODES"); do
    [ "$other" = "$NUMBER" ] || route_pods "$INDEX" "$NETWORK" "$other"
  done
  nft -f - <<NFT
table inet abroad {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr $(pods4 "$NETWORK" "$NUMBER") ip daddr 10.250.0.0/16 ip daddr != 10.250.$INDEX.0/24 masquerade
    ip6 saddr $(pods6 "$NETWORK" "$NUMBER") ip6 daddr fd00:250::/64 ip6 daddr != fd00:250::$INDEX:0/112 masquerade
  }
}
NFT
}

# Starts a daemon, and again when it ends. What it says goes to a file.
keep() { # NAME COMMAND…
  local name=$1 code
  shift
  while true; do
    code=0
    ("$@") >>"/var/log/$name.log" 2>&1 </dev/null || code=$?
    echo "$name $code" >>"$HERE/ended"
    [ -e "$STATE/up" ] || return 0
    sleep 1
  done
}

# A bound for what `up` waits for, too: it tells which daemon was slow.
await() { # NAME COMMAND…
  local name=$1 deadline=$((SECONDS + 250))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "$name not-ready" >>"$HERE/ended"; return 1; }
    sleep 0.1
  done
}

etcd_() {
  exec etcd --data-dir "$HERE/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster default=http://127.0.0.1:2380 --experimental-watch-progress-notify-interval 5s
}

apiserver() {
  local pki=$STATE/pki
  exec "$KUBERNETES_BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
    --advertise-address="$(node4 1)" --secure-port=6443 --cert-dir=/run/kube-apiserver \
    --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
    --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" \
    --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file="$pki/tokens.pub" --service-account-signing-key-file="$pki/tokens.key" \
    --service-cluster-ip-range="$SERVICES4,$SERVICES6" --authorization-mode=Node,RBAC --allow-privileged=true \
    --enable-admission-plugins=NodeRestriction
}

controllers() {
  local pki=$STATE/pki
  exec "$KUBERNETES_BIN/kube-controller-manager" --kubeconfig="$STATE/controllers.kubeconfig" --bind-address=127.0.0.1 \
    --service-account-private-key-file="$pki/tokens.key" --root-ca-file="$pki/ca.crt" --cert-dir=/run/controllers \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
    --use-service-account-credentials --leader-elect=false
}

scheduler() {
  local config=$STATE/scheduler.kubeconfig
  exec "$KUBERNETES_BIN/kube-scheduler" --kubeconfig="$config" --authentication-kubeconfig="$config" \
    --authorization-kubeconfig="$config" --bind-address=127.0.0.1 --leader-elect=false
}

kubelet() {
  exec "$KUBERNETES_BIN/kubelet" --kubeconfig="$STATE/$NODE.kubeconfig" --config="$HERE/kubelet.yaml" \
    --hostname-override="$NODE" --node-ip="$(node4 "$NUMBER"),$(node6 "$NUMBER")" \
    --node-labels="$(place "$NUMBER")"
}

containerd_() { exec containerd -c "$CLUSTER_HOME/config/containerd.toml"; }
kube_proxy() { exec "$KUBERNETES_BIN/kube-proxy" --config="$HERE/kube-proxy.yaml"; }

images() {
  local image
  for image in "$PAUSE_BIN/image.tar" "$COREDNS_BIN/image.tar"; do
    ctr -n k8s.io images import "$image" >>/var/log/images.log 2>&1 || { echo "images 1" >>"$HERE/ended"; return 1; }
  done
}

ready() { curl -fsS -m 2 --cacert "$STATE/pki/ca.crt" "https://$(node4 1):6443/readyz"; }

run() {
  keep containerd containerd_ &
  if [ "$NUMBER" = 1 ]; then
    keep etcd etcd_ &
    keep kube-apiserver apiserver &
  fi
  await containerd ctr version
  images
  await kube-apiserver ready
  if [ "$NUMBER" = 1 ]; then
    keep kube-controller-manager controllers &
    keep kube-scheduler scheduler &
  fi
  keep kubelet kubelet &
  keep kube-proxy kube_proxy &
}

mounts
network
exec 7<&-
run || true
# Process 1 never ends on its own. It reaps what is left to it.
while true; do wait -n || sleep 1; done
