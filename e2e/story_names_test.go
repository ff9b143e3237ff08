package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestExplainName: a changed manifest is another pod, which waits for the one before it to end.
func TestExplainName(t *testing.T) {
	ctx, s := node(t)
	const manifest = `apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 100
  containers:
  - name: app
    image: busybox:1
    command: [sh, -c, "%s"]
    volumeMounts: [{name: host, mountPath: /host}]
  volumes: [{name: host, hostPath: {path: %s}}]
`
	name, host := podName(t), t.TempDir()
	file, full := filepath.Join(s.ManifestDir(), name+".yaml"), name+"-"+s.NodeName
	t.Cleanup(func() { _ = os.Remove(file) })
	write(t, file, fmt.Sprintf(manifest, name, "trap '' TERM; until [ -e /host/end ]; do sleep 0.1; done", host))
	t.Cleanup(func() { write(t, filepath.Join(host, "end"), "") })
	if _, err := s.WaitPodReady(ctx, "default", full); err != nil {
		t.Fatal(err)
	}
	write(t, file, fmt.Sprintf(manifest, name, "trap 'exit 0' TERM; while :; do sleep 0.1; done", host))
	told(ctx, t, full, "NameInUse", "pod before it", "grace period")
	write(t, filepath.Join(host, "end"), "")
	told(ctx, t, full, "")
	removeFile(t, file)
	if err := s.WaitPodGone(ctx, "default", full); err != nil {
		t.Fatal(err)
	}
}
