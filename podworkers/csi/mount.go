package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Mounted is a volume that stands.
type Mounted struct {
	// Dir has its files. A block volume has none, but a link to its device.
	Dir, Device string
	ReadOnly    bool
	// Ownership says that its files are to be given to the pod's fsGroup.
	Ownership bool
	// Republish says that the driver wants to be asked again from time to time.
	Republish bool
	// Expands says that the driver can grow it on the node.
	Expands bool
}

// Mount has the volume's driver stage it on the node, if it does that, and publish it to the pod. It waits for a volume
// that must be attached first. It can be called again at any time.
//
// Upstream: pkg/volume/util/operationexecutor/operation_generator.go GenerateMountVolumeFunc.
func (m *Manager) Mount(ctx context.Context, r *Request) (Mounted, error) {
	object, err := m.object(ctx, r.Driver)
	if err != nil {
		return Mounted{}, err
	}
	if err := r.check(object); err != nil {
		if _, absent := m.endpoint(r.Driver); absent != nil {
			return Mounted{}, r.absent(absent) // which upstream finds out before
		}
		return Mounted{}, failedAt(r.steps().check, err)
	}
	var attachment map[string]string
	if !r.ephemeral() {
		m.want(r)
		if attachRequired(object) {
			if attachment, err = m.attached(ctx, r); err != nil {
				return Mounted{}, err
			}
		}
	}
	release, err := m.locks.Take(ctx, r.id())
	if err != nil {
		return Mounted{}, err
	}
	defer release()
	return m.mountLocked(ctx, r, object, attachment)
}

func (m *Manager) mountLocked(ctx context.Context, r *Request, object *storagev1.CSIDriver, attachment map[string]string) (Mounted, error) {
	steps := r.steps()
	if err := m.exclusive(r); err != nil {
		return Mounted{}, failedAt(steps.check, err)
	}
	conn, err := m.open(r.Driver)
	if err != nil {
		return Mounted{}, r.absent(err)
	}
	defer conn.Close()
	can, err := conn.capabilities(ctx)
	if err != nil {
		return Mounted{}, failedAt(steps.stage, err)
	}
	if !r.ephemeral() {
		m.mu.Lock()
		m.inUse[r.id()] = true
		m.mu.Unlock()
		if can.stage() {
			if err := m.stage(ctx, conn, can, r, attachment); err != nil {
				return Mounted{}, failedAt(steps.stage, err)
			}
		}
	}
	if err := m.publish(ctx, conn, can, r, object, attachment); err != nil {
		return Mounted{}, failedAt(steps.publish, err)
	}
	mounted := Mounted{
		ReadOnly: r.ReadOnly, Ownership: r.wantsOwnership(object, can),
		Republish: object != nil && isTrue(object.Spec.RequiresRepublish), Expands: can.expand(),
	}
	if r.Block {
		mounted.Device = m.blockLink(string(r.Pod.UID), r.Name)
	} else {
		mounted.Dir = m.target(r)
	}
	return mounted, nil
}

// want notes that a pod wants a volume, which is then not detached until Release.
func (m *Manager) want(r *Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wanted[r.id()] == nil {
		m.wanted[r.id()] = map[types.UID]bool{}
	}
	m.wanted[r.id()][r.Pod.UID] = true
}

// exclusive refuses a volume for one pod alone that another pod has.
//
// Upstream: pkg/kubelet/volumemanager/cache/actual_state_of_world.go IsVolumeMountedElsewhere.
func (m *Manager) exclusive(r *Request) error {
	if r.AccessMode != corev1.ReadWriteOncePod {
		return nil
	}
	users, err := m.published()
	if err != nil {
		return err
	}
	own := filepath.Join(m.podsDir(), string(r.Pod.UID)) + string(filepath.Separator)
	for dir, d := range users {
		if d.id() == r.id() && !strings.HasPrefix(dir, own) {
			return ErrInUse
		}
	}
	return nil
}

