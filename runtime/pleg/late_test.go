package pleg

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
)

// gathered is an event as a runtime sends it that has read its payload by now. The runtime stamps it when it has read all.
func (n *node) gathered(box string, ids ...string) *runtimeapi.ContainerEventResponse {
	n.Helper()
	event := &runtimeapi.ContainerEventResponse{ContainerId: box, ContainerEventType: runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT}
	answer, err := n.cri.Runtime.PodSandboxStatus(n.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: box})
	if err != nil {
		n.Fatal(err)
	}
	event.PodSandboxStatus = answer.Status
	for _, id := range ids {
		answer, err := n.cri.Runtime.ContainerStatus(n.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			n.Fatal(err)
		}
		event.ContainersStatuses = append(event.ContainersStatuses, answer.Status)
	}
	return event
}

func (n *node) send(event *runtimeapi.ContainerEventResponse, at time.Time) {
	event.CreatedAt = at.UnixNano()
	n.fake.SendEvent(event)
	synctest.Wait()
}

// unheard has the runtime change without an event.
func (n *node) unheard(change func()) {
	n.fake.MuteEvents(true)
	change()
	n.fake.MuteEvents(false)
}

func (n *node) current(uid types.UID) *cri.PodStatus {
	n.Helper()
	now, err := n.pleg.Cache.Current(n.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Namespace: "default", Name: "web"}})
	if err != nil {
		n.Fatal(err)
	}
	return now
}

// oneRuns starts a node with one container, which the cache knows of.
func oneRuns(t *testing.T) (n *node, box, id string) {
	n = newNode(t, Options{})
	n.run()
	time.Sleep(5 * time.Second)
	box = n.sandbox("a")
	id = n.container("a", box, "app")
	n.want("a")
	return n, box, id
}

// TestEventReadBeforeAction: an event that the runtime sends after an action, with a payload that it read before, does not
// count as a reading that began after the action.
func TestEventReadBeforeAction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, box, id := oneRuns(t)
		defer n.stop()
		event := n.gathered(box, id)
		n.unheard(func() { n.exit(id) })
		n.pleg.Cache.Acted("a")
		time.Sleep(time.Millisecond)
		n.send(event, time.Now())
		if got := n.current("a").ContainerByID(id).State; got != dead {
			t.Errorf("the container that was ended is %v", got)
		}
	})
}

// TestEventDuringReading: such an event that comes while the runtime is asked does not count more than the answer.
func TestEventDuringReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, box, id := oneRuns(t)
		defer n.stop()
		event := n.gathered(box, id)
		n.unheard(func() { n.exit(id) })
		n.pleg.Cache.Acted("a")
		time.Sleep(time.Millisecond)
		n.fake.Delay("ListContainers", 10*time.Millisecond)
		go func() {
			time.Sleep(5 * time.Millisecond)
			event.CreatedAt = time.Now().UnixNano()
			n.fake.SendEvent(event)
		}()
		if got := n.current("a").ContainerByID(id).State; got != dead {
			t.Errorf("the container that was ended is %v", got)
		}
		if _, current := n.pleg.Cache.IfCurrent("a"); !current {
			t.Error("a reading that began after the action does not count")
		}
	})
}

// TestListAfterPart: a list tells of what ended without an event, although a part of the pod was read since the list began.
func TestListAfterPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, box, first := oneRuns(t)
		defer n.stop()
		second := n.container("a", box, "second")
		n.want("a")
		n.unheard(func() { n.exit(first) })
		read, err := cri.ReadContainer(t.Context(), n.cri, second, box)
		if err != nil {
			t.Fatal(err)
		}
		part := &cri.PodStatus{UID: "a", Namespace: "default", Name: "web"}
		n.pleg.Cache.Merge(part.WithContainer(read, time.Now().Add(2*time.Millisecond))) // while the list is under way
		if _, err := n.pleg.relist(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.want("a")
		if n.state("a", first) != dead || n.state("a", second) != runs {
			t.Errorf("first is %v, second is %v", n.state("a", first), n.state("a", second))
		}
	})
}

// TestNoStateGoesBack: a reading that began before a container's end and comes after it, with a time that says otherwise since
// the clock was set, brings nothing back: not what ended, nor what was removed.
func TestNoStateGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, box, id := oneRuns(t)
		defer n.stop()
		removed := n.container("a", box, "removed")
		n.want("a")
		read, err := cri.ReadPod(t.Context(), n.cri, "a", nil)
		if err != nil {
			t.Fatal(err)
		}
		n.unheard(func() {
			n.exit(id)
			n.remove(removed)
		})
		n.send(n.gathered(box, id), time.Now().Add(-30*time.Second))
		n.pleg.Cache.Put(read.At(time.Now().Add(-time.Second)))
		if got := n.state("a", id); got != dead {
			t.Errorf("the container that ended is %v", got)
		}
		n.pleg.Cache.Acted("a")
		time.Sleep(time.Millisecond)
		event := n.gathered(box, id)
		event.ContainersStatuses = append(event.ContainersStatuses, &runtimeapi.ContainerStatus{
			Id: removed, Metadata: &runtimeapi.ContainerMetadata{Name: "removed"}, State: runs, Labels: labels("a"),
		})
		n.current("a") // without the removed one
		n.send(event, time.Now())
		if got := n.state("a", removed); got != -1 {
			t.Errorf("the container that was removed is %v", got)
		}
	})
}
