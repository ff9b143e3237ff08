package server

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxCheckpoint is the longest timeout that may be asked for.
const maxCheckpoint = time.Hour

// checkpoint has the runtime write a running container's state to a file in the kubelet's directory.
//
// Upstream: pkg/kubelet/server/server.go checkpoint and pkg/kubelet/kubelet.go CheckpointContainer
func (s *Server) checkpoint(w http.ResponseWriter, r *http.Request) error {
	var timeout int64
	if given := r.URL.Query()["timeout"]; len(given) > 0 {
		var err error
		timeout, err = strconv.ParseInt(given[len(given)-1], 10, 64)
		if err != nil || timeout < 0 || timeout > int64(maxCheckpoint.Seconds()) {
			return badRequest("query parameter timeout: want seconds, at most %v", maxCheckpoint.Seconds())
		}
	}
	container, err := s.runningContainer(r)
	if err != nil {
		return err
	}
	dir := filepath.Join(s.settings.RootDir, "checkpoints")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory of checkpoints: %w", err)
	}
	full := r.PathValue("pod") + "_" + r.PathValue("namespace")
	location := filepath.Join(dir, fmt.Sprintf("checkpoint-%s-%s-%s.tar", full, container.Name, time.Now().Format(time.RFC3339)))
	_, err = s.options.CRI.Runtime.CheckpointContainer(r.Context(), &runtimeapi.CheckpointContainerRequest{
		ContainerId: container.ID, Location: location, Timeout: timeout,
	})
	if err != nil {
		err = fmt.Errorf("checkpointing of %s/%s/%s failed (%w)", r.PathValue("namespace"), r.PathValue("pod"), container.Name, err)
		return errors.Join(err, os.RemoveAll(location))
	}
	return writeJSON(w, map[string][]string{"items": {location}})
}
