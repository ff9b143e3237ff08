// Package local is a socket on this machine that only root can open, for commands of the kubelet's own program: it tells
// of pods, why they wait, and leads into their containers, with or without an apiserver.
package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	// Story returns one pod's story.
	Story func(*corev1.Pod) story.Story
	// Summaries returns one line for each pod, sorted by name.
	Summaries func() []story.Summary
	// Stop ends a pod on this node. The channel is closed when nothing of it runs any more.
	Stop func(pod *corev1.Pod, gracePeriod *int64) <-chan struct{}
}

// Local is the socket.
type Local struct {
	Options
	listener net.Listener

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	events  map[types.UID][]story.Event
	layers  map[string]map[string]story.Pull // by image, by layer
}

// New returns a Local that is told of events, pulls and changes at once; clients can connect after Listen.
func New() *Local {
	return &Local{changed: make(chan struct{}), events: map[types.UID][]story.Event{}, layers: map[string]map[string]story.Pull{}}
}

// Listen opens the socket. A socket that a kubelet left behind is replaced, one that answers is not.
func (l *Local) Listen(o Options) (err error) {
	l.Options = o
	path := Path(o.RootDir)
	defer func() {
		if err != nil {
			err = fmt.Errorf("open the local socket: %w", err)
		}
	}()
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return fmt.Errorf("another kubelet answers on %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The directory keeps others out from the start; the socket's own mode is set only after it is there.
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.Chmod(filepath.Dir(path), 0o700)); err != nil {
		return err
	}
	if l.listener, err = net.Listen("unix", path); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, l.listener.Close())
	}
	o.Server.Handle("GET /story/{namespace}/{pod}", false, l.getStory)
	o.Server.Handle("GET /watch", true, l.watch)
	o.Server.Handle("POST /stop/{namespace}/{pod}", true, l.stop)
	return nil
}

// Changed says that something about a pod may be other than before. It never blocks.
func (l *Local) Changed() {
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
	if err := s.Serve(l.listener); !errors.Is(err, http.ErrServerClosed) {
		klog.FromContext(ctx).Error(err, "The local socket is closed")
	}
}

func (l *Local) pod(r *http.Request) (*corev1.Pod, error) {
	pods, namespace, name := l.Pods(), r.PathValue("namespace"), r.PathValue("pod")
	if i := slices.IndexFunc(pods, func(p *corev1.Pod) bool { return p.Namespace == namespace && p.Name == name }); i >= 0 {
		return pods[i], nil
	}
	return nil, server.Error(http.StatusNotFound, fmt.Sprintf("pod %s/%s is not on this node", namespace, name))
}

func (l *Local) getStory(w http.ResponseWriter, r *http.Request) error {
	pod, err := l.pod(r)
	if err != nil {
		return err
	}
	told := l.Story(pod)
	if r.URL.Query().Get("output") == "" {
		return told.Write(w)
	}
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(told)
}

const (
	together = 100 * time.Millisecond // in which changes are told of together
	again    = time.Second            // when all is told again, since pulls go on and pods age without a change
)

// watch sends a line of each pod, all at once, and again after each change and after a while.
func (l *Local) watch(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	for {
		next := l.next()
		if err := errors.Join(json.NewEncoder(w).Encode(l.Summaries()), http.NewResponseController(w).Flush()); err != nil {
			return err
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-time.After(again):
		case <-next:
			time.Sleep(together)
		}
	}
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
		pod.Namespace, pod.Name, map[string]string{"file": "directory of manifests", "http": "manifests of the URL"}[pod.Annotations[podinfo.SourceAnnotation]])
	return err
}
