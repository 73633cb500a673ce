# shellcheck shell=bash
# Which processes are a cluster's: those in its cgroups, and no others. A cluster has `wire`, `NAME/daemons` and, for the
# pods of each node, `NAME/nN`, below one cgroup in every hierarchy. So what an earlier run left is found and ended without
# guessing at process ids. Sourced.

CGROUP_ROOT=weft-clusters

hierarchies() { awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/mounts; }

# Daemons are in one hierarchy's cgroups only: where the kernel counts processes, else in the only one that there is.
daemons_hierarchy() {
  local hierarchy
  for hierarchy in /sys/fs/cgroup/pids $(hierarchies); do
    [ ! -w "$hierarchy/cgroup.procs" ] || { echo "$hierarchy"; return; }
  done
  die "no cgroup hierarchy is writable; kubelets need one"
}

make_cgroup() { # PATH, in every hierarchy
  local hierarchy part path
  for hierarchy in $(hierarchies); do
    path=$hierarchy
    # Each level passes on what its children may use: by value in version 1's cpuset, by name in version 2.
    for part in $(tr / ' ' <<<"$CGROUP_ROOT/$1"); do
      offer_controllers "$path"
      mkdir -p "$path/$part"
      inherit_cpus "$path" "$path/$part"
      path+=/$part
    done
    offer_controllers "$path"
  done
}

offer_controllers() { # CGROUP
  local controller
  [ -s "$1/cgroup.controllers" ] || return 0
  for controller in $(cat "$1/cgroup.controllers"); do
    echo "+$controller" >"$1/cgroup.subtree_control" 2>/dev/null || true
  done
}

inherit_cpus() { # PARENT CHILD
  local file
  [ -e "$2/cpuset.cpu_exclusive" ] || return 0
  for file in cpuset.cpus cpuset.mems; do
    [ -n "$(cat "$2/$file")" ] || cat "$1/$file" >"$2/$file"
  done
}

# Starts a program that outlives this script, in a cgroup below ours, in a session of its own. Locks stay here.
spawn() { # CGROUP LOG COMMAND…
  local procs log=$2
  procs=$(daemons_hierarchy)/$CGROUP_ROOT/$1/cgroup.procs
  shift 2
  (
    echo "$BASHPID" >"$procs"
    exec setsid "$@" >>"$log" 2>&1 </dev/null 8<&- 9<&-
  ) &
  disown
}

members() { # PATH
  local hierarchy
  for hierarchy in $(hierarchies); do
    find "$hierarchy/$CGROUP_ROOT/$1" -name cgroup.procs -exec cat {} + 2>/dev/null || true
  done | sed '/^0$/d' | sort -un
}

# Ends everything in a cgroup and takes the cgroup away.
end_cgroup() { # PATH
  local hierarchy pids deadline=$((SECONDS + 30))
  while pids=$(members "$1") && [ -n "$pids" ]; do
    [ "$SECONDS" -lt "$deadline" ] || die "processes that don't end: $(tr '\n' ' ' <<<"$pids")"
    # One that has ended in between is no error.
    xargs -r kill -9 <<<"$pids" 2>/dev/null || true
    sleep 0.05
  done
  for hierarchy in $(hierarchies); do
    remove_cgroup "$hierarchy/$CGROUP_ROOT/$1" "$deadline"
    rmdir "$hierarchy/$CGROUP_ROOT" 2>/dev/null || true
  done
}

# The kernel needs a moment to let go of a cgroup whose last process has ended.
remove_cgroup() { # DIRECTORY DEADLINE
  while [ -d "$1" ] && ! find "$1" -depth -type d -exec rmdir {} + 2>/dev/null; do
    [ "$SECONDS" -lt "$2" ] || die "$1 can't be removed"
    sleep 0.05
  done
}
