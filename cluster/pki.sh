# shellcheck shell=bash
# The keys and certificates of a cluster, each component with the name that Kubernetes' own roles are bound to. Sourced.

DAYS=30

make_pki() {
  local pki=$STATE/pki number
  mkdir -m 700 "$pki"
  new_key ca
  openssl req -x509 -new -key "$pki/ca.key" -subj "/CN=$NAME" -days "$DAYS" -out "$pki/ca.crt"
  new_key tokens
  openssl pkey -in "$pki/tokens.key" -pubout -out "$pki/tokens.pub"
  certify apiserver /CN=kube-apiserver serverAuth \
    "IP:127.0.0.1,IP:$(node4 1),IP:10.$((200 + NETWORK)).0.1,IP:fd00:$((200 + NETWORK))::1" \
    DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
  certify admin /O=system:masters/CN=admin clientAuth
  certify controllers /CN=system:kube-controller-manager clientAuth
  certify scheduler /CN=system:kube-scheduler clientAuth
  certify kube-proxy /CN=system:kube-proxy clientAuth
  for number in $(seq "$NODES"); do
    local node
    node=$(node_name "$number")
    certify "$node" "/O=system:nodes/CN=system:node:$node" clientAuth,serverAuth \
      "IP:$(node4 "$number"),IP:$(node6 "$number"),DNS:$node"
  done
}

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$STATE/pki/$1.key"; } # NAME

certify() { # NAME SUBJECT USAGES [SAN…]
  local file=$STATE/pki/$1 subject=$2 extensions=extendedKeyUsage=$3
  new_key "$1"
  shift 3
  [ $# -eq 0 ] || extensions+=$'\n'subjectAltName=$(IFS=,; echo "$*")
  openssl req -new -key "$file.key" -subj "$subject" |
    openssl x509 -req -CA "$STATE/pki/ca.crt" -CAkey "$STATE/pki/ca.key" -CAcreateserial -days "$DAYS" \
      -extfile <(echo "$extensions") -out "$file.crt" 2>"$file.log" || die "no certificate for $subject: $(cat "$file.log")"
}

# One file that holds all it needs, for whoever has that certificate.
write_kubeconfig() { # FILE CERTIFICATE SERVER
  local pki=$STATE/pki
  (umask 077 && sed -e "s|@NAME@|$NAME|g" -e "s|@USER@|$2|g" -e "s|@SERVER@|$3|" \
    -e "s|@CA@|$(base64 -w0 "$pki/ca.crt")|" -e "s|@CERTIFICATE@|$(base64 -w0 "$pki/$2.crt")|" \
    -e "s|@KEY@|$(base64 -w0 "$pki/$2.key")|" "$CLUSTER_HOME/config/kubeconfig.yaml" >"$1")
}
