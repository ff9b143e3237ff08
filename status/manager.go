package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
	"minikubelet/status/patch"
)

// PodClient writes the pods of a namespace, as client-go's typed client does.
type PodClient interface {
	Create(ctx context.Context, pod *corev1.Pod, o metav1.CreateOptions) (*corev1.Pod, error)
	Get(ctx context.Context, name string, o metav1.GetOptions) (*corev1.Pod, error)
	Patch(ctx context.Context, name string, kind types.PatchType, body []byte, o metav1.PatchOptions, subresources ...string) (*corev1.Pod, error)
	Delete(ctx context.Context, name string, o metav1.DeleteOptions) error
}

// Options are the apiserver's pods, nil without one, and how many are written at once (16 by default).
type Options struct {
	Pods       func(namespace string) PodClient
	Workers    int
	Registerer prometheus.Registerer // may be nil
}

// Manager keeps the newest status of every pod and writes it to the apiserver: one write in flight per pod, the
// newest status only, one PATCH of what changed.
//
// Upstream: pkg/kubelet/status/status_manager.go manager.
type Manager struct {
	api     func(namespace string) PodClient
	workers int
	metrics *metrics
	queue   workqueue.TypedRateLimitingInterface[types.UID]

	mu       sync.Mutex
	pods     map[types.UID]*entry
	onChange func() // part: local socket, kubelet/local
}

// entry is one pod: the status it should have, and what the apiserver has.
type entry struct {
	want   *corev1.PodStatus
	object apiObject
	static bool // written to the mirror, which may be missing
	finish bool // nothing is left of the pod: delete its object
	asked  bool // its deletion was taken by the apiserver; finalizers may still keep it
	gone   bool // the apiserver does not have it any more

	// before is when a static pod started that ran before the kubelet; zero unless its mirror told.
	before metav1.Time

	changed time.Time // when want began to differ from what is written; zero when it does not
	startup *startup  // nil once started, and for a pod that was there before the kubelet
}

// apiObject is a pod as the apiserver last showed it.
type apiObject struct {
	namespace, name string
	uid             types.UID
	version         uint64
	status          corev1.PodStatus
}

// New returns a Manager; Run starts its writers.
func New(opts Options) *Manager {
	if opts.Workers <= 0 {
		opts.Workers = 16
	}
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](100*time.Millisecond, 10*time.Second)
	return &Manager{
		api: opts.Pods, workers: opts.Workers, metrics: newMetrics(opts.Registerer), pods: map[types.UID]*entry{}, onChange: func() {},
		queue: workqueue.NewTypedRateLimitingQueue(limiter),
	}
}

// Run writes statuses until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	if m.api == nil {
		<-ctx.Done()
		m.queue.ShutDown() // not by AfterFunc: stop could come before it
		return
	}
	var writers sync.WaitGroup
	stop := context.AfterFunc(ctx, m.queue.ShutDown)
	defer stop()
	for range m.workers {
		writers.Go(func() {
			for {
				uid, shutdown := m.queue.Get()
				if shutdown {
					return
				}
				m.write(ctx, uid)
				m.queue.Done(uid)
			}
		})
	}
	writers.Wait()
}

// Set takes a pod's newest status, and writes it unless the apiserver has it.
func (m *Manager) Set(pod *corev1.Pod, s corev1.PodStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entryOf(pod)
	if e.want != nil && equality.Semantic.DeepEqual(*e.want, s) {
		return
	}
	if !e.before.IsZero() && !e.before.Equal(s.StartTime) {
		return // it was worked out when it was not known yet how the pod was before
	}
	m.metrics.countTerminated(e.want, &s)
	if e.changed.IsZero() {
		e.changed = time.Now()
	}
	wait := patience(pod, e.want, &s) // part: statuses that wait, status/patience.go
	e.want = &s
	m.onChange()
	m.queue.AddAfter(pod.UID, wait)
}

// Get returns the newest status of a pod, written or not.
func (m *Manager) Get(uid types.UID) (corev1.PodStatus, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.pods[uid]
	if e == nil || e.want == nil {
		return corev1.PodStatus{}, false
	}
	return *e.want.DeepCopy(), true
}

// Reconcile takes in what the apiserver has of a pod. If its status was changed by another client, it is written again. What
// the apiserver has of a static pod is its mirror.
func (m *Manager) Reconcile(pod *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for uid, e := range m.pods {
		if e.object.uid == pod.UID && e.object.uid != "" {
			m.metrics.started(e, pod, time.Now())
			if e.object.take(pod) {
				m.queue.Add(uid)
			}
			return
		}
	}
}

// Finish says that nothing is left of a deleted pod: its last status is written and then its object deleted.
func (m *Manager) Finish(pod *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entryOf(pod).finish = true
	m.queue.Add(pod.UID)
}

// Forget drops a pod.
func (m *Manager) Forget(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pods, uid)
	m.queue.Forget(uid)
	m.onChange()
}

// entryOf returns the pod's entry, making it. Callers hold mu.
func (m *Manager) entryOf(pod *corev1.Pod) *entry {
	e := m.pods[pod.UID]
	if e == nil {
		e = &entry{static: podinfo.IsStatic(pod)}
		if !e.static && pod.Status.StartTime.IsZero() {
			e.startup = &startup{}
		}
		m.pods[pod.UID] = e
	}
	if !e.static && e.object.uid == "" {
		e.object.take(pod)
	}
	return e
}

