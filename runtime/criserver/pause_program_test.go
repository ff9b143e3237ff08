package criserver

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPauseProgram: the program of each processor is one that its kernel can load, and that of this one's runs,
// leaves its children's ends to the kernel and does not end by itself.
func TestPauseProgram(t *testing.T) {
	if _, err := pauseProgram("abacus"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("an unknown processor: %v", err)
	}
	for arch := range pauseCode {
		program, err := pauseProgram(arch)
		if err != nil {
			t.Fatal(err)
		}
		file, err := elf.NewFile(bytes.NewReader(program))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		code := file.Progs[0]
		if code.Flags != elf.PF_R|elf.PF_X || code.Filesz != uint64(len(program)) || file.Entry < code.Vaddr || file.Entry >= code.Vaddr+code.Filesz || file.Entry%8 != 0 {
			t.Errorf("%s: %+v, begins at %#x", arch, code, file.Entry)
		}
	}
	program, err := pauseProgram(runtime.GOARCH)
	if err != nil {
		t.Skip(err)
	}
	path := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ignored := regexp.MustCompile(`(?m)^SigIgn:\t([0-9a-f]{16})$`)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%s, %v", status, err)
		}
		var signals uint64 // more of them if the test was started by something that ignores some
		if found := ignored.FindSubmatch(status); found != nil {
			signals, _ = strconv.ParseUint(string(found[1]), 16, 64)
		}
		if strings.Contains(string(status), "State:\tS") && signals&(1<<(int(syscall.SIGCHLD)-1)) != 0 {
			break
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if state, err := cmd.Process.Wait(); err != nil || state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("its end: %v, %v", state, err)
	}
}
