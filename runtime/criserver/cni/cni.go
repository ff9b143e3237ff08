// Package cni connects pods to networks with CNI plugins. A pod is disconnected by the configuration that it was connected
// by, also when that has changed since.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/bounded"
)

// Interface is the name of the pod's interface.
const Interface = "eth0"

const maxAddresses = 16

// Pod is what plugins are told of a pod.
type Pod struct {
	SandboxID, NetNS string
	Config           *runtimeapi.PodSandboxConfig // nil when no more is known of the pod
}

// Plugins are the CNI plugins and the network that pods are connected to: the first valid
// configuration in the directory, as other runtimes take it. It is read whenever it is needed.
type Plugins struct {
	ConfDir  string
	BinDirs  []string
	CacheDir string // for how each pod was connected
}

// forPod gives each pod a cache for itself: libcni reads all of a cache to disconnect one pod.
func (p *Plugins) forPod(id string) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(p.BinDirs, filepath.Join(p.CacheDir, id), &boundedExec{})
}

// load reads the first valid configuration in the order of file names. If there is one, the error tells of those before it.
func (p *Plugins) load() (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(p.ConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("no CNI network configuration: read %s: %w", p.ConfDir, err)
	}
	slices.Sort(files)
	var broken error
	for _, file := range files {
		list, err := loadFile(file)
		if err == nil {
			return list, broken
		}
		broken = errors.Join(broken, fmt.Errorf("%s: %w", filepath.Base(file), err))
	}
	return nil, errors.Join(fmt.Errorf("no CNI network configuration in %s", p.ConfDir), broken)
}

// maxConfig bounds a configuration file.
const maxConfig = 1 << 20

func loadFile(file string) (*libcni.NetworkConfigList, error) {
	data, err := bounded.ReadFile(file, maxConfig)
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(file, ".conflist") { // a single plugin, as in older files
		plugin, err := libcni.NetworkPluginConfFromBytes(data)
		if err == nil {
			data, err = json.Marshal(map[string]any{"cniVersion": plugin.Network.CNIVersion, "name": plugin.Network.Name, "plugins": []json.RawMessage{data}})
		}
		if err != nil {
			return nil, err
		}
	}
	list, err := libcni.NetworkConfFromBytes(data)
	if err == nil && len(list.Plugins) == 0 {
		err = errors.New("no plugins")
	}
	return list, err
}

// Status is nil when pods can be connected.
func (p *Plugins) Status(ctx context.Context) error {
	network, err := p.load()
	if network == nil {
		return err
	}
	if err := p.installed(network); err != nil {
		return err
	}
	return p.forPod("").GetStatusNetworkList(ctx, network) // asks only plugins of CNI 1.1
}

// installed tells whether all plugins of a network are there.
func (p *Plugins) installed(network *libcni.NetworkConfigList) error {
	for _, plugin := range network.Plugins {
		if _, err := invoke.FindInPath(plugin.Network.Type, p.BinDirs); err != nil {
			return fmt.Errorf("network %s (install the package containernetworking-plugins, or name the plugins' directory with --cni-bin-dir): %w", network.Name, err)
		}
	}
	return nil
}

// Setup connects a pod and returns its addresses, the primary one first. On error the caller is
// expected to call Teardown, since a plugin may have done half of its work.
func (p *Plugins) Setup(ctx context.Context, pod Pod) ([]string, error) {
	conf, err := pod.RuntimeConf()
	if err != nil {
		return nil, err
	}
	network, err := p.networkFor(ctx, conf)
	if err != nil {
		return nil, err
	}
	// A plugin that is missing could not take back what the others have done.
	if err := p.installed(network); err != nil {
		return nil, err
	}
	if err := p.remember(network, conf); err != nil {
		return nil, err
	}
	result, err := p.forPod(pod.SandboxID).AddNetworkList(ctx, network, conf)
	if err != nil {
		return nil, fmt.Errorf("add pod to network %s: %w", network.Name, err)
	}
	return addresses(result)
}

