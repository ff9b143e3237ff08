#!/usr/bin/env bash
# Nodes of kind clusters that run this kubelet, for make:
#
#   kind.sh create              a new cluster CLUSTER with it on all nodes, or with NODES=worker on the workers
#   kind.sh delete              removes that cluster
#   kind.sh node                one more node with it, NODE or else CLUSTER-minikubelet, joins the running cluster CLUSTER
#   kind.sh node-delete         removes the node NODE
#   kind.sh swap                it takes the place of the kubelet of the running node NODE, whose pods keep running
#   kind.sh swap-back           the node's own kubelet does
#
# KIND is the program kind, KUBELET this kubelet. A new cluster has the node image IMAGE, otherwise kind's own, and the nodes of the
# kind configuration CONFIG. With RUNTIME=embedded the kubelet runs containers itself. With DLV=path of dlv it runs under that, and
# port 2345 of this machine leads there for the first new node; a node that is swapped has the port at its own address.
set -euo pipefail
command=${1:-} cluster=${CLUSTER:-minikubelet} node=${NODE:-} runtime=${RUNTIME:-containerd} dlv=${DLV:-}
lib=/usr/local/lib/minikubelet # what a node gets
undo=: # what failing takes back
say() { printf '%4ds  %s\n' $SECONDS "$*"; }
fail() {
  echo "kind-$command: $*" >&2
  exit 1
}
files=$(mktemp -d)
trap 'status=$?; [ $status = 0 ] || $undo || true; rm -rf "$files"; exit $status' EXIT

kubectl() { docker exec -i "$control" kubectl --kubeconfig /etc/kubernetes/admin.conf "$@"; }
label() { docker inspect -f "{{index .Config.Labels \"io.x-k8s.kind.$2\"}}" "$1" 2>/dev/null || true; }
nodes() { docker ps "$@" --filter label=io.x-k8s.kind.cluster --format '{{.Names}}' | sort; }

find_cluster() {
  control=$(nodes --filter "label=io.x-k8s.kind.cluster=$cluster" --filter label=io.x-k8s.kind.role=control-plane | head -n 1)
  [ -n "$control" ] || fail "no node of a kind cluster $cluster runs; these do: $(nodes | xargs)"
}

find_node() {
  [ -n "$node" ] || fail "NODE=name says which node"
  cluster=$(label "$node" cluster)
  [ -n "$cluster" ] || fail "$node is no node of a kind cluster; these run: $(nodes | xargs)"
  find_cluster
}

