package progress

import (
	"bytes"
	"context"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

// FollowGinkgo counts the specs that ginkgo's log says are done, until the context ends. ginkgo must write a line for
// each of them: --force-newlines --succinct --silence-skips --no-color.
func FollowGinkgo(ctx context.Context, path string, m *Meter) {
	g := ginkgoLog{m: m}
	var offset int64
	for ctx.Err() == nil {
		offset += g.read(path, offset)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second): // a file that grows announces nothing
		}
	}
	g.read(path, offset)
}

// labels stand behind the name of a spec that failed.
var labels = regexp.MustCompile(`\s\[[^\]]*, [^\]]*\]$`)

// ginkgoLog reads a log piece by piece.
type ginkgoLog struct {
	m      *Meter
	rest   []byte // of a line whose end is not there yet
	failed bool   // the next line names the spec that failed
}

// read reads what the file has from the offset on, and returns how much that was.
func (g *ginkgoLog) read(path string, offset int64) int64 {
	f, err := os.Open(path)
	if err != nil {
		return 0 // not there yet
	}
	defer f.Close()
	data, _ := io.ReadAll(io.NewSectionReader(f, offset, 1<<40))
	g.rest = append(g.rest, data...)
	for {
		line, rest, whole := bytes.Cut(g.rest, []byte("\n"))
		if !whole {
			return int64(len(data))
		}
		g.line(strings.TrimRight(string(line), " "))
		g.rest = rest
	}
}

// line takes a line of the log: a bullet for a spec that passed, a bullet and the state for one that failed, whose name
// comes in the next line.
func (g *ginkgoLog) line(text string) {
	if g.failed {
		g.failed = false
		g.m.Done(true, strings.TrimSpace(labels.ReplaceAllString(text, "")))
		return
	}
	// Before the first spec there is the suite's own line.
	_, state, bullet := strings.Cut(text, "•")
	if !bullet || strings.HasPrefix(text, " ") {
		return
	}
	switch state = strings.TrimSpace(state); {
	case state == "" || strings.HasPrefix(state, "[") && strings.HasSuffix(state, "seconds]") && strings.Count(state, "[") == 1:
		g.m.Done(false, "")
	case strings.HasPrefix(state, "["):
		g.failed = true
	}
}
