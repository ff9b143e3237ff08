package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// dataLink leads to the directory with the files as they are now.
const dataLink = "..data"

// writeAtomic makes a volume hold these files and no others. The files are in a directory that the link ..data points to, and
// each top-level name is a link through ..data. Replacing that one link replaces all files at once:
//
//	token -> ..data/token
//	..data -> ..2026_01_02_...
//
// The old directory is removed. Containers that have files of it open keep them until they close them.
//
// Upstream: pkg/volume/util/atomic_writer.go AtomicWriter.Write.
func writeAtomic(dir string, files map[string]file, group *int64) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	current, err := root.Readlink(dataLink)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the volume's %s link: %w", dataLink, err)
	}
	if current != "" && holds(root, current, files, group) {
		return linkNames(root, files)
	}
	next, err := os.MkdirTemp(dir, "..data_")
	if err != nil {
		return err
	}
	name := filepath.Base(next)
	undo := func(err error) error { return errors.Join(err, root.RemoveAll(name)) }
	if err := root.Chmod(name, 0o755); err != nil {
		return undo(err)
	}
	for at, f := range files {
		if err := writeFile(root, path.Join(name, at), f, group); err != nil {
			return undo(err)
		}
	}
	_ = root.Remove(dataLink + "_tmp") // of a kubelet that was killed here
	if err := root.Symlink(name, dataLink+"_tmp"); err != nil {
		return undo(err)
	}
	if err := root.Rename(dataLink+"_tmp", dataLink); err != nil {
		return undo(err)
	}
	if err := linkNames(root, files); err != nil {
		return err
	}
	return removeOthers(root, name, files)
}

// holds tells whether a directory has exactly these files, with their modes and owners.
func holds(root *os.Root, name string, files map[string]file, group *int64) bool {
	seen := 0
	err := fs.WalkDir(root.FS(), name, func(p string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		seen++
		f, want := files[strings.TrimPrefix(p, name+"/")]
		data, err := root.ReadFile(p)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if !want || !bytes.Equal(data, f.data) || info.Mode().Perm() != mode(f, group) || !ownedBy(info, f.uid, group) {
			return fs.ErrExist
		}
		return nil
	})
	return err == nil && seen == len(files)
}

// ownedBy tells whether a file has the owner and the group that writeFile gives it; nil for the kubelet's own.
func ownedBy(info fs.FileInfo, uid, gid *int64) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	is := func(have uint32, want *int64, own int) bool {
		return want == nil && int(have) == own || want != nil && int64(have) == *want
	}
	return ok && is(stat.Uid, uid, os.Geteuid()) && is(stat.Gid, gid, os.Getegid())
}

// mode is the mode of a file. When the volume has an fsGroup, the group can read the file.
func mode(f file, group *int64) fs.FileMode {
	m := fs.FileMode(f.mode) & fs.ModePerm
	if group != nil {
		m |= 0o440
	}
	return m
}

func writeFile(root *os.Root, at string, f file, group *int64) error {
	if err := root.MkdirAll(path.Dir(at), 0o755); err != nil {
		return err
	}
	if err := root.WriteFile(at, f.data, 0o600); err != nil {
		return err
	}
	uid, gid := -1, -1
	if f.uid != nil {
		uid = int(*f.uid)
	}
	if group != nil {
		gid = int(*group)
	}
	if uid >= 0 || gid >= 0 {
		if err := root.Lchown(at, uid, gid); err != nil {
			return err
		}
	}
	return root.Chmod(at, mode(f, group)) // the umask took bits from the mode when the file was made
}

// linkNames makes a link for each top-level name.
func linkNames(root *os.Root, files map[string]file) error {
	for at := range files {
		top, _, _ := strings.Cut(at, "/")
		want := dataLink + "/" + top
		if have, err := root.Readlink(top); err == nil && have == want {
			continue
		}
		if err := root.RemoveAll(top); err != nil {
			return err
		}
		if err := root.Symlink(want, top); err != nil {
			return err
		}
	}
	return nil
}

// removeOthers removes the directories of earlier versions and the links to files that are no more.
func removeOthers(root *os.Root, current string, files map[string]file) error {
	keep := map[string]bool{dataLink: true, current: true}
	for at := range files {
		top, _, _ := strings.Cut(at, "/")
		keep[top] = true
	}
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			if err := root.RemoveAll(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}
