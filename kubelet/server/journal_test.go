package server

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLogQuery: with enableSystemLogQuery journalctl is asked, or files of the service's name are shown; no name is a flag.
func TestLogQuery(t *testing.T) {
	f := newFixture(t, map[string]any{"enableSystemLogQuery": true}, nil)
	f.root = t.TempDir()
	writeFile(t, filepath.Join(f.root, "filed.log"), "from a file")
	writeFile(t, filepath.Join(f.root, "sub", "sub.log"), "from a directory")
	for _, file := range []string{"both", "both.log", "bare/other.log"} {
		writeFile(t, filepath.Join(f.root, file), "in "+file+";")
	}
	must(t, os.Symlink("/etc/passwd", filepath.Join(f.root, "out")))
	programs := t.TempDir()
	must(t, os.WriteFile(filepath.Join(programs, "journalctl"), []byte(`#!/bin/sh
case "$*" in
--field*) for unit in kubelet crio a quiet broken; do echo $unit.service; done; exit 0;;
*=quiet) echo "-- No entries --"; exit 1;;
*=broken) echo broken >&2; exit 1;;
esac
echo "$@"
`), 0o755))
	t.Setenv("PATH", programs)
	root := f.asRoot(t)
	const always = "--utc --no-pager --output=short-precise "
	without := func(service string) string { return "\nlog not found for " + service + "\n" }
	const optionless = "\noptions present and query resolved to log files for [filed]\ntry without specifying options\n"
	for query, want := range map[string]string{
		"query=kubelet": "200 " + always + "--unit=kubelet\n",
		"query=kubelet&query=crio.service&tailLines=5":  "200 " + always + "--lines=5 --unit=kubelet --unit=crio.service\n",
		"query=a&sinceTime=2026-01-02T03:04:05%2B01:00": "200 " + always + "--since=2026-01-02 02:04:05 UTC --unit=a\n",
		"query=a&boot=-1&pattern=err|warn":              "200 " + always + "--boot=-1 --grep=err|warn --unit=a\n",
		"query=quiet":                                   "200 -- No entries --\n", "query=broken": "200 broken\n",
		"query=filed": "200 from a file", "query=sub": "200 from a directory", "query=/filed.log": "200 from a file", "query=both": "200 in both;",
		"query=filed&query=none&query=sub": "200 from a file" + without("none") + "from a directory",
		"query=filed&query=a":              "200 " + always + "--unit=a\nfrom a file",
		"query=none":                       "200 " + without("none"), "query=bare": "200 " + without("bare"), "query=kube": "200 " + without("kube"),
		"query=filed&tailLines=1":         "200 " + optionless,
		"query=filed&query=a&tailLines=1": "200 " + always + "--lines=1 --unit=a\n" + optionless,
		"query=out":                       "200 \nerror getting log for out: out: may not be shown\n",
		"query=/../secret":                "404 secret: not found",
	} {
		code, body := f.do(t, root, http.MethodGet, "/logs/?"+query)
		if got := fmt.Sprint(code, " ", body); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	for _, query := range []string{
		"query=", "query=--flag", "query=a%20b", "query=a&boot=1", "query=a&tailLines=-1", "query=a&sinceTime=soon", "query=a&pattern=(", "query=/x&tailLines=1",
		"query=a&query=b&query=c&query=d&query=e", "query=a&sinceTime=2026-01-02T00:00:00Z&untilTime=2026-01-01T00:00:00Z", "tailLines=1", "query",
	} {
		if code, body := f.do(t, root, http.MethodGet, "/logs/?"+query); code != http.StatusBadRequest {
			t.Errorf("%s: %d %q", query, code, body)
		}
	}
	for _, path := range []string{"/logs/filed.log?query=kubelet", "/logs/sub/?tailLines=1", "/logs/filed.log?pattern=x"} {
		if code, body := f.do(t, root, http.MethodGet, path); code != http.StatusBadRequest {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if code, body := f.do(t, root, http.MethodGet, "/logs/?query=filed"); code != http.StatusOK || body != "from a file" {
		t.Errorf("without journalctl: %d %q", code, body)
	}
	off := newFixture(t, nil, nil)
	off.root = f.root
	if code, body := off.do(t, off.asRoot(t), http.MethodGet, "/logs/?query=filed"); code != http.StatusOK || !strings.Contains(body, "<!doctype html>") {
		t.Errorf("without enableSystemLogQuery: %d %q", code, body)
	}
}
