package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"minikubelet/runtime/mounts"
)

// A block volume is published as a device at plugins/kubernetes.io/csi/volumeDevices/publish/VOLUME/POD; a link in the pod's
// directory leads there. The link is made before the driver is called and removed after the driver took the device away, so the
// links tell which pods have the volume, also when records are broken. The records are volumeDevices/VOLUME/data/vol_data.json,
// which is upstream's, and one of each pod in a directory beside it. One can be made from the other.

// paths are where a volume of a pod is, and the directories of its records.
type paths struct{ staging, stagingRecord, target, record string }

func (m *Manager) paths(r *Request) paths {
	if r.Block {
		return paths{
			m.blockDir("staging", r.Name), m.blockDir(r.Name, "data"),
			m.blockDir("publish", r.Name, string(r.Pod.UID)), m.blockDir(r.Name, "data", string(r.Pod.UID)),
		}
	}
	staging, target := m.staging(r.id()), m.target(r)
	return paths{staging, filepath.Dir(staging), target, filepath.Dir(target)}
}

func (m *Manager) blockDir(parts ...string) string {
	return filepath.Join(append([]string{m.pluginDir(), "volumeDevices"}, parts...)...)
}

// blockLink is a pod's link to its device.
func (m *Manager) blockLink(pod, name string) string {
	return filepath.Join(m.podsDir(), pod, "volumeDevices", "kubernetes.io~csi", name)
}

// ofLink returns the pod and the volume that a link is of.
func ofLink(link string) (pod, name string) {
	return filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(link)))), filepath.Base(link)
}

// linkBlock makes the pod's link, which may lead to nothing yet, and the volume's record if there is none.
func (m *Manager) linkBlock(r *Request, at paths) error {
	if !hasData(at.stagingRecord) {
		if err := m.record(r).save(at.stagingRecord); err != nil {
			return err
		}
	}
	return Link(at.target, m.blockLink(string(r.Pod.UID), r.Name))
}

// Link makes a link to a device, in the place of one that leads elsewhere: names of devices change with a reboot.
func Link(device, link string) error {
	if to, err := os.Readlink(link); err == nil && to == device {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o750); err != nil {
		return err
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(device, link)
}

// CheckDevice returns an error if a path does not lead to a block device.
func CheckDevice(path string) error {
	device, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(device)
	if err != nil {
		return fmt.Errorf("block volume: %w", err)
	}
	if info.Mode()&fs.ModeDevice == 0 || info.Mode()&fs.ModeCharDevice != 0 {
		return fmt.Errorf("block volume: %s is not a block device", path)
	}
	return nil
}

// standingBlock returns the pod's block volume of a name that an earlier kubelet had a driver publish.
func (m *Manager) standingBlock(pod types.UID, volume string) (Mounted, bool) {
	links, _ := filepath.Glob(m.blockLink(string(pod), "*")) // the pattern is well-formed
	for _, link := range links {
		d, err := load(m.blockDir(filepath.Base(link), "data", string(pod)))
		if err == nil && d.Volume == volume && CheckDevice(link) == nil {
			return Mounted{Device: link, ReadOnly: d.ReadOnly}, true
		}
	}
	return Mounted{}, false
}

// blockRecord reads the record of a pod's block volume: the pod's own, or else that of the volume.
func (m *Manager) blockRecord(pod, name string) (data, error) {
	d, err := load(m.blockDir(name, "data", pod))
	if errors.Is(err, fs.ErrNotExist) {
		d, err = load(m.blockDir(name, "data"))
	}
	return d, err
}

// blockUsers lists the block volumes of pods by the pods' links. unknown says that there is a link whose records are broken.
func (m *Manager) blockUsers() (users map[string]data, unknown bool, err error) {
	links, err := filepath.Glob(m.blockLink("*", "*"))
	users = map[string]data{}
	for _, link := range links {
		d, readErr := m.blockRecord(ofLink(link))
		_, gone := os.Lstat(link)
		switch {
		case readErr == nil:
			users[link] = d
		case errors.Is(gone, fs.ErrNotExist): // meanwhile
		case errors.Is(readErr, fs.ErrNotExist):
			unknown = true
		default:
			err = errors.Join(err, readErr)
		}
	}
	return users, unknown, err
}

// blockRecords lists all records of block volumes, by name of the volume and directory.
func (m *Manager) blockRecords() (map[string]map[string]data, error) {
	all := map[string]map[string]data{}
	var errs []error
	for _, pattern := range []string{m.blockDir("*", "data", dataFile), m.blockDir("*", "data", "*", dataFile)} {
		found, err := loadAll(pattern)
		errs = append(errs, err)
		for dir, d := range found {
			name, _, _ := strings.Cut(strings.TrimPrefix(dir, m.blockDir()+"/"), "/")
			if all[name] == nil {
				all[name] = map[string]data{}
			}
			all[name][dir] = d
		}
	}
	return all, errors.Join(errs...)
}

// Unmap takes a pod's block volume away, by the pod's link alone. The last pod's volume is also taken off the node; where that
// fails Sweep does it later. A device whose records are broken is unmounted without its driver, which is not known.
//
// Upstream: pkg/volume/csi/csi_block.go UnmapPodDevice and TearDownDevice.
func (m *Manager) Unmap(ctx context.Context, link string) error {
	pod, name := ofLink(link)
	d, err := m.blockRecord(pod, name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := ReleaseMapped(m.blockDir(name, "dev", pod)); err != nil {
			return err
		}
		if err := release(m.blockDir("publish", name, pod)); err != nil {
			return err
		}
		return removeFiles(link)
	}
	if err != nil {
		return err
	}
	unlock, err := m.locks.Take(ctx, d.id())
	if err != nil {
		return err
	}
	defer unlock()
	conn, err := m.open(d.Driver)
	if err != nil {
		return err
	}
	defer conn.Close()
	if !hasData(m.blockDir(name, "data")) { // it tells of the volume until that is off the node
		if err := d.save(m.blockDir(name, "data")); err != nil {
			return err
		}
	}
	if err := m.unpublishBlock(ctx, conn, d.id(), pod, name); err != nil {
		return err
	}
	if err := m.unstageUnused(ctx, d.id()); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Taking a block volume off the node failed, will be retried", "driver", d.Driver, "volumeHandle", d.Handle)
	}
	return nil
}

