package node

import (
	"encoding/json"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// TestPatchOfAddresses: addresses are merged by type, but a node may have two of one.
func TestPatchOfAddresses(t *testing.T) {
	one := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "1.2.3.4"}, {Type: corev1.NodeHostName, Address: "n"}}
	two := append([]corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "::1"}}, one...)
	other := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "1.2.3.5"}, one[1]}
	all := [][]corev1.NodeAddress{nil, one, two, other}
	for _, before := range all {
		for _, after := range all {
			have, want := &corev1.Node{Status: corev1.NodeStatus{Addresses: before}}, &corev1.Node{Status: corev1.NodeStatus{Addresses: after}}
			want.Status.Images = []corev1.ContainerImage{{Names: []string{"i"}, SizeBytes: 1<<62 + 1}}
			body, err := patchOf(have, want)
			if err != nil {
				t.Fatal(err)
			}
			encoded, err := json.Marshal(have)
			if err != nil {
				t.Fatal(err)
			}
			patched, err := strategicpatch.StrategicMergePatch(encoded, body, &corev1.Node{})
			if err != nil {
				t.Fatalf("apply %s: %v", body, err)
			}
			var got corev1.Node
			if err := json.Unmarshal(patched, &got); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Status.Addresses, after) || got.Status.Images[0].SizeBytes != 1<<62+1 {
				t.Errorf("%v became %v by %s, want %v", before, got.Status, body, after)
			}
		}
	}
}
