package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	libcgroups "github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// killWait bounds the wait for processes that were sent SIGKILL; one in uninterruptible sleep outlasts it and the
// removal is then an error, to be tried again.
const killWait = 5 * time.Second

// RemovePod kills whatever still runs in the pod's cgroup and removes it from every hierarchy. A pod without a
// cgroup is no error. The class need not be known: after a restart only the UID is.
func (m *Manager) RemovePod(uid types.UID) error {
	if !m.options.PerQOS {
		return nil
	}
	if err := checkUID(uid); err != nil {
		return fmt.Errorf("remove cgroup of pod %q: %w", uid, err)
	}
	if m.unknown.Load() {
		return fmt.Errorf("remove cgroup of pod %s: %w", uid, errDriver)
	}
	m.mu.Lock()
	delete(m.ensured, uid)
	m.mu.Unlock()

	for _, tier := range m.tiers() {
		n := tier.child(podPrefix + string(uid))
		dirs := m.existing(n)
		if len(dirs) == 0 {
			continue
		}
		defer m.time("destroy", time.Now())
		if err := m.remove(n, dirs); err != nil {
			return fmt.Errorf("remove cgroup %s: %w", m.path(n), err)
		}
	}
	return nil
}

func (m *Manager) remove(n name, dirs []string) error {
	if err := killAll(dirs); err != nil {
		return err
	}
	if m.systemd.Load() {
		handle, err := manager.New(m.config(n, limits{}))
		if err == nil {
			err = handle.Destroy()
		}
		if err != nil {
			return err
		}
	}
	for _, dir := range dirs {
		if err := libcgroups.RemovePath(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// existing lists the directories of a cgroup over all hierarchies, those of controllers that only the runtime uses
// and of the v2 half of a hybrid machine included.
func (m *Manager) existing(n name) []string {
	var out []string
	for _, mount := range m.allMounts() {
		dir := filepath.Join(mount, m.path(n))
		if _, err := os.Lstat(dir); err == nil {
			out = append(out, dir)
		}
	}
	return out
}

func (m *Manager) allMounts() []string {
	out := slices.Collect(maps.Values(m.mounts))
	if !m.unified {
		out = append(out, filepath.Join(unifiedRoot, "unified"))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Pods lists the pods that have a cgroup in any hierarchy, sorted. It is how leftovers of an earlier kubelet are found.
func (m *Manager) Pods() ([]types.UID, error) {
	if !m.options.PerQOS {
		return nil, nil
	}
	if m.unknown.Load() {
		return nil, fmt.Errorf("list pod cgroups: %w", errDriver)
	}
	found := map[types.UID]bool{}
	for _, tier := range m.tiers() {
		for _, dir := range m.existing(tier) {
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("list pod cgroups: %w", err)
			}
			for _, entry := range entries {
				if uid, ok := uidOfDir(entry.Name()); ok && entry.IsDir() {
					found[uid] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// killAll sends SIGKILL to every process below the directories and waits until each is gone. A process may fork
// between the listing and the kill, hence the rounds.
func killAll(dirs []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), killWait)
	defer cancel()
	for {
		pids := map[int]bool{}
		for _, dir := range dirs {
			// An error here is a cgroup that went away meanwhile; if it did not, removing it says so.
			list, _ := libcgroups.GetAllPids(dir)
			for _, pid := range list {
				pids[pid] = true
			}
		}
		// 0 is a process of another PID namespace: out of reach from here.
		delete(pids, 0)
		if len(pids) == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d processes outlast SIGKILL", len(pids))
		}
		var group errgroup.Group
		for pid := range pids {
			group.Go(func() error { return kill(ctx, pid) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
}

// kill ends one process through a pidfd, which, unlike its number, cannot come to mean another process.
func kill(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	deadline, _ := ctx.Deadline()
	for {
		left := max(time.Until(deadline).Milliseconds(), 0)
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
