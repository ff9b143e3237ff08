package cni

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestHungChild: a plugin whose child goes on, with the plugin's output open, holds nobody up: neither one that is ended
// because it takes too long, whose child ends with it, nor one that has answered.
func TestHungChild(t *testing.T) {
	for name, end := range map[string]string{
		"the plugin waits for it": "wait",
		"the plugin has answered": answer,
	} {
		t.Run(name, func(t *testing.T) {
			conf, bin, dir := t.TempDir(), t.TempDir(), t.TempDir()
			configure(t, conf, "10-net.conflist", network)
			plugin(t, bin, "sleep 600 & echo $! >"+dir+"/child\n"+end)
			waits := end == "wait"
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if waits {
				go func() { // a caller that gives up as soon as the child is there
					for ctx.Err() == nil && len(read(dir+"/child")) == 0 {
						time.Sleep(time.Millisecond)
					}
					cancel()
				}()
			}
			began := time.Now()
			_, err := (&Plugins{conf, []string{bin}, t.TempDir()}).Setup(ctx, Pod{SandboxID: "abc", NetNS: "/ns"})
			if (err != nil) != waits || time.Since(began) > 15*time.Second {
				t.Errorf("after %s: %v", time.Since(began), err)
			}
			var child int
			if _, err := fmt.Sscan(read(dir+"/child"), &child); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(15 * time.Second); waits && !ended(child); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Error("the child of a plugin that was ended lives on")
					break
				}
			}
			_ = syscall.Kill(child, syscall.SIGKILL)
		})
	}
}

func read(path string) string {
	data, _ := os.ReadFile(path)
	return string(data)
}

// ended tells a process that is gone, or of which only the exit code is left.
func ended(pid int) bool {
	stat := read(fmt.Sprintf("/proc/%d/stat", pid))
	return stat == "" || strings.Contains(stat, ") Z ")
}

// TestTeardownByWhatIsLeft: a pod is disconnected by what it was connected with, also when the first plugin never came
// back, and when what was written down of it is lost, by the network of today.
func TestTeardownByWhatIsLeft(t *testing.T) {
	other := strings.Replace(network, `"net"`, `"other"`, 1)
	for name, tc := range map[string]struct {
		damage func(t *testing.T, cache string)
		failed bool   // connecting it
		want   string // the network it is disconnected from
	}{
		"all there":                   {func(*testing.T, string) {}, false, "net"},
		"connecting was interrupted":  {func(*testing.T, string) {}, true, "net"},
		"what was written is empty":   {func(t *testing.T, cache string) { damage(t, cache, attachedFile, "") }, false, "net"},
		"what was written is garbage": {func(t *testing.T, cache string) { damage(t, cache, attachedFile, "{") }, false, "net"},
		"the cache is garbage":        {func(t *testing.T, cache string) { damage(t, cache, "results/*", "{") }, false, "net"},
		"both are empty": {func(t *testing.T, cache string) {
			damage(t, cache, attachedFile, "")
			damage(t, cache, "results/*", "")
		}, false, "other"},
		"all is gone": {func(t *testing.T, cache string) {
			if err := os.RemoveAll(filepath.Join(cache, "abc")); err != nil {
				t.Fatal(err)
			}
		}, false, "other"},
	} {
		t.Run(name, func(t *testing.T) {
			conf, bin, cache := t.TempDir(), t.TempDir(), t.TempDir()
			configure(t, conf, "10-net.conflist", network)
			does := answer
			if tc.failed {
				does = "[ $CNI_COMMAND != ADD ]"
			}
			calls := plugin(t, bin, does)
			p := &Plugins{conf, []string{bin}, cache}
			if _, err := p.Setup(t.Context(), Pod{SandboxID: "abc", NetNS: "/ns"}); (err != nil) != tc.failed {
				t.Fatal(err)
			}
			if !p.Connected("abc") {
				t.Error("not connected")
			}
			tc.damage(t, cache)
			configure(t, conf, "10-net.conflist", other)
			if err := p.Teardown(t.Context(), Pod{SandboxID: "abc"}); err != nil {
				t.Error(err)
			}
			asked := read(calls)
			if _, asked, _ = strings.Cut(asked, "DEL"); !strings.Contains(asked, `"name":"`+tc.want+`"`) {
				t.Errorf("asked: DEL%s", asked)
			}
			if p.Connected("abc") {
				t.Error("it is not forgotten")
			}
		})
	}
}

func damage(t *testing.T, cache, pattern, text string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(cache, "abc", pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("nothing matches %s: %v", pattern, err)
	}
	for _, path := range found {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTeardownFails: what could not be disconnected is not forgotten.
func TestTeardownFails(t *testing.T) {
	conf, bin := t.TempDir(), t.TempDir()
	configure(t, conf, "10-net.conflist", network)
	fails := filepath.Join(t.TempDir(), "fails")
	calls := plugin(t, bin, answer+"\n[ ! -e "+fails+" ]")
	p, pod := &Plugins{conf, []string{bin}, t.TempDir()}, Pod{SandboxID: "abc", NetNS: "/ns"}
	if _, err := p.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if err := exec.CommandContext(t.Context(), "touch", fails).Run(); err != nil {
		t.Fatal(err)
	}
	if err := p.Teardown(t.Context(), pod); err == nil || !p.Connected("abc") {
		t.Errorf("a failure: %v", err)
	}
	if err := os.Remove(fails); err != nil {
		t.Fatal(err)
	}
	if err := p.Teardown(t.Context(), pod); err != nil || p.Connected("abc") || strings.Count(read(calls), "DEL") != 2 {
		t.Errorf("the next try: %v, %s", err, read(calls))
	}
}
