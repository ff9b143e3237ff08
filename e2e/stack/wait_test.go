package stack

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
)

// TestWaitPodGone checks that a pod that goes while the watch is broken is seen to be gone: the next watch begins without it.
func TestWaitPodGone(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}}
	client := fake.NewClientset(pod)
	first, second := watch.NewFake(), watch.NewFake()
	watches := make(chan *watch.FakeWatcher, 2)
	watches <- first
	watches <- second
	client.PrependWatchReactor("pods", func(kubetesting.Action) (bool, watch.Interface, error) {
		if len(watches) == 0 {
			return true, nil, errors.New("a third watch")
		}
		return true, <-watches, nil
	})
	listed := func(w *watch.FakeWatcher) {
		w.Action(watch.Bookmark, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}})
	}
	go func() {
		first.Add(pod)
		listed(first)
		first.Modify(pod)
		first.Stop()
		listed(second)
		second.Stop()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s := &Stack{Client: client}
	client.PrependReactor("list", "pods", func(kubetesting.Action) (bool, runtime.Object, error) {
		if len(watches) > 0 {
			return true, &corev1.PodList{Items: []corev1.Pod{*pod}}, nil
		}
		return true, &corev1.PodList{}, nil
	})
	if err := s.WaitPodGone(ctx, "default", "a"); err != nil {
		t.Error(err)
	}
}
