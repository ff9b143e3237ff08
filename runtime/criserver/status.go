package criserver

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/oci"
)

// Version names the runtime, as kubectl get nodes shows it.
func (s *Server) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "crid", RuntimeVersion: "0.1.0", RuntimeApiVersion: "v1"}, nil
}

// Status tells whether pods can be run and connected.
func (s *Server) Status(ctx context.Context, r *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if err := s.cni.Status(ctx); err != nil {
		network = &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Reason: "NetworkPluginNotReady", Message: err.Error()}
	}
	response := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true}, network,
		}},
		Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}
	for _, name := range slices.Sorted(maps.Keys(s.runtimes)) { // "" is the default
		runtime := s.runtimes[name]
		response.RuntimeHandlers = append(response.RuntimeHandlers, &runtimeapi.RuntimeHandler{
			Name: name, Features: &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: runtime.RecursiveReadOnly, UserNamespaces: runtime.NoUserNamespaces == nil},
		})
	}
	if r.GetVerbose() {
		response.Info = info(map[string]any{
			"runtimes": s.runtimes, "conmon": s.conmon.Path, "root": s.options.Root, "state": s.options.State,
			"machine": s.machine, "cgroupManager": s.options.CgroupManager, "pause": s.options.Pause,
		})
	}
	return response, nil
}

// RuntimeConfig tells the kubelet who makes cgroups, so that both agree.
func (s *Server) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if s.options.CgroupManager == Systemd {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// UpdateRuntimeConfig takes the node's pod CIDRs, and does as containerd without a template of a CNI configuration: it
// refuses what is none, and otherwise leaves it to the cluster's network plugin to write its configuration.
func (s *Server) UpdateRuntimeConfig(ctx context.Context, r *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	if given := r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr(); given != "" {
		for cidr := range strings.SplitSeq(given, ",") {
			if _, _, err := net.ParseCIDR(strings.TrimSpace(cidr)); err != nil {
				return nil, fmt.Errorf("%w: pod CIDR %q: %w", oci.ErrInvalid, given, err)
			}
		}
		klog.FromContext(ctx).Info("The node has a pod CIDR, which the CNI configuration has to say", "podCIDR", given)
	}
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}
