package node

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestKnownBeforeRegistration: what the apiserver has of the node is known before the node registers, which waits for the runtime.
// Pods that choose it by its labels are admitted then.
func TestKnownBeforeRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		have := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "uid-1", Labels: map[string]string{"zone": "a"}}}
		if _, err := w.api.CoreV1().Nodes().Create(t.Context(), have, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.requests()
		w.cri.Delay("Status", time.Hour)
		w.start(nil)
		defer w.stop()
		select {
		case <-w.node.Synced():
		default:
			t.Error("nothing is known of the node")
		}
		if zone := w.node.Node().Labels["zone"]; zone != "a" {
			t.Errorf("the node's label is %q", zone)
		}
		if got := w.requests(); len(got) != 0 {
			t.Errorf("the node wrote %v before the runtime said anything", got)
		}
	})
}