func (m *Manager) unpublishBlock(ctx context.Context, conn *connection, v volumeID, pod, name string) error {
	if err := ReleaseMapped(m.blockDir(name, "dev", pod)); err != nil {
		return err
	}
	if err := conn.unpublish(ctx, v, m.blockDir("publish", name, pod)); err != nil {
		return err
	}
	return m.forgetPublished(pod, name)
}

// forgetPublished removes the link and the record of a device that the pod does not have any more. While the device is still
// there it leaves everything as it is.
func (m *Manager) forgetPublished(pod, name string) error {
	if err := removeFiles(m.blockDir("publish", name, pod), m.blockLink(pod, name)); err != nil {
		return err
	}
	return removeUnmounted(m.blockDir(name, "data", pod))
}

// unstageBlocks takes a block volume off the node that no pod has. Callers hold its lock.
func (m *Manager) unstageBlocks(ctx context.Context, v volumeID) error {
	all, err := m.blockRecords()
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for name, records := range all {
		for _, d := range records {
			names[name] = names[name] || d.id() == v
		}
	}
	m.mu.Lock()
	dir := m.staged[v] // also known when the records broke meanwhile
	m.mu.Unlock()
	if filepath.Dir(dir) == m.blockDir("staging") {
		names[filepath.Base(dir)] = true
	}
	for name, has := range names {
		if has {
			if err := m.unstageBlock(ctx, name, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// unstageBlock first takes away what a kubelet that was killed left for pods without links.
//
// Upstream: pkg/volume/csi/csi_block.go unstageVolumeForBlock.
func (m *Manager) unstageBlock(ctx context.Context, name string, v volumeID) error {
	conn, can, err := m.dial(ctx, v.driver)
	if err != nil {
		return err
	}
	defer conn.Close()
	published, err := filepath.Glob(m.blockDir("publish", name, "*"))
	if err != nil {
		return err
	}
	for _, target := range published {
		if err := m.unpublishBlock(ctx, conn, v, filepath.Base(target), name); err != nil {
			return err
		}
	}
	staging := m.blockDir("staging", name)
	if _, err := os.Lstat(staging); err == nil && can.stage() {
		if err := conn.unstage(ctx, v, staging); err != nil {
			return err
		}
	}
	return m.forgetBlock(name)
}

// forgetBlock removes the directories of a block volume, that of its records last.
func (m *Manager) forgetBlock(name string) error {
	if err := removeFiles(m.blockDir("publish", name)); err != nil {
		return err
	}
	if err := removeUnmounted(m.blockDir("staging", name)); err != nil {
		return err
	}
	return removeUnmounted(m.blockDir(name))
}

// removeFiles removes files and empty directories. What is mounted is busy, and an error.
func removeFiles(paths ...string) error {
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clean up a block volume: %w", err)
		}
	}
	return nil
}

// removeUnmounted removes a directory with all that is in it, unless something is mounted there: then it is an error.
func removeUnmounted(dir string) error {
	mounted, err := mounts.Below(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(mounted) > 0 {
		return fmt.Errorf("clean up a block volume: %s is still mounted", mounted[0].Mountpoint)
	}
	return os.RemoveAll(dir)
}

// release unmounts all that is on a file, and removes the file.
func release(path string) error {
	for {
		mounted, err := mountinfo.Mounted(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("tell whether %s is mounted: %w", path, err)
		}
		if !mounted {
			return removeFiles(path)
		}
		if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// ReleaseMapped takes away what upstream's kubelet has of a device for a pod: a mount of it, and a loop device that keeps it
// open. This kubelet keeps the device open itself and makes neither.
//
// Upstream: pkg/volume/util/util.go UnmapBlockVolume.
func ReleaseMapped(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return err
	}
	for _, file := range files {
		backing, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(backing)) != real {
			continue // another one's, or free by now
		}
		if err := freeLoop("/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file)))); err != nil {
			return err
		}
	}
	return release(path)
}

func freeLoop(device string) error {
	loop, err := os.Open(device)
	if err != nil {
		return err
	}
	defer loop.Close()
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("free %s: %w", device, err)
	}
	return nil
}
