package node

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

// TestForbiddenOtherwise: where the apiserver lets the node set nothing at all, its roles are not given as the reason.
func TestForbiddenOtherwise(t *testing.T) {
	w := newWorld(t, "--node-labels=node-role.kubernetes.io/worker")
	failure := func(a k8stesting.Action) error {
		if a.GetVerb() != "create" {
			return nil
		}
		return apierrors.NewForbidden(corev1.Resource("nodes"), "node-1", errors.New("no node is"))
	}
	w.failure.Store(&failure)
	n, err := New(w.options(root(t, nil)))
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	ctx := klog.NewContext(t.Context(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&said))))
	if err := n.registerOnce(ctx); !apierrors.IsForbidden(err) || strings.Contains(said.String(), "roles") {
		t.Errorf("%v, and the log: %s", err, said.String())
	}
}
