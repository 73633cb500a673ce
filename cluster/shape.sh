# shellcheck shell=bash
# How large a cluster is and which addresses are its own. Sourced.
#
# INDEX keeps clusters of one machine apart; NETWORK is which addresses pods and Services have, by default the same number.
# Two clusters of one NETWORK overlap, as clusters in the world do.

# The bridge that the nodes of all clusters are on.
BRIDGE=wire0
MOST_CLUSTERS=40
MOST_NODES=9

load_shape() { # STATE
  [ -f "$1/shape" ] || die "no cluster in $1; ./x cluster up makes one"
  NAME='' NODES='' INDEX='' NETWORK=''
  read -r NAME NODES INDEX NETWORK <"$1/shape"
  CLUSTER4=10.$((100 + NETWORK)).0.0/16
  CLUSTER6=fd00:$((100 + NETWORK))::/32
  SERVICES4=10.$((200 + NETWORK)).0.0/16
  SERVICES6=fd00:$((200 + NETWORK))::/112
  DNS=10.$((200 + NETWORK)).0.10
}

node_name() { echo "$NAME-$1"; }
# A node's end on the wire.
wire_port() { echo "c$INDEX-$1"; }
node4() { echo "10.250.$INDEX.$1"; }
node6() { echo "fd00:250::$INDEX:$1"; }
pods4() { echo "10.$((100 + $1)).$2.0/24"; } # NETWORK NODE
pods6() { echo "fd00:$((100 + $1)):$2::/64"; }

# Regions take turns, so that two nodes are two regions: west-a, east-a, west-b, east-b …
place() { # NUMBER
  local regions=(west east) zones=(a b c d e) region
  region=${regions[($1 - 1) % 2]}
  echo "topology.kubernetes.io/region=$region,topology.kubernetes.io/zone=$region-${zones[($1 - 1) / 2]}"
}

# In a node: the way to the pods of a node of the cluster with that index and network.
route_pods() { # INDEX NETWORK NUMBER
  ip route replace "$(pods4 "$2" "$3")" via "10.250.$1.$3"
  ip -6 route replace "$(pods6 "$2" "$3")" via "fd00:250::$1:$3"
}
