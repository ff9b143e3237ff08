package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"minikubelet/e2e/stack"
)

// TestCredentialPlugin: a program that --image-credential-provider-config names has the password of a registry, and other images are not asked about.
func TestCredentialPlugin(t *testing.T) {
	host, _, _ := strings.Cut(stack.PauseImage, "/")
	dir := t.TempDir()
	for name, content := range map[string]string{
		"config.yaml": "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- {name: sesame, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [" +
			host + "/plugin], defaultCacheDuration: 0s, args: [--flag]}\n",
		"sesame": fmt.Sprintf("#!/bin/sh\necho \"$1\" $(cat) >>%s/asked\ncat <<END\n%s\nEND\n", dir,
			`{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"Image","auth":{"`+host+`":{"username":"plugin","password":"open"}}}`),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, s := nodeWith(t, stack.KubeletOptions{Args: []string{"--image-credential-provider-config=" + dir + "/config.yaml", "--image-credential-provider-bin-dir=" + dir}})
	t.Cleanup(func() { stopKubelet(t) }) // the directory of its plugins goes with the test
	pullsAs(ctx, t, s, "plugin")
	if asked, err := os.ReadFile(dir + "/asked"); err != nil || string(asked) != `--flag {"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"`+host+`/plugin/app"}`+"\n" {
		t.Errorf("the plugin was asked %q, %v", asked, err)
	}
}
