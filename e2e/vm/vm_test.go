package vm

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"minikubelet/e2e/stack"
)

//go:embed guest/init.sh
var initScript []byte

// TestCgroupV2 runs the tests of e2e/vm/guest, and those of the packages that deal with cgroups, in a virtual machine
// with cgroup v2 alone. They come out as tests below this one.
func TestCgroupV2(t *testing.T) {
	bin, dir := os.Getenv(stack.BinEnv), os.Getenv(DirEnv)
	requireMachine(t, bin, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	work := t.TempDir()
	initramfs := filepath.Join(work, "initramfs")
	if err := WriteInitramfs(initramfs, contents(ctx, t, bin, dir, work)); err != nil {
		t.Fatal(err)
	}
	console := filepath.Join(work, "console")
	var report bytes.Buffer
	start := time.Now()
	err := Machine{
		Dir: dir, Initramfs: initramfs, MemoryMB: 1280, CPUs: 2, Console: console, Arguments: []string{"TESTFLAGS=" + os.Getenv("E2E_VM_FLAGS")}, // -test.run=TestPods, for one
		Report: io.MultiWriter(&report, &lines{start: start, to: t.Output()}),
	}.Run(ctx)
	if err != nil {
		t.Error(err)
	}
	t.Logf("the machine ran for %s", time.Since(start).Round(time.Second))
	results(t, report.String())
	if t.Failed() {
		text, _ := os.ReadFile(console)
		t.Logf("the kernel's messages:\n%s", text)
	}
}

// requireMachine skips a test without what make test-v2 fetches and builds.
func requireMachine(t *testing.T, bin, dir string) {
	t.Helper()
	if bin == "" || dir == "" {
		t.Skipf("%s or %s is not set; make test-v2 sets them", stack.BinEnv, DirEnv)
	}
	if _, err := os.Stat(filepath.Join(dir, "complete")); err != nil {
		t.Fatalf("qemu and a kernel are not fetched: %v", err)
	}
}

// lines passes text on line by line with the time before it.
type lines struct {
	start time.Time
	rest  []byte
	to    io.Writer
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		fmt.Fprintf(l.to, "%5.1f %s\n", time.Since(l.start).Seconds(), bytes.TrimRight(line, "\r"))
		l.rest = rest
	}
}

var result = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (\S+)`)

// results makes a test of each test in the machine's report, and fails when that is not complete.
func results(t *testing.T, report string) {
	t.Helper()
	program, ended, ran := "", false, 0
	for scanner := bufio.NewScanner(strings.NewReader(report)); scanner.Scan(); {
		line := strings.TrimRight(scanner.Text(), "\r")
		if p, ok := strings.CutPrefix(line, "=== PROGRAM "); ok {
			program = strings.TrimSuffix(p, ".test")
		}
		if code, ok := strings.CutPrefix(line, "=== END "); ok {
			if ended = true; code != "0" {
				t.Error("a program in the machine failed")
			}
		}
		if match := result.FindStringSubmatch(line); match != nil {
			ran++
			t.Run(program+"/"+match[2], func(t *testing.T) {
				switch match[1] {
				case "FAIL":
					t.Error("failed in the machine: see above")
				case "SKIP":
					t.Skip("skipped in the machine")
				}
			})
		}
	}
	if !ended || ran == 0 {
		t.Errorf("the machine's report is not complete: %d tests", ran)
	}
}

// contents is all there is in the machine.
func contents(ctx context.Context, t *testing.T, bin, dir, work string) []stack.File {
	t.Helper()
	files, err := stack.BusyboxFiles(ctx)
	if err != nil {
		t.Fatal(err)
	}
	busybox := slices.Clip(files)
	files = append(files, stack.File{Path: "/init", Data: initScript, Mode: 0o755})

	programs := map[string]string{"/programs/kubelet": "../../bin/kubelet"}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "runc", "bridge", "host-local", "loopback"} {
		programs["/programs/"+name] = filepath.Join(bin, name)
	}
	for _, pkg := range []string{"runtime/cgroups", "e2e/vm/guest"} {
		out := filepath.Join(work, filepath.Base(pkg)+".test")
		command(ctx, t, "test", "-c", "-trimpath", "-ldflags", "-s -w", "-o", out, "minikubelet/"+pkg)
		programs["/tests/"+filepath.Base(out)] = out
	}
	for path, from := range programs {
		of, err := Program(path, from)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, of...)
	}

	pause := filepath.Join(work, "pause")
	command(ctx, t, "build", "-trimpath", "-ldflags", "-s -w", "-o", pause, "minikubelet/e2e/stack/images/pause")
	data, err := os.ReadFile(pause)
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, image(t, work, "busybox", busybox, v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}}),
		image(t, work, "pause", []stack.File{{Path: "/pause", Data: data, Mode: 0o755}}, v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}))

	modules, err := Modules(filepath.Join(dir, "modules"), "overlay", "veth", "bridge")
	if err != nil {
		t.Fatal(err)
	}
	for i, module := range modules {
		if data, err = os.ReadFile(module); err != nil {
			t.Fatal(err)
		}
		files = append(files, stack.File{Path: fmt.Sprintf("/modules/%02d-%s", i, filepath.Base(module)), Data: data, Mode: 0o644})
	}
	return files
}

// command runs go; what it builds runs without libraries.
func command(ctx context.Context, t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// image is an image's archive, as a file of the machine.
func image(t *testing.T, work, repository string, files []stack.File, config v1.Config) stack.File {
	t.Helper()
	built, err := stack.BuildImage(files, config)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(repository + ":1")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(work, repository+".tar")
	if err := tarball.WriteToFile(path, tag, built); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return stack.File{Path: "/images/" + repository + ".tar", Data: data, Mode: 0o644}
}
