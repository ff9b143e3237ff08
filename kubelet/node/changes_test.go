package node

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	k8stesting "k8s.io/client-go/testing"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// wait lets time pass, and what it brings happen.
func (w *world) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// update writes the node as somebody else does.
func (w *world) update(change func(*corev1.Node)) {
	w.t.Helper()
	node := w.get()
	change(node)
	if _, err := w.api.CoreV1().Nodes().Update(w.t.Context(), node, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

// deleteNode deletes the node as somebody else does; its lease goes with it.
func (w *world) deleteNode() {
	w.t.Helper()
	if err := w.api.CoreV1().Nodes().Delete(w.t.Context(), "node-1", metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
	if err := w.api.CoordinationV1().Leases("kube-node-lease").Delete(w.t.Context(), "node-1", metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// fail makes the next n requests of that verb and resource, or of any, fail.
func (w *world) fail(verb, resource string, n int32, err error) {
	left := &atomic.Int32{}
	left.Store(n)
	failure := func(a k8stesting.Action) error {
		if (verb == "*" || a.Matches(verb, resource)) && left.Add(-1) >= 0 {
			return err
		}
		return nil
	}
	w.failure.Store(&failure)
}

// recover makes no more requests fail.
func (w *world) recover() { w.failure.Store(nil) }

var errTest = apierrors.NewInternalError(errors.New("for a test"))

func (w *world) lease() *coordinationv1.Lease {
	w.t.Helper()
	lease, err := w.api.CoordinationV1().Leases("kube-node-lease").Get(w.t.Context(), "node-1", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return lease
}

// TestRestart: a kubelet that starts again reports nothing until the runtime, and its events, answered.
func TestRestart(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(*world) // the kubelet starts again
		after  time.Duration
	}{
		{"at once", func(*world) {}, 0},
		{"the runtime answers slowly", func(w *world) { w.cri.Delay("Status", 3*time.Second) }, 3 * time.Second},
		{"pods are listed slowly", func(w *world) { w.pleg.Store(new(errors.New("pleg has yet to be successful"))) }, 4 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.start(nil)
				w.stop()
				since := w.ready().LastTransitionTime
				w.told()
				tt.before(w)
				w.start(nil)
				defer w.stop()
				w.wait(tt.after)
				w.pleg.Store(new(error))
				w.wait(2 * time.Second)
				if r := w.ready(); r.Status != corev1.ConditionTrue || !r.LastTransitionTime.Equal(&since) {
					t.Errorf("readiness flipped: %+v", r)
				}
				if events := w.told(); slices.ContainsFunc(events, func(e string) bool { return strings.Contains(e, "Ready") }) {
					t.Errorf("events: %q", events)
				}
			})
		})
	}
}

// TestSlowStart: a runtime that never answers is reported in the end.
func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cri.Delay("Status", time.Hour)
		w.start(nil)
		defer w.stop()
		w.wait(silencePatience + time.Millisecond)
		if r := w.ready(); r.Status != corev1.ConditionFalse || !strings.Contains(r.Message, "container runtime is down") {
			t.Errorf("a runtime that hangs: %+v", r)
		}
	})
}

// TestRuntimeSynced: the first list of pods is heard of, not polled for.
func TestRuntimeSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.pleg.Store(new(errors.New("pleg has yet to be successful")))
		w.start(nil)
		defer w.stop()
		w.wait(recheckFirst + recheckMost/2) // the next look is a while away
		w.pleg.Store(new(error))
		close(w.synced)
		synctest.Wait()
		if r := w.ready(); r.Status != corev1.ConditionTrue {
			t.Errorf("once pods are listed: %+v", r)
		}
	})
}

