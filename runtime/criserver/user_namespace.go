package criserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/namespaces"
	"minikubelet/runtime/criserver/oci"
)

// maxIDRanges is how many ranges the kernel takes for one namespace.
const maxIDRanges = 340

// inUserNamespace tells whether a pod asks for a user namespace of its own. The CRI's zero value
// means the pod's too, but only in a message that is there.
func inUserNamespace(options *runtimeapi.NamespaceOption) bool {
	return options.GetUsernsOptions() != nil && options.GetUsernsOptions().GetMode() == runtimeapi.NamespaceMode_POD
}

// validateUserNamespace refuses a user namespace that cannot be.
func (s *Server) validateUserNamespace(handler string, options *runtimeapi.NamespaceOption) error {
	users := options.GetUsernsOptions()
	if mode := users.GetMode(); users != nil && mode != runtimeapi.NamespaceMode_POD && mode != runtimeapi.NamespaceMode_NODE {
		return fmt.Errorf("%w: user namespace of mode %s", oci.ErrInvalid, mode)
	}
	if !inUserNamespace(options) {
		return nil
	}
	if reason := s.runtimes[handler].NoUserNamespaces; reason != nil {
		return fmt.Errorf("run pod in a user namespace: %w: %w", errors.ErrUnsupported, reason)
	}
	for what, mode := range map[string]runtimeapi.NamespaceMode{"network": options.GetNetwork(), "IPC": options.GetIpc(), "PID": options.GetPid()} {
		if mode == runtimeapi.NamespaceMode_NODE {
			return fmt.Errorf("%w: a pod in a user namespace cannot use the node's %s namespace", oci.ErrInvalid, what)
		}
	}
	ids, err := idsOf(users)
	if err != nil {
		return err
	}
	if _, _, err := ids.ToHost(0, 0); err != nil {
		return fmt.Errorf("%w: %w", oci.ErrInvalid, err)
	}
	return nil
}

// idsOf reads the mappings of a user namespace.
func idsOf(users *runtimeapi.UserNamespace) (*user.IdentityMapping, error) {
	uids, uidErr := idRanges(users.GetUids())
	gids, gidErr := idRanges(users.GetGids())
	if err := errors.Join(uidErr, gidErr); err != nil {
		return nil, fmt.Errorf("user and group IDs: %w", err)
	}
	return &user.IdentityMapping{UIDMaps: uids, GIDMaps: gids}, nil
}

func idRanges(mappings []*runtimeapi.IDMapping) ([]user.IDMap, error) {
	if len(mappings) == 0 || len(mappings) > maxIDRanges {
		return nil, fmt.Errorf("%w: %d ranges for a user namespace", oci.ErrInvalid, len(mappings))
	}
	ranges := make([]user.IDMap, len(mappings))
	for i, m := range mappings {
		host, container, length := uint64(m.GetHostId()), uint64(m.GetContainerId()), uint64(m.GetLength())
		if length == 0 || host+length > math.MaxUint32 || container+length > math.MaxUint32 {
			return nil, fmt.Errorf("%w: %d IDs from %d on, as %d, for a user namespace", oci.ErrInvalid, length, host, container)
		}
		// The container's root would be the machine's.
		if host == 0 {
			return nil, fmt.Errorf("%w: the machine's root is not for a user namespace", oci.ErrInvalid)
		}
		ranges[i] = user.IDMap{ID: int64(container), ParentID: int64(host), Count: int64(length)}
	}
	return ranges, nil
}

// ids are those of the pod's user namespace; nil without one. They were validated.
func (sb *sandbox) ids() *user.IdentityMapping {
	if !inUserNamespace(sb.options()) {
		return nil
	}
	ids, _ := idsOf(sb.options().GetUsernsOptions())
	return ids
}

// owner is the user namespace that the files of the pod's images belong to, if it has one.
func (sb *sandbox) owner() *images.Owner {
	ids := sb.ids()
	if ids == nil {
		return nil
	}
	return &images.Owner{UserNS: namespaces.Path(sb.namespaceDir(), namespaces.User), OnMachine: ids.ToHost}
}

// root are the machine's IDs of the root of the pod's user namespace, if it has one.
func (sb *sandbox) root() (uid, gid int, mapped bool) {
	ids := sb.ids()
	if ids == nil {
		return 0, 0, false
	}
	uid, gid, err := ids.ToHost(0, 0)
	return uid, gid, err == nil
}

// giveToPod makes a path the property of the root of the pod's user namespace, if it has one.
func (sb *sandbox) giveToPod(path string) error {
	uid, gid, mapped := sb.root()
	if !mapped {
		return nil
	}
	if err := os.Lchown(path, uid, gid); err != nil {
		return fmt.Errorf("give to the pod's user namespace: %w", err)
	}
	return nil
}

// letPodPass lets the root of the pod's user namespace, and no other user, through a directory of
// this server's: the OCI runtime looks for the root file system with that user's rights.
func (sb *sandbox) letPodPass(dir string) error {
	_, gid, mapped := sb.root()
	if !mapped {
		return nil
	}
	if err := errors.Join(os.Lchown(dir, 0, gid), os.Chmod(dir, 0o710)); err != nil {
		return fmt.Errorf("let the pod's user namespace pass: %w", err)
	}
	return nil
}

// mappings are those of the pod's user namespace in an OCI specification.
func (sb *sandbox) mappings() (uids, gids []specs.LinuxIDMapping) {
	if !inUserNamespace(sb.options()) {
		return nil, nil
	}
	users := sb.options().GetUsernsOptions()
	return oci.IDMappings(users.GetUids()), oci.IDMappings(users.GetGids())
}

// findFeatures asks runtimes and kernel what they can do. The kernel's user namespaces are tried, since many parts of it have
// to play together.
func (s *Server) findFeatures(ctx context.Context) {
	notHere := s.tryUserNamespace()
	if notHere != nil {
		klog.FromContext(ctx).Info("Pods cannot have user namespaces on this machine", "reason", notHere)
	}
	// Whether the kernel changes mounts together with those below them.
	canSet := !errors.Is(unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}), unix.ENOSYS)
	for name := range s.options.Runtimes {
		runtime := s.runtimes[name]
		if err := runtime.ReadFeatures(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Could not ask an OCI runtime what it can do", "runtime", name)
		}
		runtime.RecursiveReadOnly = runtime.RecursiveReadOnly && canSet
		runtime.NoUserNamespaces = cmp.Or(notHere, runtime.NoUserNamespaces)
	}
}

// tryUserNamespace makes a user namespace and mounts a file system as it sees it.
func (s *Server) tryUserNamespace() error {
	dir := s.state("tmp", "probe")
	one := []user.IDMap{{ID: 0, ParentID: 65536, Count: 65536}}
	ids := &user.IdentityMapping{UIDMaps: one, GIDMaps: one}
	if err := namespaces.Unpin(dir); err != nil { // of a server that was killed
		return err
	}
	err := namespaces.Pin(namespaces.Options{Dir: dir, Kinds: []string{namespaces.User}, Users: ids})
	if err == nil {
		err = s.images.CanMap(&images.Owner{UserNS: filepath.Join(dir, namespaces.User), OnMachine: ids.ToHost})
	}
	return errors.Join(err, namespaces.Unpin(dir))
}
