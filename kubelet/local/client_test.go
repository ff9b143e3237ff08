package local

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestFind: a pod is found by its name, a static one without the node's too, and a name that is in another namespace is said
// to be there.
func TestFind(t *testing.T) {
	root := t.TempDir()
	pod := func(namespace, name, source string) corev1.Pod {
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{"kubernetes.io/config.source": source}},
			Spec:       corev1.PodSpec{NodeName: "node"},
		}
	}
	pods := corev1.PodList{Items: []corev1.Pod{
		pod("default", "web-node", "file"), pod("default", "db-node", "api"), pod("kube-system", "dns-node", "file"), pod("default", "web", "api"),
	}}
	if err := os.Mkdir(filepath.Dir(Path(root)), 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", Path(root))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(pods) })}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	for name, want := range map[string]string{
		"web": "default/web", "web-node": "default/web-node", "kube-system/dns": "kube-system/dns-node", "db-node": "default/db-node",
		"db": "pod default/db is not on this node", "dns": "pod default/dns is not on this node, but kube-system/dns-node is",
	} {
		found, err := NewClient(root).Find(t.Context(), name)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = strings.Join([]string{found.Namespace, found.Name}, "/")
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
