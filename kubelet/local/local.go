// Package local is a socket on this machine that only root can open, for commands of the kubelet's own program: it tells
// of pods, why they wait, and leads into their containers, with or without an apiserver.
package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/kubelet/server"
	"minikubelet/kubelet/timeline/story"
)

// Path is where the socket is below a kubelet's root directory. Upstream's kubelet.sock is that of device plugins, in
// device-plugins.
func Path(rootDir string) string { return filepath.Join(rootDir, "local", "kubelet.sock") }

// Options are what the socket answers from.
type Options struct {
	RootDir string
	// Server answers what the network's server does too.
	Server *server.Local
	// Pods returns the pods that should run here, with their newest status.
	Pods func() []*corev1.Pod
	// Story returns what is to be told of a pod.
	Story func(*corev1.Pod) story.Story
	// Stop ends a pod on this node. The channel is closed when nothing of it runs any more.
	Stop func(pod *corev1.Pod, gracePeriod *int64) <-chan struct{}
}

// Local is the socket.
type Local struct {
	Options
	listener net.Listener

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
}

// New returns a Local that takes Changed at once; clients can connect after Listen.
func New() *Local { return &Local{changed: make(chan struct{})} }

// Listen opens the socket. A socket that a kubelet left behind is replaced, one that answers is not.
func (l *Local) Listen(o Options) error {
	l.Options = o
	path := Path(o.RootDir)
	// The directory keeps others out from the start; the socket's own mode is set only after it is there.
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("open the local socket: %w", err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("open the local socket: %w", err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return fmt.Errorf("open the local socket: another kubelet answers on %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open the local socket: %w", err)
	}
	var err error
	if l.listener, err = net.Listen("unix", path); err != nil {
		return fmt.Errorf("open the local socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("open the local socket: %w", err), l.listener.Close())
	}
	o.Server.Handle("GET /story/{namespace}/{pod}", false, l.getStory)
	o.Server.Handle("GET /watch", true, l.watch)
	o.Server.Handle("POST /stop/{namespace}/{pod}", true, l.stop)
	return nil
}

// Changed says that something about a pod may be other than before. It never blocks, and does nothing on nil.
func (l *Local) Changed() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Local) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Run answers until ctx ends.
func (l *Local) Run(ctx context.Context) {
	s := &http.Server{
		Handler: l.Server, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l.listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
		klog.FromContext(ctx).Error(err, "The local socket is closed")
	}
}

func (l *Local) pod(r *http.Request) (*corev1.Pod, error) {
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	for _, pod := range l.Pods() {
		if pod.Namespace == namespace && pod.Name == name {
			return pod, nil
		}
	}
	return nil, server.Error(http.StatusNotFound, fmt.Sprintf("pod %s/%s is not on this node", namespace, name))
}

func (l *Local) getStory(w http.ResponseWriter, r *http.Request) error {
	pod, err := l.pod(r)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(l.Story(pod))
}

// Summary is a pod in one line.
type Summary struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
	State     string    `json:"state"`
	Ready     int       `json:"ready"` // how many containers are
	Of        int       `json:"of"`
	Restarts  int32     `json:"restarts"`
	IP        string    `json:"ip,omitempty"`
	Created   time.Time `json:"created"`
	Cause     string    `json:"cause,omitempty"`
	Answer    string    `json:"answer,omitempty"`
	Progress  string    `json:"progress,omitempty"`
	// Gone says that the pod is not on the node any more; all else is as it was last.
	Gone bool `json:"gone,omitempty"`
}

// Summarize makes a line of a pod and its story.
func Summarize(pod *corev1.Pod, s story.Story) Summary {
	line := Summary{
		Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, State: s.State, IP: pod.Status.PodIP, Of: len(pod.Spec.Containers),
		Created: pod.CreationTimestamp.Time, Cause: s.Cause, Answer: s.Answer, Progress: s.Progress,
	}
	if line.Created.IsZero() && pod.Status.StartTime != nil {
		line.Created = pod.Status.StartTime.Time
	}
	for i := range pod.Status.ContainerStatuses {
		c := &pod.Status.ContainerStatuses[i]
		if line.Restarts += c.RestartCount; c.Ready {
			line.Ready++
		}
	}
	return line
}

const (
	together = 100 * time.Millisecond // in which changes are told of together
	again    = time.Second            // when what is under way is told of again
)

// watch sends a line for each pod, and another one whenever it has become different.
func (l *Local) watch(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	told := map[types.UID]Summary{}
	for {
		next := l.next()
		lines, working := l.lines()
		for _, line := range difference(told, lines) {
			if err := out.Encode(line); err != nil {
				return err
			}
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return err
		}
		var timer <-chan time.Time
		if working {
			timer = time.After(again)
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-timer:
		case <-next:
			select {
			case <-r.Context().Done():
				return nil
			case <-time.After(together):
			}
		}
	}
}

// lines are all pods by name, and whether the kubelet is at work for one.
func (l *Local) lines() (lines []Summary, working bool) {
	for _, pod := range l.Pods() {
		line := Summarize(pod, l.Story(pod))
		working = working || line.Progress != ""
		lines = append(lines, line)
	}
	slices.SortFunc(lines, func(a, b Summary) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return lines, working
}

// difference returns what is new since it was told, and notes that it is told.
func difference(told map[types.UID]Summary, now []Summary) []Summary {
	var changes []Summary
	here := map[types.UID]bool{}
	for _, line := range now {
		here[line.UID] = true
		if before, known := told[line.UID]; !known || !reflect.DeepEqual(before, line) {
			changes = append(changes, line)
		}
		told[line.UID] = line
	}
	for uid, line := range told {
		if !here[uid] {
			line.Gone = true
			changes = append(changes, line)
			delete(told, uid)
		}
	}
	return changes
}

// stop ends a static pod until its manifest changes. A pod of the apiserver is deleted there, or its controller would not know.
func (l *Local) stop(w http.ResponseWriter, r *http.Request) error {
	pod, err := l.pod(r)
	if err != nil {
		return err
	}
	if !podinfo.IsStatic(pod) {
		return server.Error(http.StatusConflict, fmt.Sprintf(
			"pod %s/%s belongs to the apiserver, which would not know that it was stopped: kubectl -n %s delete pod %s", pod.Namespace, pod.Name, pod.Namespace, pod.Name))
	}
	var grace *int64
	if text := r.URL.Query().Get("gracePeriod"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds < 0 {
			return server.Error(http.StatusBadRequest, fmt.Sprintf("gracePeriod: %q is not a number of seconds", text))
		}
		grace = &seconds
	}
	select {
	case <-l.Stop(pod, grace):
	case <-r.Context().Done():
		return nil
	}
	_, err = fmt.Fprintf(w, "pod %s/%s has ended; it starts again when its manifest changes or the kubelet starts (remove it from the %s to keep it from that)\n",
		pod.Namespace, pod.Name, map[string]string{"file": "directory of manifests", "http": "manifests of the URL"}[pod.Annotations["kubernetes.io/config.source"]])
	return err
}
