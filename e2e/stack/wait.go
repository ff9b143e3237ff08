package stack

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"
)

// WaitNodeReady waits, by watch, until the node is Ready, and returns it.
func (s *Stack) WaitNodeReady(ctx context.Context) (*corev1.Node, error) {
	return s.WaitNode(ctx, "ready", NodeReady)
}

// NodeReady tells whether the node's Ready condition is true.
func NodeReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// WaitNode waits, by watch, until the stack's node fulfils the condition; want
// says what that is, for the error.
func (s *Stack) WaitNode(ctx context.Context, want string, done func(*corev1.Node) bool) (*corev1.Node, error) {
	var last *corev1.Node
	err := watchUntil(ctx, s.NodeName, s.Client.CoreV1().Nodes().Watch, func(e watch.Event) bool {
		node, ok := e.Object.(*corev1.Node)
		if ok {
			last = node
		}
		return ok && e.Type != watch.Deleted && done(node)
	})
	if err != nil {
		err = fmt.Errorf("wait for node %s to be %s: %w", s.NodeName, want, err)
		if last != nil {
			conditions, _ := yaml.Marshal(last.Status.Conditions)
			err = fmt.Errorf("%w; conditions:\n%s", err, conditions)
		}
	}
	return last, err
}

// WaitPod waits, by watch, until the pod fulfils the condition; want says what
// that is, for the error, which holds the pod's last status and events.
func (s *Stack) WaitPod(ctx context.Context, namespace, name, want string, done func(*corev1.Pod) bool) (*corev1.Pod, error) {
	var last *corev1.Pod
	err := watchUntil(ctx, name, s.Client.CoreV1().Pods(namespace).Watch, func(e watch.Event) bool {
		pod, ok := e.Object.(*corev1.Pod)
		if ok {
			last = pod
		}
		return ok && e.Type != watch.Deleted && done(pod)
	})
	if err != nil {
		err = fmt.Errorf("wait for pod %s/%s to be %s: %w; %s", namespace, name, want, err, s.describe(namespace, name, last))
	}
	return last, err
}

// WaitPodReady waits until the pod is Ready.
func (s *Stack) WaitPodReady(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return s.WaitPod(ctx, namespace, name, "ready", PodReady)
}

// PodReady tells whether the pod's Ready condition is true.
func PodReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// WaitPodGone waits until the apiserver has no pod with that name. A list that
// sees none settles it; the watch that follows sees the end of what it saw.
func (s *Stack) WaitPodGone(ctx context.Context, namespace, name string) error {
	var last *corev1.Pod
	there := false // as the watch knows
	start := func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
		there = false
		return s.Client.CoreV1().Pods(namespace).Watch(ctx, options)
	}
	for {
		list, err := s.Client.CoreV1().Pods(namespace).List(ctx, selectName(name))
		if err != nil {
			return fmt.Errorf("look for pod %s/%s: %w", namespace, name, err)
		}
		if len(list.Items) == 0 {
			return nil
		}
		err = watchUntil(ctx, name, start, func(e watch.Event) bool {
			if e.Type == watch.Bookmark { // also where the initial list ends
				return !there
			}
			if pod, ok := e.Object.(*corev1.Pod); ok {
				last, there = pod, true
			}
			return e.Type == watch.Deleted
		})
		if err != nil {
			return fmt.Errorf("wait for pod %s/%s to go: %w; %s", namespace, name, err, s.describe(namespace, name, last))
		}
	}
}

func selectName(name string) metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()}
}

// watchUntil watches the object of that name, starting with its present state,
// until done says so. It outlives an apiserver that goes away meanwhile.
func watchUntil(ctx context.Context, name string, start func(context.Context, metav1.ListOptions) (watch.Interface, error), done func(watch.Event) bool) error {
	options := selectName(name)
	options.SendInitialEvents = new(true)
	options.ResourceVersionMatch = metav1.ResourceVersionMatchNotOlderThan
	options.AllowWatchBookmarks = true
	for {
		w, err := start(ctx, options)
		if err == nil {
			for event := range w.ResultChan() {
				if done(event) {
					w.Stop()
					return nil
				}
			}
			w.Stop()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond): // the apiserver may be what is away
		}
	}
}

// describe is what a person would look at first when a pod does not do what it
// should.
func (s *Stack) describe(namespace, name string, pod *corev1.Pod) string {
	// The caller's context has ended by now.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var b strings.Builder
	if pod != nil {
		status, _ := yaml.Marshal(pod.Status)
		fmt.Fprintf(&b, "status:\n%s", status)
	} else {
		b.WriteString("it was never seen\n")
	}
	events, err := s.Client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("involvedObject.name", name).String(),
	})
	if err != nil {
		return b.String()
	}
	b.WriteString("events:\n")
	for _, e := range events.Items {
		fmt.Fprintf(&b, "  %s %s x%d: %s\n", e.Type, e.Reason, e.Count, e.Message)
	}
	return b.String()
}
