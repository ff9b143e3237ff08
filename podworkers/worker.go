package podworkers

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime"
	"minikubelet/runtime/cri"
	"minikubelet/status"
)

// worker owns one pod. Its fields above mu belong to its goroutine.
type worker struct {
	*Workers
	uid      types.UID
	name     string
	lifetime context.Context // of the worker, longer than that of one step
	cleaned  chan struct{}   // closed when the pod reaches Finished

	failures int                        // syncs in a row that failed
	failed   map[string]runtime.Failure // why containers wait, by name
	sandbox  *runtime.Failure           // why the sandbox is missing
	override *status.Override           // the end that the node decided on
	seenAt   time.Time                  // when the kubelet first saw the pod
	reported corev1.PodPhase            // in the last status
	waitsFor types.UID                  // the pod that has this one's name, once that was told
	emptied  bool                       // the runtime and the disk have nothing of the finished pod any more

	mu          sync.Mutex
	pod         *corev1.Pod
	kill        *Kill
	removed     bool
	next        *Update // what the pod comes back with after it was removed
	runtimeOnly bool
	updates     int // in all, and those that steps have seen
	handled     int
	phase       Phase
	cancel      context.CancelFunc // of the step in flight
	wake        chan struct{}      // the mailbox's bell, capacity 1
}

func newWorker(ws *Workers, pod *corev1.Pod) *worker {
	return &worker{Workers: ws, uid: pod.UID, name: podinfo.FullName(pod), pod: pod, seenAt: seen(pod), cleaned: make(chan struct{}), wake: make(chan struct{}, 1)}
}

func (w *worker) logger(ctx context.Context) klog.Logger {
	return klog.FromContext(ctx).WithValues("pod", klog.KObj(w.pod), "podUID", w.uid)
}

// deliver puts an update into the mailbox. An update that ends the pod, or ends it
// sooner, cancels the step in flight. A pod that was removed and comes back with its UID, as a static pod does whose
// manifest is put back, ends first.
func (w *worker) deliver(u Update) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.removed && !u.runtimeOnly && u.Kill == nil && u.Pod.DeletionTimestamp == nil {
		w.next = &u
		return
	}
	before := w.grace()
	ending := w.killRequested()
	if u.Pod != nil {
		w.pod = u.Pod
	}
	w.runtimeOnly = u.runtimeOnly
	w.updates++
	if u.Kill != nil {
		w.kill = u.Kill.merge(w.kill)
	}
	if w.killRequested() && (!ending || w.grace() < before) && w.phase <= Terminating && w.cancel != nil {
		w.cancel()
	}
	w.ring()
}

// remove notes that no source has the pod any more.
func (w *worker) remove() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.killRequested() && w.cancel != nil {
		w.cancel()
	}
	w.removed, w.next = true, nil
	w.ring()
}

func (w *worker) poke() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ring()
}

func (w *worker) ring() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// isBeingStopped tells whether the pod ends and something of it may still run.
func (w *worker) isBeingStopped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.killRequested() && w.phase < Terminated
}

// merge keeps the earlier kill's cause and the shorter of both grace periods.
func (k *Kill) merge(earlier *Kill) *Kill {
	if earlier == nil {
		return k
	}
	merged := *earlier
	if merged.Override == nil {
		merged.Override = k.Override
	}
	if k.GracePeriod != nil && (merged.GracePeriod == nil || *k.GracePeriod < *merged.GracePeriod) {
		merged.GracePeriod = k.GracePeriod
	}
	return &merged
}

// killRequested tells whether the pod must end whatever its containers do. Callers hold mu.
func (w *worker) killRequested() bool {
	return w.kill != nil || w.removed || w.pod.DeletionTimestamp != nil
}

