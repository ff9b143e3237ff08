// Package store keeps what the CRI server knows of its sandboxes and containers in files, so
// that a server that was killed finds everything again. Each object has a directory with two
// JSON files: config.json, written once, and state.json, replaced atomically at every change.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/trees"
)

const (
	configFile = "config.json"
	stateFile  = "state.json"
	// removedPrefix begins the names of directories that are being removed.
	removedPrefix = ".removed-"
	// maxFile bounds what is read back: no request of 16 MiB or less makes a larger one.
	maxFile = 32 << 20
)

// Record is one object: a configuration that never changes and a state that does.
type Record[C, S any] struct {
	ID     string
	Config C
	// ConfigError and StateError tell why Open could not read one of them. It is set aside, and its zero value stands in for it.
	ConfigError, StateError error

	dir   string
	mu    sync.Mutex // orders updates
	state atomic.Pointer[S]
}

// Dir is the object's directory. Its other files are the business of the server.
func (r *Record[C, S]) Dir() string { return r.dir }

// State is the latest state, which must not be modified.
func (r *Record[C, S]) State() *S { return r.state.Load() }

// Update changes the state: readers see it once it is in the file. When it cannot be written
// it counts nonetheless, since it is what happened; the error tells that a restart may forget it.
func (r *Record[C, S]) Update(change func(*S)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := *r.state.Load()
	change(&next)
	err := writeJSON(filepath.Join(r.dir, stateFile), &next)
	r.state.Store(&next)
	if err != nil {
		return fmt.Errorf("write state of %s: %w", r.ID, err)
	}
	return nil
}

// Remove deletes the object's directory. It must hold no mounts any more.
func (r *Record[C, S]) Remove() error {
	// Renamed first: the next start removes directories of such names, however much is left in them.
	removed := filepath.Join(filepath.Dir(r.dir), removedPrefix+r.ID)
	err := os.Rename(r.dir, removed)
	if err == nil || errors.Is(err, fs.ErrNotExist) { // perhaps an earlier call could not remove all
		err = trees.Remove(removed)
	}
	if err != nil {
		return fmt.Errorf("forget %s: %w", r.ID, err)
	}
	return nil
}

// Open reads an object's record. All of it may be lost; then what is left of the object can be removed by its ID.
func Open[C, S any](parent, id string) *Record[C, S] {
	r := &Record[C, S]{ID: id, dir: filepath.Join(parent, id)}
	var state S
	r.Config, r.ConfigError = read[C](filepath.Join(r.dir, configFile))
	state, r.StateError = read[S](filepath.Join(r.dir, stateFile))
	r.state.Store(&state)
	return r
}

// Create makes the directory of a new object and writes both files.
func Create[C, S any](parent, id string, config C, state S) (*Record[C, S], error) {
	r := &Record[C, S]{ID: id, Config: config, dir: filepath.Join(parent, id)}
	r.state.Store(&state)
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of %s: %w", id, err)
	}
	err := writeJSON(filepath.Join(r.dir, stateFile), &state)
	if err == nil {
		err = writeJSON(filepath.Join(r.dir, configFile), config)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write record of %s: %w", id, err), trees.Remove(r.dir))
	}
	return r, nil
}

// Load reads the objects below parent, which is made when it is not there, and goes on with removals that were
// interrupted. What is not named by an ID is not ours.
func Load[C, S any](parent string) ([]*Record[C, S], error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", parent, err)
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", parent, err)
	}
	var found []*Record[C, S]
	for _, entry := range entries {
		switch name := entry.Name(); {
		case strings.HasPrefix(name, removedPrefix):
			if err := trees.Remove(filepath.Join(parent, name)); err != nil {
				klog.Background().Error(err, "Could not remove all of a record")
			}
		case entry.IsDir() && ValidID(name):
			found = append(found, Open[C, S](parent, name))
		}
	}
	return found, nil
}

// Restore gives a record whose configuration was lost one that was found in another record. It counts also when it cannot be
// written, as on a full disk; then the next start looks for it again.
func (r *Record[C, S]) Restore(config C) error {
	r.Config, r.ConfigError = config, nil
	if err := writeJSON(filepath.Join(r.dir, configFile), config); err != nil {
		return fmt.Errorf("restore configuration of %s: %w", r.ID, err)
	}
	return nil
}

// read reads a file that an earlier server wrote. One that is no JSON is renamed, so that people can look at it and the
// next start does not read it again.
func read[T any](path string) (value T, err error) {
	err = bounded.ReadJSON(path, maxFile, &value)
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return value, failed // the file may be good
	}
	if err == nil && reflect.ValueOf(&value).Elem().IsZero() {
		err = errors.New("it says nothing") // null, for one
	}
	if err != nil {
		return *new(T), errors.Join(fmt.Errorf("read %s: %w", path, err), os.Rename(path, path+".corrupt"))
	}
	return value, nil
}

// writeJSON replaces a file so that a reader, also one after a crash of the server, sees the old or the new content. It does
// not wait for the disk: when the machine itself goes down no container survives either, and a file that is empty after that
// is set aside like a corrupt one.
//
// What it replaces stays beside it to be written over the next time: a new file for every change is what a pod's start and
// end would spend most of their time in the file system on.
func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	spare := path + ".tmp"
	if err := overwrite(spare, data); err != nil {
		return err
	}
	if unix.Renameat2(unix.AT_FDCWD, spare, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE) == nil {
		return nil
	}
	// The first time there is nothing to exchange it with, and not every file system can.
	return os.Rename(spare, path)
}

func overwrite(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Truncate(int64(len(data)))
	}
	return errors.Join(err, file.Close())
}
