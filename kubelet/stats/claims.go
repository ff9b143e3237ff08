package stats

import (
	"context"
	"maps"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Volume is a volume that is not the kubelet's own: of a claim, or of a CSI driver.
type Volume struct {
	Dir   string
	Claim string // the name of its claim in the pod's namespace; "" without one
	// Usage asks the volume's driver; nil for none. A nil answer without an error means that the file system is to be asked.
	Usage func(context.Context) (*statsapi.FsStats, error)
}

// askLimit is how long one question to a driver goes on behind the scenes.
const askLimit = 2 * time.Minute

// answers are the last answers about volumes, by directory. A driver or a network file system that hangs costs one goroutine, and
// its volume's figures stay as they were.
type answers struct {
	mu      sync.Mutex
	volumes map[string]*answer
}

type answer struct {
	stats  *statsapi.FsStats // nil until there is one
	at     time.Time         // when it was asked for
	wanted time.Time         // when it was last looked at
	done   chan struct{}     // closed when the question under way has its answer
}

// get returns what a volume holds, at most maxAge old if the answer comes before ctx ends; nil if it is not known.
func (a *answers) get(ctx context.Context, v Volume, maxAge time.Duration) *statsapi.FsStats {
	a.mu.Lock()
	now := time.Now()
	known := a.volumes[v.Dir]
	if known == nil {
		known = &answer{}
		a.volumes[v.Dir] = known
		maps.DeleteFunc(a.volumes, func(_ string, old *answer) bool { // of pods that are gone
			return old != known && old.done == nil && now.Sub(old.wanted) > 2*maxAge+time.Minute
		})
	}
	known.wanted = now
	if known.done == nil && now.Sub(known.at) >= maxAge {
		known.at, known.done = now, make(chan struct{})
		go a.ask(klog.FromContext(ctx), v, known)
	}
	done := known.done
	a.mu.Unlock()
	if done != nil {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return known.stats
}

func (a *answers) ask(log klog.Logger, v Volume, known *answer) {
	ctx, cancel := context.WithTimeout(klog.NewContext(context.Background(), log), askLimit)
	defer cancel()
	var state *statsapi.FsStats
	var err error
	if v.Usage != nil {
		state, err = v.Usage(ctx)
	}
	if state == nil && err == nil {
		state = filesystem(ctx, v.Dir)
	}
	if err != nil {
		log.V(2).Info("What a volume holds is not known", "directory", v.Dir, "err", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if state != nil {
		state.Time = metav1.NewTime(known.at)
		known.stats = state
	}
	close(known.done)
	known.done = nil
}

// foreign is what a volume of a claim or a CSI driver holds; nil for others, and for what is not known.
//
// Upstream: pkg/kubelet/server/stats/volume_stat_calculator.go
func (p *Provider) foreign(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) *statsapi.VolumeStats {
	if p.opts.Volume == nil {
		return nil
	}
	volume, ok := p.opts.Volume(pod, v)
	if !ok || !filepath.IsAbs(volume.Dir) {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, diskPatience)
	defer cancel()
	state := p.answers.get(waiting, volume, p.opts.VolumeAge)
	if state == nil {
		return nil
	}
	out := &statsapi.VolumeStats{Name: v.Name, FsStats: *state}
	if volume.Claim != "" {
		out.PVCRef = &statsapi.PVCReference{Name: volume.Claim, Namespace: pod.Namespace}
	}
	return out
}
