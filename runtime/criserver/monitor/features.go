package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
)

// Features are what an OCI runtime says it can do.
type Features struct {
	RecursiveReadOnly bool // mounts, with what is mounted below them
	MappedMounts      bool // with the IDs of a user namespace
}

// Features asks the runtime. One that cannot tell can do none of it.
func (r *Runtime) Features(ctx context.Context) (Features, error) {
	out, err := r.run(ctx, nil, "features")
	if err != nil {
		return Features{}, err
	}
	f, err := parseFeatures(out)
	if err != nil {
		return f, fmt.Errorf("read features of %s: %w", r.Name(), err)
	}
	return f, nil
}

func parseFeatures(out []byte) (Features, error) {
	var said features.Features
	if err := json.Unmarshal(out, &said); err != nil {
		return Features{}, err
	}
	f := Features{RecursiveReadOnly: slices.Contains(said.MountOptions, "rro")}
	if linux := said.Linux; linux != nil && slices.Contains(linux.Namespaces, "user") && linux.MountExtensions != nil && linux.MountExtensions.IDMap != nil {
		f.MappedMounts = linux.MountExtensions.IDMap.Enabled != nil && *linux.MountExtensions.IDMap.Enabled
	}
	return f, nil
}

// CanSetMountAttributes tells whether the kernel can change mounts together with those below them.
func CanSetMountAttributes() bool {
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	return !errors.Is(err, unix.ENOSYS)
}
