package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// entry is a line of a log, n seconds into the year.
func entry(n int, stream, tag, text string) string {
	return fmt.Sprintf("2026-01-01T00:00:%02d.5Z %s %s %s\n", n, stream, tag, text)
}

// buffer is a Writer that a test can look into while it is written to.
type buffer struct {
	mu      sync.Mutex
	text    bytes.Buffer
	flushed atomic.Bool
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) Flush() error {
	b.flushed.Store(true)
	return nil
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// newLog makes a log below a new root.
func newLog(t testing.TB, content string) Request {
	t.Helper()
	root := t.TempDir()
	path := filepath.Join(root, "default_pod_uid", "app", "0.log")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	add(t, path, content)
	return Request{Root: root, Path: path}
}

func add(t testing.TB, path, content string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString(content)
	if err = errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestCopy(t *testing.T) {
	long := strings.Repeat("x", 3*bufferSize)
	plain := entry(1, "stdout", "F", "one") + entry(2, "stderr", "F", "two") + entry(3, "stdout", "F", "three")
	at := time.Date(2026, 1, 1, 0, 0, 2, 5e8, time.UTC)
	for name, tt := range map[string]struct {
		log     string
		request Request
		want    string
	}{
		"all":                       {plain, Request{}, "one\ntwo\nthree\n"},
		"empty":                     {"", Request{}, ""},
		"empty, tail":               {"", Request{Tail: new(int64(3))}, ""},
		"tail":                      {plain, Request{Tail: new(int64(2))}, "two\nthree\n"},
		"tail 0":                    {plain, Request{Tail: new(int64(0))}, ""},
		"tail more than there is":   {plain, Request{Tail: new(int64(99))}, "one\ntwo\nthree\n"},
		"tail without last newline": {strings.TrimSuffix(plain, "\n"), Request{Tail: new(int64(1))}, "three"},
		"limit":                     {plain, Request{Limit: new(int64(6))}, "one\ntw"},
		"limit at a line's end":     {plain, Request{Limit: new(int64(4))}, "one\n"},
		"since":                     {plain, Request{Since: at}, "two\nthree\n"},
		"since, later":              {plain, Request{Since: at.Add(time.Nanosecond)}, "three\n"},
		"stdout":                    {plain, Request{Stream: runtimeapi.Stdout}, "one\nthree\n"},
		"stderr":                    {plain, Request{Stream: runtimeapi.Stderr}, "two\n"},
		"timestamps":                {entry(1, "stdout", "F", "one"), Request{Timestamps: true}, "2026-01-01T00:00:01.500000000Z one\n"},
		"limit counts timestamps":   {entry(1, "stdout", "F", "one"), Request{Timestamps: true, Limit: new(int64(4))}, "2026"},
		"parts of a line":           {entry(1, "stdout", "P", "a") + entry(2, "stdout", "P", "b") + entry(3, "stdout", "F", "c"), Request{Timestamps: true}, "2026-01-01T00:00:01.500000000Z abc\n"},
		"tags to come":              {entry(1, "stdout", "P:new", "a") + entry(2, "stdout", "F:new", "b"), Request{}, "ab\n"},
		"empty line":                {entry(1, "stdout", "F", "") + entry(2, "stdout", "F", "x"), Request{}, "\nx\n"},
		"longer than the buffer":    {entry(1, "stdout", "F", long) + entry(2, "stdout", "F", "next"), Request{}, long + "\nnext\n"},
		"long part of a line":       {entry(1, "stdout", "P", long) + entry(2, "stdout", "F", "end"), Request{}, long + "end\n"},
		"long and not wanted":       {entry(1, "stdout", "F", long) + entry(2, "stderr", "F", "next"), Request{Stream: runtimeapi.Stderr}, "next\n"},
		"long, tail":                {plain + entry(4, "stdout", "F", long), Request{Tail: new(int64(1))}, long + "\n"},
		"no entry":                  {"junk\n\n2026 stdout F x\n2026-01-01T00:00:01Z stdlog F x\n2026-01-01T00:00:01Z stdout\n" + plain, Request{}, "one\ntwo\nthree\n"},
		"bytes":                     {entry(1, "stdout", "F", "\x00\xff\r"), Request{}, "\x00\xff\r\n"},
		"cut off in the header":     {plain + "2026-01-01T00:0", Request{}, "one\ntwo\nthree\n"},
		"cut off in the text":       {plain + "2026-01-01T00:00:09Z stdout F fo", Request{}, "one\ntwo\nthree\nfo"},
		"time zone":                 {"2026-01-01T00:00:01.123456789+02:00 stdout F x\n", Request{Timestamps: true}, "2026-01-01T00:00:01.123456789+02:00 x\n"},
	} {
		t.Run(name, func(t *testing.T) {
			request := newLog(t, tt.log)
			tt.request.Root, tt.request.Path = request.Root, request.Path
			var out buffer
			if err := Copy(t.Context(), &out, nil, tt.request); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != tt.want {
				t.Errorf("got %.200q, want %.200q", got, tt.want)
			}
		})
	}
}

// TestRefusedPaths: nothing that leads out of the pod's directory is read, and nothing but files.
func TestRefusedPaths(t *testing.T) {
	request := newLog(t, entry(1, "stdout", "F", "x"))
	root, dir := request.Root, filepath.Dir(request.Path)
	secret := filepath.Join(t.TempDir(), "secret")
	add(t, secret, entry(1, "stdout", "F", "secret"))
	other := filepath.Join(root, "default_other_uid", "app", "0.log")
	must(t, os.MkdirAll(filepath.Dir(other), 0o755), os.MkdirAll(filepath.Join(root, "default_pod_uid", "dir"), 0o755))
	add(t, other, entry(1, "stdout", "F", "secret"))
	must(t,
		os.Symlink(secret, filepath.Join(dir, "1.log")),
		os.Symlink("../../default_other_uid/app/0.log", filepath.Join(dir, "2.log")),
		os.Symlink(filepath.Dir(secret), filepath.Join(root, "default_pod_uid", "outside")),
		os.Symlink("default_other_uid", filepath.Join(root, "default_link_uid")),
		unix.Mkfifo(filepath.Join(dir, "3.log"), 0o644),
	)
	for name, path := range map[string]string{
		"link out":                  filepath.Join(dir, "1.log"),
		"link to another pod":       filepath.Join(dir, "2.log"),
		"link above the file":       filepath.Join(root, "default_pod_uid", "outside", "secret"),
		"pod's directory is a link": filepath.Join(root, "default_link_uid", "app", "0.log"),
		"pipe":                      filepath.Join(dir, "3.log"),
		"directory":                 filepath.Join(root, "default_pod_uid", "dir"),
		"elsewhere":                 secret,
		"beside":                    root + "/../x/y",
		"root":                      root,
		"relative":                  "default_pod_uid/app/0.log",
		"missing":                   filepath.Join(dir, "9.log"),
	} {
		request.Path = path
		var out buffer
		err := Copy(t.Context(), &out, nil, request)
		if err == nil || out.String() != "" {
			t.Errorf("%s: wrote %q, error %v", name, out.String(), err)
		}
		if name == "missing" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("missing: the error is %v", err)
		}
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// following runs Copy behind the test's back.
type following struct {
	out     buffer
	running atomic.Bool
	done    chan error
}

func follow(ctx context.Context, w *Watcher, request Request) *following {
	f := &following{done: make(chan error, 1)}
	f.running.Store(true)
	request.Follow, request.Running = true, f.running.Load
	go func() { f.done <- Copy(ctx, &f.out, w, request) }()
	return f
}

// sees waits until the log was followed so far.
func (f *following) sees(t *testing.T, want string) {
	t.Helper()
	for start := time.Now(); f.out.String() != want; time.Sleep(time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("read %q, want %q", f.out.String(), want)
		}
	}
}

// TestFollow: as it is written, through rotation and truncation, to the container's end or the client's.
func TestFollow(t *testing.T) {
	defer goleak.VerifyNone(t)
	var w Watcher
	defer func() { must(t, w.Close()) }()
	request := newLog(t, entry(1, "stdout", "F", "a"))
	f, tail := follow(t.Context(), &w, request), request
	tail.Tail = new(int64(0))
	late := follow(t.Context(), &w, tail)
	f.sees(t, "a\n")
	for !late.out.flushed.Load() { // it knows where the end is only now
		time.Sleep(time.Millisecond)
	}
	add(t, request.Path, "2026-01-01T00:00:01Z stdout F b")
	add(t, request.Path, "c\n")
	f.sees(t, "a\nbc\n")
	late.sees(t, "bc\n")

	must(t, os.Rename(request.Path, request.Path+".rotated"))
	add(t, request.Path+".rotated", entry(2, "stdout", "F", "d")) // the runtime has not noticed yet
	add(t, request.Path, entry(3, "stdout", "F", "e"))
	f.sees(t, "a\nbc\nd\ne\n")
	must(t, os.Truncate(request.Path, 0))
	time.Sleep(2 * lookAgain) // a file that grows back at once looks as if it had not been cut
	add(t, request.Path, entry(4, "stdout", "F", "f"))
	f.sees(t, "a\nbc\nd\ne\nf\n")

	gone, leave := context.WithCancel(t.Context())
	g := follow(gone, &w, request)
	g.sees(t, "f\n")
	leave()
	if err := <-g.done; !errors.Is(err, context.Canceled) {
		t.Errorf("the client left: %v", err)
	}
	add(t, request.Path, entry(5, "stdout", "F", "last")+"2026-01-01T00:00:06Z stdout F cut")
	f.running.Store(false)
	late.running.Store(false)
	if err := errors.Join(<-f.done, <-late.done); err != nil {
		t.Error(err)
	}
	f.sees(t, "a\nbc\nd\ne\nf\nlast\ncut")
	if len(w.readers) != 0 {
		t.Errorf("directories are still watched: %v", w.readers)
	}
}

// TestFollowRemoved: the container and its log go while it is followed.
func TestFollowRemoved(t *testing.T) {
	defer goleak.VerifyNone(t)
	var w Watcher
	defer func() { must(t, w.Close()) }()
	request := newLog(t, entry(1, "stdout", "F", "a"))
	f := follow(t.Context(), &w, request)
	f.sees(t, "a\n")
	must(t, os.RemoveAll(filepath.Join(request.Root, "default_pod_uid")))
	f.running.Store(false)
	if err := <-f.done; err != nil {
		t.Error(err)
	}
}

// TestFollowWithoutWatcher: what cannot be watched is looked at.
func TestFollowWithoutWatcher(t *testing.T) {
	var w Watcher
	must(t, w.Close())
	request := newLog(t, "")
	f := follow(t.Context(), &w, request)
	add(t, request.Path, entry(1, "stdout", "F", "a"))
	f.sees(t, "a\n")
	f.running.Store(false)
	if err := <-f.done; err != nil {
		t.Error(err)
	}
}

// TestWriterFails: the reader of a client that is gone ends.
func TestWriterFails(t *testing.T) {
	request := newLog(t, entry(1, "stdout", "F", "a"))
	broken := errors.New("broken")
	if err := Copy(t.Context(), bufio.NewWriterSize(failing{broken}, 16), nil, request); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// FuzzCopy: whatever a container makes of its log, what comes out is no more than what went in and the times.
func FuzzCopy(f *testing.F) {
	f.Add(entry(1, "stdout", "F", "a")+entry(2, "stderr", "P", "b"), int64(1), int64(5), true, uint16(10))
	f.Add("2026-01-01T00:00:01Z stdout P \n2026-01-01T00:00:01Z stdout F", int64(-1), int64(-1), false, uint16(3))
	f.Add("\n\n \n", int64(0), int64(0), true, uint16(0))
	f.Fuzz(func(t *testing.T, log string, tail, limit int64, timestamps bool, repeat uint16) {
		request := newLog(t, strings.Repeat(log, int(repeat%64)+1))
		request.Timestamps = timestamps
		if repeat%3 == 1 {
			request.Stream = runtimeapi.Stdout
		}
		if repeat%5 == 1 {
			request.Since = time.Date(2026, 1, 1, 0, 0, 1, 0, time.UTC)
		}
		if tail >= 0 {
			request.Tail = &tail
		}
		if limit >= 0 {
			request.Limit = &limit
		}
		var out buffer
		if err := Copy(t.Context(), &out, nil, request); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		if limit >= 0 && int64(len(text)) > limit {
			t.Errorf("%d bytes, limit %d", len(text), limit)
		}
		if lines := int64(strings.Count(text, "\n")); tail >= 0 && lines > tail {
			t.Errorf("%d lines, tail %d", lines, tail)
		}
		if !timestamps && len(text) > len(log)*(int(repeat%64)+1) {
			t.Errorf("%d bytes of a log of %d", len(text), len(log)*(int(repeat%64)+1))
		}
	})
}