// grace is how many seconds containers get between TERM and KILL. Callers hold mu.
//
// Upstream: pkg/kubelet/pod_workers.go calculateEffectiveGracePeriod.
func (w *worker) grace() int64 {
	var seconds int64 = corev1.DefaultTerminationGracePeriodSeconds
	if g := w.pod.Spec.TerminationGracePeriodSeconds; g != nil {
		seconds = *g
	}
	if g := w.pod.DeletionGracePeriodSeconds; w.pod.DeletionTimestamp != nil && g != nil {
		seconds = *g
	}
	if w.kill != nil && w.kill.GracePeriod != nil && *w.kill.GracePeriod < seconds {
		seconds = *w.kill.GracePeriod
	}
	return max(seconds, 1)
}

// run takes updates from the mailbox until ctx ends or the pod is gone.
//
// Upstream: pkg/kubelet/pod_workers.go podWorkerLoop.
func (w *worker) run(ctx context.Context) {
	w.lifetime = ctx
	timer := time.NewTimer(0)
	timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
		timer.Stop()
		start, kind := time.Now(), w.stepKind()
		again, done := w.step(ctx)
		w.metrics.step.WithLabelValues(kind).Observe(time.Since(start).Seconds())
		if done {
			w.drop(ctx, w)
			return
		}
		if again > 0 {
			timer.Reset(again)
		}
	}
}

// mail is the newest state of the mailbox, and the context of the step that handles it.
type mail struct {
	pod     *corev1.Pod
	kill    *Kill
	ending  bool
	removed bool
	grace   int64
}

func (w *worker) takeMail(ctx context.Context) (context.Context, mail) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx, w.cancel = context.WithCancel(ctx)
	return ctx, mail{pod: w.pod, kill: w.kill, ending: w.killRequested(), removed: w.removed, grace: w.grace()}
}

func (w *worker) advance(ctx context.Context, s signal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	to, ok := w.phase.next(s)
	if !ok || to == w.phase {
		return
	}
	klog.FromContext(ctx).V(2).Info("Pod changes phase", "from", w.phase, "to", to)
	w.phase = to
	if to == Finished {
		close(w.cleaned)
	}
	w.failures = 0
	w.ring()
}

// stepNames are what steps are called in traces, as upstream's are.
var stepNames = map[Phase]string{Syncing: "syncPod", Terminating: "syncTerminatingPod", Terminated: "syncTerminatedPod"}

// step does what the pod's phase asks for, once. It returns after which time to come
// back without being woken (0: not), and whether the worker is done.
func (w *worker) step(run context.Context) (again time.Duration, done bool) {
	ctx, m := w.takeMail(run)
	defer w.cancel()
	if m.ending && w.phase == Syncing {
		w.advance(run, killed)
	}
	var err error
	if name := stepNames[w.phase]; name != "" { // part: tracing, kubelet/tracing
		var end func(error)
		ctx, end = cri.Step(ctx, name, m.pod)
		defer func() { end(err) }()
	}
	switch w.phase {
	case Syncing:
		if holder := w.claim(run, m.pod); holder != "" {
			err = w.waitForName(ctx, m.pod, holder)
		} else {
			again, err = w.syncPod(ctx, m.pod)
		}
	case Terminating:
		err = w.terminatePod(ctx, m)
	case Terminated:
		err = w.cleanupPod(ctx, m)
	case Finished:
		done, err = w.finishPod(ctx, m)
	}
	if err == nil {
		w.failures = 0
		return again, done
	}
	if ctx.Err() != nil {
		return 0, false // cancelled: what cancelled it rang the bell
	}
	klog.FromContext(ctx).Error(err, "Pod step failed, will be retried", "phase", w.phase)
	w.failures++
	if retry := w.backoff(); again == 0 || retry < again {
		again = retry
	}
	return again, false
}

const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 10 * time.Second // Upstream: pkg/kubelet/kubelet.go backOffPeriod
)

func (w *worker) backoff() time.Duration {
	return min(firstRetry<<min(w.failures-1, 10), lastRetry)
}
