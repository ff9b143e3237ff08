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
	// By a name that says so, a directory is rubbish that the next start removes.
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

// Attach is the record of an object whose files may be lost, so that what is left of it can be removed.
func Attach[C, S any](parent, id string) *Record[C, S] {
	r := &Record[C, S]{ID: id, dir: filepath.Join(parent, id)}
	r.state.Store(new(S))
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

// Loaded is an object found at start. A part that could not be read is set aside with its
// error, and its zero value stands in for it.
type Loaded[C, S any] struct {
	*Record[C, S]
	ConfigError, StateError error
}

// Load reads the objects below parent, which is made when it is not there, and goes on with removals that were
// interrupted. What is not named by an ID is not ours.
func Load[C, S any](parent string) ([]Loaded[C, S], error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", parent, err)
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", parent, err)
	}
	var found []Loaded[C, S]
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), removedPrefix) {
			if err := trees.Remove(filepath.Join(parent, entry.Name())); err != nil {
				klog.Background().Error(err, "Could not remove all of a record")
			}
			continue
		}
		if !entry.IsDir() || !ValidID(entry.Name()) {
			continue
		}
		l := Loaded[C, S]{Record: Attach[C, S](parent, entry.Name())}
		if l.ConfigError = readJSON(filepath.Join(l.dir, configFile), &l.Config); l.ConfigError != nil {
			l.Config = *new(C)
		}
		state := new(S)
		l.StateError = readJSON(filepath.Join(l.dir, stateFile), state)
		if l.StateError != nil {
			state = new(S)
		}
		l.state.Store(state)
		found = append(found, l)
	}
	return found, nil
}

// Restore gives a record whose configuration was lost one that was found in another record. It counts also when it cannot be
// written, as on a full disk; then the next start looks for it again.
func (l *Loaded[C, S]) Restore(config C) error {
	l.Config, l.ConfigError = config, nil
	if err := writeJSON(filepath.Join(l.dir, configFile), config); err != nil {
		return fmt.Errorf("restore configuration of %s: %w", l.ID, err)
	}
	return nil
}

// readJSON reads a file that an earlier server wrote. One that is no JSON is renamed, so that
// people can look at it and the next start does not read it again.
func readJSON(path string, into any) error {
	err := bounded.ReadJSON(path, maxFile, into)
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return failed // the file may be good
	}
	if err == nil && reflect.ValueOf(into).Elem().IsZero() {
		err = errors.New("it says nothing") // null, for one
	}
	if err != nil {
		return errors.Join(fmt.Errorf("read %s: %w", path, err), os.Rename(path, path+".corrupt"))
	}
	return nil
}

// writeJSON replaces a file so that a reader, also one after a crash of the server, sees the old
// or the new content. It does not wait for the disk: when the machine itself goes down no
// container survives either, and a file that is empty after that is set aside like a corrupt one.
func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return WriteFile(path, data, 0o600)
}

// WriteFile replaces a file atomically, without waiting for the disk. What it replaces stays
// beside it to be written over the next time: a new file for every change is what a pod's start
// and end would spend most of their time in the file system on.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	spare := path + ".tmp"
	if err := overwrite(spare, data, mode); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, spare, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	if err == nil {
		return nil
	}
	// The first time there is nothing to exchange it with, and not every file system can.
	return os.Rename(spare, path)
}

func overwrite(path string, data []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Truncate(int64(len(data)))
	}
	return errors.Join(err, file.Close())
}
