package criserver

import (
	"errors"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/oci"
)

// TestPodCIDR: what the kubelet says of the node's pods is taken if it can be understood.
func TestPodCIDR(t *testing.T) {
	for given, want := range map[string]error{
		"": nil, "10.0.0.0/24": nil, "10.0.0.0/24, fd00::/64": nil, "10.0.0.1": oci.ErrInvalid, "10.0.0.0/24,": oci.ErrInvalid,
	} {
		_, err := (&Server{}).UpdateRuntimeConfig(t.Context(), &runtimeapi.UpdateRuntimeConfigRequest{
			RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: given}},
		})
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%q: %v, want %v", given, err, want)
		}
	}
}
