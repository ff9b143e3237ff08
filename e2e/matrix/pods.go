package matrix

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"minikubelet/e2e/stack"
)

// roleLabel says what a pod is there for.
const roleLabel = "role"

// Roles.
const (
	steady  = "steady"  // runs untouched for the whole time, and is probed
	crasher = "crasher" // ends with an error a second after each start
	job     = "job"     // ends well; then there is another one
	churned = "churned" // is made, gets ready and is deleted, again and again
	touched = "cell"    // a fault is meant for it
)

// crowd says how many pods there are of each role beside those of the cells.
var crowd = map[string]int{steady: 12, crasher: 2, job: 2, churned: 4}

// newPod is a pod of one testapp container with a readiness probe, or of a shell script for those that end themselves.
func newPod(s *stack.Stack, role, name string) *corev1.Pod {
	container := corev1.Container{
		Name: "app", Image: stack.TestappImage, ImagePullPolicy: corev1.PullIfNotPresent,
		ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 5, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}},
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceDefault, Labels: map[string]string{roleLabel: role}},
		Spec:       corev1.PodSpec{NodeName: s.NodeName, TerminationGracePeriodSeconds: new(int64(2))},
	}
	switch role {
	case crasher:
		container.Command, container.ReadinessProbe = []string{"sh", "-c", "sleep 1; exit 1"}, nil
	case job:
		container.Command, container.ReadinessProbe = []string{"sh", "-c", "sleep 1"}, nil
		pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure // a start that a fault broke is not the job's end
	case steady:
		container.LivenessProbe = &corev1.Probe{PeriodSeconds: 10, TimeoutSeconds: 5, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
		container.VolumeMounts = []corev1.VolumeMount{{Name: "memory", MountPath: "/memory"}}
		pod.Spec.Volumes = []corev1.Volume{{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}}
	}
	pod.Spec.Containers = []corev1.Container{container}
	return pod
}

// population is the pods that start, run, crash, are probed and end while faults are injected.
type population struct {
	s      *stack.Stack
	o      *observer
	bound  time.Duration // for one step of a pod's life
	cycles []atomic.Int64
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

// populate creates the pods and keeps them moving until ctx ends.
func populate(ctx context.Context, s *stack.Stack, o *observer, bound time.Duration) (*population, error) {
	p := &population{s: s, o: o, bound: bound, cycles: make([]atomic.Int64, crowd[job]+crowd[churned])}
	ctx, p.cancel = context.WithCancel(ctx)
	for _, role := range []string{steady, crasher} {
		for i := range crowd[role] {
			if _, err := s.Client.CoreV1().Pods(corev1.NamespaceDefault).Create(ctx, newPod(s, role, fmt.Sprintf("%s-%02d", role, i)), metav1.CreateOptions{}); err != nil {
				return nil, err
			}
		}
	}
	for i := range p.cycles {
		role := churned
		if i < crowd[job] {
			role = job
		}
		p.ended.Go(func() { p.cycle(ctx, role, i) })
	}
	return p, nil
}

// stop ends the pods' movement.
func (p *population) stop() {
	p.cancel()
	p.ended.Wait()
}

// cycle takes one pod after the other through its life.
func (p *population) cycle(ctx context.Context, role string, slot int) {
	for n := 0; ctx.Err() == nil; n++ {
		if err := p.life(ctx, newPod(p.s, role, fmt.Sprintf("%s-%d-%04d", role, slot, n))); err != nil && ctx.Err() == nil {
			p.o.complain("%v", err)
		}
		p.cycles[slot].Add(1)
		_ = sleep(ctx, time.Second) // the machine has other things to do as well
	}
}

// life creates a pod, waits until it is what it is to become, deletes it and waits until it is gone.
func (p *population) life(ctx context.Context, pod *corev1.Pod) error {
	return p.lifeUntil(ctx, pod, func() {})
}

// lifeUntil is life, with something between.
func (p *population) lifeUntil(ctx context.Context, pod *corev1.Pod, became func()) error {
	pods := p.s.Client.CoreV1().Pods(pod.Namespace)
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create %s: %w", pod.Name, err)
	}
	want, done := "ready", stack.PodReady
	if pod.Labels[roleLabel] == job {
		want, done = "succeeded", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodSucceeded }
	}
	limited, cancel := context.WithTimeout(ctx, p.bound)
	defer cancel()
	if _, err := waitPod(limited, p.s, pod, want, done); err != nil {
		_ = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{})
		return err
	}
	became()
	return remove(ctx, p.s, pod, p.bound)
}

// waitPod waits until the pod is what is wanted; the error says in a few words how it is instead.
func waitPod(ctx context.Context, s *stack.Stack, pod *corev1.Pod, want string, done func(*corev1.Pod) bool) (*corev1.Pod, error) {
	last, err := s.WaitPod(ctx, pod.Namespace, pod.Name, want, done)
	if err == nil {
		return last, nil
	}
	if last == nil {
		last = pod
	}
	_, events, _ := strings.Cut(err.Error(), "events:\n")
	return last, fmt.Errorf("%s is not %s in time: %s; events: %s", pod.Name, want, condition(last), strings.Join(strings.Fields(events), " "))
}

// remove deletes a pod and waits until it is gone.
func remove(ctx context.Context, s *stack.Stack, pod *corev1.Pod, bound time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	err := s.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s: %w", pod.Name, err)
	}
	if err := s.WaitPodGone(ctx, pod.Namespace, pod.Name); err != nil {
		_, events, _ := strings.Cut(err.Error(), "events:\n")
		return fmt.Errorf("%s is not gone in time; events: %s", pod.Name, strings.Join(strings.Fields(events), " "))
	}
	return nil
}

// progress is how far each pod has come that is never to stand still: cycles of the slots, restarts of the crashers.
func (p *population) progress() map[string]int64 {
	steps := map[string]int64{}
	for i := range p.cycles {
		steps[fmt.Sprintf("pods of slot %d", i)] = p.cycles[i].Load()
	}
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	for _, pod := range p.o.pods {
		if pod.Labels[roleLabel] == crasher {
			steps[pod.Name] = int64(restarts(pod))
		}
	}
	return steps
}

// post asks a pod's testapp for something. It may end before it answers.
func post(ctx context.Context, s *stack.Stack, pod *corev1.Pod, path, body string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+pod.Status.PodIP+":8080"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := s.HTTP.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}
