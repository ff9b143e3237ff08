package shutdown

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// stateFile has the times of the last shutdown, below the kubelet's directory.
//
// Upstream: pkg/kubelet/nodeshutdown/nodeshutdown_manager_linux.go localStorageStateFile.
const stateFile = "graceful_node_shutdown_state"

// state is what a kubelet leaves of a shutdown for the one after it.
//
// Upstream: pkg/kubelet/nodeshutdown/storage.go state.
type state struct {
	StartTime time.Time `json:"startTime"`
	EndTime   time.Time `json:"endTime"`
}

// under tells whether the shutdown was not over yet.
func (s state) under() bool { return !s.StartTime.IsZero() && s.EndTime.IsZero() }

// load reads the state that is left, none if there is no file.
func load(dir string) (state, error) {
	var s state
	f, err := os.Open(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read the state of the last shutdown: %w", err)
	}
	defer f.Close()
	const limit = 4 << 10
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return state{}, fmt.Errorf("read the state of the last shutdown: %w", err)
	}
	return s, nil
}

// store replaces the state.
func (s state) store(dir string) error {
	data, err := json.Marshal(s)
	if err == nil {
		err = writeFile(dir, stateFile, string(data))
	}
	if err != nil {
		return fmt.Errorf("write the state of the shutdown: %w", err)
	}
	return nil
}

// unix is a time for a metric, 0 for none.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}