// stage has the driver prepare the volume for the node, once for all its pods.
//
// Upstream: pkg/volume/csi/csi_attacher.go MountDevice.
func (m *Manager) stage(ctx context.Context, conn *connection, can capabilities, r *Request, attachment map[string]string) error {
	m.mu.Lock()
	_, staged := m.staged[r.id()]
	m.mu.Unlock()
	if staged {
		return nil
	}
	at := m.paths(r)
	if err := makeDirs(at.staging, at.stagingRecord); err != nil {
		return err
	}
	secrets, err := m.secret(ctx, r.StageSecret, "NodeStageSecretRef")
	if err != nil {
		return err
	}
	left := hasData(at.stagingRecord) // by a kubelet before this one
	if err := m.record(r).save(at.stagingRecord); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = conn.NodeStageVolume(limited, &csiapi.NodeStageVolumeRequest{
		VolumeId: r.Handle, PublishContext: attachment, StagingTargetPath: at.staging, VolumeCapability: can.capability(r),
		Secrets: secrets, VolumeContext: r.Attributes,
	})
	if err != nil {
		if isFinal(err) && !left {
			err = errors.Join(err, m.forgetStaged(r, at))
		}
		return err
	}
	m.mu.Lock()
	m.staged[r.id()] = at.staging
	m.mu.Unlock()
	return nil
}

// publish has the driver give the volume to the pod.
//
// Upstream: pkg/volume/csi/csi_mounter.go SetUpAt.
func (m *Manager) publish(ctx context.Context, conn *connection, can capabilities, r *Request, object *storagev1.CSIDriver, attachment map[string]string) error {
	at := m.paths(r)
	if err := makeDirs(filepath.Dir(at.target), at.record); err != nil {
		return err
	}
	attributes, secrets, err := m.context(ctx, r, object)
	if err != nil {
		return err
	}
	left := hasData(at.record)
	record := m.record(r)
	record.Volume = r.Volume
	if r.Block {
		record.ReadOnly = r.ReadOnly
		if _, err := os.Lstat(m.blockLink(string(r.Pod.UID), r.Name)); err == nil {
			left = true // its record is broken
		}
		if err := m.linkBlock(r, at); err != nil {
			return err
		}
	}
	if err := record.save(at.record); err != nil {
		return err
	}
	staging := ""
	if can.stage() && !r.ephemeral() {
		staging = at.staging
	}
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = conn.NodePublishVolume(limited, &csiapi.NodePublishVolumeRequest{
		VolumeId: r.Handle, PublishContext: attachment, StagingTargetPath: staging, TargetPath: at.target,
		VolumeCapability: can.capability(r), Readonly: r.ReadOnly, Secrets: secrets, VolumeContext: attributes,
	})
	switch {
	case err == nil && r.Block:
		return CheckDevice(at.target)
	case err == nil:
		return nil
	}
	// Only what certainly is not mounted is forgotten; a pod that has the volume goes on with it.
	if isFinal(err) && !left && !r.Remount {
		if r.Block {
			err = errors.Join(err, m.forgetPublished(string(r.Pod.UID), r.Name))
		} else {
			err = errors.Join(err, removeMount(at.target))
		}
	}
	return err
}

func makeDirs(dirs ...string) error {
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
	}
	return nil
}

// forgetStaged removes what tells of a volume that certainly is not staged.
func (m *Manager) forgetStaged(r *Request, at paths) error {
	if r.Block {
		return m.forgetBlock(r.Name)
	}
	return removeMount(at.staging)
}

func hasData(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, dataFile))
	return err == nil
}

// removeMount removes a directory that a volume was mounted on, and the data file beside it. While something is still
// mounted there it leaves everything as it is.
//
// Upstream: pkg/volume/csi/csi_mounter.go removeMountDir.
func removeMount(dir string) error {
	mounted, err := mountinfo.Mounted(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tell whether %s is mounted: %w", dir, err)
	}
	if mounted {
		return nil
	}
	unfinished, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "."+dataFile+"*")) // of a kubelet that was killed
	if err != nil {
		return err
	}
	record := filepath.Join(filepath.Dir(dir), dataFile)
	for _, path := range append(unfinished, dir, record, record+broken, filepath.Dir(dir)) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clean mount dir: %w", err)
		}
	}
	return nil
}
