package oci

import (
	"path"
	"strings"
)

// joinCgroup puts a container's cgroup below its parent, which must not lead out of the tree.
func joinCgroup(parent, id string) (string, error) {
	if strings.Contains("/"+parent+"/", "/../") || strings.ContainsRune(parent, 0) {
		return "", invalid("cgroup parent %q", parent)
	}
	return path.Join("/", parent, id), nil
}

// sliceName is the last component of a parent: systemd knows the rest by the dashes in it.
func sliceName(parent string) (string, error) {
	name := path.Base(parent)
	if !strings.HasSuffix(name, ".slice") || strings.ContainsAny(name, ":\x00") {
		return "", invalid("cgroup parent %q is no systemd slice", parent)
	}
	return name, nil
}

// ExpandSlice is the path of a slice: a-b.slice is a.slice/a-b.slice.
func ExpandSlice(slice string) string {
	name := strings.TrimSuffix(path.Base(slice), ".slice")
	if name == "-" {
		return "/"
	}
	expanded, prefix := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		expanded = path.Join(expanded, prefix+part+".slice")
		prefix += part + "-"
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
