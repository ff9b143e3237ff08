package vm

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"minikubelet/e2e/stack"
)

// WriteInitramfs writes a cpio archive as the kernel wants it, with the directories that files are in. It is not
// compressed: to unpack that would take an emulated processor longer than to read it.
func WriteInitramfs(path string, files []stack.File) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	buffered := bufio.NewWriterSize(out, 1<<20)
	w := &cpioWriter{out: buffered, made: map[string]bool{"/": true}}
	for _, f := range files {
		w.parents(f.Path)
		switch {
		case f.Dir:
			w.entry(f.Path, 0o040000|f.Mode, nil)
			w.made[f.Path] = true
		case f.Link != "":
			w.entry(f.Path, 0o120777, []byte(f.Link))
		default:
			w.entry(f.Path, 0o100000|f.Mode, f.Data)
		}
	}
	w.entry("TRAILER!!!", 0, nil)
	if w.err == nil {
		w.err = buffered.Flush()
	}
	if w.err != nil {
		return fmt.Errorf("write initramfs %s: %w", path, w.err)
	}
	return out.Close()
}

// cpioWriter writes the "newc" format, of which the kernel's documentation (early-userspace/buffer-format) tells.
type cpioWriter struct {
	out   io.Writer
	err   error
	inode int
	size  int64
	made  map[string]bool // directories
}

func (w *cpioWriter) parents(path string) {
	if dir := filepath.Dir(path); !w.made[dir] {
		w.parents(dir)
		w.entry(dir, 0o040755, nil)
		w.made[dir] = true
	}
}

func (w *cpioWriter) entry(path string, mode int64, data []byte) {
	name := strings.TrimPrefix(path, "/")
	w.inode++
	// inode, mode, uid, gid, links, mtime, size, device twice, length of the name, checksum
	w.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", w.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0))
	w.write([]byte(name + "\x00"))
	w.align()
	w.write(data)
	w.align()
}

func (w *cpioWriter) align() { w.write(make([]byte, -w.size&3)) }

func (w *cpioWriter) write(data []byte) {
	if w.err == nil {
		_, w.err = w.out.Write(data)
		w.size += int64(len(data))
	}
}

// Program is a program of this machine at another path, and the shared libraries it needs at their own. Libraries are
// first looked for below roots.
func Program(path, from string, roots ...string) ([]stack.File, error) {
	data, err := os.ReadFile(from)
	if err != nil {
		return nil, err
	}
	files := []stack.File{{Path: path, Data: data, Mode: 0o755}}
	image, err := elf.Open(from)
	if err != nil {
		return nil, fmt.Errorf("read program %s: %w", from, err)
	}
	defer image.Close()
	if libraries, err := image.ImportedLibraries(); err != nil || len(libraries) == 0 {
		return files, err
	}
	ldd := exec.Command("ldd", from)
	var search []string
	for _, root := range roots {
		for _, dir := range []string{"usr/lib/x86_64-linux-gnu/systemd", "lib/x86_64-linux-gnu/systemd", "usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"} {
			search = append(search, filepath.Join(root, dir))
		}
	}
	ldd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(search, ":"))
	text, err := ldd.Output()
	if err != nil {
		return nil, fmt.Errorf("find the libraries of %s: %w", from, err)
	}
	// "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)" or "/lib64/ld-linux-x86-64.so.2 (0x...)"
	for word := range strings.FieldsSeq(string(text)) {
		if !strings.HasPrefix(word, "/") {
			continue
		}
		if data, err = os.ReadFile(word); err != nil {
			return nil, err
		}
		for _, root := range roots {
			word = strings.TrimPrefix(word, strings.TrimSuffix(root, "/"))
		}
		files = append(files, stack.File{Path: word, Data: data, Mode: 0o755})
	}
	return files, nil
}

// Modules finds kernel modules below a directory and those that they need. The paths come in the order to load them
// in; a module the kernel has built in has none.
func Modules(dir string, names ...string) ([]string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("find kernel modules: %w", err)
	}
	files := map[string]string{}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find kernel modules: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("find kernel modules: %w", err)
	}
	var out []string
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if seen[name] || name == "" || strings.Contains(strings.ReplaceAll(string(builtin), "-", "_"), "/"+name+".ko") {
			return nil
		}
		seen[name] = true
		path, ok := files[name]
		if !ok {
			return fmt.Errorf("find kernel module %s: %w", name, fs.ErrNotExist)
		}
		needs, err := moduleNeeds(path)
		if err != nil {
			return err
		}
		for _, need := range needs {
			if err := add(need); err != nil {
				return err
			}
		}
		out = append(out, path)
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

var errModule = errors.New("no section .modinfo")

// moduleNeeds reads a module's own account of what it needs.
func moduleNeeds(path string) ([]string, error) {
	image, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read kernel module %s: %w", path, err)
	}
	defer image.Close()
	section := image.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("read kernel module %s: %w", path, errModule)
	}
	data, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read kernel module %s: %w", path, err)
	}
	for field := range strings.SplitSeq(string(data), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}
