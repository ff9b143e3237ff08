package cni

import (
	"encoding/json"
	"slices"

	"github.com/containernetworking/cni/libcni"
)

// idlePlugins do nothing for a pod that asks for nothing of theirs, unless their configuration
// itself has one of these keys.
var idlePlugins = map[string][]string{
	"portmap":   {"runtimeConfig"},
	"bandwidth": {"runtimeConfig", "ingressRate", "ingressBurst", "egressRate", "egressBurst"},
}

// needed is a network without the plugins that would only hand on what the one before them answered, for a pod with neither
// port mappings nor bandwidth. Each costs two processes in a pod's life, and portmap's a few of iptables more.
func needed(network *libcni.NetworkConfigList, conf *libcni.RuntimeConf) *libcni.NetworkConfigList {
	// The first plugin makes the interface, whatever it is called.
	if conf.CapabilityArgs["portMappings"] != nil || conf.CapabilityArgs["bandwidth"] != nil || len(network.Plugins) == 0 || idle(network.Plugins[0]) {
		return network
	}
	shorter := *network
	shorter.Plugins = slices.DeleteFunc(slices.Clone(network.Plugins), idle)
	return &shorter
}

func idle(plugin *libcni.PluginConfig) bool {
	active, known := idlePlugins[plugin.Network.Type]
	var keys map[string]json.RawMessage
	if !known || json.Unmarshal(plugin.Bytes, &keys) != nil {
		return false
	}
	return !slices.ContainsFunc(active, func(key string) bool { return keys[key] != nil })
}

// networkFor is the configuration by which a pod is connected.
func (p *Plugins) networkFor(pod Pod) (*libcni.NetworkConfigList, error) {
	network, err := p.load()
	if err != nil {
		return nil, err
	}
	return needed(network, pod.runtimeConf()), nil
}
