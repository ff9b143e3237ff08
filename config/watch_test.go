package config

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// fileSource runs the file source of a path that is looked at on changes only.
type fileSource struct {
	*testing.T
	config *Config
	ctx    context.Context
}

func newFileSource(t *testing.T, path string) *fileSource {
	t.Helper()
	c, err := New(Options{NodeName: "n", ManifestPath: path, FileCheckFrequency: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	ended := make(chan struct{})
	go func() { c.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return &fileSource{t, c, ctx}
}

// want waits for the next changes: operations and pods.
func (f *fileSource) want(want ...string) {
	f.Helper()
	for _, w := range want {
		if got := f.next(1); got[0] != w {
			f.Errorf("the change is %q, want %q", got[0], w)
		}
	}
}

// wantAll is want in any order.
func (f *fileSource) wantAll(want ...string) {
	f.Helper()
	if got := f.next(len(want)); !slices.Equal(got, want) {
		f.Errorf("the changes are %q, want %q", got, want)
	}
}

// next waits for changes of n pods, and sorts them. A change without pods counts.
func (f *fileSource) next(n int) (lines []string) {
	f.Helper()
	for len(lines) < n {
		select {
		case u := <-f.config.Updates():
			for _, p := range u.Pods {
				lines = append(lines, u.Op.String()+" "+p.Name+" "+p.Spec.Containers[0].Image)
			}
			if len(u.Pods) == 0 {
				lines = append(lines, u.Op.String())
			}
		case <-f.ctx.Done():
			f.Fatalf("no change after %q", lines)
		}
	}
	slices.Sort(lines)
	return lines
}

func (f *fileSource) write(path, name, image string) {
	f.Helper()
	if err := os.WriteFile(path, fmt.Appendf(nil, manifest, name, image), 0o600); err != nil {
		f.Fatal(err)
	}
}

func (f *fileSource) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// TestPutBack: a manifest that goes and is there again is a pod that ends and starts again, however short the time between.
func TestPutBack(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	for _, source := range []string{dir, path} {
		f := newFileSource(t, source)
		f.want("ADD")
		f.write(path, "a", "i:1")
		f.want("ADD a-n i:1")
		f.must(os.Remove(path))
		f.write(path, "a", "i:1")
		f.want("REMOVE a-n i:1", "ADD a-n i:1")
		// Moved out of the directory and back.
		away := filepath.Join(t.TempDir(), "a")
		f.must(os.Rename(path, away))
		f.must(os.Rename(away, path))
		f.want("REMOVE a-n i:1", "ADD a-n i:1")
		f.must(os.Remove(path))
		f.want("REMOVE a-n i:1")
	}
}

// TestEditors: whatever way an editor saves a file, it never looks like a file that went.
func TestEditors(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	f := newFileSource(t, dir)
	f.want("ADD")
	f.write(path, "a", "i:1")
	f.want("ADD a-n i:1")
	// With the same content each save changes nothing; were one taken for a removal, its change would come first.
	for name, save := range map[string]func(image string){
		"rename over": func(image string) { f.write(path+".tmp", "a", image); f.must(os.Rename(path+".tmp", path)) },
		"backup": func(image string) {
			f.must(os.Rename(path, path+"~"))
			f.write(path, "a", image)
			f.must(os.Remove(path + "~"))
		},
	} {
		save("i:1")
		other := filepath.Join(dir, "b.yaml")
		f.write(other, "b", name)
		f.want("ADD b-n " + name)
		f.must(os.Remove(other))
		f.want("REMOVE b-n " + name)
		save("i:2")
		f.want("REMOVE a-n i:1", "ADD a-n i:2")
		save("i:1")
		f.want("REMOVE a-n i:2", "ADD a-n i:1")
	}
}

// TestDirectoryComes: a directory that is made after the start, with those above it, is watched as one that was there.
func TestDirectoryComes(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "etc", "kubernetes", "manifests")
	f := newFileSource(t, dir)
	f.want("ADD")
	f.must(os.MkdirAll(dir, 0o700))
	f.write(filepath.Join(dir, "a.yaml"), "a", "i:1")
	f.want("ADD a-n i:1")
	f.write(filepath.Join(dir, "b.yaml"), "b", "i:1")
	f.want("ADD b-n i:1")

	// Replaced by another, as a whole.
	next := filepath.Join(top, "next")
	f.must(os.Mkdir(next, 0o700))
	f.write(filepath.Join(next, "c.yaml"), "c", "i:1")
	f.must(os.Rename(dir, filepath.Join(top, "before")))
	f.wantAll("REMOVE a-n i:1", "REMOVE b-n i:1")
	f.must(os.Rename(next, dir))
	f.want("ADD c-n i:1")
	f.write(filepath.Join(dir, "d.yaml"), "d", "i:1")
	f.want("ADD d-n i:1")
	f.write(filepath.Join(top, "before", "e.yaml"), "e", "i:1") // in a directory that no watch is on any more

	// Gone, with the one above it, and made again.
	f.must(os.RemoveAll(filepath.Dir(dir)))
	f.wantAll("REMOVE c-n i:1", "REMOVE d-n i:1")
	f.must(os.MkdirAll(dir, 0o700))
	f.write(filepath.Join(dir, "f.yaml"), "f", "i:1")
	f.want("ADD f-n i:1")
	f.must(os.Remove(filepath.Join(dir, "f.yaml")))
	f.want("REMOVE f-n i:1")
}

// TestDirectoryLinked: the directory may be a link, which comes to lead elsewhere.
func TestDirectoryLinked(t *testing.T) {
	top := t.TempDir()
	first, second, link := filepath.Join(top, "1"), filepath.Join(top, "2"), filepath.Join(top, "link")
	f := newFileSource(t, link)
	f.want("ADD")
	f.must(os.Mkdir(first, 0o700))
	f.must(os.Mkdir(second, 0o700))
	f.write(filepath.Join(first, "a.yaml"), "a", "i:1")
	f.must(os.Symlink(first, link))
	f.want("ADD a-n i:1")
	f.must(os.Symlink(second, link+".tmp"))
	f.must(os.Rename(link+".tmp", link))
	f.want("REMOVE a-n i:1")
	f.write(filepath.Join(second, "b.yaml"), "b", "i:1")
	f.want("ADD b-n i:1")
}
