package node

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
)

// objects notes of which object an event of a reason was told last.
type objects struct {
	record.EventRecorder
	mu   sync.Mutex
	uids map[string]types.UID
}

func (o *objects) Event(object runtime.Object, _, reason, _ string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.uids[reason] = object.(*corev1.ObjectReference).UID
}

func (o *objects) Eventf(object runtime.Object, kind, reason, _ string, _ ...any) {
	o.Event(object, kind, reason, "")
}

func (o *objects) of(reason string) types.UID {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.uids[reason]
}

// TestEventsObject: events of the node are found by the UID of its object, also after that was made anew.
func TestEventsObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		o := w.options(root(t, nil))
		told := &objects{uids: map[string]types.UID{}}
		o.Events = told
		w.startWith(o)
		defer w.stop()
		w.wait(time.Second)
		if uid := told.of("Starting"); uid != "node-1" {
			t.Errorf("before the node is known the object is %q", uid)
		}
		if uid := told.of("NodeReady"); uid != "uid-1" {
			t.Errorf("once it is, the object is %q", uid)
		}
		w.uid.Store(types.UID("uid-2"))
		w.deleteNode()
		w.wait(2 * comeBack)
		w.node.SetPressure([]corev1.NodeConditionType{corev1.NodeDiskPressure})
		synctest.Wait()
		if uid := told.of("NodeHasDiskPressure"); uid != "uid-2" {
			t.Errorf("of a node that was made anew, the object is %q", uid)
		}
	})
}

// TestOthersBootID: that the machine has booted is told once, however often another kubelet of the node's name writes that of its machine.
func TestOthersBootID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		w.told()
		for range 3 {
			w.update(func(n *corev1.Node) { n.Status.NodeInfo.BootID = "another" })
			w.wait(time.Minute)
			if got := w.get().Status.NodeInfo.BootID; got != "boot-1" {
				t.Errorf("the node has boot ID %s", got)
			}
		}
		if events := w.told(); !slices.Equal(events, []string{"Warning Rebooted Node node-1 has been rebooted, boot id: boot-1"}) {
			t.Errorf("told: %q", events)
		}
	})
}
