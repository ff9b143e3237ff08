package logs

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

const (
	rotationTime   = "20060102-150405" // at the end of a rotated log's name
	compressSuffix = ".gz"
	maxNames       = 10000 // read of a directory: the logs of a container are a handful
)

// rotated is a file that a log was renamed to.
type rotated struct {
	*os.File
	compressed bool
}

// openAll opens the log at path and those that it was rotated to before, oldest first. While a rotation is under way
// there may be no file of the log's own name, then the newest one that it was renamed to stands for it.
func openAll(root, path string) (file *os.File, before []rotated, err error) {
	file, err = open(root, path) // first: what it is renamed to from now on is the same file
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for _, name := range rotatedNames(root, path) {
		if old, openErr := openRotated(root, filepath.Join(filepath.Dir(path), name)); openErr == nil {
			before = append(before, old)
		} else if !errors.Is(openErr, fs.ErrNotExist) {
			klog.Background().V(2).Info("A rotated log cannot be read and is left out", "path", path, "name", name, "err", openErr)
		}
	}
	newest := len(before) - 1
	switch {
	case newest < 0:
		return file, nil, err
	case err != nil && !before[newest].compressed:
		return before[newest].File, before[:newest], nil
	case err != nil:
		closeAll(before)
		return nil, nil, err
	case same(file, before[newest].File):
		_ = before[newest].Close()
		before = before[:newest]
	}
	return file, before, nil
}

func same(a, b *os.File) bool {
	one, err := a.Stat()
	other, otherErr := b.Stat()
	return err == nil && otherErr == nil && os.SameFile(one, other)
}

func closeAll(files []rotated) {
	for _, f := range files {
		_ = f.Close()
	}
}

// rotatedNames lists what a log was renamed to, oldest first, each without the suffix of what is compressed.
//
// Upstream: pkg/kubelet/logs/container_log_manager.go GetAllLogs
func rotatedNames(root, path string) []string {
	pod, inPod, err := podDirectory(root, path)
	if err != nil {
		return nil
	}
	defer pod.Close()
	dir, err := pod.Open(filepath.Dir(inPod))
	if err != nil {
		return nil
	}
	defer dir.Close()
	entries, _ := dir.Readdirnames(maxNames)
	var names []string
	for _, entry := range entries {
		stamp, ours := strings.CutPrefix(strings.TrimSuffix(entry, compressSuffix), filepath.Base(path)+".")
		if _, err := time.Parse(rotationTime, stamp); ours && err == nil {
			names = append(names, strings.TrimSuffix(entry, compressSuffix))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// openRotated opens a rotated log, compressed or not: it may be compressed just now.
func openRotated(root, path string) (rotated, error) {
	file, err := open(root, path)
	if errors.Is(err, fs.ErrNotExist) {
		file, err = open(root, path+compressSuffix)
		return rotated{file, true}, err
	}
	return rotated{file, false}, err
}

// content reads the file from its beginning.
func (f rotated) content() (io.Reader, error) {
	section := io.NewSectionReader(f.File, 0, 1<<62)
	if !f.compressed {
		return section, nil
	}
	unpacked, err := gzip.NewReader(section)
	if err != nil {
		return nil, fmt.Errorf("read compressed log: %w", err)
	}
	return unpacked, nil
}

// entries counts what is in the file, as far as it can be read.
func (f rotated) entries(ctx context.Context) int64 {
	content, err := f.content()
	if err != nil {
		return 0
	}
	block, count, midway := make([]byte, bufferSize), int64(0), false
	for ctx.Err() == nil {
		n, err := content.Read(block)
		if n > 0 {
			count += int64(bytes.Count(block[:n], []byte{'\n'}))
			midway = block[n-1] != '\n'
		}
		if err != nil {
			break
		}
	}
	if midway {
		count++
	}
	return count
}

// skipTo leaves out files, and entries of the first that is left, so that n entries remain.
func (r *reader) skipTo(ctx context.Context, n int64) {
	first := len(r.before)
	for n > 0 && first > 0 {
		first--
		count := r.before[first].entries(ctx)
		r.drop = max(0, count-n)
		n -= count
	}
	closeAll(r.before[:first])
	r.before = r.before[first:]
}

// history writes what is wanted of the files that the log was rotated to before.
func (r *reader) history(ctx context.Context) error {
	for _, f := range r.before {
		err := r.older(ctx, f)
		if errors.Is(err, errUnreadable) {
			klog.FromContext(ctx).V(2).Info("The rest of a rotated log cannot be read and is left out", "path", f.Name(), "err", err)
		} else if err != nil {
			return err
		}
		r.drop, r.inside = 0, false
	}
	return nil
}

// older writes what is wanted of one rotated log: nothing if it ends before the time that is asked for.
func (r *reader) older(ctx context.Context, f rotated) error {
	if info, err := f.Stat(); err == nil && info.ModTime().Before(r.Since) {
		return nil
	}
	content, err := f.content()
	if err != nil {
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if err = r.copyFrom(ctx, content, func(int) {}); err == nil || errors.Is(err, errUnreadable) {
		err = cmp.Or(r.rest(), err)
	}
	return err
}

// errUnreadable is what a broken file gives.
var errUnreadable = errors.New("log cannot be read")
