package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"minikubelet/runtime/cri"
)

// How much is kept of what a container wrote last.
const (
	maxMessage     = 4096 // bytes of the termination log
	maxMessageLog  = 2048 // bytes of the log
	maxMessageLine = 80   // lines of the log
	// logTail is how much of a log file is searched for it: enough for 80 empty lines and their preambles, and
	// for 2048 bytes in lines of any length.
	logTail = 64 << 10
)

// TerminationMessage returns the message of an exited container's terminated state: what the runtime says of its end
// and, after ": ", what the container wrote to its termination log or, under FallbackToLogsOnError, last logged.
// It is "" for a container that has not exited. A file that cannot be read is reported in the message.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go convertToKubeContainerStatus
func (r *Runtime) TerminationMessage(c *cri.ContainerStatus) string {
	if c == nil || c.State != cri.Exited {
		return ""
	}
	message := r.written(c)
	switch {
	case message == "":
		return c.Message
	case c.Message == "":
		return message
	}
	return c.Message + ": " + message
}

// written is what the container wrote about its end.
func (r *Runtime) written(c *cri.ContainerStatus) string {
	path := c.Annotations[cri.AnnotationTerminationMessagePath]
	fallback := c.Annotations[cri.AnnotationTerminationMessagePolicy] == string(corev1.TerminationMessageFallbackToLogsOnError) &&
		c.ExitCode != 0 && c.Reason != "ContainerCannotRun"
	for _, mount := range c.Mounts {
		if path == "" || mount.GetContainerPath() != "/"+strings.TrimPrefix(path, "/") {
			continue
		}
		text, err := tail(r.opts.RootDir, mount.GetHostPath(), maxMessage)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Sprintf("Error on reading termination log %s: %v", mount.GetHostPath(), err)
		}
		if len(text) > 0 {
			return string(text)
		}
		break
	}
	if !fallback {
		return ""
	}
	text, err := tail(r.opts.Node.PodLogsDir, c.LogPath, logTail)
	if err != nil {
		return fmt.Sprintf("Error on reading termination message from logs: %v", err)
	}
	return lastLogLines(text)
}

// tail returns at most limit bytes from the end of a regular file below dir. The container may have replaced the file: no link in
// the path below dir leads out of it, and opening it does not block on a pipe.
func tail(dir, path string, limit int64) ([]byte, error) {
	relative, err := filepath.Rel(dir, path)
	if err != nil || !filepath.IsLocal(relative) {
		return nil, fmt.Errorf("%s is not below %s", path, dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	file, err := root.OpenFile(relative, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() > limit {
		if _, err := file.Seek(-limit, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(file, limit))
}

// lastLogLines takes the content out of the last lines of a log in the CRI's format, "time stream tag content".
func lastLogLines(log []byte) string {
	var contents [][]byte
	for line := range bytes.Lines(log) {
		fields := bytes.SplitN(line, []byte(" "), 4)
		if len(fields) < 4 {
			continue // the cut-off head, or not a log line
		}
		content := fields[3]
		if bytes.HasPrefix(fields[2], []byte("P")) {
			content = bytes.TrimSuffix(content, []byte("\n")) // goes on in the next
		}
		contents = append(contents, content)
	}
	contents = contents[max(0, len(contents)-maxMessageLine):]
	out := bytes.Join(contents, nil)
	return string(out[max(0, len(out)-maxMessageLog):])
}
