package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// records remembers on disk with whose credentials images were pulled, in upstream's format: pulling/ has a file for each
// image while it is pulled, pulled/ one for each that was. An image with a file there was not put on the node by its
// administrator.
//
// Upstream: pkg/kubelet/images/pullmanager/image_pull_manager.go, fs_pullrecords.go
type records struct {
	dir string

	mu      sync.Mutex
	pulling map[string]int // pulls in flight per image
}

func newRecords(dir string) *records { return &records{dir: dir, pulling: map[string]int{}} }

// begin records that an image is being pulled, before it is.
func (r *records) begin(image string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pulling[image] == 0 {
		if err := r.write("pulling", image, &kubeletconfig.ImagePullIntent{TypeMeta: typeMeta("ImagePullIntent"), Image: image}); err != nil {
			return err
		}
	}
	r.pulling[image]++
	return nil
}

// end records how a pull ended. used is nil for a pull without credentials, which every pod could do.
func (r *records) end(ctx context.Context, image string, result pullResult, used *Credential) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if result.err == nil {
		credentials := &kubeletconfig.ImagePullCredentials{NodePodsAccessible: true}
		if used != nil {
			credentials = &used.Source
		}
		name, err := trim(image)
		if err == nil {
			err = r.add(result.ref, name, credentials)
		}
		if err != nil {
			// The file in pulling/ stays and keeps the image from counting as the administrator's.
			klog.FromContext(ctx).Error(err, "Failed to write an image pull record", "image", image)
			return
		}
	}
	if r.pulling[image]--; r.pulling[image] > 0 {
		return
	}
	delete(r.pulling, image)
	if err := os.Remove(r.file("pulling", image)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "Failed to remove an image pull record", "image", image)
	}
}

// add merges credentials into the record of an image. Callers hold mu.
func (r *records) add(imageRef, name string, more *kubeletconfig.ImagePullCredentials) error {
	record, err := r.read(imageRef)
	if err != nil || record == nil {
		// One that cannot be read is replaced.
		record = &kubeletconfig.ImagePulledRecord{TypeMeta: typeMeta("ImagePulledRecord"), ImageRef: imageRef}
	}
	if record.CredentialMapping == nil {
		record.CredentialMapping = map[string]kubeletconfig.ImagePullCredentials{}
	}
	merged, known := record.CredentialMapping[name]
	switch {
	case known && merged.NodePodsAccessible:
		return nil
	case more.NodePodsAccessible:
		merged = *more
	default:
		for _, account := range more.KubernetesServiceAccounts {
			if slices.Contains(merged.KubernetesServiceAccounts, account) {
				return nil
			}
			merged.KubernetesServiceAccounts = append(merged.KubernetesServiceAccounts, account)
		}
		for _, secret := range more.KubernetesSecrets {
			if slices.Contains(merged.KubernetesSecrets, secret) {
				return nil
			}
			merged.KubernetesSecrets = slices.DeleteFunc(merged.KubernetesSecrets, func(s kubeletconfig.ImagePullSecret) bool { return sameSecret(s, secret) })
			merged.KubernetesSecrets = append(merged.KubernetesSecrets, secret)
		}
	}
	record.CredentialMapping[name] = merged
	record.LastUpdatedTime = metav1.Now()
	return r.write("pulled", imageRef, record)
}

// prune forgets images that the runtime no longer has.
func (r *records) prune(ctx context.Context, images []*runtimeapi.Image, listedAt time.Time) {
	present := map[string]bool{}
	for _, image := range images {
		present[filepath.Base(r.file("pulled", image.Id))] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	entries, err := os.ReadDir(filepath.Join(r.dir, "pulled"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "Failed to read the image pull records")
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || present[entry.Name()] || !info.ModTime().Before(listedAt) {
			continue
		}
		if err := os.Remove(filepath.Join(r.dir, "pulled", entry.Name())); err != nil {
			klog.FromContext(ctx).Error(err, "Failed to remove an image pull record")
		}
	}
}

// read returns the record of an image, nil if there is none. Callers hold mu.
func (r *records) read(imageRef string) (*kubeletconfig.ImagePulledRecord, error) {
	data, err := os.ReadFile(r.file("pulled", imageRef))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read image pull record: %w", err)
	}
	record := &kubeletconfig.ImagePulledRecord{}
	if err := json.Unmarshal(data, record); err != nil {
		return nil, fmt.Errorf("decode image pull record: %w", err)
	}
	if record.ImageRef != imageRef {
		return nil, fmt.Errorf("image pull record of %q is about %q", imageRef, record.ImageRef)
	}
	return record, nil
}

// file is named after a hash: references have slashes.
func (r *records) file(sub, name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(r.dir, sub, "sha256-"+hex.EncodeToString(sum[:]))
}

// write replaces a file as a whole.
func (r *records) write(sub, name string, object any) error {
	data, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("encode image pull record: %w", err)
	}
	target := r.file(sub, name)
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return fmt.Errorf("write image pull record: %w", err)
	}
	// Temporary files stand apart: all that is in the directory of a target is read as a record.
	if err := renameio.WriteFile(target, data, 0o600, renameio.WithTempDir(r.dir), renameio.WithStaticPermissions(0o600)); err != nil {
		return fmt.Errorf("write image pull record: %w", err)
	}
	return nil
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{Kind: kind, APIVersion: kubeletconfig.SchemeGroupVersion.String()}
}
