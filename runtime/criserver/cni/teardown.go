package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/trees"
)

// attachedFile is what a pod is disconnected by. It is written before the first plugin is called, where libcni's cache is
// only after the last one: the configuration may change, and the server end, in between.
const attachedFile = "attached.json"

// remember writes down how a pod is about to be connected.
func (p *Plugins) remember(network *libcni.NetworkConfigList, conf *libcni.RuntimeConf) error {
	data, err := json.Marshal(libcni.NetworkAttachment{Config: network.Bytes, CniArgs: conf.Args, CapabilityArgs: conf.CapabilityArgs})
	if err == nil {
		err = os.MkdirAll(p.podDir(conf.ContainerID), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(p.podDir(conf.ContainerID), attachedFile), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write down how pod is connected: %w", err)
	}
	return nil
}

func (p *Plugins) podDir(id string) string { return filepath.Join(p.CacheDir, id) }

// Connected tells whether plugins may hold something of a pod.
func (p *Plugins) Connected(id string) bool {
	_, err := os.Lstat(p.podDir(id))
	return err == nil
}

// Teardown disconnects a pod. One that is not connected is no error. NetNS may be empty when the namespace is gone, and
// all but SandboxID when no more is known of the pod.
func (p *Plugins) Teardown(ctx context.Context, pod Pod) error {
	conf, err := pod.RuntimeConf()
	if err != nil {
		return err
	}
	if network := p.attached(ctx, conf); network != nil {
		if err := p.forPod(pod.SandboxID).DelNetworkList(ctx, network, conf); err != nil {
			return fmt.Errorf("remove pod from network %s: %w", network.Name, err)
		}
	}
	if err := trees.Remove(p.podDir(pod.SandboxID)); err != nil {
		return fmt.Errorf("forget networks of pod: %w", err)
	}
	return nil
}

// attached finds what to disconnect a pod from: what was written down before it was connected, else what libcni keeps,
// else, when both are lost, the network that is configured now. There is none only without any network configuration. What
// plugins were told of the pod then replaces what conf tells.
func (p *Plugins) attached(ctx context.Context, conf *libcni.RuntimeConf) *libcni.NetworkConfigList {
	var written libcni.NetworkAttachment
	err := bounded.ReadJSON(filepath.Join(p.podDir(conf.ContainerID), attachedFile), maxConfig+maxOutput, &written)
	cached, cacheErr := p.forPod(conf.ContainerID).GetCachedAttachments(conf.ContainerID)
	lost := []error{err, cacheErr}
	for _, a := range append([]*libcni.NetworkAttachment{&written}, cached...) {
		network, err := libcni.NetworkConfFromBytes(a.Config)
		if err == nil {
			if conf.CapabilityArgs = a.CapabilityArgs; a.CniArgs != nil {
				conf.Args = a.CniArgs
			}
			return needed(network, conf)
		}
		lost = append(lost, err)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(errors.Join(lost...), "How a pod was connected is lost; it is disconnected from today's network", "sandbox", conf.ContainerID)
	}
	network, _ := p.networkFor(ctx, conf)
	return network
}

// Addresses are those that a pod was given, as far as the cache tells.
func (p *Plugins) Addresses(ctx context.Context, sandboxID string) []string {
	conf, _ := Pod{SandboxID: sandboxID}.RuntimeConf() // without a configuration there is nothing to refuse
	network := p.attached(ctx, conf)
	if network == nil {
		return nil
	}
	result, err := p.forPod(sandboxID).GetNetworkListCachedResult(network, conf)
	if err != nil || result == nil {
		return nil
	}
	ips, _ := addresses(result)
	return ips
}
