package runtimeclass

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.uber.org/goleak"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func classes(client kubernetes.Interface) cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return client.NodeV1().RuntimeClasses().List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.NodeV1().RuntimeClasses().Watch(ctx, o)
		},
	}, client)
}

func TestLookupRuntimeHandler(t *testing.T) {
	client := fake.NewClientset(
		&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "sandboxed"}, Handler: "runsc"},
		&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "plain"}, Handler: ""},
	)
	lookup := New(classes(client))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); lookup.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for _, test := range []struct {
		name  *string
		want  string
		found bool
	}{
		{nil, "", true},
		{new(""), "", true},
		{new("sandboxed"), "runsc", true},
		{new("plain"), "", true},
		{new("none"), "", false},
	} {
		got, err := lookup.LookupRuntimeHandler(test.name)
		if got != test.want || errors.Is(err, ErrNotFound) == test.found || (err == nil) != test.found {
			t.Errorf("LookupRuntimeHandler(%v) = %q, %v", test.name, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), *test.name) {
			t.Errorf("error %q does not name the class", err)
		}
	}
}

func TestStandalone(t *testing.T) {
	lookup := New(nil)
	if got, err := lookup.LookupRuntimeHandler(nil); got != "" || err != nil {
		t.Errorf("LookupRuntimeHandler(nil) = %q, %v", got, err)
	}
	if _, err := lookup.LookupRuntimeHandler(new("x")); !errors.Is(err, ErrNotFound) {
		t.Errorf("LookupRuntimeHandler(x) = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	lookup.Run(ctx)
}

// Before the first list it is not known which classes exist.
func TestNotListedYet(t *testing.T) {
	if _, err := New(classes(fake.NewClientset())).LookupRuntimeHandler(new("x")); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("LookupRuntimeHandler = %v", err)
	}
}
