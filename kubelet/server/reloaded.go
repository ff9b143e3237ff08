package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"k8s.io/klog/v2"
)

// reloaded is what files hold, read for each use and parsed when they have changed. While the new content is no good the old one counts.
type reloaded[T any] struct {
	paths []string
	parse func([][]byte) (T, error)

	mu    sync.Mutex
	value T
	good  bool
	seen  [][]byte // what was parsed last, good or not
}

func newReloaded[T any](parse func([][]byte) (T, error), paths ...string) *reloaded[T] {
	return &reloaded[T]{paths: paths, parse: parse}
}

func (r *reloaded[T]) get() (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	contents, err := r.read()
	switch {
	case r.good && (err != nil || slices.EqualFunc(contents, r.seen, bytes.Equal)):
		return r.value, nil
	case err != nil:
		return r.value, err
	}
	r.seen = contents
	value, err := r.parse(contents)
	switch {
	case err == nil:
		r.value, r.good = value, true
	case r.good:
		klog.Background().Error(err, "Changed file cannot be used, the old content counts", "files", r.paths)
	default:
		return r.value, fmt.Errorf("read %v: %w", r.paths, err)
	}
	return r.value, nil
}

func (r *reloaded[T]) read() (contents [][]byte, err error) {
	for _, path := range r.paths {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.LimitReader(file, maxCertificateFile))
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
		contents = append(contents, data)
	}
	return contents, nil
}
