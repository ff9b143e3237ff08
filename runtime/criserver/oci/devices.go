package oci

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxDevices bounds how many devices a directory may mean.
const maxDevices = 4096

// Devices looks up the devices that a container asks for, after, for a privileged one, all of the
// machine's. A directory means all devices in it. A privileged container has all access.
func Devices(wanted []*runtimeapi.Device, privileged bool) (devices []specs.LinuxDevice, access []string, err error) {
	if privileged {
		if devices, err = devicesBelow("/dev", "/dev"); err != nil {
			return nil, nil, err
		}
	}
	for _, device := range wanted {
		if strings.Trim(device.GetPermissions(), "rwm") != "" {
			return nil, nil, invalid("device permissions %q are no subset of rwm", device.GetPermissions())
		}
		source, err := filepath.EvalSymlinks(device.GetHostPath())
		if err != nil {
			return nil, nil, invalid("find device: %w", err)
		}
		found, err := devicesBelow(source, device.GetContainerPath())
		if err == nil && len(found) == 0 && !isDir(source) {
			err = invalid("%s is no device", device.GetHostPath())
		}
		if err != nil {
			return nil, nil, err
		}
		for _, one := range found {
			if privileged {
				devices = slices.DeleteFunc(devices, func(d specs.LinuxDevice) bool { return d.Path == one.Path })
			} else {
				access = append(access, device.GetPermissions())
			}
			devices = append(devices, one)
		}
	}
	return devices, access, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// devicesBelow are the devices in a directory, but for those that every container has its own of, or the device that dir is.
func devicesBelow(dir, target string) ([]specs.LinuxDevice, error) {
	var devices []specs.LinuxDevice
	err := filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil
		} else if err != nil {
			return err
		}
		if entry.IsDir() {
			switch entry.Name() {
			case "pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev":
				return fs.SkipDir
			}
			return nil
		}
		if entry.Type()&fs.ModeDevice == 0 || p != dir && (entry.Name() == "console" || entry.Name() == "ptmx") {
			return nil
		}
		if info, gone := entry.Info(); gone == nil {
			devices = append(devices, deviceOf(info, path.Join("/", target, strings.TrimPrefix(p, dir))))
		}
		if len(devices) > maxDevices {
			return invalid("more than %d devices in %s", maxDevices, dir)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list devices of %s: %w", dir, err)
	}
	return devices, nil
}

func deviceOf(info fs.FileInfo, target string) specs.LinuxDevice {
	stat, mode, kind := info.Sys().(*syscall.Stat_t), info.Mode().Perm(), "b"
	if info.Mode()&fs.ModeCharDevice != 0 {
		kind = "c"
	}
	return specs.LinuxDevice{
		Path: target, Type: kind, Major: int64(unix.Major(stat.Rdev)), Minor: int64(unix.Minor(stat.Rdev)),
		FileMode: &mode, UID: &stat.Uid, GID: &stat.Gid,
	}
}

// deviceRules close the cgroup to all devices but the listed. The runtime adds those that every container may use.
func deviceRules(c Container) []specs.LinuxDeviceCgroup {
	if c.Config.GetLinux().GetSecurityContext().GetPrivileged() {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for i, device := range c.Devices {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: device.Type, Major: &device.Major, Minor: &device.Minor, Access: cmp.Or(c.DeviceAccess[i], "rwm")})
	}
	return rules
}
