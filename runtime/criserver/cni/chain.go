package cni

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/libcni"
)

// idlePlugins do nothing for a pod that asks for nothing of theirs, unless their configuration
// itself has one of these keys.
var idlePlugins = map[string][]string{
	"portmap":   {"runtimeConfig"},
	"bandwidth": {"runtimeConfig", "ingressRate", "ingressBurst", "egressRate", "egressBurst"},
}

// plain is a network's configuration for pods with neither port mappings nor bandwidth: without the plugins that would only
// hand on what the one before them answered. Each costs two processes in a pod's life, and portmap's a few of iptables more.
func plain(network *libcni.NetworkConfigList) (*libcni.NetworkConfigList, error) {
	var list map[string]json.RawMessage
	var plugins []map[string]json.RawMessage
	err := json.Unmarshal(network.Bytes, &list)
	if err == nil {
		err = json.Unmarshal(list["plugins"], &plugins)
	}
	if err != nil {
		return nil, fmt.Errorf("read network configuration: %w", err)
	}
	needed := slices.DeleteFunc(slices.Clone(plugins), idle)
	// The first plugin makes the interface, whatever it is called.
	if len(plugins) == 0 || len(needed) == len(plugins) || idle(plugins[0]) {
		return network, nil
	}
	if list["plugins"], err = json.Marshal(needed); err != nil {
		return nil, fmt.Errorf("write network configuration: %w", err)
	}
	data, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("write network configuration: %w", err)
	}
	return libcni.NetworkConfFromBytes(data)
}

func idle(plugin map[string]json.RawMessage) bool {
	var kind string
	if json.Unmarshal(plugin["type"], &kind) != nil {
		return false
	}
	active, known := idlePlugins[kind]
	return known && !slices.ContainsFunc(active, func(key string) bool { _, has := plugin[key]; return has })
}

// networkFor is the configuration by which a pod is connected.
func (p *Plugins) networkFor(pod Pod) (*libcni.NetworkConfigList, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if len(pod.Ports) == 0 && pod.Ingress <= 0 && pod.Egress <= 0 && p.plain != nil {
		return p.plain, nil
	}
	return p.network, p.problem
}
