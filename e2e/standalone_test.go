package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"minikubelet/e2e/stack"
)

// TestStandalone: without an apiserver the pods of files and of a URL run, and healthz tells of the loop.
func TestStandalone(t *testing.T) {
	ctx := onStack(t)
	if kubelet != nil {
		stopKubelet(t)
	}
	name := podName(t)
	var body atomic.Value
	body.Store(fmt.Sprintf(manifest, name+"-url", "green"))
	var broken atomic.Bool
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			http.Error(w, "broken", http.StatusInternalServerError)
			return
		}
		if r.Header.Get("X-Key") != "open" {
			http.Error(w, "no key", http.StatusForbidden)
			return
		}
		fmt.Fprint(w, body.Load())
	})
	file := filepath.Join(shared.ManifestDir(), name+".yaml")
	write(t, file, fmt.Sprintf(manifest, name+"-file", "red"))
	startKubelet(ctx, t, stack.KubeletOptions{
		Standalone: true,
		Config:     map[string]any{"httpCheckFrequency": "1s", "fileCheckFrequency": "1s"},
		Args:       []string{"--manifest-url=" + url, "--manifest-url-header=X-Key:open"},
	})
	defer stopKubelet(t)
	for _, pod := range []string{name + "-file", name + "-url"} {
		eventually(ctx, t, pod+" runs", func() bool { return len(running(ctx, t, pod+"-"+shared.NodeName)) == 1 })
	}
	if answer, err := shared.Get(ctx, "http://127.0.0.1:10248/healthz/syncloop"); err != nil || answer != "ok" {
		t.Errorf("healthz of the sync loop: %q, %v", answer, err)
	}

	// A URL that fails keeps its pods; one that answers with fewer loses them.
	broken.Store(true)
	eventually(ctx, t, "the failing URL is in the log", func() bool { return strings.Contains(kubelet.Log(), "500") })
	if len(running(ctx, t, name+"-url-"+shared.NodeName)) != 1 {
		t.Error("a failing URL ended its pod")
	}
	body.Store("apiVersion: v1\nkind: PodList\nitems: []\n")
	broken.Store(false)
	eventually(ctx, t, "the URL's pod is gone", func() bool { return len(running(ctx, t, name+"-url-"+shared.NodeName)) == 0 })
	if len(running(ctx, t, name+"-file-"+shared.NodeName)) != 1 {
		t.Error("the file's pod went with the URL's")
	}
	removeFile(t, file)
	eventually(ctx, t, "the file's pod is gone", func() bool { return len(running(ctx, t, name+"-file-"+shared.NodeName)) == 0 })
}

// TestRunOnce: start the pods of the files, say how they are, leave them running.
func TestRunOnce(t *testing.T) {
	ctx := onStack(t)
	if kubelet != nil {
		stopKubelet(t)
	}
	name := podName(t)
	file := filepath.Join(shared.ManifestDir(), name+".yaml")
	write(t, file, fmt.Sprintf(manifest, name, "red"))
	startKubelet(ctx, t, stack.KubeletOptions{Standalone: true, Args: []string{"--runonce"}})
	if err := kubelet.Wait(ctx); err != nil {
		t.Errorf("kubelet --runonce: %v\n%s", err, kubelet.LogTail(40))
	}
	if want := "default/" + name + "-" + shared.NodeName + " Running"; !strings.Contains(kubelet.Log(), want) {
		t.Errorf("the report lacks %q", want)
	}
	// A runtime that has ended with the kubelet cannot be asked; TestEmbedded sees what it leaves running.
	if shared.RuntimeIsProgram() && len(running(ctx, t, name+"-"+shared.NodeName)) != 1 {
		t.Error("the pod does not run after --runonce")
	}
	kubelet = nil
	removeFile(t, file)
	startKubelet(ctx, t, stack.KubeletOptions{Standalone: true}) // takes the orphan down
	eventually(ctx, t, "the pod is gone", func() bool { return len(running(ctx, t, name+"-"+shared.NodeName)) == 0 })
	stopKubelet(t)
}

// serve answers on the stack's loopback interface.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	l, err := shared.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	_ = server.Listener.Close()
	server.Listener = l
	server.Config.ReadHeaderTimeout = 10 * time.Second
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}
