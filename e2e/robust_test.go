package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"minikubelet/e2e/stack"
)

// TestKubeletKilled: SIGKILL and a restart change nothing about a pod that runs, whatever its status is watched for.
func TestKubeletKilled(t *testing.T) {
	ctx, s := node(t)
	pod := newPod(t)
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}},
		PeriodSeconds: 1,
	}
	pod = ready(ctx, t, pod)
	watch, err := s.Client.CoreV1().Pods(pod.Namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name, ResourceVersion: pod.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		if err := kubelet.Signal(signal); err != nil {
			t.Fatal(err)
		}
		<-kubelet.Done()
		// The runtime cannot be asked: it may have ended with the kubelet.
		if body, err := s.Get(ctx, "http://"+pod.Status.PodIP+":8080/healthz"); err != nil {
			t.Errorf("after signal %v to the kubelet the container does not run: %v, %s", signal, err, body)
		}
		startKubelet(ctx, t, stack.KubeletOptions{})
		// The restarted kubelet has taken the pod up when it acts on it.
		other := ready(ctx, t, newPod(t))
		remove(ctx, t, other)
	}
	got := running(ctx, t, pod.Name)
	if len(got) != 1 || !strings.HasSuffix(pod.Status.ContainerStatuses[0].ContainerID, got[0].GetId()) {
		t.Errorf("the container was replaced: %v, was %s", got, pod.Status.ContainerStatuses[0].ContainerID)
	}
	remove(ctx, t, pod)
	for e := range watch.ResultChan() { // all that was seen up to the deletion
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			t.Fatalf("the watch broke: %v", e.Object)
		}
		if p.DeletionTimestamp != nil {
			watch.Stop()
			return
		}
		if !stack.PodReady(p) || restarts(p) != 0 {
			t.Errorf("the pod's status moved to %+v", p.Status.Conditions)
		}
	}
}

// TestOrphan: a pod that was deleted while the kubelet was down is ended when it comes back.
func TestOrphan(t *testing.T) {
	ctx, s := node(t)
	pod := ready(ctx, t, newPod(t))
	stopKubelet(t)
	if err := s.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitPodGone(ctx, pod.Namespace, pod.Name); err != nil {
		t.Fatal(err)
	}
	startKubelet(ctx, t, stack.KubeletOptions{})
	eventually(ctx, t, "the orphan is gone", func() bool { return len(running(ctx, t, pod.Name)) == 0 })
}

// TestSameName: a pod made again under the name of one that was deleted by force waits for nothing, and that one ends.
func TestSameName(t *testing.T) {
	ctx, s := node(t)
	first := newPod(t)
	second := first.DeepCopy()
	first.Spec.TerminationGracePeriodSeconds = new(int64(600))
	first.Spec.Containers[0].Args = []string{"-linger=1h"}
	first = ready(ctx, t, first)
	eventually(ctx, t, "the program is there to linger", func() bool {
		_, err := s.Get(ctx, "http://"+first.Status.PodIP+":8080/healthz")
		return err == nil
	})
	if err := s.Client.CoreV1().Pods(first.Namespace).Delete(ctx, first.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
	second = ready(ctx, t, second)
	if second.UID == first.UID {
		t.Fatal("the pod was not made again")
	}
	if got := running(ctx, t, first.Name); len(got) != 2 {
		t.Errorf("the second pod waited for the first: %v", got)
	}
	end(ctx, t, first, 0)
	eventually(ctx, t, "the first pod has ended", func() bool {
		got := running(ctx, t, first.Name)
		return len(got) == 1 && got[0].GetLabels()["io.kubernetes.pod.uid"] == string(second.UID)
	})
}

// TestAPIServerAway: pods run on and are restarted; what happened is written when it is back.
func TestAPIServerAway(t *testing.T) {
	ctx, s := node(t)
	pod := ready(ctx, t, newPod(t))
	stopComponent(ctx, t, stack.APIServer)
	before := running(ctx, t, pod.Name)
	end(ctx, t, pod, 4)
	eventually(ctx, t, "the container is started again", func() bool {
		now := running(ctx, t, pod.Name)
		return len(now) == 1 && now[0].GetId() != before[0].GetId()
	})
	startComponent(ctx, t, stack.APIServer)
	pod = until(ctx, t, pod, "restarted once and ready", func(p *corev1.Pod) bool {
		return restarts(p) == 1 && stack.PodReady(p)
	})
	if end := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated; end == nil || end.ExitCode != 4 {
		t.Errorf("last state: %+v", end)
	}
	if _, err := s.WaitNodeReady(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestRuntimeAway: without its runtime the node says so, and recovers by itself.
func TestRuntimeAway(t *testing.T) {
	ctx, s := node(t)
	if !s.RuntimeIsProgram() {
		t.Skip("the runtime in the kubelet goes away with it, as in TestKubeletKilled")
	}
	program := stack.Containerd
	if s.Component(program) == nil {
		program = stack.Crid
	}
	pod := ready(ctx, t, newPod(t))
	stopComponent(ctx, t, program)
	node, err := s.WaitNode(ctx, "not ready", func(n *corev1.Node) bool { return !stack.NodeReady(n) })
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && (c.Reason != "KubeletNotReady" || !strings.Contains(c.Message, "container runtime")) {
			t.Errorf("the node is not ready with reason %q, message %q", c.Reason, c.Message)
		}
	}
	startComponent(ctx, t, program)
	if _, err := s.WaitNodeReady(ctx); err != nil {
		t.Fatal(err)
	}
	ready(ctx, t, newPod(t))
	if got := running(ctx, t, pod.Name); len(got) != 1 || got[0].GetMetadata().GetAttempt() != 0 {
		t.Errorf("the pod of before: %v", got)
	}
}

// TestStatusWrites: from creation to Ready the status is written at most twice.
func TestStatusWrites(t *testing.T) {
	ctx, s := node(t)
	pod := newPod(t)
	watch, err := s.Client.CoreV1().Pods(pod.Namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	create(ctx, t, pod)
	changes := 0
	timeout := time.After(time.Minute)
	for {
		select {
		case e := <-watch.ResultChan():
			if p, ok := e.Object.(*corev1.Pod); ok && stack.PodReady(p) {
				if changes > 1 {
					t.Errorf("the status was written %d times before the pod was ready", changes)
				}
				return
			}
			if e.Type == "MODIFIED" {
				changes++
			}
		case <-timeout:
			t.Fatal("the pod never became ready")
		}
	}
}
