package logs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotALog is what a path that may not be read as a log gives.
var ErrNotALog = errors.New("not a log file of the pod")

// open opens the log at path, which must lie in the directory of one pod below root: a link that leads out of that
// directory is an error, and so is anything but a regular file. Opening a pipe does not wait for its other end.
func open(root, path string) (*os.File, error) {
	dir, inPod, err := podDirectory(root, path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	file, err := dir.OpenFile(inPod, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", path, ErrNotALog)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// podDirectory opens the directory of the pod whose log is at path, and tells where the log is in there.
func podDirectory(root, path string) (dir *os.Root, inPod string, err error) {
	relative, err := filepath.Rel(root, path)
	if err != nil || !filepath.IsLocal(relative) {
		return nil, "", fmt.Errorf("%s is not below %s: %w", path, root, ErrNotALog)
	}
	pod, inPod, ok := strings.Cut(relative, string(filepath.Separator))
	if !ok {
		return nil, "", fmt.Errorf("%s is in no pod's directory: %w", path, ErrNotALog)
	}
	all, err := os.OpenRoot(root)
	if err != nil {
		return nil, "", fmt.Errorf("open directory of logs: %w", err)
	}
	defer all.Close()
	if dir, err = openDirectory(all, pod); err != nil {
		return nil, "", fmt.Errorf("open directory of the pod's logs: %w", err)
	}
	return dir, inPod, nil
}

// openDirectory opens a directory that is no link to another, and does not become one meanwhile.
func openDirectory(in *os.Root, name string) (*os.Root, error) {
	want, err := in.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !want.IsDir() {
		return nil, fmt.Errorf("%s: %w", name, ErrNotALog)
	}
	dir, err := in.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	got, err := dir.Stat(".")
	if err == nil && !os.SameFile(want, got) {
		err = fmt.Errorf("%s: %w", name, ErrNotALog)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// tailStart returns where the last n entries begin, and how many there are from there on if they are fewer. It reads
// backwards, so that the size of the file does not matter.
func tailStart(file io.ReaderAt, size, n int64) (start, entries int64, err error) {
	if n <= 0 || size == 0 {
		return size, 0, nil
	}
	block := make([]byte, bufferSize)
	end := size
	for end > 0 {
		begin := max(0, end-int64(len(block)))
		part := block[:end-begin]
		if _, err := file.ReadAt(part, begin); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, fmt.Errorf("read log backwards: %w", err)
		}
		for i, char := range slices.Backward(part) {
			at := begin + int64(i)
			if char != '\n' || at == size-1 { // the last entry's own end
				continue
			}
			if entries++; entries == n {
				return at + 1, n, nil
			}
		}
		end = begin
	}
	return 0, entries + 1, nil
}
