# shellcheck shell=bash
# The binaries that no Debian package holds, built once from Go modules and kept by version in the cache. Sourced.

KUBERNETES_PARTS=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)

build_all() {
  command -v go >/dev/null || die "go is missing: install Go 1.26 or newer (https://go.dev/dl), which builds Kubernetes"
  build_kubernetes
  build_coredns
  build_pause
}

# Builds into a directory of its own, so that a build that was cut short leaves nothing that looks whole.
build_once() { # PLACE NAME COMMAND…: COMMAND gets the directory as its last argument
  local place=$1 name=$2 work
  shift 2
  [ ! -d "$place" ] || return 0
  say "building $name (once)"
  mkdir -p "$CACHE"
  work=$(mktemp -d "$place.build.XXXXXX")
  if ! "$@" "$work" >&2; then
    rm -rf "$work"
    die "$name could not be built; see above"
  fi
  # Two at a time do the same work; the first one to be done wins.
  chmod 755 "$work"
  mv -T "$work" "$place" 2>/dev/null || rm -rf "$work"
}

build_kubernetes() { build_once "$KUBERNETES_BIN" "Kubernetes $KUBERNETES" compile_kubernetes; }
build_coredns() { build_once "$COREDNS_BIN" "CoreDNS $COREDNS" compile_coredns; }
build_pause() { build_once "$PAUSE_BIN" "pause" compile_pause; }
build_crds() { build_once "$CRDS" "the CRDs of Gateway API $GATEWAY_API and MCS $MCS" copy_crds; }

# Without the version's flags the server calls itself `v0.0.0-master+$Format:%H$`, which clients can't parse.
compile_kubernetes() { # OUT
  local out=$1 version=k8s.io/component-base/version minor=${KUBERNETES#v1.}
  local flags="-s -w -X $version.gitVersion=$KUBERNETES -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}"
  flags+=" -X $version.gitTreeState=clean -X $version.gitCommit=$KUBERNETES -X $version.buildDate=1970-01-01T00:00:00Z"
  CGO_ENABLED=0 go -C "$CLUSTER_HOME/kubernetes" build -trimpath -ldflags "$flags" -o "$out/" \
    "${KUBERNETES_PARTS[@]/#/k8s.io/kubernetes/cmd/}"
}

compile_coredns() { # OUT
  CGO_ENABLED=0 go -C "$CLUSTER_HOME/coredns" build -trimpath -ldflags "-s -w" -o "$1/" github.com/coredns/coredns
  "$CLUSTER_HOME/image.py" --out "$1/image.tar" --name "localhost/coredns:$COREDNS" \
    --program "$1/coredns:/coredns" --entrypoint /coredns
}

compile_pause() { # OUT
  gcc -static -O2 -Wall -Wextra -Werror -o "$1/pause" "$CLUSTER_HOME/pause.c"
  "$CLUSTER_HOME/image.py" --out "$1/image.tar" --name localhost/pause:1 \
    --program "$1/pause:/pause" --entrypoint /pause
}

# From the modules' own files, by channel.
copy_crds() { # OUT
  local out=$1 gateway mcs channel
  go -C "$CLUSTER_HOME/crds" mod download
  gateway=$(go -C "$CLUSTER_HOME/crds" list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)
  mcs=$(go -C "$CLUSTER_HOME/crds" list -m -f '{{.Dir}}' sigs.k8s.io/mcs-api)
  for channel in standard experimental; do
    install -D -m 644 -t "$out/$channel" "$gateway/config/crd/$channel"/gateway*.yaml
  done
  install -D -m 644 -t "$out/mcs" "$mcs/config/crd"/*.yaml
}
