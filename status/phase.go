package status

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	podinfo "minikubelet/config/pod"
)

// tally counts a pod's containers by what they do.
type tally struct {
	initPending    int // init containers that are not done
	initFailed     int // init containers that ended badly, for good
	sidecarPending int // sidecars that have not started
	sidecarWaiting int // those of them that were never run

	running, waiting int // regular containers
	stopped          int // regular containers that have ended
	final            int // those of them that are not restarted
	succeeded        int // those of them that ended well
}

func count(pod *corev1.Pod, inits, statuses []corev1.ContainerStatus) tally {
	var t tally
	for i := range pod.Spec.InitContainers {
		container := &pod.Spec.InitContainers[i]
		if podinfo.IsSidecar(container) {
			t.addSidecar(find(inits, container.Name))
		} else {
			t.addInit(pod, container, find(inits, container.Name))
		}
	}
	for i := range pod.Spec.Containers {
		container := &pod.Spec.Containers[i]
		t.addRegular(pod, container, find(statuses, container.Name))
	}
	return t
}

func (t *tally) addInit(pod *corev1.Pod, container *corev1.Container, c *corev1.ContainerStatus) {
	end := lastEnd(c)
	if end == nil {
		t.initPending++
		return
	}
	code := podinfo.InitCode(end.ExitCode, end.Reason)
	if code != 0 && end.Reason != reasonRestartingAll && !podinfo.Restarts(pod, container, code) {
		t.initFailed++
	}
}

// addSidecar counts a sidecar. A sidecar that ended does not count: it is restarted, or the pod is over.
func (t *tally) addSidecar(c *corev1.ContainerStatus) {
	switch {
	case c == nil, c.State.Running != nil && !ptr.Deref(c.Started, false):
		t.sidecarPending++
	case c.State.Running != nil:
	case lastEnd(c) == nil:
		t.sidecarPending++
		t.sidecarWaiting++
	}
}

func (t *tally) addRegular(pod *corev1.Pod, container *corev1.Container, c *corev1.ContainerStatus) {
	if c != nil && c.State.Running != nil {
		t.running++
		return
	}
	end := lastEnd(c)
	if end == nil {
		t.waiting++
		return
	}
	t.stopped++
	if !restartsAfter(pod, container, end) {
		t.final++
	}
	// A container that succeeded and waits to be started again has not succeeded for good.
	if c.State.Terminated != nil && end.ExitCode == 0 {
		t.succeeded++
	}
}

// lastEnd is the end of the container's newest run; nil if it runs or never ran.
func lastEnd(c *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	switch {
	case c == nil || c.State.Running != nil:
		return nil
	case c.State.Terminated != nil:
		return c.State.Terminated
	case c.State.Waiting != nil:
		return c.LastTerminationState.Terminated
	}
	return nil
}

// phase computes the pod's phase from its containers. regularsBegan says that a regular container was made in the present sandbox, so
// that the pod was initialised; terminated says that nothing runs and nothing will.
//
// When its regular containers have ended for good, a pod has Succeeded or Failed here although sidecars still run: the worker
// then stops them. The apiserver is told when they have stopped (see HoldBack).
//
// Upstream: pkg/kubelet/kubelet_pods.go getPhase.
func phase(pod *corev1.Pod, inits, statuses []corev1.ContainerStatus, regularsBegan, terminated bool) corev1.PodPhase {
	t := count(pod, inits, statuses)
	switch {
	case t.initFailed > 0:
		return corev1.PodFailed
	case t.initPending > 0, t.sidecarPending > 0 && !regularsBegan, t.sidecarWaiting > 0, t.waiting > 0:
		return corev1.PodPending
	case t.running > 0, t.final < t.stopped && !terminated:
		return corev1.PodRunning
	case t.stopped == t.succeeded:
		return corev1.PodSucceeded
	}
	return corev1.PodFailed
}

func ended(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

// restartsAfter tells whether a container restarts after an end, which may be that of a restart of all containers.
func restartsAfter(pod *corev1.Pod, c *corev1.Container, end *corev1.ContainerStateTerminated) bool {
	return end.Reason == reasonRestartingAll || podinfo.Restarts(pod, c, end.ExitCode)
}

// allInitialized tells whether every init container is done: ended well, or, a sidecar, started.
func allInitialized(pod *corev1.Pod, inits []corev1.ContainerStatus) bool {
	for i := range pod.Spec.InitContainers {
		if !initialized(&pod.Spec.InitContainers[i], find(inits, pod.Spec.InitContainers[i].Name)) {
			return false
		}
	}
	return true
}

func initialized(container *corev1.Container, c *corev1.ContainerStatus) bool {
	if c != nil && podinfo.IsSidecar(container) {
		return ptr.Deref(c.Started, false)
	}
	return c != nil && c.Ready
}

func find(statuses []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	if i := slices.IndexFunc(statuses, func(c corev1.ContainerStatus) bool { return c.Name == name }); i >= 0 {
		return &statuses[i]
	}
	return nil
}