// TestReasons: one is told as it is, several in brackets, each once.
func TestReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cri.SetCondition(runtimeapi.RuntimeReady, false, "Starting", "a")
		w.cri.SetCondition(runtimeapi.NetworkReady, false, "NoCNI", "b")
		w.start(nil)
		defer w.stop()
		w.wait(notReadyPatience)
		const want = "[container runtime not ready: RuntimeReady=false reason:Starting message:a, container runtime network not ready: NetworkReady=false reason:NoCNI message:b]"
		if r := w.ready(); r.Message != want {
			t.Errorf("message: %s\nwant:    %s", r.Message, want)
		}
	})
}

// TestReconnect: a runtime that was away may come back as another version, and is asked for it once.
func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		w.cri.ResetCalls()
		w.cri.FailNext("Status", errors.New("gone"))
		w.wait(time.Minute)
		if got := w.cri.Count("Version"); got != 1 {
			t.Errorf("the version was asked for %d times, want 1", got)
		}
	})
}

// TestHungImages: a runtime that does not list its images holds nothing else up.
func TestHungImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		o := w.options(root(t, nil))
		o.Images = func(ctx context.Context) ([]corev1.ContainerImage, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		w.startWith(o)
		defer w.stop()
		w.wait(notReadyPatience)
		if r := w.ready(); r.Status != corev1.ConditionTrue {
			t.Fatalf("a second after the start: %+v", r)
		}
		w.cri.SetCondition(runtimeapi.RuntimeReady, false, "Down", "for a test")
		w.wait(checkPeriod)
		if r := w.ready(); r.Status != corev1.ConditionFalse {
			t.Errorf("the state of the runtime is not written: %+v", r)
		}
	})
}

// TestFailedWrite: it is tried again soon, less and less often.
func TestFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		w.fail("patch", "nodes", 1000, errTest)
		w.cri.SetCondition(runtimeapi.NetworkReady, false, "NoCNI", "")
		w.wait(checkPeriod)
		w.requests()
		w.wait(time.Minute)
		if got := w.requests()["patch nodes/status"]; got < 12 || got > 20 {
			t.Errorf("a write that fails was tried %d times in a minute", got)
		}
		w.recover()
		w.wait(retryMost)
		if r := w.ready(); r.Status != corev1.ConditionFalse {
			t.Errorf("after the apiserver recovered: %+v", r)
		}
		w.fail("patch", "nodes", 1, errTest)
		w.requests()
		w.cri.SetCondition(runtimeapi.NetworkReady, true, "", "")
		w.wait(recheckMost + retryFirst)
		if r := w.ready(); r.Status != corev1.ConditionTrue || w.requests()["patch nodes/status"] != 2 {
			t.Errorf("a single failure is not made good soon: %+v", r)
		}
	})
}

// TestOthersResources: what others write into the status while the kubelet runs stays there.
func TestOthersResources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		w.update(func(n *corev1.Node) {
			n.Status.Capacity["example.com/gpu"] = resource.MustParse("2")
			n.Status.Capacity["attachable-volumes-x"] = resource.MustParse("16")
		})
		w.wait(11 * time.Minute)
		s := w.get().Status
		for _, name := range []corev1.ResourceName{"example.com/gpu", "attachable-volumes-x"} {
			capacity, allocatable := s.Capacity[name], s.Allocatable[name]
			if capacity.IsZero() || allocatable.Cmp(capacity) != 0 {
				t.Errorf("%s: capacity %v, allocatable %v", name, capacity.String(), allocatable.String())
			}
		}
		gpus := w.node.Allocatable()["example.com/gpu"]
		if gpus.Value() != 2 || s.Capacity.Cpu().Value() != 4 {
			t.Errorf("for pods: %v; capacity %v", w.node.Allocatable(), s.Capacity)
		}
		w.update(func(n *corev1.Node) { delete(n.Status.Capacity, "example.com/gpu") })
		w.wait(time.Minute)
		if _, ok := w.get().Status.Allocatable["example.com/gpu"]; ok {
			t.Error("what is gone from the capacity is allocatable")
		}
	})
}

