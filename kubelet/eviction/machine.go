package eviction

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/nodecgroup"
	"minikubelet/runtime/cri"
)

// machine observes the node's resources.
type machine struct {
	cri       *cri.Client
	root      string                                      // "/"
	nodeFs    string                                      // a directory on the filesystem of pods' files
	podMemory func() (workingSet, limit int64, err error) // of all pods; nil if they are not held together

	imageFs, containerFs string // directories on the filesystems of images and containers; "" until they were asked for
}

// observe reads everything. What cannot be read is logged and left out.
//
// Upstream: pkg/kubelet/eviction/helpers.go makeSignalObservations.
func (m *machine) observe(ctx context.Context) (observations, layout) {
	o := observations{}
	log := klog.FromContext(ctx)
	for what, read := range map[string]func(observations) error{"memory": m.memory, "process IDs": m.pids, "pods' memory": m.podsMemory} {
		if err := read(o); err != nil {
			log.Error(err, "Eviction: a resource cannot be observed", "resource", what)
		}
	}
	l, err := m.disks(ctx, o)
	if err != nil {
		log.Error(err, "Eviction: a filesystem cannot be observed")
	}
	return o, l
}

// memory counts as free what is, and what the page cache has and would not miss. That is the working set of cAdvisor's
// root cgroup seen from the other side. In a container it is no more than the container may still use.
func (m *machine) memory(o observations) error {
	values, err := m.numbers("meminfo")
	if err != nil {
		return err
	}
	total, ok := values["MemTotal:"]
	if !ok {
		return errors.New("meminfo has no MemTotal")
	}
	total, free := total<<10, min(values["MemFree:"]+values["Inactive(file):"], total)<<10
	container, err := nodecgroup.Memory(m.root)
	if err != nil {
		return err
	}
	if container != nil {
		total = min(total, container.Limit)
		free = min(free, max(total-container.WorkingSet, 0))
	}
	o[signalMemory] = observation{available: free, capacity: total}
	return nil
}

// numbers reads lines of a name and a number.
func (m *machine) numbers(name string) (map[string]int64, error) {
	data, err := os.ReadFile(filepath.Join(m.root, "proc", name))
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
			out[fields[0]] = n
		}
	}
	return out, nil
}

// pids counts tasks, since each has a process ID.
//
// Upstream: pkg/kubelet/stats/pidlimit/pidlimit_linux.go Stats.
func (m *machine) pids(o observations) error {
	limit := int64(-1)
	for _, name := range []string{"sys/kernel/pid_max", "sys/kernel/threads-max"} {
		data, err := os.ReadFile(filepath.Join(m.root, "proc", name))
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if limit < 0 || n < limit {
			limit = n
		}
	}
	data, err := os.ReadFile(filepath.Join(m.root, "proc/loadavg"))
	if err != nil {
		return err
	}
	fields := strings.Fields(string(data)) // 0.20 0.18 0.12 1/80 11206
	if len(fields) < 4 {
		return fmt.Errorf("loadavg is %q", data)
	}
	_, text, _ := strings.Cut(fields[3], "/")
	tasks, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("read loadavg: %w", err)
	}
	o[signalPIDs] = observation{available: limit - tasks, capacity: limit}
	return nil
}

func (m *machine) podsMemory(o observations) error {
	if m.podMemory == nil {
		return nil
	}
	workingSet, limit, err := m.podMemory()
	if err != nil || limit <= 0 {
		return err
	}
	o[signalAllocatableMemory] = observation{available: max(limit-workingSet, 0), capacity: limit}
	return nil
}

// disks observes the filesystems of pods' files, of images and of containers, and tells which of them are the same.
func (m *machine) disks(ctx context.Context, o observations) (l layout, err error) {
	node, err := o.disk(m.nodeFs, signalNodeFs, signalNodeFsInodes)
	if err != nil {
		return l, err
	}
	if m.imageFs == "" {
		if err := m.askPlaces(ctx); err != nil {
			return l, err
		}
	}
	image, err := o.disk(m.imageFs, signalImageFs, signalImageFsInodes)
	if err != nil {
		return l, err
	}
	container, err := o.disk(m.containerFs, signalContainerFs, signalContainerFsInodes)
	return layout{imageFs: image != node, containerFs: err == nil && container != image}, err
}

// runtimePatience is how long a look at the node's resources waits for the runtime, which may be what suffers.
const runtimePatience = 2 * time.Second

// askPlaces asks the runtime where images and containers are.
//
// Upstream: pkg/kubelet/stats/cri_stats_provider.go ImageFsStats.
func (m *machine) askPlaces(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, runtimePatience)
	defer cancel()
	answer, err := m.cri.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return fmt.Errorf("find the image filesystem: %w", err)
	}
	if len(answer.GetImageFilesystems()) == 0 {
		return errors.New("the runtime names no image filesystem")
	}
	m.imageFs = answer.GetImageFilesystems()[0].GetFsId().GetMountpoint()
	m.containerFs = m.imageFs
	if list := answer.GetContainerFilesystems(); len(list) > 0 {
		m.containerFs = list[0].GetFsId().GetMountpoint()
	}
	return nil
}

// disk observes the filesystem that a path is on and returns its device. One without a fixed number of inodes has no
// shortage of them.
func (o observations) disk(path, bytes, inodes string) (dev uint64, err error) {
	var s unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Statfs(path, &s), unix.Stat(path, &st)); err != nil {
		return 0, fmt.Errorf("measure the filesystem of %s: %w", path, err)
	}
	o[bytes] = observation{available: int64(s.Bavail) * s.Bsize, capacity: int64(s.Blocks) * s.Bsize}
	if s.Files > 0 {
		o[inodes] = observation{available: int64(s.Ffree), capacity: int64(s.Files)}
	}
	return st.Dev, nil
}
