package stack

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// CanSetClock tells whether SetClock works on this machine.
const CanSetClock = true

// SetClock has a process take the time of day for another, by that much off, as after a step of the machine's clock.
// Monotonic time, and with it timers, goes on as always. It may be called again.
//
// Programs read clocks in the vDSO, code of the kernel in each process' memory. There, in this process alone, the function is
// replaced by one that asks the kernel and adds what stands behind it.
func SetClock(pid int, off time.Duration) error {
	if err := setClock(pid, int64(off/time.Second)); err != nil {
		return fmt.Errorf("set the clock of process %d: %w", pid, err)
	}
	return nil
}

// readClock is clock_gettime(2) by system call. To what it reads of CLOCK_REALTIME it adds the seconds that follow the code.
var readClock = []byte{
	0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi
	0x75, 0x0a, // jne the end
	0x48, 0x8b, 0x15, 0x06, 0x00, 0x00, 0x00, // mov rdx, the seconds
	0x48, 0x01, 0x16, // add [rsi], rdx
	0xc3,       // ret
	0x90, 0x90, // nop, so that the seconds are aligned
}

func setClock(pid int, seconds int64) error {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	at, err := clockFunction(pid, mem)
	if err != nil {
		return err
	}
	now := make([]byte, len(readClock))
	if _, err := mem.ReadAt(now, at); err != nil {
		return err
	}
	data := binary.LittleEndian.AppendUint64(nil, uint64(seconds))
	if bytes.Equal(now, readClock) {
		_, err := mem.WriteAt(data, at+int64(len(readClock)))
		return err
	}
	return atRest(pid, at, at+int64(len(readClock)+len(data)), func() error {
		_, err := mem.WriteAt(append(bytes.Clone(readClock), data...), at)
		return err
	})
}

// clockFunction finds the function in a process. A process that becomes another program has no vDSO for a moment, and nothing
// tells when the kernel has mapped it: so one that has none is asked for a second.
func clockFunction(pid int, mem io.ReaderAt) (int64, error) {
	for range 1000 {
		if at, err := findClockFunction(pid, mem); at != 0 || err != nil {
			return at, err
		}
		time.Sleep(time.Millisecond)
	}
	return 0, errors.New("it has no vDSO")
}

// findClockFunction returns 0 if the process has no vDSO.
func findClockFunction(pid int, mem io.ReaderAt) (int64, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil || !strings.Contains(line, "[vdso]") {
			continue
		}
		image, err := elf.NewFile(io.NewSectionReader(mem, from, to-from))
		if err != nil {
			return 0, err
		}
		symbols, err := image.DynamicSymbols()
		if err != nil {
			return 0, err
		}
		for _, symbol := range symbols {
			if symbol.Name == "__vdso_clock_gettime" {
				return from + int64(symbol.Value), nil
			}
		}
		return 0, errors.New("its vDSO has no clock_gettime")
	}
	return 0, nil
}

// atRest stops the process, none of whose threads is then between two addresses, for as long as do takes.
func atRest(pid int, from, to int64, do func() error) error {
	for range 100 {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		outside := stoppedOutside(pid, from, to)
		var err error
		if outside {
			err = do()
		}
		if contErr := syscall.Kill(pid, syscall.SIGCONT); contErr != nil || outside {
			return errors.Join(err, contErr)
		}
		time.Sleep(time.Millisecond) // it goes on meanwhile
	}
	return errors.New("it never stops outside the function that reads the clock")
}

// stoppedOutside waits until all threads have stopped, and tells whether none has between the addresses.
func stoppedOutside(pid int, from, to int64) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	for _, task := range tasks {
		line := "running"
		for tries := 0; strings.HasPrefix(line, "running") && tries < 1000; tries++ {
			data, err := os.ReadFile(task)
			if err != nil {
				break // the thread has ended
			}
			if line = string(data); strings.HasPrefix(line, "running") {
				time.Sleep(100 * time.Microsecond)
			}
		}
		fields := strings.Fields(line)
		at, err := strconv.ParseInt(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
		if err != nil || at >= from && at < to {
			return false
		}
	}
	return len(tasks) > 0
}