// TestDualStack: both addresses are written over none, one and others.
func TestDualStack(t *testing.T) {
	ip := func(address string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address}
	}
	want := []corev1.NodeAddress{ip("192.0.2.1"), ip("2001:db8::1"), {Type: corev1.NodeHostName, Address: "node-1"}}
	for _, have := range [][]corev1.NodeAddress{nil, want[:1], {ip("192.0.2.9"), ip("2001:db8::9"), ip("192.0.2.8"), {Type: corev1.NodeExternalIP, Address: "x"}}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "--node-ip=192.0.2.1,2001:db8::1")
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}, Status: corev1.NodeStatus{Addresses: have}}
			if _, err := w.api.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			w.start(nil)
			defer w.stop()
			if got := w.get().Status.Addresses; !slices.Equal(got, want) {
				t.Errorf("over %v: %v", have, got)
			}
		})
	}
}

// TestLateWatch: an older version that the watch tells late does not come back. One that a new list has counts: the
// apiserver's data was set back.
func TestLateWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		events := watch.NewFake()
		w.api.PrependWatchReactor("nodes", k8stesting.DefaultWatchReactor(events, nil))
		w.start(nil)
		defer w.stop()
		for _, tt := range []struct{ version, colour, want string }{{"1000", "new", "new"}, {"999", "old", "new"}, {"1001", "newest", "newest"}} {
			node := w.get()
			node.ResourceVersion, node.Labels["colour"] = tt.version, tt.colour
			events.Modify(node)
			synctest.Wait()
			if got := w.node.Node().Labels["colour"]; got != tt.want {
				t.Errorf("after version %s: %q, want %q", tt.version, got, tt.want)
			}
		}
		w.update(func(n *corev1.Node) { n.ResourceVersion, n.Labels["colour"] = "5", "restored" })
		events.Error(&metav1.Status{Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired})
		w.wait(5 * time.Second)
		if got := w.node.Node().Labels["colour"]; got != "restored" {
			t.Errorf("after the apiserver was set back: %q", got)
		}
	})
}

// TestNotFound: what a write finds out before the watch tells ends the writes.
func TestNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		w.fail("patch", "nodes", 1000, apierrors.NewNotFound(corev1.Resource("nodes"), "node-1"))
		w.requests()
		w.cri.SetCondition(runtimeapi.NetworkReady, false, "NoCNI", "")
		w.wait(checkPeriod)
		w.requests()
		w.wait(comeBack - time.Second)
		if got := w.requests(); len(got) != 0 {
			t.Errorf("requests for a node that was not found: %v", got)
		}
	})
}

// TestDeletedNode: it comes back, with a lease of its own and all that the kubelet has to say, every time.
func TestDeletedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		for _, uid := range []types.UID{"second", "third"} {
			w.deleteNode()
			w.uid.Store(uid)
			w.requests()
			w.wait(comeBack - time.Second)
			if got := w.requests(); len(got) != 0 {
				t.Errorf("requests for a deleted node: %v", got)
			}
			w.wait(2 * time.Second)
			if r := w.ready(); r.Status != corev1.ConditionTrue || w.get().UID != uid {
				t.Errorf("the node has not come back: %+v", r)
			}
			if owners := w.lease().OwnerReferences; len(owners) != 1 || owners[0].UID != uid {
				t.Errorf("the lease belongs to %v, want %s", owners, uid)
			}
		}
	})
}

// TestNodeMadeAnew: a node that somebody else makes in place of a deleted one is kept as before.
func TestNodeMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		node := w.get()
		w.deleteNode()
		node.Status = corev1.NodeStatus{}
		w.uid.Store(types.UID("second"))
		if _, err := w.api.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if r := w.ready(); r.Status != corev1.ConditionTrue || w.lease().Spec.RenewTime.Time != time.Now() {
			t.Errorf("somebody made the node again: %+v, %+v", r, w.lease())
		}
		w.requests()
		w.wait(comeBack + time.Second)
		if got := w.requests(); got["create nodes"] != 0 || w.lease().OwnerReferences[0].UID != "second" {
			t.Errorf("requests for a node that is there: %v; the lease belongs to %v", got, w.lease().OwnerReferences)
		}
	})
}

