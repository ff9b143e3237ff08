package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"k8s.io/klog/v2"
)

// reloaded is what files hold, read again when one of them has changed. While the new content is no good the old one counts.
type reloaded[T any] struct {
	paths []string
	parse func([][]byte) (T, error)

	mu    sync.Mutex
	value T
	seen  []stamp // of the files that were read last, good or not
	good  bool
}

func newReloaded[T any](parse func([][]byte) (T, error), paths ...string) *reloaded[T] {
	return &reloaded[T]{paths: paths, parse: parse}
}

func (r *reloaded[T]) get() (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var seen []stamp
	for _, path := range r.paths {
		info, err := os.Stat(path)
		if err != nil && !r.good {
			return r.value, err
		} else if err != nil {
			return r.value, nil
		}
		seen = append(seen, stamp{info.ModTime(), info.Size(), info})
	}
	same := func(a, b stamp) bool {
		return a.modified.Equal(b.modified) && a.size == b.size && os.SameFile(a.inode, b.inode)
	}
	if r.good && slices.EqualFunc(seen, r.seen, same) {
		return r.value, nil
	}
	value, err := r.read()
	r.seen = seen
	switch {
	case err == nil:
		r.value, r.good = value, true
	case r.good:
		klog.Background().Error(err, "Changed file cannot be used, the old content counts", "files", r.paths)
		err = nil
	}
	return r.value, err
}

func (r *reloaded[T]) read() (T, error) {
	var none T
	var contents [][]byte
	for _, path := range r.paths {
		file, err := os.Open(path)
		if err != nil {
			return none, err
		}
		data, err := io.ReadAll(io.LimitReader(file, maxCertificateFile))
		if err = errors.Join(err, file.Close()); err != nil {
			return none, err
		}
		contents = append(contents, data)
	}
	value, err := r.parse(contents)
	if err != nil {
		return none, fmt.Errorf("read %v: %w", r.paths, err)
	}
	return value, nil
}
