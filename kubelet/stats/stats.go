// Package stats tells what the node, its pods and their containers use: CPU, memory, swap, pressure, filesystems and
// network. It asks the container runtime, and the kernel's own files where the runtime has no answer.
//
// Reading order: stats.go, summary.go, cri.go; resource.go and cadvisor.go are the same as metrics.
package stats

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sync/singleflight"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"minikubelet/kubelet/measure"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/criserver/diskusage"
)

// Options say whose statistics to tell. CRI, Machine, NodeName and RootDir are required.
type Options struct {
	CRI      *cri.Client
	NodeName string
	RootDir  string // --root-dir: its filesystem is the node's, pods/ below it holds volumes
	// PodLogsDir holds the containers' logs; "" leaves them out.
	PodLogsDir string

	// Pods returns the pods of the node, whose volumes are looked at; may be nil.
	Pods func() []*corev1.Pod
	// Volume returns a volume that is not the kubelet's own, if it stands; may be nil.
	Volume func(*corev1.Pod, *corev1.Volume) (Volume, bool)
	// VolumeAge is how old the figures of a volume may be: volumeStatsAggPeriod; 1 min by default.
	VolumeAge time.Duration
	// NoVolumes leaves volumes out of what is measured: volumeStatsAggPeriod is 0 or less.
	NoVolumes bool
	// PodCgroup returns the path of a pod's cgroup in every hierarchy, "" for none of its own; may be nil.
	PodCgroup func(*corev1.Pod) string
	// PodsCgroup is the path of the cgroup of all pods; "" or "/" for none of their own, or none yet; may be nil.
	PodsCgroup func() string
	// KubeletCgroup and RuntimeCgroup are kubeletCgroups and --runtime-cgroups. Those that do not exist, or are not given,
	// are the ones that the processes are in.
	KubeletCgroup, RuntimeCgroup string
	// Endpoint is the runtime's socket, by which its cgroup is found; unix:///path.
	Endpoint string

	// Disk measures directories; one of its own by default.
	Disk *diskusage.Disk

	Machine *measure.Machine
	// MaxAge is how old an answer may be; 1 s by default.
	MaxAge time.Duration
}

// answerTimeout bounds the work on one answer, however long its callers would wait.
const answerTimeout = 30 * time.Second

// Provider answers questions. It is safe for concurrent use: those who ask at the same time get the same answer.
//
// Upstream: pkg/kubelet/stats/provider.go Provider
type Provider struct {
	opts    Options
	machine *measure.Machine
	rates   *rates
	flight  singleflight.Group
	answers answers

	mu     sync.Mutex
	latest map[bool]*snapshot // by whether it is of CPU and memory only
}

// snapshot is one answer; it is not changed once it is made.
type snapshot struct {
	statsapi.Summary
	at      time.Time
	pods    []*criPod     // in the order of Summary.Pods
	devices procfs.NetDev // the node's interfaces
	system  []string      // the cgroups of Summary.Node.SystemContainers
}

// New returns a Provider; it asks nothing yet.
func New(opts Options) *Provider {
	if opts.VolumeAge <= 0 {
		opts.VolumeAge = time.Minute
	}
	if opts.MaxAge <= 0 {
		opts.MaxAge = time.Second
	}
	if opts.Disk == nil {
		opts.Disk = diskusage.NewDisk(context.Background())
	}
	return &Provider{opts: opts, machine: opts.Machine, rates: newRates(), latest: map[bool]*snapshot{}, answers: answers{volumes: map[string]*answer{}}}
}

// Get returns the summary of the node and its pods, at most MaxAge old. Callers must not change it.
func (p *Provider) Get(ctx context.Context) (*statsapi.Summary, error) {
	s, err := p.snapshot(ctx, false)
	if err != nil {
		return nil, err
	}
	return &s.Summary, nil
}

// GetCPUAndMemory is Get without filesystems and networks, which is much less work.
func (p *Provider) GetCPUAndMemory(ctx context.Context) (*statsapi.Summary, error) {
	s, err := p.snapshot(ctx, true)
	if err != nil {
		return nil, err
	}
	return &s.Summary, nil
}

// Run reads the counters of the node and of the system's containers now and then until ctx ends, so that the first one
// to ask learns their usage per second, too. Pods' comes from the runtime, or takes two questions.
func (p *Provider) Run(ctx context.Context) {
	tick := time.NewTicker(rateWindow)
	defer tick.Stop()
	for {
		if root, err := p.machine.Node(); err == nil {
			p.rates.fill("/", root.CPU)
		}
		p.systemContainers()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// snapshot returns the latest answer or works a new one out. A caller that leaves does not spoil it for the others.
func (p *Provider) snapshot(ctx context.Context, small bool) (*snapshot, error) {
	if s := p.fresh(small); s != nil {
		return s, nil
	}
	result := p.flight.DoChan(fmt.Sprint(small), func() (any, error) {
		// An earlier flight may have landed since this caller looked.
		if s := p.fresh(small); s != nil {
			return s, nil
		}
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
		defer cancel()
		s, err := p.collect(detached, small)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Statistics could not be collected")
			return nil, err
		}
		p.mu.Lock()
		p.latest[small] = s
		p.mu.Unlock()
		return s, nil
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*snapshot), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fresh returns the latest answer if it is young enough to be given again.
func (p *Provider) fresh(small bool) *snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.latest[small]; s != nil && time.Since(s.at) < p.opts.MaxAge {
		return s
	}
	return nil
}

func (p *Provider) podDir(uid string) string { return filepath.Join(p.opts.RootDir, "pods", uid) }
