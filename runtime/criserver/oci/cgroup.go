package oci

import (
	"path"
	"strings"

	"github.com/opencontainers/cgroups/systemd"
)

// CgroupsPath is the cgroup of a container below its pod's, in the form that runtimes expect.
func CgroupsPath(parent, id string, systemd bool) (string, error) {
	if systemd {
		slice := path.Base(parent) // systemd knows the rest by the dashes in it
		if !strings.HasSuffix(slice, ".slice") || strings.ContainsAny(slice, ":\x00") {
			return "", invalid("cgroup parent %q is no systemd slice", parent)
		}
		return slice + ":cri:" + id, nil
	}
	if strings.Contains("/"+parent+"/", "/../") || strings.ContainsRune(parent, 0) {
		return "", invalid("cgroup parent %q", parent)
	}
	return path.Join("/", parent, id), nil
}

// ExpandSlice is the path of a slice: a-b.slice is a.slice/a-b.slice.
func ExpandSlice(slice string) string {
	expanded, err := systemd.ExpandSlice(path.Base(slice))
	if err != nil {
		return path.Join("/", slice) // systemd makes none of that name
	}
	return expanded
}

// CgroupDir is the path of a container's cgroup below the cgroup file systems, by what
// CgroupsPath made for it.
func CgroupDir(cgroupsPath string) string {
	slice, rest, ok := strings.Cut(cgroupsPath, ":")
	if !ok {
		return cgroupsPath
	}
	prefix, id, _ := strings.Cut(rest, ":")
	return path.Join(ExpandSlice(slice), prefix+"-"+id+".scope")
}
