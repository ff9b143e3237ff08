package config

import (
	"os"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	podinfo "minikubelet/config/pod"
)

// TestUID: static pods have the UIDs that Kubernetes' own kubelet 1.37.2 gives them, so that they go on under the other
// kubelet. The UIDs in the table are its.
func TestUID(t *testing.T) {
	for name, want := range map[string]types.UID{
		"etcd.yaml":      "3f3d766577f4dc4be6ac11935b64046f",
		"rich.yaml":      "124990df6d273b078b0167aff5818162",
		"resources.yaml": "610723fc9354c5ea012928d12407fa65",
		"small.json":     "29b76bd31154304f17e9cdf9d995ee20",
	} {
		data, err := os.ReadFile("testdata/uid/" + name)
		if err != nil {
			t.Fatal(err)
		}
		pods, err := parseManifests(data)
		if err != nil {
			t.Fatal(err)
		}
		pod, err := static(pods[0], podinfo.SourceFile, "file:/m/"+name, "node-1")
		if err != nil {
			t.Fatal(err)
		}
		if pod.UID != want {
			t.Errorf("%s has the UID %s, want %s", name, pod.UID, want)
		}
	}
}