// take stores what the apiserver shows of the object unless something newer is known, and tells whether it did.
func (o *apiObject) take(pod *corev1.Pod) bool {
	version, err := strconv.ParseUint(pod.ResourceVersion, 10, 64)
	if err == nil && version < o.version {
		return false
	}
	changed := o.uid != pod.UID || !equality.Semantic.DeepEqual(o.status, pod.Status)
	*o = apiObject{namespace: pod.Namespace, name: pod.Name, uid: pod.UID, version: version, status: *pod.Status.DeepCopy()}
	return changed
}

// write brings the apiserver's object up to date, and deletes that of a finished pod.
func (m *Manager) write(ctx context.Context, uid types.UID) {
	m.mu.Lock()
	e := m.pods[uid]
	if e == nil || e.want == nil || e.gone || e.object.uid == "" {
		m.mu.Unlock()
		return
	}
	want, object, finish, changed := *e.want, e.object, e.finish && !e.asked, e.changed
	e.changed = time.Time{}
	m.mu.Unlock()

	log := klog.FromContext(ctx).WithValues("pod", klog.KRef(object.namespace, object.name), "podUID", uid)
	err := m.patch(ctx, uid, object, want)
	if err == nil && finish {
		err = m.delete(ctx, uid, object)
	}
	switch {
	case err == nil:
		if !changed.IsZero() {
			m.metrics.synced.Observe(time.Since(changed).Seconds())
		}
		m.queue.Forget(uid)
	case isGone(err):
		log.V(2).Info("The pod is gone from the apiserver, its status is not written", "err", err)
		m.edit(uid, func(e *entry) { e.gone = !e.static })
		m.queue.Forget(uid)
	case ctx.Err() != nil:
	default:
		log.Error(err, "Writing the pod's status failed, will be retried")
		m.edit(uid, func(e *entry) {
			if !changed.IsZero() {
				e.changed = changed
			}
		})
		m.queue.AddRateLimited(uid)
	}
}

// isGone tells whether the object to write to does not exist any more. If another pod has its name, the apiserver answers that
// the UID cannot be changed. Other conflicts pass, and are no sign of that.
func isGone(err error) bool {
	if apierrors.IsNotFound(err) {
		return true
	}
	var answer apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &answer) || answer.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(answer.Status().Details.Causes, func(c metav1.StatusCause) bool { return c.Field == "metadata.uid" })
}

// edit changes the pod's entry, if it still has one.
func (m *Manager) edit(uid types.UID, change func(*entry)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.pods[uid]; e != nil {
		change(e)
	}
}

// patch sends what differs. The UID in it makes the apiserver refuse it for another pod of the same name.
func (m *Manager) patch(ctx context.Context, uid types.UID, object apiObject, want corev1.PodStatus) error {
	body, err := difference(object, want)
	if err != nil || body == nil {
		return err
	}
	ctx, end := cri.Step(ctx, "writeStatus", cri.Pod(uid, object.namespace, object.name), cri.Why("the pod's status differs from what the apiserver has"))
	cri.Changed(ctx, object.status, want)
	pod, err := m.api(object.namespace).Patch(ctx, object.name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
	end(err)
	if err != nil {
		return fmt.Errorf("patch status of pod %s/%s: %w", object.namespace, object.name, err)
	}
	m.edit(uid, func(e *entry) {
		if e.object.uid == pod.UID {
			e.object.take(pod)
		}
	})
	return nil
}

// difference returns the patch from what the apiserver has to what it should have, nil if that is the same.
// Conditions that others write are left as they are.
func difference(object apiObject, want corev1.PodStatus) ([]byte, error) {
	want.Conditions = WithForeign(want.Conditions, object.status.Conditions)
	changes, err := patch.Diff(&object.status, &want) // part: patches of statuses, status/patch
	if err != nil {
		return nil, fmt.Errorf("compute the patch of a pod's status: %w", err)
	}
	if changes == nil {
		return nil, nil
	}
	return json.Marshal(map[string]any{"metadata": map[string]types.UID{"uid": object.uid}, "status": json.RawMessage(changes)})
}

// WithForeign keeps the kubelet's own conditions of want, and of all others what the apiserver has. DisruptionTarget is
// the kubelet's own where it ended the pod.
func WithForeign(want, have []corev1.PodCondition) []corev1.PodCondition {
	var merged []corev1.PodCondition
	for _, c := range want {
		if isKubelets(c.Type) || isByKubelet(c) {
			merged = append(merged, c)
		}
	}
	for _, c := range have {
		if !isKubelets(c.Type) && findCondition(merged, c.Type) == nil {
			merged = append(merged, c)
		}
	}
	return merged
}

// delete removes the object of a pod that has a deletion timestamp, once: a later write of the pod's status does not ask again.
func (m *Manager) delete(ctx context.Context, uid types.UID, object apiObject) error {
	err := m.api(object.namespace).Delete(ctx, object.name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(object.uid)),
	})
	if err != nil {
		return fmt.Errorf("delete pod %s/%s: %w", object.namespace, object.name, err)
	}
	m.edit(uid, func(e *entry) { e.asked = true })
	return nil
}
