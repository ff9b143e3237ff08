package client

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// serve answers every request with the object, and tells of each request.
func serve(t *testing.T, object any) (*Client, <-chan *http.Request) {
	t.Helper()
	requests := make(chan *http.Request, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(object); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	c, err := New(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c, requests
}

// TestPaths: each kind is asked for where the apiserver has it.
func TestPaths(t *testing.T) {
	c, requests := serve(t, corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: "p"}})
	pod, err := c.Pods("ns").Patch(t.Context(), "p", types.StrategicMergePatchType, []byte("{}"), metav1.PatchOptions{}, "status")
	if err != nil || pod.Name != "p" {
		t.Fatal(pod, err)
	}
	if r := <-requests; r.Method != http.MethodPatch || r.URL.Path != "/api/v1/namespaces/ns/pods/p/status" {
		t.Errorf("%s %s", r.Method, r.URL)
	}
	_, _ = c.Leases("kube-node-lease").Get(t.Context(), "n", metav1.GetOptions{})
	if r := <-requests; r.URL.Path != "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n" {
		t.Error(r.URL)
	}
	_, _ = c.CreateToken(t.Context(), "ns", "sa", nil)
	if r := <-requests; r.Method != http.MethodPost || r.URL.Path != "/api/v1/namespaces/ns/serviceaccounts/sa/token" {
		t.Errorf("%s %s", r.Method, r.URL)
	}
}

// TestListWatch: the selector is part of every question.
func TestListWatch(t *testing.T) {
	c, requests := serve(t, corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []corev1.Pod{{}}})
	pods := cache.ToListerWatcherWithContext(c.ListWatch("pods", "", fields.OneTermEqualSelector("spec.nodeName", "n")))
	list, err := pods.ListWithContext(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.(*corev1.PodList).Items) != 1 {
		t.Fatal(list, err)
	}
	if r := <-requests; r.URL.Path != "/api/v1/pods" || r.URL.Query().Get("fieldSelector") != "spec.nodeName=n" {
		t.Error(r.URL)
	}
	w, err := pods.WatchWithContext(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Stop()
	if r := <-requests; r.URL.Query().Get("watch") != "true" || r.URL.Query().Get("fieldSelector") != "spec.nodeName=n" {
		t.Error(r.URL)
	}
}
