package node

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	k8stesting "k8s.io/client-go/testing"
)

// TestOlderAPIServer: an apiserver that does not know a field of the status leaves it out. It is not told again each time that the
// status is looked at.
func TestOlderAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stored := k8stesting.ObjectReaction(w.api.Tracker())
		w.api.PrependReactor("patch", "nodes", func(a k8stesting.Action) (bool, apiruntime.Object, error) {
			_, object, err := stored(a)
			if node, ok := object.(*corev1.Node); ok && err == nil {
				node.Status.DeclaredFeatures = nil
				err = w.api.Tracker().Update(a.GetResource(), node, "")
			}
			return true, object, err
		})
		w.start(nil)
		defer w.stop()
		w.wait(time.Minute)
		w.requests()
		w.wait(4 * time.Minute)
		if got := w.requests()["patch nodes/status"]; got > 1 {
			t.Errorf("an idle node's status was written %d times in 4 minutes", got)
		}
		w.update(func(n *corev1.Node) { n.Status.NodeInfo.KernelVersion = "other" })
		w.wait(time.Minute)
		if got := w.get().Status.NodeInfo.KernelVersion; got == "other" {
			t.Error("what others change is left")
		}
	})
}
