#!/usr/bin/env bash
# The Gateway API's conformance suite for meshes, as its authors wrote it, against Weft as it is in this tree. README.md says
# what is claimed and where the report lies.
#
#   run.sh [FLAG…]      flags of the suite, --run-test=NAME for one; with any of them the report stays in target
#
# WEFT_BIN names a `weft` that is built already. With USE_EXISTING_CLUSTER=1 it is the cluster of KUBECONFIG, which has Weft
# and the image whose tar `run.sh image` prints.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/../cluster/common.sh"
. "$CLUSTER_HOME/versions.sh"
. "$CLUSTER_HOME/build.sh"
cd "$HERE/.."

SUITE=$(pinned ../conformance sigs.k8s.io/gateway-api/conformance)
VERSION=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# By content, too: the echo program is this repository's.
BUILT=$CACHE/conformance-$SUITE-$(cat "$HERE"/{go.mod,go.sum} "$HERE"/*/*.go | sha256sum | cut -c1-12)
OUT=${CARGO_TARGET_DIR:-target}/conformance
REPORT=$HERE/reports/$SUITE/weft/standard-$VERSION-default-report.yaml

PROFILES=MESH-HTTP,MESH-GRPC
# Every feature that one of the suite's tests for meshes asks for. A test of a mesh that is skipped is a failure below.
FEATURES=(Mesh MeshClusterIPMatching MeshConsumerRoute MeshHTTPRouteBackendRequestHeaderModification
  MeshHTTPRouteNamedRouteRule MeshHTTPRouteQueryParamMatching MeshHTTPRouteRedirectPath MeshHTTPRouteRedirectPort
  MeshHTTPRouteRewritePath MeshHTTPRouteSchemeRedirect HTTPRoute HTTPRouteParentRefPort
  HTTPRouteResponseHeaderModification HTTPRoute303RedirectStatusCode HTTPRoute307RedirectStatusCode
  HTTPRoute308RedirectStatusCode GRPCRoute)

# The suite's program, and the image of the pods that it deploys, under the name that its manifests say.
compile() { # OUT
  local out=$1 manifests image
  go -C "$HERE" mod download
  CGO_ENABLED=0 go -C "$HERE" test -c -trimpath -ldflags "-s -w" -o "$out/conformance.test" ./suite
  CGO_ENABLED=0 go -C "$HERE" build -trimpath -ldflags "-s -w" -o "$out/echo" ./echo
  manifests=$(go -C "$HERE" list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api/conformance)/mesh/manifests.yaml
  image=$(awk '$1 == "image:" {print $2}' "$manifests" | sort -u)
  [ "$(wc -w <<<"$image")" = 1 ] || die "$manifests names other than one image: $image"
  echo "$image" >"$out/image"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=echo -days 3650 \
    -keyout "$out/cert.key" -out "$out/cert.crt"
  "$CLUSTER_HOME/image.py" --out "$out/echo.tar" --name "$image" --user 1338:1338 --entrypoint /usr/local/bin/echo \
    --program "$out/echo:/usr/local/bin/echo" --link echo:/usr/local/bin/client \
    --file "$out/cert.crt:/cert.crt" --file "$out/cert.key:/cert.key"
}

# A cluster of its own, which ends with this script.
cluster_up() {
  export WEFT_CLUSTER=conformance-$$ KUBECONFIG=$CLUSTERS/conformance-$$/kubeconfig
  trap '"$CLUSTER_HOME/cluster.sh" down' EXIT
  "$CLUSTER_HOME/cluster.sh" up >/dev/null
  "$CLUSTER_HOME/cluster.sh" load "$BUILT/echo.tar"
}

suite() { # FLAG…
  sed "s|IMAGE|$(cat "$BUILT/image")|" "$HERE/waited-for.yaml" | "$KUBERNETES_BIN/kubectl" apply -f -
  "$BUILT/conformance.test" -test.v -test.timeout 40m -test.run '^TestConformance$' \
    --conformance-profiles="$PROFILES" --supported-features="$(IFS=,; echo "${FEATURES[*]}")" \
    --namespace-labels=weft.dev/inject=enabled --report-output="$OUT/report.yaml" --mode=default \
    --organization=weft --project=weft --url=https://weft.dev --contact=https://weft.dev --version="$VERSION" "$@"
}

# One line a test of the suite, and the count. What the suite skips is other than a mesh's.
results() { # LOG FLAGS
  sed -nE 's/^    --- (PASS|FAIL|SKIP): TestConformance\/([^/ ]+) \((.*)\)$/\1 \2 \3/p' "$1" |
    awk -v one="$2" '
      $1 == "SKIP" && (one || $2 !~ /^Mesh/) {next}
      {print ($1 == "SKIP" ? "FAIL (skipped)" : $1), $2, $3; $1 == "PASS" ? passed++ : failed++}
      END {printf "%d passed, %d failed\n", passed, failed; exit failed || !passed}'
}

main() {
  [ "$SUITE" = "$GATEWAY_API" ] || die "the suite is $SUITE, and cluster/crds has the CRDs of $GATEWAY_API"
  build_once "$BUILT" "the conformance suite of Gateway API $SUITE" compile
  if [ "${1:-}" = image ]; then
    echo "$BUILT/echo.tar"
    return
  fi
  mkdir -p "$OUT"
  rm -f "$OUT/report.yaml"
  [ "${USE_EXISTING_CLUSTER:-}" = 1 ] || cluster_up
  say "the suite runs; what it says is in $OUT/log"
  local status=0
  suite "$@" >"$OUT/log" 2>&1 || status=$?
  results "$OUT/log" "$*" || status=1
  [ "$status" = 0 ] || die "not conformant; $OUT/log says why"
  if [ $# = 0 ]; then
    install -D -m 644 "$OUT/report.yaml" "$REPORT"
    say "the report: $REPORT"
  fi
}

main "$@"
