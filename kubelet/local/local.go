// Package local is a socket on this machine that only root can open, for commands of the kubelet's own program: it tells
// of pods, why they wait, and leads into their containers, with or without an apiserver.
package local

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"

	podinfo "minikubelet/config/pod"
	"minikubelet/kubelet/server"
	"minikubelet/kubelet/timeline/story"
)

// Path is where the socket is below a kubelet's root directory; device-plugins/kubelet.sock is another.
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
	// Stop ends a pod on this node. The channel is closed when nothing of it runs any more.
	Stop func(pod *corev1.Pod, gracePeriod *int64) <-chan struct{}
}

// Local is the socket.
type Local struct {
	Options
	listener net.Listener

	mu      sync.Mutex
	changed chan struct{}            // closed and replaced at each change
	events  *lru.Cache               // []story.Event by UID, of the pods that had one last
	layers  map[[2]string]story.Pull // by image and layer
}

// New returns a Local that is told of events, pulls and changes at once; clients can connect after Listen.
func New() *Local {
	return &Local{changed: make(chan struct{}), events: lru.New(maxPods), layers: map[[2]string]story.Pull{}}
}

// Listen opens the socket. A socket that a kubelet left behind is replaced, one that answers is not.
func (l *Local) Listen(o Options) (err error) {
	l.Options = o
	path := Path(o.RootDir)
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return fmt.Errorf("another kubelet answers on %s", path)
	}
	_ = os.Remove(path) // a socket that is left; what cannot be removed net.Listen names
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

// Run answers until ctx ends.
func (l *Local) Run(ctx context.Context) { l.Server.Port(l.listener).Run(ctx) }

// Summaries returns a line of each pod, by name.
func (l *Local) Summaries() (all []story.Summary) {
	for _, pod := range l.Pods() {
		all = append(all, l.Story(pod).Summary)
	}
	slices.SortFunc(all, func(a, b story.Summary) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID)) })
	return all
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

