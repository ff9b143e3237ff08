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

// attached is what attachedFile has.
type attached struct {
	Config         []byte         `json:"config"` // of the network
	Args           [][2]string    `json:"args"`
	CapabilityArgs map[string]any `json:"capabilityArgs,omitempty"`
}

// remember writes down how a pod is about to be connected.
func (p *Plugins) remember(network *libcni.NetworkConfigList, pod Pod) error {
	conf := pod.runtimeConf()
	data, err := json.Marshal(attached{Config: network.Bytes, Args: conf.Args, CapabilityArgs: conf.CapabilityArgs})
	if err == nil {
		err = os.MkdirAll(p.podDir(pod.SandboxID), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(p.podDir(pod.SandboxID), attachedFile), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write down how pod is connected: %w", err)
	}
	return nil
}

func (p *Plugins) podDir(id string) string { return filepath.Join(p.cacheDir, id) }

// Connected tells whether plugins may hold something of a pod.
func (p *Plugins) Connected(id string) bool {
	_, err := os.Lstat(p.podDir(id))
	return err == nil
}

// Teardown disconnects a pod. One that is not connected is no error. NetNS may be empty when the namespace is gone, and
// all but SandboxID when no more is known of the pod.
func (p *Plugins) Teardown(ctx context.Context, pod Pod) error {
	for _, a := range p.attachmentsOf(ctx, pod) {
		if err := p.forPod(pod.SandboxID).DelNetworkList(ctx, a.list, a.conf); err != nil {
			return fmt.Errorf("remove pod from network %s: %w", a.list.Name, err)
		}
	}
	if err := trees.Remove(p.podDir(pod.SandboxID)); err != nil {
		return fmt.Errorf("forget networks of pod: %w", err)
	}
	return nil
}

// attachment is one network that a pod is, or may be, connected to.
type attachment struct {
	list *libcni.NetworkConfigList
	conf *libcni.RuntimeConf
}

// attachmentsOf finds what to disconnect a pod from: what was written down before it was connected, else what libcni keeps,
// else, when both are lost, the network that is configured now. There is none only without any network configuration.
func (p *Plugins) attachmentsOf(ctx context.Context, pod Pod) []attachment {
	conf := pod.runtimeConf()
	written, list, err := p.readAttached(pod.SandboxID)
	if err == nil {
		conf.Args, conf.CapabilityArgs = written.Args, written.CapabilityArgs
		return []attachment{{list, conf}}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "How a pod was connected is lost; it is disconnected by what else is known", "sandbox", pod.SandboxID)
	}
	if cached := p.cached(ctx, pod); len(cached) > 0 {
		return cached
	}
	if network, _ := p.networkFor(pod); network != nil {
		return []attachment{{network, conf}}
	}
	return nil
}

// readAttached reads what remember wrote.
func (p *Plugins) readAttached(id string) (written attached, list *libcni.NetworkConfigList, err error) {
	path := filepath.Join(p.podDir(id), attachedFile)
	data, err := bounded.ReadFile(path, maxConfig+maxOutput)
	if err != nil {
		return written, nil, err
	}
	if err = json.Unmarshal(data, &written); err == nil {
		list, err = libcni.NetworkConfFromBytes(written.Config)
	}
	if err != nil {
		return written, nil, fmt.Errorf("read %s: %w", path, err)
	}
	return written, list, nil
}

// cached are the attachments that libcni keeps.
func (p *Plugins) cached(ctx context.Context, pod Pod) (found []attachment) {
	cached, err := p.forPod(pod.SandboxID).GetCachedAttachments(pod.SandboxID)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "Could not look up networks of a pod", "sandbox", pod.SandboxID)
	}
	for _, a := range cached {
		list, err := libcni.NetworkConfFromBytes(a.Config)
		if err != nil {
			klog.FromContext(ctx).Error(err, "The cache of CNI has a network without a configuration", "sandbox", pod.SandboxID)
			continue
		}
		found = append(found, attachment{list, &libcni.RuntimeConf{ContainerID: pod.SandboxID, NetNS: pod.NetNS, IfName: a.IfName, Args: a.CniArgs, CapabilityArgs: a.CapabilityArgs}})
	}
	return found
}

// Addresses are those that a pod was given, as far as the cache tells.
func (p *Plugins) Addresses(ctx context.Context, sandboxID string) (ips []string) {
	for _, a := range p.cached(ctx, Pod{SandboxID: sandboxID}) {
		if result, err := p.forPod(sandboxID).GetNetworkListCachedResult(a.list, a.conf); err == nil && result != nil {
			found, _ := addresses(result)
			ips = append(ips, found...)
		}
	}
	return ips
}
