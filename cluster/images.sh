#!/usr/bin/env bash
# What is in each image, and how it is made: without a container engine, from this repository's programs and from files of
# Debian's packages. `tree` writes the content of Weft's own one into a directory, for the Dockerfile.
#
#   images.sh weft|shop|tools|jaeger|all      into target/image/NAME.tar; prints the paths
#   images.sh load                            the same of what tests put on Services; WEFT_LOAD_PEER names its program
#   images.sh tree DIRECTORY
#
# WEFT_BIN names a `weft` that is built already.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$CLUSTER_HOME/.."
TARGET=${CARGO_TARGET_DIR:-target}
VERSION=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# Who the proxy is; the redirect leaves this user's connections alone.
WEFT_USER=1882
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT

# What the init role runs, `iptables-restore` for IPv4 and IPv6, with the matches and targets of its rules.
IPTABLES=(iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore)
EXTENSIONS=(libxt_tcp libxt_owner libxt_mark libxt_standard libxt_NAT)

# Without the lines of the source, which only a debugger reads; the names of functions stay.
stripped() { # PROGRAM
  local out
  out=$SCRATCH/$(basename "$1")
  strip --strip-debug -o "$out" "$1"
  echo "$out"
}

weft_content() {
  local weft=${WEFT_BIN:-} name extensions
  if [ -z "$weft" ]; then
    # What is shipped is what is measured.
    cargo build --profile dist --locked -p weft >&2
    weft=$TARGET/dist/weft
  fi
  extensions=$(dirname "$(dpkg-query --listfiles iptables | grep '/xtables/libxt_tcp.so$')")
  CONTENT=(--program "$(stripped "$weft"):/usr/bin/weft" --program /usr/sbin/xtables-nft-multi:/usr/sbin/xtables-nft-multi)
  for name in "${IPTABLES[@]}"; do CONTENT+=(--link "xtables-nft-multi:/usr/sbin/$name"); done
  for name in "${EXTENSIONS[@]}"; do CONTENT+=(--program "$extensions/$name.so:$extensions/$name.so"); done
  CONTENT+=(--link "libxt_NAT.so:$extensions/libxt_REDIRECT.so"
    --text "weft:x:$WEFT_USER:$WEFT_USER:Weft:/:/nonexistent:/etc/passwd" --text "weft:x:$WEFT_USER::/etc/group")
}

weft() {
  weft_content
  write weft --user "$WEFT_USER:$WEFT_USER" --entrypoint /usr/bin/weft "${CONTENT[@]}"
}

tree() { # DIRECTORY
  weft_content
  cluster/image.py --tree "$1" "${CONTENT[@]}"
}

# The demo's apps, each by its own name.
shop() {
  local app content=()
  cargo build --release --locked -p shop >&2
  for app in web reviews ratings visitor; do content+=(--program "$(stripped "$TARGET/release/$app"):/usr/bin/$app"); done
  write shop --user 1000:1000 "${content[@]}"
}

# What tests look with from inside of a pod: a shell, curl, tcpdump, ip, Python with its library.
tools() {
  local python package content=()
  python=$(/usr/bin/python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  for package in bash dash coreutils grep sed procps curl tcpdump iproute2 openssl \
    "$python-minimal" "lib$python-minimal" "lib$python-stdlib"; do content+=(--package "$package"); done
  write tools --link "$python:/usr/bin/python3" --text "root:x:0:0:root:/root:/bin/sh:/etc/passwd" \
    --text "root:x:0::/etc/group" --directory /tmp "${content[@]}"
}

# A collector of traces, as `./x jaeger` has built it.
jaeger() {
  local program
  program=$(find "${XDG_CACHE_HOME:-$HOME/.cache}/weft" -path '*/jaeger-v*/jaeger-all-in-one' | sort | tail -1)
  [ -n "$program" ] || die "there is no Jaeger yet: ./x jaeger builds it"
  write jaeger --user 1000:1000 --entrypoint /usr/bin/jaeger-all-in-one --directory /tmp \
    --program "$(stripped "$program"):/usr/bin/jaeger-all-in-one"
}

# What answers and calls in tests, and what ends its calls.
load() {
  write load --user 1000:1000 --directory /tmp --package coreutils \
    --program "$(stripped "${WEFT_LOAD_PEER:?the program}"):/usr/bin/weft-load-peer"
}

write() { # NAME ARGS…
  local out=$TARGET/image/$1.tar
  mkdir -p "$TARGET/image"
  cluster/image.py --out "$out" --name "weft.dev/$1:$VERSION" "${@:2}"
  # Who is root by sudo makes the next one as themselves.
  [ -z "${SUDO_UID:-}" ] || chown "$SUDO_UID:${SUDO_GID:-}" "$TARGET/image" "$out"
  realpath "$out"
}

case "${1:-}" in
  weft | shop | tools | jaeger | load) "$1" ;;
  all) weft; shop; tools; jaeger ;;
  tree) tree "${2:?a directory}" ;;
  *) die "images.sh weft|shop|tools|jaeger|load|all, or tree DIRECTORY" ;;
esac