// watch sends a line of each pod, or of each pod of the namespace that is asked for, at once, after each change and after a while.
func (l *Local) watch(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	namespace := r.URL.Query().Get("namespace")
	for {
		l.mu.Lock()
		next := l.changed
		l.mu.Unlock()
		lines := slices.DeleteFunc(l.Summaries(), func(s story.Summary) bool { return namespace != "" && !strings.HasPrefix(s.Name, namespace+"/") })
		if err := errors.Join(json.NewEncoder(w).Encode(lines), http.NewResponseController(w).Flush()); err != nil {
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
	var grace *int64
	if text := r.URL.Query().Get("gracePeriod"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds < 0 {
			return server.Error(http.StatusBadRequest, fmt.Sprintf("gracePeriod: %q is not a number of seconds", text))
		}
		grace = &seconds
	}
	if !podinfo.IsStatic(pod) {
		return server.Error(http.StatusConflict, fmt.Sprintf(
			"pod %s/%s belongs to the apiserver, which would not know that it was stopped: kubectl -n %s delete pod %s", pod.Namespace, pod.Name, pod.Namespace, pod.Name))
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

const (
	maxEvents = 32  // different ones that are kept of a pod, the newest
	maxPods   = 500 // that events are kept of, those that had one last
)

// Record takes an event of a pod; one that came before is counted. Without an apiserver there is no other place for events, and
// with one they stay for an hour only.
func (l *Local) Record(e *corev1.Event) {
	if e.InvolvedObject.Kind != "Pod" {
		return
	}
	defer l.Changed()
	l.mu.Lock()
	defer l.mu.Unlock()
	uid, at := e.InvolvedObject.UID, cmp.Or(e.LastTimestamp.Time, time.Now())
	_, container, _ := strings.Cut(strings.TrimSuffix(e.InvolvedObject.FieldPath, "}"), "{") // spec.containers{name}
	took := story.Event{
		First: at, Last: at, Count: 1, Warning: e.Type == corev1.EventTypeWarning, Reason: e.Reason, Message: e.Message, Container: container,
	}
	list := l.eventsOf(uid)
	if i := slices.IndexFunc(list, func(o story.Event) bool {
		return o.Reason == took.Reason && o.Message == took.Message && o.Container == took.Container
	}); i >= 0 {
		took.First, took.Count = list[i].First, list[i].Count+1
		list = slices.Delete(list, i, i+1)
	} else if len(list) >= maxEvents {
		list = slices.Delete(list, 0, 1)
	}
	l.events.Add(uid, append(list, took))
}

func (l *Local) eventsOf(uid types.UID) []story.Event {
	kept, _ := l.events.Get(uid)
	list, _ := kept.([]story.Event)
	return list
}

// Events returns a pod's events, the oldest first.
func (l *Local) Events(uid types.UID) []story.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.eventsOf(uid))
}

// Pulling is told by a runtime in the same process how far the pull of an image's layer is. Without a layer it is told that the pull
// has ended, or begins anew.
func (l *Local) Pulling(image, layer string, done, total int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if layer != "" {
		l.layers[[2]string{image, layer}] = story.Pull{Image: image, Done: done, Total: total}
		return
	}
	maps.DeleteFunc(l.layers, func(_ [2]string, p story.Pull) bool { return p.Image == image })
}

// Pulls returns the images that are being pulled, the layers of each added up.
func (l *Local) Pulls() []story.Pull {
	l.mu.Lock()
	defer l.mu.Unlock()
	sums := map[string]story.Pull{}
	for _, p := range l.layers {
		sums[p.Image] = story.Pull{Image: p.Image, Done: sums[p.Image].Done + p.Done, Total: sums[p.Image].Total + p.Total}
	}
	return slices.Collect(maps.Values(sums))
}

// Client talks to a kubelet on this machine.
type Client struct {
	path string
	// Transport connects to the socket, whatever host a URL names.
	Transport *http.Transport
}

// NewClient makes a client of the kubelet with that root directory; it does not connect.
func NewClient(rootDir string) *Client {
	path := Path(rootDir)
	return &Client{path, &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
}

// URL is the address of a request, without what is empty of the query.
func (c *Client) URL(query url.Values, path ...string) *url.URL {
	maps.DeleteFunc(query, func(_ string, values []string) bool { return values[0] == "" })
	u := (&url.URL{Scheme: "http", Host: "kubelet"}).JoinPath(path...)
	u.RawQuery = query.Encode()
	return u
}

// Do sends a request and returns the body of its answer, which is to be closed.
func (c *Client) Do(ctx context.Context, method string, query url.Values, path ...string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.URL(query, path...).String(), nil)
	if err != nil {
		return nil, err
	}
	answer, err := (&http.Client{Transport: c.Transport}).Do(r)
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no kubelet answers on %s: see that one runs, and name its --root-dir", c.path)
	case err != nil:
		return nil, fmt.Errorf("ask the kubelet on %s, which only root may: %w", c.path, err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	return nil, cmp.Or(err, errors.New(strings.TrimSpace(string(text))))
}

// BrokenOff is the error of an answer whose rest did not come.
func BrokenOff(err error) error { return fmt.Errorf("the kubelet broke off (has it ended?): %w", err) }

// Find returns the pod called NAME or NAMESPACE/NAME. A static pod is found by its manifest's name too, without the node's
// at its end.
func (c *Client) Find(ctx context.Context, name string) (*corev1.Pod, error) {
	namespace, short, ok := strings.Cut(name, "/")
	if !ok {
		namespace, short = corev1.NamespaceDefault, name
	}
	body, err := c.Do(ctx, http.MethodGet, nil, "pods")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var pods corev1.PodList
	if err := json.NewDecoder(body).Decode(&pods); err != nil {
		return nil, fmt.Errorf("read the kubelet's answer: %w", err)
	}
	named := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
		return p.Name != short && (p.Name != short+"-"+p.Spec.NodeName || !podinfo.IsStatic(&p))
	})
	slices.SortStableFunc(named, func(a, b corev1.Pod) int { return cmp.Compare(len(a.Name), len(b.Name)) }) // the name as it is comes first
	if i := slices.IndexFunc(named, func(p corev1.Pod) bool { return p.Namespace == namespace }); i >= 0 {
		return &named[i], nil
	}
	answer := []string{fmt.Sprintf("pod %s/%s is not on this node", namespace, short)}
	for _, p := range named {
		answer = append(answer, fmt.Sprintf("but %s/%s is", p.Namespace, p.Name))
	}
	return nil, errors.New(strings.Join(answer, ", "))
}

// Watch calls on with a line of each pod of the namespace, "" for all, at each change and each second, until it ends or on wants no more.
func (c *Client) Watch(ctx context.Context, namespace string, on func([]story.Summary) (more bool)) error {
	body, err := c.Do(ctx, http.MethodGet, url.Values{"namespace": {namespace}}, "watch")
	if err != nil {
		return err
	}
	defer body.Close()
	in := json.NewDecoder(body)
	for more := true; more; {
		var lines []story.Summary
		if err := in.Decode(&lines); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return BrokenOff(err)
		}
		more = on(lines)
	}
	return nil
}
