// Package oom reports on the node, and on the pod concerned, that the kernel ended a process because memory was short.
package oom

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
)

const (
	kernelLog = "/dev/kmsg"
	// recordSize is more than the kernel puts into one record; a read into less fails.
	recordSize = 16 << 10

	eventSystem    = "SystemOOM"
	eventContainer = "OOMKilling"
)

// Options are what a Watcher needs.
type Options struct {
	Events record.EventRecorder
	Node   func() *corev1.ObjectReference
	// Owner finds the pod and the name of its container in whose cgroup a process was killed; nil for a process of none.
	// The name may be "".
	Owner func(cgroup string) (pod *corev1.Pod, container string)
}

// Watcher reads the kernel's log.
//
// Upstream: pkg/kubelet/oom/oom_watcher_linux.go realWatcher.
type Watcher struct {
	opts Options
}

// New returns a Watcher; Run reads.
func New(opts Options) *Watcher {
	return &Watcher{opts}
}

// Run reports what the kernel logs from now on until ctx ends. Where the log cannot be read, as in many containers, it says so
// in the kubelet's log and returns: all else of the kubelet works without.
func (w *Watcher) Run(ctx context.Context) {
	log := klog.FromContext(ctx).WithValues("path", kernelLog)
	if err := w.follow(ctx); err != nil && ctx.Err() == nil {
		log.Error(err, "The kernel's log is not read, there will be no SystemOOM events")
	}
}

func (w *Watcher) follow(ctx context.Context) error {
	// Without O_NONBLOCK a read would hold a thread until the kernel's next message, and closing the file would not end it.
	file, err := os.OpenFile(kernelLog, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open the kernel's log: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = file.Close() })
	defer func() {
		if stop() {
			_ = file.Close()
		}
	}()
	if _, err := file.Seek(0, io.SeekEnd); err != nil { // what happened before was reported by the kubelet that ran then
		return fmt.Errorf("go to the end of the kernel's log: %w", err)
	}
	buffer := make([]byte, recordSize)
	for {
		n, err := file.Read(buffer)
		switch {
		case errors.Is(err, syscall.EPIPE): // records were overwritten before they were read; the next read goes on after them
		case err != nil:
			return fmt.Errorf("read the kernel's log: %w", err)
		default:
			if kill, ok := Parse(string(buffer[:n])); ok {
				w.report(kill)
			}
		}
	}
}

// report sends the events of one kill: the node's if the whole machine was short of memory, the pod's if the process was one
// of its. A pod that reaches its own limit does not concern the node.
func (w *Watcher) report(kill Kill) {
	if kill.Limit == "" || kill.Limit == "/" {
		w.opts.Events.Eventf(w.opts.Node(), corev1.EventTypeWarning, eventSystem,
			"System OOM encountered, victim process: %s, pid: %d", kill.Process, kill.PID)
	}
	if pod, container := w.opts.Owner(kill.Cgroup); pod != nil {
		w.opts.Events.Eventf(containerRef(pod, container), corev1.EventTypeWarning, eventContainer,
			"Out of memory: process %s, pid: %d, of container %s was killed", kill.Process, kill.PID, container)
	}
}

// containerRef is the object of an event about a container: its pod, and the field that describes it.
func containerRef(pod *corev1.Pod, container string) *corev1.ObjectReference {
	ref := &corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
		ResourceVersion: pod.ResourceVersion,
	}
	if container != "" {
		ref.FieldPath = podinfo.FieldPath(pod, container)
	}
	return ref
}
