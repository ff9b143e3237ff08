package config

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	podinfo "minikubelet/config/pod"
)

// apiserver is a list of pods, and a watch that a test writes to.
func apiserver(events *watch.FakeWatcher, pods ...*corev1.Pod) cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			list := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
			for _, p := range pods {
				list.Items = append(list.Items, *p.DeepCopy())
			}
			return list, nil
		},
		WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) { return events, nil },
	}, noWatchList{})
}

// run runs the sources, and returns what comes out as long as something is expected.
func run(t *testing.T, o Options) (next func() PodUpdate) {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { c.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return func() PodUpdate {
		t.Helper()
		select {
		case u := <-c.Updates():
			return u
		case <-time.After(time.Minute):
			t.Fatal("no update came")
			return PodUpdate{}
		}
	}
}

// TestSeenOnce: the time at which a pod was first seen, which its containers may read, is the same in all its versions. Another
// pod of its name has a time of its own.
func TestSeenOnce(t *testing.T) {
	events := watch.NewFakeWithChanSize(10, false)
	next := run(t, Options{NodeName: "n", Pods: apiserver(events, pod("1", "a", version("1")))})
	first := next().Pods[0].Annotations[podinfo.SeenAnnotation]
	if _, err := time.Parse(time.RFC3339Nano, first); err != nil {
		t.Fatalf("the pod was first seen at %q", first)
	}
	events.Modify(pod("1", "a", version("2"), label))
	if u := next(); u.Op != UPDATE || u.Pods[0].Annotations[podinfo.SeenAnnotation] != first {
		t.Errorf("%s of a pod first seen at %s says %s", u.Op, first, u.Pods[0].Annotations[podinfo.SeenAnnotation])
	}
	events.Delete(pod("1", "a", version("3")))
	next()
	events.Add(pod("2", "a", version("4")))
	if u := next(); u.Op != ADD || u.Pods[0].Annotations[podinfo.SeenAnnotation] == first {
		t.Errorf("%s of another pod of the name, first seen at %s", u.Op, u.Pods[0].Annotations[podinfo.SeenAnnotation])
	}
}

// TestPodsWaitForTheNode: no pod comes before the node's labels are known.
func TestPodsWaitForTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		synced := make(chan struct{})
		var listed atomic.Bool
		events := watch.NewFakeWithChanSize(1, false)
		next := run(t, Options{NodeName: "n", NodeSynced: synced, Pods: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
				listed.Store(true)
				return &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []corev1.Pod{*pod("1", "a")}}, nil
			},
			WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) { return events, nil },
		}, noWatchList{})})
		synctest.Wait() // the source goes no further
		if listed.Load() {
			t.Fatal("pods are listed while nothing is known of the node")
		}
		close(synced)
		if u := next(); u.Op != ADD || len(u.Pods) != 1 {
			t.Errorf("update %+v", u)
		}
	})
}