# prepare fills $files with what a node gets: the program, and kubelet, which is the program or a script that starts it.
prepare() {
  local start=$lib/minikubelet before=:
  install "$KUBELET" "$files/minikubelet"
  ln -s minikubelet "$files/kubelet"
  if [ -n "$dlv" ]; then
    install "$dlv" "$files/dlv"
    start="$lib/dlv exec --headless --listen=:2345 --accept-multiclient --api-version=2 --continue $start -- --debug-hold"
  fi
  if [ "$runtime" = embedded ]; then
    command -v conmon >/dev/null || fail "RUNTIME=embedded needs conmon, which make deps installs"
    mkdir "$files/conmon.d" # node images have neither it nor its libraries
    cp -L "$(command -v conmon)" $(ldd "$(command -v conmon)" | grep -o '/[^ ]*') "$files/conmon.d"
    printf '#!/bin/sh\nexec %s/ld-linux* --library-path %s %s/conmon "$@"\n' $lib/conmon.d $lib/conmon.d $lib/conmon.d >"$files/conmon"
    start="$start --container-runtime-endpoint=embedded --conmon=$lib/conmon --image-archive-dir=$lib/images"
    # The images that the node's containerd was made with.
    before="mkdir -p $lib/images
until [ -e $lib/images/node.tar ]; do
  ctr -n k8s.io images export $lib/partial \$(ctr -n k8s.io images ls -q | grep -v sha256) && mv $lib/partial $lib/images/node.tar || sleep 1
done"
  fi
  if [ "$start" != $lib/minikubelet ]; then
    rm "$files/kubelet"
    printf '#!/bin/sh\n[ "$1" != --version ] || exec %s --version\n%s\nexec %s "$@"\n' $lib/minikubelet "$before" "$start" >"$files/kubelet"
    chmod 755 "$files"/*
  fi
}
# These run in the node. Its own kubelet is kept beside.
lay="set -e; [ -e /usr/bin/kubelet.upstream ] || mv /usr/bin/kubelet /usr/bin/kubelet.upstream; ln -sf $lib/kubelet /usr/bin/kubelet"
lift="set -e; mv -f /usr/bin/kubelet.upstream /usr/bin/kubelet; rm -r $lib"

kubelet_log() { docker exec "$node" journalctl --no-pager -o cat -n 15 -u kubelet >&2 || true; }

# ready waits until the kubelet of $node is well, and is ours or upstream's, as $1 says, and the node is Ready.
ready() {
  local well state whose deadline=$((SECONDS + 180))
  while true; do
    well=$(docker exec "$node" curl -sS http://127.0.0.1:10248/healthz 2>&1) || true
    state=$(kubectl get node "$node" -o 'jsonpath={.status.nodeInfo.kubeletVersion} Ready={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}' 2>&1) || true
    [[ $state == *+minikubelet* ]] && whose=ours || whose=upstream
    [ "$well" != ok ] || [ $whose != "$1" ] || [[ $state != *' Ready=True '* ]] || break
    if [ $SECONDS -ge $deadline ] || [ "$(docker exec "$node" systemctl show -P NRestarts kubelet)" -ge 3 ]; then
      kubelet_log
      undo=${undo/remove/:} # a node that joined is left to be looked at
      fail "$node did not get Ready; healthz: $well; node: $state; above is the end of its kubelet's log"
    fi
    sleep 0.5
  done
  say "$node is Ready with kubelet ${state%% *}"
}

create() {
  local laid=minikubelet/$cluster container roles='control-plane|worker' image=${IMAGE:-} config=${CONFIG:-$(dirname "$0")/cluster.yaml}
  case ${NODES:=all} in
    all) ;;
    worker | control-plane) roles=$NODES ;;
    *) fail "NODES must be all, worker or control-plane, not $NODES" ;;
  esac
  [ -r "$config" ] || fail "CONFIG=$config is no file that can be read"
  [ -z "$(nodes -a --filter "label=io.x-k8s.kind.cluster=$cluster")" ] || fail "there is a kind cluster $cluster; make kind-delete CLUSTER=$cluster removes it"
  # kind names its image in its source only.
  [ -n "$image" ] || image=$(sed -n 's/^const Image = "\(.*\)"/\1/p' "$(cd "$(dirname "$0")/programs/kind" && go list -m -f '{{.Dir}}' sigs.k8s.io/kind)/pkg/apis/config/defaults/image.go")
  docker image inspect "$image" >/dev/null 2>&1 || { say "pulling $image" && docker pull -q "$image" >/dev/null; }
  say "putting this kubelet into the image $laid"
  container=$(docker create --entrypoint /bin/sh "$image" -c "$lay")
  undo="docker rm -f -v $container"
  docker cp "$files/." "$container:$lib"
  docker start -a "$container"
  docker commit --change "ENTRYPOINT $(docker inspect -f '{{json .Config.Entrypoint}}' "$image")" --change 'CMD []' "$container" "$laid" >/dev/null
  docker rm -v "$container" >/dev/null
  undo=:

  sed -E "s/^( *)- role: .*/&\n\1  image: $(sed 's/[&/]/\\&/g' <<<"$image")/" "$config" |
    sed -E "/^ *- role: ($roles)\$/{n; s/image: .*/image: minikubelet\/$cluster/}" >"$files/cluster.yaml"
  [ -z "$dlv" ] || sed -Ei "0,/^( *)image: minikubelet\/$cluster\$/s//&\n\1extraPortMappings: [{containerPort: 2345, hostPort: 2345, listenAddress: 127.0.0.1}]/" "$files/cluster.yaml"
  if ! "$KIND" create cluster --name "$cluster" --config "$files/cluster.yaml" --retain; then
    for node in $(nodes --filter "label=io.x-k8s.kind.cluster=$cluster"); do
      echo "$node:" >&2
      kubelet_log
    done
    fail "kind failed; above is the end of the log of each node's kubelet; make kind-delete CLUSTER=$cluster removes the nodes"
  fi
  say "made the cluster $cluster; make kind-delete CLUSTER=$cluster removes it"
}

delete() {
  "$KIND" delete cluster --name "$cluster"
  docker image rm "minikubelet/$cluster" >/dev/null 2>&1 || true
}

# node_ip prints what --node-ip is for a node with these addresses, in the families and the order of another node's.
node_ip() { # "ANOTHER'S ADDRESS..." ADDRESS...
  local other own all=''
  for other in $1; do
    for own in "${@:2}"; do
      [[ $own == *:* && $other != *:* || $own != *:* && $other == *:* ]] || { all=$all${all:+,}$own && continue 2; }
    done
    fail "docker gave $node no address of the family of $other, which the cluster has"
  done
  echo "$all"
}

