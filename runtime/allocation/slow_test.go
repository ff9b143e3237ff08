package allocation

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// TestSlowDisk: while a file's write hangs, what the sync loop calls returns at once, a worker that needs the file waits, and what changes
// meanwhile is written together.
func TestSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(t.TempDir())
		begun, hang := make(chan struct{}, 9), make(chan struct{})
		syncs := 0
		write := s.write
		s.write = func(uid types.UID, data []byte, sync bool) error {
			begun <- struct{}{}
			<-hang
			if sync {
				syncs++
			}
			return write(uid, data, sync)
		}
		must(t, s.Allocate(podOf("1", "2")))
		<-begun
		for _, c := range []string{"3", "4", "5"} {
			must(t, s.Allocate(podOf("1", c)))
			if _, err := s.Recall(podOf("1", c)); err != nil {
				t.Error(err)
			}
			if got, differs := s.Allocated(podOf("1", c)); differs {
				t.Errorf("the pod has %q", asks(got))
			}
		}
		settled, actuated := make(chan error, 1), make(chan error, 1)
		go func() { settled <- s.Save(t.Context(), "u") }()
		go func() { actuated <- s.SetContainerActuated(t.Context(), "u", "c", cpu("5")) }()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Save(short, "u"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the worker whose time is over: %v", err)
		}
		synctest.Wait()
		if len(settled)+len(actuated) > 0 {
			t.Error("a worker did not wait")
		}
		if _, lags := s.Actuated("u"); lags {
			t.Error("what was actuated is not known until it is on disk")
		}
		close(hang)
		must(t, <-settled)
		must(t, <-actuated)
		if more := len(begun); more != 1 || syncs != 1 {
			t.Errorf("%d more writes, %d of all with a sync, want one", more, syncs)
		}
		got, err := New(s.dir).Recall(podOf("9", "9"))
		if must(t, err); asks(got) != "1 5" {
			t.Errorf("the file has %q", asks(got))
		}
	})
}

// TestFullDisk: a write that failed is told, and tried again at the next Save.
func TestFullDisk(t *testing.T) {
	s := New(filepath.Join(t.TempDir(), "pods"))
	write, full := s.write, errors.New("full")
	s.write = func(types.UID, []byte, bool) error { return full }
	must(t, s.Allocate(podOf("1", "2")))
	for range 2 {
		if err := s.Save(t.Context(), "u"); !errors.Is(err, full) {
			t.Error(err)
		}
	}
	s.write = write
	must(t, s.Save(t.Context(), "u"))
	if got, err := New(s.dir).Recall(podOf("9", "9")); err != nil || asks(got) != "1 2" {
		t.Errorf("the file has %q, %v", asks(got), err)
	}
}

// TestForgottenWrite: a worker that waits for the file of a pod goes on when the pod is forgotten meanwhile.
func TestForgottenWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(t.TempDir())
		hang := make(chan struct{})
		s.write = func(types.UID, []byte, bool) error { <-hang; return nil }
		must(t, s.Allocate(podOf("1", "2")))
		settled := make(chan error)
		go func() { settled <- s.Save(t.Context(), "u") }()
		synctest.Wait()
		s.Forget("u")
		must(t, <-settled)
		close(hang)
	})
}