// TestUnregistered: with --register-node=false somebody else makes the node, and the kubelet keeps it.
func TestUnregistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "--register-node=false")
		w.start(nil)
		defer w.stop()
		w.wait(time.Minute)
		if got := w.requests(); len(got) != 0 {
			t.Errorf("requests: %v", got)
		}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: map[string]string{"a": "b"}}}
		node.Status.NodeInfo.BootID = "boot-0"
		w.told()
		if _, err := w.api.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		got := w.get()
		if r := conditionOf(got.Status, corev1.NodeReady); r.Status != corev1.ConditionTrue || got.Status.Capacity.Cpu().Value() != 4 || len(got.Labels) != 3 {
			t.Errorf("the node: %+v", got)
		}
		if events := w.told(); !slices.Contains(events, "Warning Rebooted Node node-1 has been rebooted, boot id: boot-1") {
			t.Errorf("events: %q", events)
		}
		if *w.lease().Spec.HolderIdentity != "node-1" {
			t.Errorf("lease: %+v", w.lease())
		}
	})
}

// TestLease: it outlives failures, other writers and its own removal.
func TestLease(t *testing.T) {
	for _, tt := range []struct {
		name   string
		happen func(*world)
	}{
		{"the apiserver fails", func(w *world) {
			w.fail("update", "leases", 1000, errTest)
			w.wait(11 * time.Second)
			w.recover()
			w.wait(retryMost)
		}},
		{"somebody else wrote it", func(w *world) {
			var read atomic.Bool
			failure := func(a k8stesting.Action) error {
				switch {
				case a.Matches("get", "leases"):
					read.Store(true)
				case a.Matches("update", "leases") && !read.Load():
					return apierrors.NewConflict(coordinationv1.Resource("leases"), "node-1", nil)
				}
				return nil
			}
			w.failure.Store(&failure)
			w.wait(11 * time.Second)
		}},
		{"it was removed", func(w *world) {
			if err := w.api.CoordinationV1().Leases("kube-node-lease").Delete(w.t.Context(), "node-1", metav1.DeleteOptions{}); err != nil {
				w.t.Fatal(err)
			}
			w.wait(11 * time.Second)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.start(nil)
				defer w.stop()
				tt.happen(w)
				if age := time.Since(w.lease().Spec.RenewTime.Time); age > 6*time.Second {
					t.Errorf("the lease was renewed %v ago", age)
				}
			})
		})
	}
}

// TestSchedulable: cordoning the node is an event.
func TestSchedulable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		w.told()
		w.update(func(n *corev1.Node) { n.Spec.Unschedulable = true })
		w.update(func(n *corev1.Node) { n.Labels["a"] = "b" })
		w.update(func(n *corev1.Node) { n.Spec.Unschedulable = false })
		want := []string{"Normal NodeNotSchedulable Node node-1 status is now: NodeNotSchedulable", "Normal NodeSchedulable Node node-1 status is now: NodeSchedulable"}
		if got := w.told(); !slices.Equal(got, want) {
			t.Errorf("events: %q", got)
		}
	})
}

// TestLabelsRestored: what the machine is stays in its labels, whatever somebody writes there; other labels are theirs.
func TestLabelsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		for _, change := range []func(map[string]string){
			func(l map[string]string) {
				l["kubernetes.io/os"], l["kubernetes.io/arch"], l["a"] = "dummyOS", "dummyArch", "b"
			},
			func(l map[string]string) { delete(l, "kubernetes.io/os"); delete(l, "kubernetes.io/arch") },
		} {
			w.update(func(n *corev1.Node) { change(n.Labels) })
			w.wait(w.settings.NodeStatusUpdateFrequency.Duration + time.Second)
			if l := w.get().Labels; l["kubernetes.io/os"] != runtime.GOOS || l["kubernetes.io/arch"] != runtime.GOARCH || l["a"] != "b" {
				t.Errorf("the labels are %v", l)
			}
		}
	})
}
