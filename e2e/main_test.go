// Package e2e tests the kubelet as its users see it: a real apiserver, a real runtime,
// real pods. One stack serves all tests; each test gets a kubelet and its own pods.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"minikubelet/e2e/stack"
)

var (
	shared  *stack.Stack
	kubelet *stack.Kubelet // the one that tests share, nil when a test stopped it
	options stack.KubeletOptions
	names   sync.Map // how often a pod name was asked for
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == dyingCrid {
		fmt.Fprintln(os.Stderr, runDyingCrid(os.Args[1:]))
		os.Exit(1)
	}
	os.Exit(run(m))
}

// run starts the stack when its programs are there, and fails when it leaves anything behind.
// E2E_RUNTIME=crid has all tests run on this project's own CRI server, E2E_RUNTIME=embedded on the one in the kubelet.
func run(m *testing.M) int {
	klog.LogToStderr(false) // client-go complains of connections that tests break on purpose
	klog.SetOutput(io.Discard)
	if os.Getenv(stack.BinEnv) == "" {
		return m.Run()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var err error
	if shared, err = stack.Start(ctx, stack.Options{Runtime: os.Getenv("E2E_RUNTIME")}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if kubelet != nil {
		if code != 0 {
			fmt.Fprintf(os.Stderr, "the kubelet's last words:\n%s\n", kubelet.LogTail(60))
		}
		if err := kubelet.Stop(20 * time.Second); err != nil {
			fmt.Fprintln(os.Stderr, "stop the kubelet:", err)
			code = 1
		}
	}
	if err := errors.Join(closeCrid(), shared.Close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// node gives a test the stack with a running kubelet and a Ready node.
func node(t *testing.T) (context.Context, *stack.Stack) {
	t.Helper()
	return nodeWith(t, stack.KubeletOptions{})
}

// nodeWith is node with a kubelet of its own kind.
func nodeWith(t *testing.T, o stack.KubeletOptions) (context.Context, *stack.Stack) {
	t.Helper()
	ctx := onStack(t)
	if kubelet != nil {
		select {
		case <-kubelet.Done(): // a test killed it and failed before it started another
			kubelet = nil
		default:
		}
	}
	if kubelet != nil && fmt.Sprint(o) != fmt.Sprint(options) {
		stopKubelet(t)
	}
	if kubelet == nil {
		startKubelet(ctx, t, o)
	}
	t.Cleanup(func() {
		if t.Failed() && kubelet != nil {
			t.Logf("kubelet's log:\n%s", kubelet.LogTail(80))
		}
	})
	return ctx, shared
}

// onStack gives a test the stack without a kubelet, or skips it where the stack's programs
// are not built: make test builds them.
func onStack(t *testing.T) context.Context {
	t.Helper()
	if shared == nil {
		t.Skipf("end-to-end: %s is not set; make test sets it", stack.BinEnv)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func startKubelet(ctx context.Context, t *testing.T, o stack.KubeletOptions) {
	t.Helper()
	k, err := shared.StartKubelet(o)
	if err != nil {
		t.Fatal(err)
	}
	kubelet, options = k, o
	if o.Standalone {
		return
	}
	if _, err := shared.WaitNodeReady(ctx); err != nil {
		t.Fatalf("%v\n%s", err, k.LogTail(60))
	}
	// The node may be ready from the time of the kubelet before.
	eventually(ctx, t, "the kubelet answers", func() bool {
		_, err := shared.Get(ctx, "http://127.0.0.1:10248/healthz")
		return err == nil
	})
}

func stopKubelet(t *testing.T) {
	t.Helper()
	if err := kubelet.Stop(20 * time.Second); err != nil {
		t.Fatalf("stop the kubelet: %v\n%s", err, kubelet.LogTail(40))
	}
	kubelet = nil
}

// podName is the test's name as a pod may have it, with a number from the second on.
func podName(t *testing.T) string {
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	n, _ := names.LoadOrStore(name, new(int))
	count := n.(*int)
	*count++
	if *count == 1 {
		return name
	}
	return fmt.Sprintf("%s-%d", name, *count)
}

// newPod is a pod of one testapp container, bound to the node.
func newPod(t *testing.T) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: podName(t), Namespace: corev1.NamespaceDefault},
		Spec: corev1.PodSpec{
			NodeName:                      shared.NodeName,
			TerminationGracePeriodSeconds: new(int64(2)),
			Containers:                    []corev1.Container{{Name: "app", Image: stack.TestappImage, ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
}

// shell is a container that runs a script.
func shell(name, script string) corev1.Container {
	return corev1.Container{
		Name: name, Image: stack.BusyboxImage, ImagePullPolicy: corev1.PullIfNotPresent,
		Command: []string{"sh", "-c", script},
	}
}

// create makes the pod and has it removed when the test ends.
func create(ctx context.Context, t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	made, err := shared.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		clean := context.WithoutCancel(ctx)
		_ = shared.Client.CoreV1().Pods(pod.Namespace).Delete(clean, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
	})
	return made
}

// ready creates the pod and waits until it is Ready.
func ready(ctx context.Context, t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	create(ctx, t, pod)
	made, err := shared.WaitPodReady(ctx, pod.Namespace, pod.Name)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// until waits until the pod fulfils a condition.
func until(ctx context.Context, t *testing.T, pod *corev1.Pod, want string, done func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	p, err := shared.WaitPod(ctx, pod.Namespace, pod.Name, want, done)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// phase waits until the pod is in a phase.
func phase(ctx context.Context, t *testing.T, pod *corev1.Pod, want corev1.PodPhase) *corev1.Pod {
	t.Helper()
	return until(ctx, t, pod, string(want), func(p *corev1.Pod) bool { return p.Status.Phase == want })
}

// waitingFor waits until a container of the pod waits for a reason.
func waitingFor(ctx context.Context, t *testing.T, pod *corev1.Pod, reason string) *corev1.Pod {
	t.Helper()
	return until(ctx, t, pod, "waiting with "+reason, func(p *corev1.Pod) bool {
		for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			if c.State.Waiting != nil && c.State.Waiting.Reason == reason {
				return true
			}
		}
		return false
	})
}

// remove deletes the pod with its own grace period and waits until it is gone.
func remove(ctx context.Context, t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if err := shared.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := shared.WaitPodGone(ctx, pod.Namespace, pod.Name); err != nil {
		t.Fatal(err)
	}
}

// logs returns what a container wrote, from the file that its runtime keeps.
func logs(t *testing.T, pod *corev1.Pod, container string, attempt int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("%s/%s_%s_%s/%s/%d.log", shared.PodLogsDir(), pod.Namespace, pod.Name, pod.UID, container, attempt))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		// time stream tag text
		if parts := strings.SplitN(line, " ", 4); len(parts) == 4 {
			out.WriteString(parts[3])
		}
	}
	return out.String()
}

// events waits until an event with the reason is there and returns its message.
func event(ctx context.Context, t *testing.T, object, reason string) string {
	t.Helper()
	for {
		list, err := shared.Client.CoreV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + object})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.Reason == reason {
				return e.Message
			}
		}
		select {
		case <-ctx.Done():
			var seen []string
			for _, e := range list.Items {
				seen = append(seen, e.Reason+": "+e.Message)
			}
			t.Fatalf("no event %s on %s; events: %q", reason, object, seen)
		case <-time.After(100 * time.Millisecond): // events are sent behind the scenes
		}
	}
}
