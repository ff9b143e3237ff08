package csitest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// NewDevice makes a block device that holds a file, until free is called. It needs root.
func NewDevice(file string) (device string, free func() error, err error) {
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return "", nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", nil, err
	}
	defer control.Close()
	for {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", nil, err
		}
		device = fmt.Sprintf("/dev/loop%d", number)
		loop, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			return "", nil, err
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{Fd: uint32(backing.Fd())})
		loop.Close()
		if err == nil {
			return device, func() error { return freeDevice(device) }, nil
		}
		if !errors.Is(err, unix.EBUSY) { // else another one took it
			return "", nil, err
		}
	}
}

// TestDevice is a block device of a test, which holds a file that begins with content. It needs root.
func TestDevice(t testing.TB, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	text := make([]byte, 64<<10)
	copy(text, content)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	device, free, err := NewDevice(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := free(); err != nil {
			t.Error(err)
		}
	})
	return device
}

func freeDevice(device string) error {
	loop, err := os.Open(device)
	if err != nil {
		return err
	}
	defer loop.Close()
	return unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0)
}

// bindDevice binds the device to a file.
func (d *Driver) bindDevice(target string) error {
	mounted, err := mountinfo.Mounted(target)
	if errors.Is(err, os.ErrNotExist) {
		err = os.WriteFile(target, nil, 0o640)
	}
	if err == nil && !mounted {
		err = unix.Mount(d.Device, target, "", unix.MS_BIND, "")
	}
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}
