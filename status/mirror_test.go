package status_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	podinfo "minikubelet/config/pod"
	"minikubelet/status"
)

// TestMirrorOfANewNode: an apiserver whose cache has not seen the node yet is asked again at once, one that has no such namespace
// is not.
func TestMirrorOfANewNode(t *testing.T) {
	for resource, want := range map[string]int{"node": 3, "namespaces": 1} {
		client, asked := fake.NewClientset(), 0
		client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			if asked++; asked < 3 {
				return true, nil, apierrors.NewNotFound(corev1.Resource(resource), "n")
			}
			return false, nil, nil
		})
		mirror := status.NewMirror(status.MirrorOptions{
			Pods:     func(namespace string) status.PodClient { return client.CoreV1().Pods(namespace) },
			Node:     func() *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "1"}} },
			Existing: func(*corev1.Pod) *corev1.Pod { return nil },
		})
		err := mirror.Ensure(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p-n", Namespace: "default", Annotations: map[string]string{podinfo.HashAnnotation: "h"}}})
		if (err == nil) != (want == 3) || asked != want {
			t.Errorf("no such %s: %v after %d requests", resource, err, asked)
		}
	}
}
