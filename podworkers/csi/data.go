package csi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// dataFile tells of the volume that is mounted beside it. Its name and its keys are upstream's.
//
// Upstream: pkg/volume/csi/csi_plugin.go volDataKey and volDataFileName.
const dataFile = "vol_data.json"

// data is the content of a dataFile. That of a staged volume has nothing of a pod.
type data struct {
	SpecVolumeID string                        `json:"specVolID,omitempty"`
	Handle       string                        `json:"volumeHandle"`
	Driver       string                        `json:"driverName"`
	NodeName     string                        `json:"nodeName,omitempty"`
	AttachmentID string                        `json:"attachmentID,omitempty"`
	Lifecycle    storagev1.VolumeLifecycleMode `json:"volumeLifecycleMode,omitempty"`
	// Volume is what the pod calls the volume, a key of ours: it finds the volume when neither driver nor claim can be asked.
	Volume string `json:"podVolume,omitempty"`
	// ReadOnly is how the pod has a block volume, a key of ours. Upstream reads texts only.
	ReadOnly bool `json:"podReadOnly,omitempty,string"`
}

// record is what data files say of the request's volume, without what is the pod's.
func (m *Manager) record(r *Request) data {
	return data{
		SpecVolumeID: r.Name, Handle: r.Handle, Driver: r.Driver, NodeName: m.opts.NodeName,
		AttachmentID: m.attachmentName(r.id()), Lifecycle: r.Lifecycle,
	}
}

func (d data) id() volumeID { return volumeID{d.Driver, d.Handle} }

// maxData bounds what is read of a dataFile.
const maxData = 64 << 10

// broken is appended to the name of a data file that cannot be understood.
const broken = ".broken"

// errBroken is wrapped by the error of a data file that does not say what is mounted.
var errBroken = errors.New("the file is broken")

// load reads the data file of a directory. One that is broken, after a power loss for example, is set aside, and counts as
// missing from then on: it is written again when the volume is mounted again. One that cannot be read is an error.
func load(dir string) (data, error) {
	d, err := parse(dir)
	if !errors.Is(err, errBroken) {
		return d, err
	}
	file := filepath.Join(dir, dataFile)
	klog.Background().Error(err, "The record of a CSI volume is broken and is set aside", "file", file, "as", filepath.Base(file)+broken)
	if err := os.Rename(file, file+broken); err != nil {
		return data{}, fmt.Errorf("set aside the broken record of a CSI volume: %w", err)
	}
	return data{}, &fs.PathError{Op: "open", Path: file, Err: fs.ErrNotExist}
}

func parse(dir string) (data, error) {
	file, err := os.Open(filepath.Join(dir, dataFile))
	if err != nil {
		return data{}, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxData))
	if err != nil {
		return data{}, err
	}
	var d data
	if err := json.Unmarshal(text, &d); err != nil {
		return data{}, fmt.Errorf("read %s: %w: %w", file.Name(), errBroken, err)
	}
	if d.Driver == "" || d.Handle == "" {
		return data{}, fmt.Errorf("read %s: %w: it names no driver or no volume", file.Name(), errBroken)
	}
	return d, nil
}

// save writes the data file of a directory, whole or not at all, in the place of a broken one too.
func (d data) save(dir string) error {
	text, err := json.Marshal(d)
	if err == nil {
		err = renameio.WriteFile(filepath.Join(dir, dataFile), append(text, '\n'), 0o600, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	}
	if err != nil {
		return fmt.Errorf("save what is mounted in %s: %w", dir, err)
	}
	if err := os.Remove(filepath.Join(dir, dataFile+broken)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("save what is mounted in %s: %w", dir, err)
	}
	return nil
}

// unknownUsers tells whether a pod has a volume whose record is broken, and that has not been mounted again since.
func (m *Manager) unknownUsers() (bool, error) {
	files, err := filepath.Glob(filepath.Join(m.podsDir(), "*", "volumes", "kubernetes.io~csi", "*", dataFile+broken))
	_, unknown, unread := m.blockUsers()
	return len(files) > 0 || unknown, errors.Join(err, unread)
}

// published lists the volumes of pods by their directory or, for block volumes, their link: both are in that of the pod.
func (m *Manager) published() (map[string]data, error) {
	all, err := loadAll(filepath.Join(m.podsDir(), "*", "volumes", "kubernetes.io~csi", "*", dataFile))
	blocks, _, unread := m.blockUsers()
	maps.Copy(all, blocks)
	return all, errors.Join(err, unread)
}

// stagings lists what is on the node, with users or without, by the directory of a data file.
func (m *Manager) stagings() (map[string]data, error) {
	all, err := loadAll(filepath.Join(m.pluginDir(), "*", "*", dataFile))
	blocks, unread := m.blockRecords()
	for _, records := range blocks {
		maps.Copy(all, records)
	}
	return all, errors.Join(err, unread)
}

// loadAll reads all data files that there are. With an error too it returns those that can be read.
func loadAll(pattern string) (map[string]data, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	all := map[string]data{}
	var errs []error
	for _, file := range files {
		d, err := load(filepath.Dir(file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went meanwhile
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all[filepath.Dir(file)] = d
	}
	return all, errors.Join(errs...)
}

// Standing returns a volume that an earlier kubelet had a driver publish to a pod, by the pod's name of it. ok is false if it
// does not stand, or if answers has an error for its file system, which is then not looked at.
func (m *Manager) Standing(pod types.UID, volume string, answers func(path string) error) (mounted Mounted, ok bool) {
	found, err := loadAll(filepath.Join(m.podsDir(), string(pod), "volumes", "kubernetes.io~csi", "*", dataFile))
	if err != nil {
		return Mounted{}, false
	}
	for dir, d := range found {
		if d.Volume != volume && (d.Volume != "" || d.Lifecycle != storagev1.VolumeLifecycleEphemeral || d.SpecVolumeID != volume) {
			continue
		}
		at := filepath.Join(dir, "mount")
		if answers(at) != nil {
			continue
		}
		var fs unix.Statfs_t
		if mounted, err := mountinfo.Mounted(at); err == nil && mounted {
			return Mounted{Dir: at, ReadOnly: unix.Statfs(at, &fs) == nil && fs.Flags&unix.ST_RDONLY != 0}, true
		}
	}
	return m.standingBlock(pod, volume)
}

// leftovers are the persistent volumes that are mounted by what stands on disk; with an error too those that are known.
func (m *Manager) leftovers() ([]volumeID, error) {
	published, unread := m.published()
	stagings, err := m.stagings()
	err = errors.Join(unread, err)
	var left []volumeID
	for _, d := range published {
		if d.Lifecycle != storagev1.VolumeLifecycleEphemeral {
			left = append(left, d.id())
		}
	}
	for _, d := range stagings {
		left = append(left, d.id())
	}
	return left, err
}
