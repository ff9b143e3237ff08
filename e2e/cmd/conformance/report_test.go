package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const testReport = `[{"RunTime": 61000000000, "SpecReports": [
 {"LeafNodeType": "SynchronizedBeforeSuite", "State": "passed", "NumAttempts": 1},
 {"ContainerHierarchyTexts": ["[sig-node] Pods"], "ContainerHierarchyLabels": [["sig-node"]], "LeafNodeType": "It", "LeafNodeText": "run [Conformance]", "LeafNodeLabels": ["Conformance"], "State": "passed", "NumAttempts": 1},
 {"ContainerHierarchyTexts": ["[sig-node] Pods", ""], "LeafNodeType": "It", "LeafNodeText": "stop", "LeafNodeLabels": ["NodeConformance"], "State": "failed", "NumAttempts": 1, "Failure": {"Message": "timed out\nafter a minute"}},
 {"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "are known", "LeafNodeLabels": ["NodeConformance"], "State": "timedout", "NumAttempts": 1},
 {"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "need a GPU", "LeafNodeLabels": ["NodeConformance"], "State": "skipped", "NumAttempts": 1, "Failure": {"Message": "no GPU"}},
 {"ContainerHierarchyTexts": ["[sig-apps] Jobs"], "LeafNodeType": "It", "LeafNodeText": "other", "State": "skipped", "NumAttempts": 0}
]}]`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReport(t *testing.T) {
	r, err := readReport(write(t, testReport))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]string{"[sig-node] Pods are known": "no such device", "[sig-node] Pods run [Conformance]": "used to fail"}
	var out strings.Builder
	r.print(&out, "kubelet", known)
	want := `KNOWN  [sig-node] Pods are known
       no such device
SKIP   [sig-node] Pods need a GPU
       no GPU
PASSED, though it is known to fail: [sig-node] Pods run [Conformance]
FAILED [sig-node] Pods stop
       timed out
kubelet, label Conformance: 1 passed (0 at the second attempt), 0 failed, 0 known to fail, 0 skipped
kubelet, label NodeConformance: 0 passed (0 at the second attempt), 1 failed, 1 known to fail, 1 skipped
kubelet: 1 passed (0 at the second attempt), 1 failed, 1 known to fail, 1 skipped, in 1m1s
`
	if out.String() != want {
		t.Errorf("printed:\n%s\nwant:\n%s", out.String(), want)
	}
	if err := r.verdict(known); err == nil || err.Error() != "1 specs failed" {
		t.Errorf("verdict: %v", err)
	}
	known["[sig-node] Pods stop"] = "no time"
	if err := r.verdict(known); err != nil {
		t.Errorf("verdict when all failures are known: %v", err)
	}
	if err := (&results{}).verdict(nil); err == nil {
		t.Error("no spec ran, and that is no error")
	}
}

// TestSecondRun: what passes when it runs again has passed, and that it took two attempts is told.
func TestSecondRun(t *testing.T) {
	r := &results{specs: []spec{{name: "a", state: "passed"}, {name: "b", state: "failed", why: "late"}, {name: "c", state: "failed", why: "bad"}}}
	r.replace(&results{specs: []spec{{name: "b", state: "passed"}, {name: "c", state: "failed", why: "bad still"}}})
	var out strings.Builder
	r.print(&out, "kubelet", nil)
	for _, want := range []string{"AGAIN  b\n       late\n", "FAILED c\n       bad still\n", "kubelet: 2 passed (1 at the second attempt), 1 failed,"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	if r.verdict(nil) == nil {
		t.Error("one failed twice, and that is no error")
	}
}

func TestReadKnown(t *testing.T) {
	known, err := readKnown(write(t, "# comment\n\n[sig-node] a: b [X:1] # needs c\n"))
	if err != nil || len(known) != 1 || known["[sig-node] a: b [X:1]"] != "needs c" {
		t.Errorf("known: %v, %v", known, err)
	}
	if _, err := readKnown(write(t, "[sig-node] a\n")); err == nil {
		t.Error("no reason is given, and that is no error")
	}
	if _, err := readKnown(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("there is no file, and that is no error")
	}
}

func TestExceeds(t *testing.T) {
	before := holdings{resources: []string{"mount /a"}, goroutines: 100, descriptors: 20}
	if leaked := before.exceeds(before); len(leaked) != 0 {
		t.Errorf("nothing changed, but leaked: %v", leaked)
	}
	after := holdings{resources: []string{"mount /a", "mount /b"}, goroutines: 101 + goroutineSlack, descriptors: 21 + descriptorSlack}
	if leaked := after.exceeds(before); len(leaked) != 3 || leaked[0] != "mount /b" {
		t.Errorf("leaked: %v", leaked)
	}
}

func TestGauge(t *testing.T) {
	text := "# HELP go_goroutines Number\ngo_goroutines 148\nprocess_open_fds 2e+01\n"
	if n, err := gauge(text, "go_goroutines"); n != 148 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := gauge(text, "process_open_fds"); n != 20 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := gauge(text, "go_threads"); err == nil {
		t.Error("no metric, and no error")
	}
}
