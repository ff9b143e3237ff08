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
	"time"
)

// dataLink leads to the directory with the files as they are now.
const dataLink = "..data"

// writeAtomic makes a volume hold these files and no others. The files are in a directory that the link ..data points to, and
// each top-level name is a link through ..data. Replacing that one link replaces all files at once:
//
//	token -> ..data/token
//	..data -> ..2026_01_02_...
//
// The old directory is removed. Containers that have files of it open keep them until they close them. Paths on which containers
// mount something are made as directories beside the links, unless they are files of the volume, so that they stay when the link
// is replaced. A volume with a group has the setgid bit, so all that is made in it is the group's.
//
// Upstream: pkg/volume/util/atomic_writer.go AtomicWriter.Write.
func writeAtomic(dir string, files map[string]file, group *int64, mountpoints ...string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	current, err := root.Readlink(dataLink)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the volume's %s link: %w", dataLink, err)
	}
	if current == "" || !holds(root, current, files, group) {
		if current, err = replaceData(root, files, group); err != nil {
			return err
		}
	}
	tops, beside := map[string]file{}, map[string]bool{}
	for at, f := range files {
		tops[firstName(at)] = f
	}
	for _, at := range mountpoints {
		_, isFile := files[at]
		_, inFile := files[firstName(at)]
		beside[firstName(at)] = beside[firstName(at)] || !isFile && !inFile
	}
	if err := linkNames(root, tops, beside); err != nil {
		return err
	}
	if err := removeOthers(root, current, tops, beside); err != nil {
		return err
	}
	for _, at := range mountpoints {
		if info, err := root.Stat(at); !beside[firstName(at)] || err == nil && info.IsDir() {
			continue
		}
		if err := root.MkdirAll(at, 0o755); err != nil {
			return fmt.Errorf("make a directory to mount on: %w", err)
		}
	}
	return nil
}

// firstName is the first name of a path.
func firstName(at string) string {
	name, _, _ := strings.Cut(at, "/")
	return name
}

// replaceData writes the files into a new directory, makes ..data lead there, and returns the directory's name.
func replaceData(root *os.Root, files map[string]file, group *int64) (string, error) {
	next, err := os.MkdirTemp(root.Name(), time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return "", err
	}
	name := filepath.Base(next)
	access := fs.FileMode(0o755)
	if group != nil { // the volume may be one that had no setgid bit
		err, access = root.Lchown(name, -1, int(*group)), access|fs.ModeSetgid
	}
	if err == nil {
		err = root.Chmod(name, access)
	}
	for at, f := range files {
		if err == nil {
			err = writeFile(root, path.Join(name, at), f, group)
		}
	}
	if err == nil {
		_ = root.Remove(dataLink + "_tmp") // of a kubelet that was killed here
		err = root.Symlink(name, dataLink+"_tmp")
	}
	if err == nil {
		err = root.Rename(dataLink+"_tmp", dataLink)
	}
	if err != nil {
		return "", errors.Join(err, root.RemoveAll(name))
	}
	return name, nil
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

// own gives a path to the file's owner.
func (f file) own(root *os.Root, at string) error {
	if f.uid == nil {
		return nil
	}
	return root.Lchown(at, int(*f.uid), -1)
}

func writeFile(root *os.Root, at string, f file, group *int64) error {
	if err := root.MkdirAll(path.Dir(at), 0o755); err != nil {
		return err
	}
	if err := root.WriteFile(at, f.data, 0o600); err != nil {
		return err
	}
	if err := f.own(root, at); err != nil {
		return err
	}
	return root.Chmod(at, mode(f, group)) // the umask took bits from the mode when the file was made
}

// linkNames makes a link for each top-level name but those of directories that are beside the links. It is its file's owner's.
func linkNames(root *os.Root, tops map[string]file, beside map[string]bool) error {
	for name, f := range tops {
		want := dataLink + "/" + name
		if have, err := root.Readlink(name); beside[name] || err == nil && have == want {
			continue
		}
		if err := root.RemoveAll(name); err != nil {
			return err
		}
		if err := root.Symlink(want, name); err != nil {
			return err
		}
		if err := f.own(root, name); err != nil {
			return err
		}
	}
	return nil
}

// removeOthers removes the directories of earlier versions and the links to files that are no more. Directories with other names stay:
// they were made for subPaths, and containers may have them.
func removeOthers(root *os.Root, current string, tops map[string]file, beside map[string]bool) error {
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
		name := e.Name()
		_, top := tops[name]
		switch {
		case name == dataLink, name == current, top, e.IsDir() && (beside[name] || !strings.HasPrefix(name, "..")):
		default:
			if err := root.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}
