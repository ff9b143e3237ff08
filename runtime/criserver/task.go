package criserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/store"
)

// task is a container as the OCI runtime and conmon know it: that of a container of the CRI, or a sandbox's pause process.
type task struct {
	id              string
	bundle          string
	runtime         *monitor.Runtime
	hasPIDNamespace bool // its first process is that of a PID namespace, all of which ends with it

	init     *monitor.Handle // its first process
	conmon   *monitor.Handle
	watched  atomic.Bool     // its end will be recorded: see watch
	ended    context.Context // done once its end is known and recorded
	setEnded context.CancelFunc
	deletes  sync.Mutex // held while the OCI runtime deletes it
}

func newTask(id, bundle string, runtime *monitor.Runtime, hasPIDNamespace bool) *task {
	ended, setEnded := context.WithCancel(context.Background())
	return &task{id: id, bundle: bundle, runtime: runtime, hasPIDNamespace: hasPIDNamespace, ended: ended, setEnded: setEnded}
}

// writeSpec puts the specification into the bundle.
func writeSpec(bundle string, spec *specs.Spec) error {
	data, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write OCI specification: %w", err)
	}
	return nil
}

// create has conmon and the runtime make the container.
func (t *task) create(ctx context.Context, conmon *monitor.Conmon, m monitor.Container) (store.Process, error) {
	m.ID, m.Bundle = t.id, t.bundle
	pid, conmonPID, err := conmon.Create(ctx, t.runtime, m)
	if err != nil {
		return store.Process{}, err
	}
	return t.hold(store.Process{PID: pid, Conmon: conmonPID})
}

// hold gets hold of the task's processes. One that has ended already is no error.
func (t *task) hold(p store.Process) (store.Process, error) {
	var err error
	if t.conmon, err = monitor.Open(p.Conmon, p.ConmonStart); err == nil {
		p.ConmonStart = t.conmon.Start
	} else if !gone(err) {
		return p, fmt.Errorf("get hold of conmon: %w", err)
	}
	if t.init, err = monitor.Open(p.PID, p.Start); err == nil {
		p.Start = t.init.Start
	} else if !gone(err) {
		return p, fmt.Errorf("get hold of container: %w", err)
	}
	return p, nil
}

func gone(err error) bool {
	return errors.Is(err, syscall.ESRCH) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EINVAL)
}

// signal sends a signal to the first process; with none there is nothing to do.
func (t *task) signal(signal syscall.Signal) error {
	if t.init == nil {
		return nil
	}
	if err := t.init.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (t *task) hasEnded() bool { return t.ended.Err() != nil }

// kill ends the task now and waits for that.
func (t *task) kill(ctx context.Context) error {
	if err := t.signal(syscall.SIGKILL); err != nil {
		return err
	}
	select {
	case <-t.ended.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of %s: %w", t.id, ctx.Err())
	}
}

// watch waits in the background for the end of the task's conmon, which comes after that of the
// task, records the end, and lets the runtime forget the container, which frees its cgroup.
func (s *Server) watch(t *task, record func(monitor.Exit)) {
	t.watched.Store(true)
	s.watches.Go(func() {
		ctx := s.stopped
		defer t.release()
		if t.conmon != nil {
			if err := t.conmon.Wait(ctx); err != nil {
				return // the server ends, the container does not
			}
		}
		record(s.exitOf(ctx, t))
		t.setEnded()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if err := t.delete(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Could not delete container from OCI runtime; tried again on removal", "id", t.id)
		}
	})
}

// exitOf finds out how the task ended. Without an exit code conmon was killed: nothing takes the output of what is left of
// the container or records its end any more, so it is ended too.
func (s *Server) exitOf(ctx context.Context, t *task) monitor.Exit {
	exit, err := monitor.ReadExit(t.bundle)
	if err != nil {
		klog.FromContext(ctx).Info("conmon ended without an exit code; the container is killed", "id", t.id, "err", err)
		exit = monitor.Exit{Code: 137, FinishedAt: time.Now()}
		if t.init != nil {
			_ = t.signal(syscall.SIGKILL)
			wait, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			_ = t.init.Wait(wait)
		}
	}
	return exit
}

// delete lets the OCI runtime forget a task that has ended. It may be called again, also by others at the same time.
func (t *task) delete(ctx context.Context) error {
	t.deletes.Lock()
	defer t.deletes.Unlock()
	// In a PID namespace of others the first process leaves its children behind, which only force ends.
	err := t.runtime.Delete(ctx, t.id, !t.hasPIDNamespace)
	if err != nil {
		err = t.runtime.Delete(ctx, t.id, true)
	}
	return err
}

func (t *task) release() {
	t.init.Close()
	t.conmon.Close()
}
