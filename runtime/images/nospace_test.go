package images

import (
	"testing"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"minikubelet/e2e/fulldisk"
)

// TestNoSpace: a record of a pull is as it was before, or as it is meant to be.
func TestNoSpace(t *testing.T) {
	record := func(images ...string) func(dir string) error {
		return func(dir string) error {
			o := kubeletconfig.ImagePulledRecord{ImageRef: "ref", CredentialMapping: map[string]kubeletconfig.ImagePullCredentials{}}
			for _, name := range images {
				o.CredentialMapping[name] = kubeletconfig.ImagePullCredentials{NodePodsAccessible: true}
			}
			return (&records{dir: dir}).write("pulled", "ref", o)
		}
	}
	fulldisk.Each(t, "", record("a"), record("a", "b"))
	fulldisk.Each(t, "", func(string) error { return nil }, record("a"))
}
