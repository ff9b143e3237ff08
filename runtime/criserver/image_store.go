package criserver

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/measure"
)

// ImageStore is what the server wants of the image store.
type ImageStore interface {
	Pull(ctx context.Context, ref string, auth *runtimeapi.AuthConfig) (id string, err error)
	Image(ref string) (*images.Image, bool)
	List() []*images.Image
	Remove(ctx context.Context, ref string) error
	Usage(ctx context.Context) (bytes, inodes uint64, err error)
	Mount(ctx context.Context, key, imageID, dir string, owner *images.Owner) error
	CanMap(owner *images.Owner) error
	Unmount(key, dir string) error
	Adopt(keys []string) error
	SnapshotUsage(ctx context.Context, key string) (measure.Usage, error)
	Close() error
}
