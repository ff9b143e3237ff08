package node

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8stesting "k8s.io/client-go/testing"
)

// TestRoleLabels: a node whose roles the apiserver does not let it set registers without them, another with them. Where the apiserver
// refuses the node for another reason, roles are not blamed.
func TestRoleLabels(t *testing.T) {
	const role = "node-role.kubernetes.io/worker"
	for name, tt := range map[string]struct {
		refuses          func(labels map[string]string) bool
		registers, blame bool
	}{
		"all allowed": {func(map[string]string) bool { return false }, true, false},
		"no roles":    {func(labels map[string]string) bool { _, has := labels[role]; return has }, true, true},
		"no node":     {func(map[string]string) bool { return true }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "--node-labels=a=b,"+role)
				failure := func(a k8stesting.Action) error {
					create, ok := a.(k8stesting.CreateAction)
					if !ok {
						return nil
					}
					if node, ok := create.GetObject().(*corev1.Node); ok && tt.refuses(node.Labels) {
						return apierrors.NewForbidden(corev1.Resource("nodes"), node.Name, errors.New("not allowed"))
					}
					return nil
				}
				w.failure.Store(&failure)
				w.start(nil)
				w.stop()
				if blamed := strings.Contains(w.logged(), "set its roles"); blamed != tt.blame {
					t.Errorf("the log blames roles: %t\n%s", blamed, w.logged())
				}
				node, err := w.api.CoreV1().Nodes().Get(t.Context(), "node-1", metav1.GetOptions{})
				if (err == nil) != tt.registers {
					t.Fatalf("the node is %v, %v", node, err)
				}
				if _, has := node.Labels[role]; err == nil && (has == tt.blame || node.Labels["a"] != "b") {
					t.Errorf("the labels are %v", node.Labels)
				}
			})
		})
	}
}

// TestForbiddenToMake: a node that the kubelet may not make, but that is there, is taken over as any that exists.
func TestForbiddenToMake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "--node-labels=a=b")
		made := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
		if _, err := w.api.CoreV1().Nodes().Create(t.Context(), made, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		failure := func(a k8stesting.Action) error {
			if a.GetVerb() == "create" && a.GetResource().Resource == "nodes" {
				return apierrors.NewForbidden(corev1.Resource("nodes"), "node-1", errors.New("no rule"))
			}
			return nil
		}
		w.failure.Store(&failure)
		w.start(nil)
		defer w.stop()
		if r := w.ready(); r.Status != corev1.ConditionTrue || w.get().Labels["a"] != "b" {
			t.Errorf("the node is %+v, its labels are %v", r, w.get().Labels)
		}
	})
}
