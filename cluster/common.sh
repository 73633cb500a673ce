# shellcheck shell=bash
# What the scripts here share: where things lie, how to speak and to fail. Sourced, never run.

CLUSTER_HOME=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/weft
# One directory per cluster. What etcd and containerd hold is some hundred MB each: a disk, not a tmpfs.
CLUSTERS=${WEFT_CLUSTERS:-/var/tmp/weft-clusters}
# MiB that must be free there: two nodes with some images take 1800.
ROOM=3072

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'x cluster: %s\n' "$*" >&2; exit 1; }