# add makes a node as kind makes its own.
add() {
  find_cluster
  node=${node:-$cluster-minikubelet}
  [ -z "$(docker ps -a -q --filter "name=^$node\$")" ] || fail "there is a container $node; NODE=name is another name for the node, make kind-node-delete NODE=$node removes it"
  local join addresses address api arguments='' ipv6=() format='%s\n    - {name: "%s", value: "%s"}'
  # Of each family that the cluster has, in its order: an IPv4 address, an IPv6 address, or both.
  addresses=$(kubectl get node "$control" -o 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}')
  [[ $addresses != *:* ]] || ipv6=(--sysctl net.ipv6.conf.all.disable_ipv6=0 --sysctl net.ipv6.conf.all.forwarding=1)
  say "starting $node"
  undo="docker rm -f -v $node" # a container that cannot start, as when its port is taken, stays
  docker run --name "$node" --hostname "$node" --label "io.x-k8s.kind.cluster=$cluster" --label io.x-k8s.kind.role=worker --privileged \
    --security-opt seccomp=unconfined --security-opt apparmor=unconfined --tmpfs /tmp --tmpfs /run --volume /var --volume /lib/modules:/lib/modules:ro \
    -e KIND_EXPERIMENTAL_CONTAINERD_SNAPSHOTTER --detach --tty --restart=on-failure:1 --init=false --cgroupns=private "${ipv6[@]}" ${dlv:+--publish 127.0.0.1:2345:2345} \
    --net "$(docker inspect -f '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}' "$control")" "$(docker inspect -f '{{.Image}}' "$control")" >/dev/null
  undo=remove
  docker cp "$files/." "$node:$lib"
  docker exec "$node" sh -c "$lay"
  until [ "$(docker exec "$node" systemctl is-active multi-user.target 2>/dev/null || true)" = active ]; do
    [ "$(docker inspect -f '{{.State.Running}}' "$node")" = true ] || fail "$node has ended: $(docker logs --tail 5 "$node" 2>&1)"
    sleep 0.2
  done
  say "joining the cluster"
  # "kubeadm join ADDRESS --token TOKEN --discovery-token-ca-cert-hash HASH"
  read -ra join < <(docker exec "$control" kubeadm token create --ttl 15m --print-join-command)
  address=$(node_ip "$addresses" $(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}' "$node"))
  # The format is the newest that the control plane was made with.
  api=$(docker exec "$control" sed -n '0,/^apiVersion: kubeadm/s/^apiVersion: //p' /kind/kubeadm.conf)
  [ "$api" != kubeadm.k8s.io/v1beta3 ] || format='%s\n    %s: "%s"'
  printf -v arguments "$format" "$arguments" node-ip "$address"
  printf -v arguments "$format" "$arguments" provider-id "kind://docker/$cluster/$node"
  docker exec -i "$node" tee /kind/kubeadm.conf >/dev/null <<EOF
apiVersion: $api
kind: JoinConfiguration
discovery:
  bootstrapToken: {apiServerEndpoint: "${join[2]}", token: "${join[4]}", caCertHashes: ["${join[6]}"]}
nodeRegistration:
  criSocket: unix:///run/containerd/containerd.sock
  kubeletExtraArgs:$arguments
EOF
  docker exec "$node" kubeadm join --config /kind/kubeadm.conf --skip-phases=preflight >"$files/join.log" 2>&1 || {
    cat "$files/join.log" >&2
    kubelet_log
    fail "kubeadm join failed; above are what it says and the end of the kubelet's log"
  }
  kubectl delete --ignore-not-found -n kube-system secret "bootstrap-token-${join[4]%%.*}" >/dev/null
  ready ours
  say "make kind-node-delete NODE=$node removes it"
}

remove() {
  docker rm -f -v "$node" >/dev/null # first, as a kubelet that runs registers its node again
  kubectl delete node "$node" --ignore-not-found || true
  say "removed $node"
}

swap() {
  find_node
  [ "$runtime" = containerd ] || fail "the pods of a running node are containerd's; make kind-node CLUSTER=$cluster RUNTIME=$runtime adds a node without"
  say "swapping the kubelet of $node"
  docker cp "$files/." "$node:$lib"
  undo=back
  docker exec "$node" sh -c "$lay && systemctl restart kubelet"
  ready ours
  undo=:
  [ -z "$dlv" ] || say "dlv connect $(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$node"):2345"
  say "make kind-swap-back NODE=$node undoes it"
}

back() {
  undo=:
  docker exec "$node" test -e /usr/bin/kubelet.upstream || fail "$node has its own kubelet"
  docker exec "$node" sh -c "$lift && systemctl restart kubelet"
  ready upstream
}

docker version >/dev/null 2>&1 || fail "docker does not answer: $(docker version 2>&1 | tail -n 1)"
case $runtime in
  containerd | embedded) ;;
  *) fail "RUNTIME must be containerd or embedded, not $runtime" ;;
esac
case $command in
  create) prepare; create ;;
  delete) delete ;;
  node) prepare; add ;;
  node-delete) find_node; remove ;;
  swap) prepare; swap ;;
  swap-back) find_node; back ;;
  *) fail "unknown command" ;;
esac
