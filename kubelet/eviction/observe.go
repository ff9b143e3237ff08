package eviction

import (
	"context"
	"errors"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/measure"
	"minikubelet/runtime/cri"
)

// observer looks at the node's resources.
type observer struct {
	cri       *cri.Client
	machine   *measure.Machine
	nodeFs    string                                      // a directory on the filesystem of pods' files
	podMemory func() (workingSet, limit int64, err error) // of all pods; nil if they are not held together

	imageFs, containerFs string // directories on the filesystems of images and containers; "" until they were asked for
}

// observe reads everything. What cannot be read is logged and left out.
//
// Upstream: pkg/kubelet/eviction/helpers.go makeSignalObservations.
func (m *observer) observe(ctx context.Context) (observations, layout) {
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

// memory counts as free what is, and the part of the page cache that was not touched lately, which the kernel takes back
// first. In a container it is no more than the container may still use.
func (m *observer) memory(o observations) error {
	u, err := m.machine.Node()
	if err != nil {
		return err
	}
	capacity, _, err := m.machine.Memory()
	if err != nil {
		return err
	}
	o[signalMemory] = observation{available: int64(*u.Memory.AvailableBytes), capacity: capacity}
	return nil
}

// pids counts tasks, since each has a process ID.
func (m *observer) pids(o observations) error {
	s := m.machine.PIDs()
	if s.MaxPID == nil || s.NumOfRunningProcesses == nil {
		return errors.New("the kernel does not tell how many tasks there may be and are")
	}
	o[signalPIDs] = observation{available: *s.MaxPID - *s.NumOfRunningProcesses, capacity: *s.MaxPID}
	return nil
}

func (m *observer) podsMemory(o observations) error {
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
func (m *observer) disks(ctx context.Context, o observations) (l layout, err error) {
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
func (m *observer) askPlaces(ctx context.Context) error {
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
func (o observations) disk(path, bytes, inodes string) (device uint64, err error) {
	s, device, err := measure.Filesystem(path)
	if err != nil {
		return 0, err
	}
	o[bytes] = observation{available: int64(*s.AvailableBytes), capacity: int64(*s.CapacityBytes)}
	if *s.Inodes > 0 {
		o[inodes] = observation{available: int64(*s.InodesFree), capacity: int64(*s.Inodes)}
	}
	return device, nil
}
