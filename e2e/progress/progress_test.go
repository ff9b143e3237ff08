package progress

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestMeter(t *testing.T) {
	var out strings.Builder
	now := time.Unix(0, 0)
	m := start(&out, "suite", 20, func() time.Time { return now })
	for i := range 20 {
		now = now.Add(6 * time.Second)
		m.Done(i == 3, "the fourth")
	}
	want := `suite: 0 of 20
suite: 3 of 20, 0 failed, 18s so far, about 1m40s left
suite: FAILED the fourth
suite: 4 of 20, 1 failed, 24s so far, about 1m35s left
suite: 7 of 20, 1 failed, 42s so far, about 1m20s left
suite: 10 of 20, 1 failed, 1m0s so far, about 1m0s left
suite: 13 of 20, 1 failed, 1m18s so far, about 40s left
suite: 16 of 20, 1 failed, 1m36s so far, about 25s left
suite: 19 of 20, 1 failed, 1m54s so far, about 5s left
suite: 20 of 20, 1 failed, 2m0s so far
`
	if out.String() != want {
		t.Errorf("said:\n%s\nwant:\n%s", out.String(), want)
	}
}

// TestWork: parts that are more work count for more in the time left, and parts may be added.
func TestWork(t *testing.T) {
	var out strings.Builder
	now := time.Unix(0, 0)
	m := start(&out, "bench", 2, func() time.Time { return now }).Work(101)
	now = now.Add(time.Minute)
	m.DoneOf(1, false, "")
	m.More(1)
	now = now.Add(time.Minute)
	m.DoneOf(1, false, "")
	want := `bench: 0 of 2
bench: 1 of 2, 0 failed, 1m0s so far, about 1h40m0s left
bench: 2 of 3, 0 failed, 2m0s so far, about 1h40m0s left
`
	if out.String() != want {
		t.Errorf("said:\n%s\nwant:\n%s", out.String(), want)
	}
	var none *Meter
	none.More(2)
	none.Done(false, "")
}

// TestGinkgoLog has lines as ginkgo writes them, in pieces that end anywhere.
func TestGinkgoLog(t *testing.T) {
	text := `[1795924218] Kubernetes e2e suite - 6/2529 specs - 6 procs •
------------------------------
• [1.204 seconds]
[sig-node] Pods with something on standard output
/src/pods.go:3

  • no spec
------------------------------
•
------------------------------
• [FAILED] [61.001 seconds]
[sig-node] Pods [It] should run [Conformance] [sig-node, Conformance]
/src/pods.go:1
  [FAILED] • it did not
------------------------------
• [TIMEDOUT] [2.000 seconds]
[sig-node] Pods [It] should end
•
`
	for _, size := range []int{1, 3, 7, len(text)} {
		var out strings.Builder
		g := ginkgoLog{m: start(&out, "suite", 6, time.Now)}
		path := t.TempDir() + "/log"
		var offset int64
		for begin := 0; begin < len(text); begin += size {
			write(t, path, text[:min(begin+size, len(text))])
			offset += g.read(path, offset)
		}
		if g.m.done != 6 || g.m.failed != 2 || !strings.Contains(out.String(), "FAILED [sig-node] Pods [It] should run [Conformance]\n") {
			t.Errorf("pieces of %d: %d done, %d failed, said:\n%s", size, g.m.done, g.m.failed, out.String())
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
