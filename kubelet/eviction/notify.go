package eviction

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/measure"
)

// stallTrigger asks to be told when tasks waited for memory for a tenth of a second within two.
const stallTrigger = "some 100000 2000000"

// watchStalls rings when tasks wait for memory, which is when it is about to run out. The kernel tells it with its
// pressure stall information, whatever the version of cgroups. Where it has none the channel is nil.
//
// Upstream has memory thresholds of cgroup v1 in this place: pkg/kubelet/eviction/threshold_notifier_linux.go.
func watchStalls(ctx context.Context, machine *measure.Machine) <-chan struct{} {
	f, err := openTrigger(machine.Path("proc/pressure/memory"))
	if err != nil {
		klog.FromContext(ctx).V(2).Info("Eviction: the kernel does not tell of memory stalls, looking every 10 s only", "err", err)
		return nil
	}
	rings := make(chan struct{}, 1)
	woken, wake, err := os.Pipe()
	if err != nil {
		_ = f.Close()
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = wake.Close() })
	go func() {
		defer func() {
			stop()
			_ = errors.Join(f.Close(), woken.Close(), wake.Close())
		}()
		for awaitStall(f, woken) {
			select {
			case rings <- struct{}{}:
			default:
			}
		}
	}()
	return rings
}

func openTrigger(path string) (*os.File, error) {
	// Not os.OpenFile: Go's poller would get the events in our place.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	if _, err := f.WriteString(stallTrigger + "\x00"); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("set the trigger: %w", err)
	}
	return f, nil
}

// awaitStall returns true at the next stall, and false when the pipe is closed or the trigger is gone.
func awaitStall(trigger, closed *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(trigger.Fd()), Events: unix.POLLPRI}, {Fd: int32(closed.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil, fds[1].Revents != 0, fds[0].Revents&unix.POLLERR != 0:
			return false
		case fds[0].Revents&unix.POLLPRI != 0:
			return true
		}
	}
}
