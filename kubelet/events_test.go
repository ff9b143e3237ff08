package kubelet

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"minikubelet/kubelet/client"
)

// TestEvents: events are sent as they come, normal ones too.
func TestEvents(t *testing.T) {
	sent := make(chan corev1.Event, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e corev1.Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		sent <- e
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(e)
	}))
	defer server.Close()
	to, err := client.New(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	e := newEvents("node-1")
	e.start(ctx, to)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "u"}}
	e.Event(pod, corev1.EventTypeNormal, "Started", "Container started")
	e.Eventf(pod, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s", "app")
	if got := <-sent; got.Reason != "Started" || got.InvolvedObject.Name != "p" || got.Type != corev1.EventTypeNormal || got.Source.Host != "node-1" {
		t.Errorf("first comes %+v", got)
	}
	if got := <-sent; got.Reason != "BackOff" || got.Message != "Back-off restarting failed container app" || got.Type != corev1.EventTypeWarning {
		t.Errorf("then comes %+v", got)
	}
}
