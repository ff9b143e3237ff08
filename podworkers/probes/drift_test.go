package probes

import (
	"bytes"
	"context"
	"fmt"
	goruntime "runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"minikubelet/runtime/cri"
)

// TestNoDrift: 500 probes, each of which takes a while, come at their periods to the instant for an hour, with one goroutine
// each.
func TestNoDrift(t *testing.T) {
	const pods, period, took = 500, 10 * time.Second, 700 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var mu sync.Mutex
		at := map[string][]time.Duration{}
		m := New(Options{
			Exec: func(_ context.Context, id string, _ []string, _ time.Duration) ([]byte, int, error) {
				mu.Lock()
				at[id] = append(at[id], time.Since(begun))
				mu.Unlock()
				time.Sleep(took)
				return nil, 0, nil
			},
			Observed: func(uid types.UID) (*cri.PodStatus, bool) { return reading(string(uid), begun), true },
			Events:   record.NewFakeRecorder(1),
		})
		results, stop := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(results)
			for n := 0; ; n++ {
				select {
				case <-m.Results():
				case <-stop:
					return
				}
			}
		}()
		for i := range pods {
			pod := podWith(func(c *corev1.Container) { c.LivenessProbe = execProbe(int32(period/time.Second), 3) })
			pod.UID = types.UID(fmt.Sprint(i))
			m.Add(t.Context(), pod)
		}
		time.Sleep(time.Hour + time.Second)
		if n := workersRunning(); n != pods {
			t.Errorf("%d goroutines for %d probes", n, pods)
		}
		for i := range pods {
			m.Remove(types.UID(fmt.Sprint(i)))
		}
		close(stop)
		<-results
		if len(at) != pods {
			t.Errorf("%d of %d containers were probed", len(at), pods)
		}
		for id, times := range at {
			if len(times) != int(time.Hour/period)+1 {
				t.Fatalf("container %s was probed %d times", id, len(times))
			}
			for n, when := range times {
				if when != time.Duration(n)*period {
					t.Fatalf("probe %d of container %s came after %v", n, id, when)
				}
			}
		}
	})
}

func TestFollowing(t *testing.T) {
	begin := time.Unix(1000, 0)
	for _, tt := range []struct{ due, now, soon, want time.Duration }{
		{0, 0, 0, 10},
		{0, 7, 0, 10},
		{0, 10, 0, 10},
		{0, 15, 0, 10}, // at once
		{0, 39, 0, 30}, // at once, and only once
		{30, 45, 0, 40},
		{0, 1, 3, 4},   // to be looked at sooner
		{0, 1, 30, 10}, // not sooner than the period
	} {
		got := following(begin.Add(tt.due*time.Second), begin.Add(tt.now*time.Second), tt.soon*time.Second, 10*time.Second).Sub(begin)
		if got != tt.want*time.Second {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

// workersRunning counts the goroutines that probes have, not those of other tests that are just ending.
func workersRunning() int {
	stacks := make([]byte, 16<<20)
	stacks = stacks[:goruntime.Stack(stacks, true)]
	return bytes.Count(stacks, []byte("created by minikubelet/podworkers/probes.(*Manager)."))
}
