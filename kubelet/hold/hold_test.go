package hold

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/kubelet/node"
)

// leases is one lease, and how often it was renewed here.
type leases struct {
	node.LeaseClient
	mu      sync.Mutex
	lease   coordinationv1.Lease
	renewed int
}

func (l *leases) Get(context.Context, string, metav1.GetOptions) (*coordinationv1.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lease.DeepCopy(), nil
}

func (l *leases) Update(_ context.Context, lease *coordinationv1.Lease, _ metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lease = *lease
	l.renewed++
	return lease, nil
}

// TestKeep: a lease that the kubelet renews is left alone; one that it does not is never older than its duration.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leases{}
		renew := func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
		}
		state := func() (renewed int, age time.Duration) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.renewed, time.Since(l.lease.Spec.RenewTime.Time)
		}
		renew()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			Keep(ctx, l, Options{Node: "node", Duration: 40 * time.Second})
		}()
		for range 10 {
			time.Sleep(9 * time.Second)
			renew()
		}
		if renewed, _ := state(); renewed != 0 {
			t.Errorf("it was renewed %d times while the kubelet did", renewed)
		}
		for range 300 {
			time.Sleep(time.Second)
			if _, age := state(); age > 31*time.Second {
				t.Fatalf("the lease is %s old", age)
			}
		}
		cancel()
		<-done
	})
}