// addresses are those of the pod's interface in a plugin's answer.
func addresses(result types.Result) ([]string, error) {
	r, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil, fmt.Errorf("read result of CNI plugin: %w", err)
	}
	var ips []string
	for _, ip := range r.IPs {
		if ip == nil || ip.Address.IP == nil {
			continue
		}
		if i := ip.Interface; i != nil && (*i < 0 || *i >= len(r.Interfaces) || r.Interfaces[*i] == nil || r.Interfaces[*i].Sandbox == "") {
			continue // one of the host's
		}
		ips = append(ips, ip.Address.IP.String())
	}
	if len(ips) == 0 {
		return nil, errors.New("read result of CNI plugin: no address for the pod")
	}
	if len(ips) > maxAddresses {
		return nil, fmt.Errorf("read result of CNI plugin: %d addresses for the pod", len(ips))
	}
	return ips, nil
}

// RuntimeConf puts the pod into CNI's terms. It fails for what plugins would refuse when the pod is connected, and again when
// it is disconnected, which would leave what other plugins did.
func (p Pod) RuntimeConf() (*libcni.RuntimeConf, error) {
	ports, portErr := portMappings(p.Config.GetPortMappings())
	limits, limitErr := bandwidth(p.Config.GetAnnotations())
	if err := errors.Join(portErr, limitErr); err != nil {
		return nil, err
	}
	capabilities := map[string]any{}
	if len(ports) > 0 {
		capabilities["portMappings"] = ports
	}
	if len(limits) > 0 {
		capabilities["bandwidth"] = limits
	}
	if dns := p.Config.GetDnsConfig(); len(dns.GetServers())+len(dns.GetSearches())+len(dns.GetOptions()) > 0 {
		capabilities["dns"] = dns // its fields have CNI's names
	}
	if parent := p.Config.GetLinux().GetCgroupParent(); parent != "" {
		capabilities["cgroupPath"] = parent
	}
	metadata := p.Config.GetMetadata()
	return &libcni.RuntimeConf{
		ContainerID: p.SandboxID, NetNS: p.NetNS, IfName: Interface, CapabilityArgs: capabilities,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", metadata.GetNamespace()}, {"K8S_POD_NAME", metadata.GetName()},
			{"K8S_POD_INFRA_CONTAINER_ID", p.SandboxID}, {"K8S_POD_UID", metadata.GetUid()},
		},
	}, nil
}

// portMapping asks a plugin such as portmap to forward a port of the node.
type portMapping struct {
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func portMappings(asked []*runtimeapi.PortMapping) (ports []portMapping, err error) {
	for _, m := range asked {
		host, container, protocol, ip := m.GetHostPort(), m.GetContainerPort(), strings.ToLower(m.GetProtocol().String()), m.GetHostIp()
		switch {
		case host <= 0:
			continue
		case host > 65535 || container < 1 || container > 65535:
			return nil, fmt.Errorf("port mapping of %d to %d: ports are from 1 to 65535", host, container)
		case !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol):
			return nil, fmt.Errorf("port mapping has unknown protocol %s", protocol)
		case ip != "" && net.ParseIP(ip) == nil:
			return nil, fmt.Errorf("port mapping has host IP %q, which is none", ip)
		}
		ports = append(ports, portMapping{host, container, protocol, ip})
	}
	return ports, nil
}

// bandwidth reads the limits of a pod's annotations, such as 10M, for the plugin of that name.
func bandwidth(annotations map[string]string) (map[string]int64, error) {
	limits := map[string]int64{}
	for _, direction := range []string{"ingress", "egress"} {
		text := annotations["kubernetes.io/"+direction+"-bandwidth"]
		if text == "" {
			continue
		}
		rate, err := resource.ParseQuantity(text)
		if err != nil || rate.Value() <= 0 {
			return nil, fmt.Errorf("%s bandwidth %q of the pod", direction, text)
		}
		limits[direction+"Rate"], limits[direction+"Burst"] = rate.Value(), math.MaxInt32 // a burst that never binds
	}
	return limits, nil
}

// idlePlugins do nothing for a pod that asks for nothing of theirs, unless their configuration itself has one of these keys.
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
func (p *Plugins) networkFor(ctx context.Context, conf *libcni.RuntimeConf) (*libcni.NetworkConfigList, error) {
	network, err := p.load()
	if network == nil {
		return nil, err
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "A broken CNI configuration is passed over", "directory", p.ConfDir, "network", network.Name)
	}
	return needed(network, conf), nil
}
