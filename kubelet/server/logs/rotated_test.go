package logs

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rotatedLog makes a log of the lines 1 to n that was rotated: each of the files after the log's own is given as
// "stamp lines" or "stamp.gz lines", oldest first, and has the next lines.
func rotatedLog(t *testing.T, files ...string) Request {
	t.Helper()
	request := newLog(t, "")
	must(t, os.Remove(request.Path))
	line := 0
	for _, f := range files {
		var name string
		var lines int
		_, err := fmt.Sscan(f, &name, &lines)
		must(t, err)
		var text strings.Builder
		for range lines {
			line++
			text.WriteString(entry(line, "stdout", "F", fmt.Sprint(line)))
		}
		path := request.Path
		if name != "now" {
			path += "." + name
		}
		content := text.String()
		if strings.HasSuffix(name, compressSuffix) {
			var packed bytes.Buffer
			w := gzip.NewWriter(&packed)
			_, err := w.Write([]byte(content))
			must(t, err, w.Close())
			content = packed.String()
		}
		add(t, path, content)
	}
	return request
}

// lines are the numbers from one to another, each on its own line.
func lines(from, to int) string {
	var text strings.Builder
	for n := from; n <= to; n++ {
		fmt.Fprintln(&text, n)
	}
	return text.String()
}

const (
	first, second, third = "20260101-000000", "20260101-000100", "20260101-000200"
)

// TestRotated: a log goes through all the files that it was rotated to, and the tail and the rest are counted over all.
func TestRotated(t *testing.T) {
	files := []string{first + ".gz 3", second + ".gz 3", third + " 3", "now 2"}
	at := time.Date(2026, 1, 1, 0, 0, 0, 5e8, time.UTC)
	for name, tt := range map[string]struct {
		files   []string
		request Request
		want    string
	}{
		"all":                    {files, Request{}, lines(1, 11)},
		"right after a rotation": {[]string{first + " 3", "now 0"}, Request{}, lines(1, 3)},
		"tail of the newest":     {files, Request{Tail: new(int64(1))}, lines(11, 11)},
		"tail, all of it":        {files, Request{Tail: new(int64(2))}, lines(10, 11)},
		"tail, one more":         {files, Request{Tail: new(int64(3))}, lines(9, 11)},
		"tail, a whole file":     {files, Request{Tail: new(int64(5))}, lines(7, 11)},
		"tail, compressed":       {files, Request{Tail: new(int64(7))}, lines(5, 11)},
		"tail, more than all":    {files, Request{Tail: new(int64(99))}, lines(1, 11)},
		"tail 0":                 {files, Request{Tail: new(int64(0))}, ""},
		"tail, newest empty":     {[]string{first + " 3", "now 0"}, Request{Tail: new(int64(2))}, lines(2, 3)},
		"since":                  {files, Request{Since: at.Add(5 * time.Second)}, lines(5, 11)},
		"since, the newest":      {files, Request{Since: at.Add(11 * time.Second)}, lines(11, 11)},
		"since and tail":         {files, Request{Since: at.Add(5 * time.Second), Tail: new(int64(99))}, lines(5, 11)},
		"limit":                  {files, Request{Limit: new(int64(7))}, "1\n2\n3\n4"},
		"limit and tail":         {files, Request{Limit: new(int64(3)), Tail: new(int64(4))}, "8\n9"},
		"between two files":      {[]string{first + ".gz 3", second + " 3"}, Request{}, lines(1, 6)},
		"between two, tail":      {[]string{first + ".gz 3", second + " 3"}, Request{Tail: new(int64(4))}, lines(3, 6)},
	} {
		t.Run(name, func(t *testing.T) {
			request := rotatedLog(t, tt.files...)
			tt.request.Root, tt.request.Path = request.Root, request.Path
			var out buffer
			if err := Copy(t.Context(), &out, nil, tt.request); err != nil || out.String() != tt.want {
				t.Errorf("%q, %v; want %q", out.String(), err, tt.want)
			}
		})
	}
}

// TestRotatedOlder: files that end before the time that is asked for are passed over, and nothing is left out for them.
func TestRotatedOlder(t *testing.T) {
	request := rotatedLog(t, first+" 3", second+" 3", "now 1")
	old := time.Date(2026, 1, 1, 0, 0, 3, 5e8, time.UTC)
	must(t, os.Chtimes(request.Path+"."+first, old, old))
	request.Since, request.Tail = old.Add(time.Second), new(int64(6)) // the tail begins within the file that is passed over
	var out buffer
	if err := Copy(t.Context(), &out, nil, request); err != nil || out.String() != lines(4, 7) {
		t.Errorf("%q, %v; want %q", out.String(), err, lines(4, 7))
	}
}

// TestRotatedFollow: what was rotated before comes first, then what is written, through the next rotation.
func TestRotatedFollow(t *testing.T) {
	for name, tt := range map[string]struct {
		tail  *int64
		begin int
	}{"all": {nil, 1}, "tail": {new(int64(4)), 5}, "tail 0": {new(int64(0)), 9}} {
		t.Run(name, func(t *testing.T) {
			request := rotatedLog(t, first+".gz 3", second+" 3", "now 2")
			request.Tail = tt.tail
			var watcher Watcher
			defer watcher.Close()
			f := follow(t.Context(), &watcher, request)
			for !f.out.flushed.Load() { // it knows where the end is only then
				time.Sleep(time.Millisecond)
			}
			f.sees(t, lines(tt.begin, 8))
			add(t, request.Path, entry(9, "stdout", "F", "9"))
			f.sees(t, lines(tt.begin, 9))
			must(t, os.Rename(request.Path, request.Path+"."+third))
			add(t, request.Path, entry(10, "stdout", "F", "10"))
			f.sees(t, lines(tt.begin, 10))
		})
	}
}

// TestRotatedOddities: what cannot be read is left out, what is there twice comes once, and nothing foreign is read.
func TestRotatedOddities(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(path string) error
		want   string
	}{
		"compressed just now": {func(path string) error { return os.WriteFile(path+"."+second+".gz", []byte("half"), 0o600) }, lines(1, 8)},
		"being compressed":    {func(path string) error { return os.WriteFile(path+"."+second+".tmp", []byte("half"), 0o600) }, lines(1, 8)},
		"broken":              {func(path string) error { return os.WriteFile(path+"."+first+".gz", []byte("no gzip"), 0o600) }, lines(4, 8)},
		"cut off":             {func(path string) error { return os.Truncate(path+"."+first+".gz", 20) }, lines(4, 8)},
		"a link": {func(path string) error {
			other := filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(path))), "secret")
			return os.Rename(path+"."+second, other)
		}, lines(1, 3) + lines(7, 8)},
		"another's": {func(path string) error { return os.Rename(path+"."+second, path+".old") }, lines(1, 3) + lines(7, 8)},
		"another log's": {func(path string) error {
			return os.Rename(path+"."+second, strings.TrimSuffix(path, "0.log")+"10.log."+second)
		}, lines(1, 3) + lines(7, 8)},
	} {
		t.Run(name, func(t *testing.T) {
			request := rotatedLog(t, first+".gz 3", second+" 3", "now 2")
			must(t, tt.change(request.Path))
			if name == "a link" {
				must(t, os.Symlink("../../secret", request.Path+"."+second))
			}
			var out buffer
			if err := Copy(t.Context(), &out, nil, request); err != nil || out.String() != tt.want {
				t.Errorf("%q, %v; want %q", out.String(), err, tt.want)
			}
		})
	}
}
