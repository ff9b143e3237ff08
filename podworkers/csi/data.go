package csi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	storagev1 "k8s.io/api/storage/v1"
)

// dataFile tells of the volume that is mounted beside it. Its name and its keys are upstream's.
//
// Upstream: pkg/volume/csi/csi_plugin.go volDataKey and volDataFileName.
const dataFile = "vol_data.json"

// data is the content of a dataFile. That of a staged volume has driver and handle only.
type data struct {
	SpecVolumeID string                        `json:"specVolID,omitempty"`
	Handle       string                        `json:"volumeHandle"`
	Driver       string                        `json:"driverName"`
	NodeName     string                        `json:"nodeName,omitempty"`
	AttachmentID string                        `json:"attachmentID,omitempty"`
	Lifecycle    storagev1.VolumeLifecycleMode `json:"volumeLifecycleMode,omitempty"`
}

func (d data) id() volumeID { return volumeID{d.Driver, d.Handle} }

// maxData bounds what is read of a dataFile.
const maxData = 64 << 10

// load reads the data file of a directory.
func load(dir string) (data, error) {
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
		return data{}, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	if d.Driver == "" || d.Handle == "" {
		return data{}, fmt.Errorf("read %s: it names no driver or no volume", file.Name())
	}
	return d, nil
}

// save writes the data file of a directory, whole or not at all.
func (d data) save(dir string) error {
	text, err := json.Marshal(d)
	if err == nil {
		err = renameio.WriteFile(filepath.Join(dir, dataFile), append(text, '\n'), 0o600, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	}
	if err != nil {
		return fmt.Errorf("save what is mounted in %s: %w", dir, err)
	}
	return nil
}

// published lists the volumes of pods by the directory that their mount and data file are in.
func (m *Manager) published() (map[string]data, error) {
	return loadAll(filepath.Join(m.podsDir(), "*", "volumes", "kubernetes.io~csi", "*", dataFile))
}

// stagings lists the staged volumes by the directory that their mount and data file are in.
func (m *Manager) stagings() (map[string]data, error) {
	return loadAll(filepath.Join(m.pluginDir(), "*", "*", dataFile))
}

func loadAll(pattern string) (map[string]data, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	all := map[string]data{}
	for _, file := range files {
		d, err := load(filepath.Dir(file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, err
		}
		all[filepath.Dir(file)] = d
	}
	return all, nil
}

// leftovers are the persistent volumes that are mounted by what stands on disk.
func (m *Manager) leftovers() ([]volumeID, error) {
	published, err := m.published()
	if err != nil {
		return nil, err
	}
	stagings, err := m.stagings()
	if err != nil {
		return nil, err
	}
	var left []volumeID
	for _, d := range published {
		if d.Lifecycle != storagev1.VolumeLifecycleEphemeral {
			left = append(left, d.id())
		}
	}
	for _, d := range stagings {
		left = append(left, d.id())
	}
	return left, nil
}
