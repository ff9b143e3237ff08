package server

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/kubelet/server/logs"
	"minikubelet/runtime/cri"
)

// logBuffer is how much of a log is gathered before it goes to the client.
const logBuffer = 32 << 10

// getContainerLogs answers with what a container wrote. A log that is not there is a bad request, whose text kubectl shows.
//
// Upstream: pkg/kubelet/server/server.go getContainerLogs
func (s *Server) getContainerLogs(w http.ResponseWriter, r *http.Request) error {
	request, previous, err := logRequest(r.URL.Query(), time.Now())
	if err != nil {
		return err
	}
	pod, err := s.pod(r)
	if err != nil {
		return err
	}
	name := r.PathValue("container")
	if podinfo.Container(pod, name) == nil {
		return notFound("container %q not found in pod %q", name, pod.Name)
	}
	observed, _ := s.options.Observed(pod.UID)
	container, err := loggedContainer(pod, observed, name, previous)
	if err != nil {
		return err
	}
	request.Root = s.settings.PodLogsDir
	if request.Path, err = s.logPath(r, container); err != nil {
		return err
	}
	request.Running = func() bool {
		now, _ := s.options.Observed(pod.UID)
		c := now.ContainerByID(container.ID)
		return c != nil && (c.State == runtimeapi.ContainerState_CONTAINER_RUNNING || c.State == runtimeapi.ContainerState_CONTAINER_CREATED)
	}
	out := newLogWriter(w, s.idleTimeout())
	err = logs.Copy(r.Context(), out, &s.watcher, request)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return badRequest("the log of container %q of pod %q is not there: %v", name, pod.Name, err)
	case err != nil:
		return fmt.Errorf("read log of container %q of pod %q: %w", name, pod.Name, err)
	}
	return nil
}

// logPath is where the runtime says it writes the container's log; a list does not say it.
func (s *Server) logPath(r *http.Request, container *cri.ContainerStatus) (string, error) {
	if container.LogPath != "" {
		return container.LogPath, nil
	}
	full, err := cri.ReadContainer(r.Context(), s.options.CRI, container.ID, container.SandboxID)
	if err != nil {
		return "", err
	}
	if full.LogPath == "" {
		return "", badRequest("container %q has no log", container.Name)
	}
	return full.LogPath, nil
}

// loggedContainer is the attempt of a container that a client means: the newest that was started, or the one before.
func loggedContainer(pod *corev1.Pod, observed *cri.PodStatus, name string, previous bool) (*cri.ContainerStatus, error) {
	var started []*cri.ContainerStatus
	if observed != nil {
		for _, c := range observed.Containers {
			if c.Name == name && c.State != runtimeapi.ContainerState_CONTAINER_CREATED {
				started = append(started, c)
			}
		}
	}
	running := len(started) > 0 && started[0].State == runtimeapi.ContainerState_CONTAINER_RUNNING
	status := containerStatus(pod, name)
	wanted := 0
	if previous && (running || status == nil || status.State.Waiting == nil) {
		wanted = 1 // while it waits for its restart, the newest is the previous one
	}
	if wanted < len(started) {
		return started[wanted], nil
	}
	if previous {
		return nil, badRequest("previous terminated container %q in pod %q not found", name, pod.Name)
	}
	return nil, badRequest("container %q in pod %q is %s", name, pod.Name, withoutLog(status))
}

// withoutLog says why there is no log of a container with this status, in the words that clients know.
func withoutLog(status *corev1.ContainerStatus) string {
	switch {
	case status == nil:
		return "not available"
	case status.State.Terminated != nil || status.LastTerminationState.Terminated != nil:
		return "terminated"
	case status.State.Waiting == nil:
		return "waiting to start - no logs yet"
	}
	switch reason := status.State.Waiting.Reason; reason {
	case "ErrImagePull":
		return "waiting to start: image can't be pulled"
	case "ImagePullBackOff":
		return "waiting to start: trying and failing to pull image"
	default:
		return "waiting to start: " + reason
	}
}

// containerStatus is what the pod's status says of a container, nil if nothing.
func containerStatus(pod *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// logRequest reads the query of a request for logs.
func logRequest(query url.Values, now time.Time) (request logs.Request, previous bool, err error) {
	p := logQuery{values: query}
	request.Follow, request.Timestamps, previous = p.flag("follow"), p.flag("timestamps"), p.flag("previous")
	request.Limit = p.number("limitBytes", 1)
	tail := "tailLines"
	if query.Get("tail") != "" { // older clients
		tail = "tail"
	}
	if query.Get(tail) != "all" {
		request.Tail = p.number(tail, 0)
	}
	seconds := p.number("sinceSeconds", 1)
	since := query.Get("sinceTime")
	switch {
	case seconds != nil && since != "":
		p.fail("sinceSeconds and sinceTime: at most one of them may be given")
	case seconds != nil:
		request.Since = now.Add(-time.Duration(min(*seconds, maxSeconds)) * time.Second)
	case since != "":
		if request.Since, err = time.Parse(time.RFC3339, since); err != nil {
			p.garbled("sinceTime: %q is not a time of RFC 3339", since)
		}
	}
	switch stream := query.Get("stream"); stream {
	case "", corev1.LogStreamAll:
	case corev1.LogStreamStdout:
		request.Stream = runtimeapi.Stdout
	case corev1.LogStreamStderr:
		request.Stream = runtimeapi.Stderr
	default:
		p.fail("stream: %q is not one of All, Stdout, Stderr", stream)
	}
	if request.Stream != "" && request.Tail != nil {
		p.fail("tailLines and one stream cannot be asked for together")
	}
	return request, previous, p.err
}

// maxSeconds is as far back as a duration goes.
const maxSeconds = int64(1<<63-1) / int64(time.Second)

// logQuery reads values and keeps the first error.
type logQuery struct {
	values url.Values
	err    error
}

// fail is for values that may not be, garbled for those that cannot be read.
func (q *logQuery) fail(format string, args ...any) {
	q.err = cmp.Or(q.err, error(&httpError{http.StatusUnprocessableEntity, fmt.Sprintf(format, args...)}))
}

func (q *logQuery) garbled(format string, args ...any) {
	q.err = cmp.Or(q.err, badRequest(format, args...))
}

// flag is on if it is there, unless its value says that it is off.
func (q *logQuery) flag(name string) bool {
	text := q.values.Get(name)
	return q.values.Has(name) && text != "0" && !strings.EqualFold(text, "false")
}

func (q *logQuery) number(name string, least int64) *int64 {
	text := q.values.Get(name)
	if text == "" {
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		q.garbled("%s: %q is not a number", name, text)
	case n < least:
		q.fail("%s: %d is less than %d", name, n, least)
	}
	return &n
}

// logWriter gathers pieces of a log. A client that takes nothing for the idle timeout, if there is one, is given up.
type logWriter struct {
	*bufio.Writer
	to http.ResponseWriter
}

func newLogWriter(w http.ResponseWriter, idle time.Duration) *logWriter {
	if p, ok := w.(*patient); ok {
		p.timeout = idle
	}
	w.Header().Set("Content-Type", "text/plain")
	return &logWriter{Writer: bufio.NewWriterSize(w, logBuffer), to: w}
}

// Flush sends what was gathered.
func (l *logWriter) Flush() error {
	if err := l.Writer.Flush(); err != nil {
		return err
	}
	return http.NewResponseController(l.to).Flush()
}
