package main

import (
	"path/filepath"

	"minikubelet/e2e/stack"
)

// startProxy starts kube-proxy in the node's network namespace, without which no service has an address that works.
func startProxy(s *stack.Stack, suite string) (*stack.Process, error) {
	return s.Spawn("kube-proxy", filepath.Join(suite, "kube-proxy"), "--kubeconfig="+s.AdminKubeconfig, "--hostname-override="+s.NodeName,
		"--proxy-mode=iptables", "--cluster-cidr="+stack.PodCIDR, "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
		"--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249", "--nodeport-addresses=10.89.0.0/16")
}
