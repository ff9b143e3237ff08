package oci

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/user"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxUserFile bounds /etc/passwd and /etc/group of an image.
const maxUserFile = 4 << 20

// maxGroups is the kernel's limit (NGROUPS_MAX).
const maxGroups = 65536

// User is who runs a container's process.
type User struct {
	UID, GID uint32
	Groups   []uint32
}

// UserFiles are an image's /etc/passwd and /etc/group, as far as they are there.
type UserFiles struct{ Passwd, Group []byte }

// ReadUserFiles reads them from a root file system, following links inside it only.
func ReadUserFiles(rootfs string) (UserFiles, error) {
	passwd, err := readInRoot(rootfs, "etc/passwd")
	if err != nil {
		return UserFiles{}, err
	}
	group, err := readInRoot(rootfs, "etc/group")
	return UserFiles{Passwd: passwd, Group: group}, err
}

// readInRoot reads a file of a container that does not run yet and cannot change it meanwhile.
func readInRoot(rootfs, name string) ([]byte, error) {
	path, err := securejoin.SecureJoin(rootfs, name)
	if err != nil {
		return nil, fmt.Errorf("find /%s of image: %w", name, err)
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() { // reading a FIFO would not end
		return nil, invalid("/%s of the image is no regular file", name)
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("open /%s of image: %w", name, err)
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxUserFile))
}

// ResolveUser finds out who the container's user is: the one it asks for, or the image's.
func ResolveUser(security *runtimeapi.LinuxContainerSecurityContext, imageUser string, files UserFiles) (User, error) {
	who := imageUser
	switch {
	case security.GetRunAsUser() != nil:
		who = strconv.FormatInt(security.GetRunAsUser().GetValue(), 10)
	case security.GetRunAsUsername() != "":
		who = security.GetRunAsUsername()
	case security.GetRunAsGroup() != nil:
		return User{}, invalid("a group is asked for but no user")
	}
	if group := security.GetRunAsGroup(); group != nil {
		name, _, _ := strings.Cut(who, ":")
		who = name + ":" + strconv.FormatInt(group.GetValue(), 10)
	}
	found, err := lookup(who, files)
	if err != nil {
		return User{}, err
	}
	groups := append([]int{found.Gid}, found.Sgids...)
	if policy := security.GetSupplementalGroupsPolicy(); runtimeapi.SupplementalGroupsPolicy_name[int32(policy)] == "" {
		return User{}, invalid("unknown policy %d for supplemental groups", policy)
	} else if policy == runtimeapi.SupplementalGroupsPolicy_Strict {
		groups = groups[:1]
	} else if name, _, hasGroup := strings.Cut(who, ":"); hasGroup {
		// The groups that the image gives the user count although its primary one does not.
		alone, err := lookup(name, files)
		if err != nil {
			return User{}, err
		}
		groups = append(groups, alone.Sgids...)
	}
	for _, group := range security.GetSupplementalGroups() {
		if group < 0 || group > math.MaxInt32 {
			return User{}, invalid("supplemental group %d", group)
		}
		groups = append(groups, int(group))
	}
	if len(groups) > maxGroups {
		return User{}, invalid("%d supplemental groups are too many", len(groups))
	}
	result := User{UID: uint32(found.Uid), GID: uint32(found.Gid)}
	for _, group := range groups {
		if !slices.Contains(result.Groups, uint32(group)) {
			result.Groups = append(result.Groups, uint32(group))
		}
	}
	return result, nil
}

// lookup finds a user such as 0, nobody, or 1000:users. Numbers need not be in the files.
func lookup(who string, files UserFiles) (*user.ExecUser, error) {
	found, err := user.GetExecUser(who, nil, bytes.NewReader(files.Passwd), bytes.NewReader(files.Group))
	if err != nil {
		return nil, invalid("find user %q in the image: %w", who, err)
	}
	return found, nil
}

// Status is the user in the CRI's terms.
func (u User) Status() *runtimeapi.ContainerUser {
	linux := &runtimeapi.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
	for _, group := range u.Groups {
		linux.SupplementalGroups = append(linux.SupplementalGroups, int64(group))
	}
	return &runtimeapi.ContainerUser{Linux: linux}
}
