package eviction

import "testing"

// TestMemoryInContainer: a node that is a container has what its limit leaves, and no more than the machine has.
func TestMemoryInContainer(t *testing.T) {
	w := newWorld(t, "", podOf("a", 0, "", ""))
	w.free(400)
	w.file("self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
	const cgroup = "../sys/fs/cgroup/"
	w.file(cgroup+"memory.stat", "inactive_file 1024\n")
	w.file(cgroup+"memory.current", "103424\n")
	for limit, want := range map[string]observation{
		"max": {400 << 10, 1000 << 10}, "204800": {100 << 10, 200 << 10}, "972800": {400 << 10, 950 << 10}, "51200": {0, 50 << 10},
	} {
		w.file(cgroup+"memory.max", limit+"\n")
		if o, _ := w.observer.observe(t.Context()); o[signalMemory] != want {
			t.Errorf("limit %s: %+v, want %+v", limit, o[signalMemory], want)
		}
	}
}
