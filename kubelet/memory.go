package kubelet

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

const (
	// calm is how long no garbage was collected when a burst of work is over.
	calm = 10 * time.Second
	// burst is how many collections make one: a kubelet with nothing to do collects once in a minute or so.
	burst = 2
)

// releaseMemory gives the system back what a burst of work, such as the start of many pods, needed. Go's runtime would
// keep it until the next collection, which is minutes away once there is nothing to do, and return it slowly then.
func releaseMemory(ctx context.Context) {
	collected := make(chan struct{}, 1)
	onCollection(ctx, collected)
	releaseAfterBursts(ctx, collected, func() {
		debug.FreeOSMemory()
		if err := releaseProgram(); err != nil {
			klog.FromContext(ctx).Error(err, "Release what is mapped of the program")
		}
	})
}

func releaseAfterBursts(ctx context.Context, collected <-chan struct{}, release func()) {
	over := time.NewTimer(calm)
	defer over.Stop()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-collected:
			n++
			over.Reset(calm)
		case <-over.C:
			if n >= burst {
				release() // collects once, which is no burst
			}
			n = 0
		}
	}
}

// releaseProgram unmaps the pages of the program's file, a third of which only the start and bursts need. Those that are
// needed again are mapped again from the page cache, which may now drop the others as soon as memory is short.
func releaseProgram() error {
	self, err := procfs.Self()
	if err != nil {
		return err
	}
	program, err := self.Executable()
	if err != nil {
		return err
	}
	mappings, err := self.ProcMaps()
	if err != nil {
		return err
	}
	for _, m := range mappings {
		if m.Pathname != program || m.Perms.Write {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.StartAddr, m.EndAddr-m.StartAddr, unix.MADV_DONTNEED); errno != 0 {
			return os.NewSyscallError("madvise", errno)
		}
	}
	return nil
}

// onCollection has every collection of garbage told of, until ctx ends: each finds an object that nobody holds.
func onCollection(ctx context.Context, collected chan<- struct{}) {
	type garbage struct{ _ *byte } // with a pointer, so that it shares no memory with others
	runtime.AddCleanup(&garbage{}, func(collected chan<- struct{}) {
		if ctx.Err() != nil {
			return
		}
		onCollection(ctx, collected) // first: whoever is told may collect at once
		select {
		case collected <- struct{}{}:
		default:
		}
	}, collected)
}
