package spec

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// PodLogsDirectory is a pod's log directory, <podLogsDir>/<namespace>_<name>_<uid>.
func PodLogsDirectory(podLogsDir, namespace, name string, uid types.UID) string {
	return filepath.Join(podLogsDir, strings.Join([]string{namespace, name, string(uid)}, "_"))
}

// LogPath is a container's log relative to its pod's log directory.
func LogPath(container string, attempt uint32) string {
	return filepath.Join(container, strconv.FormatUint(uint64(attempt), 10)+".log")
}

const maxFileName = 255

// LogLink is the name by which log collectors know a container's log.
func LogLink(dir, namespace, pod, container, id string) string {
	name := fmt.Sprintf("%s_%s_%s-%s", pod, namespace, container, id)
	return filepath.Join(dir, name[:min(len(name), maxFileName-len(".log"))]+".log")
}
