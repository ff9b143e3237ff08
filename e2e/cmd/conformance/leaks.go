package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"minikubelet/e2e/stack"
)

// How much more of them a kubelet may hold after thousands of pods than before: connections and the goroutines that
// serve them come and go.
const (
	goroutineSlack  = 15
	descriptorSlack = 8
)

// leakPatience is how long the node may take to clean up: dead sandboxes and directories of pods are collected by
// period.
const leakPatience = 4 * time.Minute

// holdings are what a node holds, of the machine and in its kubelet.
type holdings struct {
	resources               []string // mounts, cgroups, processes, interfaces, files, pods
	goroutines, descriptors int
}

// takeStock says what the node holds.
func takeStock(ctx context.Context, s *stack.Stack) (h holdings, err error) {
	if h.resources, err = s.Resources(); err != nil {
		return h, err
	}
	root := s.RootDir()
	for _, parent := range []string{s.PodLogsDir(), filepath.Join(root, "pods"), filepath.Join(root, "plugins"), filepath.Join(root, "plugins_registry")} {
		paths, err := filepath.Glob(filepath.Join(parent, "*"))
		if err != nil {
			return h, err
		}
		for _, path := range paths {
			h.resources = append(h.resources, "file "+path)
		}
	}
	pods, err := s.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return h, fmt.Errorf("list pods: %w", err)
	}
	for _, pod := range pods.Items {
		h.resources = append(h.resources, "pod "+pod.Namespace+"/"+pod.Name)
	}
	text, err := s.Client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes", s.NodeName, "proxy/metrics").DoRaw(ctx)
	if err != nil {
		return h, fmt.Errorf("read the kubelet's metrics: %w", err)
	}
	if h.goroutines, err = gauge(string(text), "go_goroutines"); err != nil {
		return h, err
	}
	h.descriptors, err = gauge(string(text), "process_open_fds")
	return h, err
}

// gauge is the value of a metric without labels.
func gauge(text, name string) (int, error) {
	for line := range strings.Lines(text) {
		var v float64
		if _, err := fmt.Sscanf(line, name+" %g", &v); err == nil {
			return int(v), nil
		}
	}
	return 0, fmt.Errorf("the kubelet has no metric %s", name)
}

// exceeds tells what h has and before had not.
func (h holdings) exceeds(before holdings) []string {
	leaked := stack.Leaked(before.resources, h.resources)
	if h.goroutines > before.goroutines+goroutineSlack {
		leaked = append(leaked, fmt.Sprintf("goroutines of the kubelet: %d before, %d after", before.goroutines, h.goroutines))
	}
	if h.descriptors > before.descriptors+descriptorSlack {
		leaked = append(leaked, fmt.Sprintf("file descriptors of the kubelet: %d before, %d after", before.descriptors, h.descriptors))
	}
	return leaked
}

// warmUp runs a pod of each QoS class to its end: what stays for good, such as the pods' bridge and the classes' cgroups, is
// there after the first.
func warmUp(ctx context.Context, s *stack.Stack) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	pods := s.Client.CoreV1().Pods(corev1.NamespaceDefault)
	for name, memory := range map[string]string{"best-effort": "0", "burstable": "10Mi"} {
		resources := corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}}
		_, err := pods.Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.PodSpec{NodeName: s.NodeName, Containers: []corev1.Container{{Name: "pause", Image: stack.PauseImage, Resources: resources}}},
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create the first pods: %w", err)
		}
		err = wait.PollUntilContextCancel(ctx, 500*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			pod, err := pods.Get(ctx, name, metav1.GetOptions{})
			return err == nil && pod.Status.Phase == corev1.PodRunning, err
		})
		if err != nil {
			return fmt.Errorf("wait for the first pods: %w", err)
		}
		if err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))}); err != nil {
			return err
		}
	}
	err := wait.PollUntilContextCancel(ctx, 500*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		list, err := pods.List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 0, err
	})
	if err != nil {
		return fmt.Errorf("wait for the end of the first pods: %w", err)
	}
	return nil
}

// checkLeaks waits until the node has cleaned up after the suite, and says what it has not.
func checkLeaks(ctx context.Context, w io.Writer, s *stack.Stack, before holdings) error {
	limited, cancel := context.WithTimeout(ctx, leakPatience)
	defer cancel()
	var after holdings
	var leaked []string
	err := wait.PollUntilContextCancel(limited, 5*time.Second, true, func(ctx context.Context) (bool, error) {
		stock, err := takeStock(ctx, s)
		if err != nil {
			return false, err
		}
		after, leaked = stock, stock.exceeds(before)
		return len(leaked) == 0, nil
	})
	if err != nil && (len(leaked) == 0 || !errors.Is(err, context.DeadlineExceeded)) {
		return fmt.Errorf("look for leaks: %w", err)
	}
	slices.Sort(leaked)
	for _, what := range leaked {
		fmt.Fprintln(w, "LEAKED", what)
	}
	fmt.Fprintf(w, "leaks: %d of mounts, cgroups, processes, interfaces, files and pods; the kubelet's goroutines: %d before, %d after; its file descriptors: %d, %d\n",
		len(leaked), before.goroutines, after.goroutines, before.descriptors, after.descriptors)
	if len(leaked) > 0 {
		return fmt.Errorf("%d things leaked", len(leaked))
	}
	return nil
}
