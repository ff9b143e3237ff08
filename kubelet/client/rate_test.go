package client

import (
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"
)

// TestSetRate: requests wait for the rate that was set last; a negative one is no limit, and 0 is client-go's default.
func TestSetRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(&rest.Config{Host: "https://127.0.0.1:1", QPS: 2, Burst: 4})
		if err != nil {
			t.Fatal(err)
		}
		take := func(n int, want time.Duration) {
			t.Helper()
			start := time.Now()
			for range n {
				if err := c.limiter.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if took := time.Since(start); took.Round(10*time.Millisecond) != want {
				t.Errorf("%d requests at %v in a second took %v, want %v", n, c.limiter.QPS(), took, want)
			}
		}
		take(6, time.Second)
		c.SetRate(1, 1)
		take(3, 3*time.Second)
		c.SetRate(-1, 0)
		take(1000, 0)
		c.SetRate(0, 0)
		time.Sleep(time.Minute)
		take(15, time.Second)
	})
}
