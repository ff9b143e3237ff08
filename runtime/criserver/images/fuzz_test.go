package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
)

// program turns bytes into a tar of entries that are likely to get in each other's way: mutated tars would hardly get
// past the checksums of their headers.
func program(data []byte, outside string) []byte {
	pieces := []string{"a", "b", "c", "..", ".", "", ".wh.a", ".wh.b", ".wh..wh..opq", ".wh.", ".wh..wh.x", outside, "../a"}
	targets := append(pieces, "../../../../../.."+outside, "/", outside+"/victim", "a/b", "b/c", "../b")
	types := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo, tar.TypeDir, tar.TypeReg, 'Q'}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for ; len(data) >= 5; data = data[5:] {
		name := pieces[int(data[1])%len(pieces)]
		for i := range int(data[2]) % 3 {
			name += "/" + pieces[int(data[3]>>(4*i))%len(pieces)]
		}
		h := &tar.Header{Typeflag: types[int(data[0])%len(types)], Name: name, Mode: int64(data[4]) << 4, Uid: int(data[4]),
			Linkname: targets[int(data[3])%len(targets)], Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": outside, "SCHILY.xattr.user.x": "y"}}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(data[4])
			h.Name = strings.TrimRight(h.Name, "/")
		}
		if w.WriteHeader(h) == nil {
			_, _ = w.Write(make([]byte, h.Size))
		}
	}
	_ = w.Close()
	return b.Bytes()
}

// FuzzUnpack checks that no layer has an effect outside its directory, nor attributes that mean something to overlayfs
// other than that a directory is opaque. The first byte says whether the rest is a tar or a program for one.
func FuzzUnpack(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: layers have owners and devices")
	}
	f.Add([]byte("\x01\x02\x0b\x00\x0f\x00\x00\x0b\x01\x00\x55"))             // a link out, then something through it
	f.Add([]byte("\x01\x01\x00\x00\x00\x77\x00\x00\x01\x06\x10"))             // a directory and a whiteout in it
	f.Add([]byte("\x01\x00\x00\x00\x00\x77\x03\x01\x00\x00\x10\x00\x00aaaa")) // a hard link
	f.Add(append([]byte{0}, program([]byte("\x00\x00\x00\x00\x10\x02\x01\x00\x01\x10\x04\x02\x00\x00\x10"), "/tmp")...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 || len(data) > 64<<10 {
			return
		}
		base := t.TempDir()
		outside, dir := filepath.Join(base, "outside"), filepath.Join(base, "fs")
		victim := filepath.Join(outside, "victim")
		if err := os.Mkdir(outside, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := fingerprint(t, outside)
		content := data[1:]
		if data[0]%2 == 1 {
			content = program(content, outside)
		}
		diffID, _, _ := v1.SHA256(bytes.NewReader(content))
		s := &Store{options: Options{Root: os.TempDir(), Limits: Limits{UnpackedBytes: 4 << 20, LayerEntries: 2000}.withDefaults()}}
		_, implied, err := s.unpackLayer(t.Context(), bytes.NewReader(content), dir, diffID, s.newBudget(), false)
		if err == nil {
			err = s.inheritAll(dir, implied, nil)
		}
		if err != nil {
			t.Logf("refused: %v", err)
		} else {
			checkLayer(t, dir)
		}
		if after := fingerprint(t, outside); after != before {
			t.Fatalf("outside was %s and is %s", before, after)
		}
	})
}

// fingerprint shows any change of the directory and the file in it.
func fingerprint(t *testing.T, dir string) string {
	var all []any
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var stat unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &stat)
		}
		stat.Atim = unix.Timespec{}
		list := make([]byte, 1000)
		n, _ := unix.Llistxattr(path, list)
		all = append(all, path, stat, string(list[:max(n, 0)]))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func checkLayer(t *testing.T, dir string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); strings.HasPrefix(name, ".wh.") {
			t.Errorf("whiteout %s was not translated", path)
		}
		list := make([]byte, 4096)
		n, err := unix.Llistxattr(path, list)
		if err != nil {
			return err
		}
		for name := range strings.SplitSeq(string(list[:n]), "\x00") {
			if strings.HasPrefix(name, "trusted.") && (name != opaqueXattr || !d.IsDir()) {
				t.Errorf("%s has %s", path, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzImport checks that no archive stops the store, nor makes an image that cannot be used.
func FuzzImport(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: layers have owners and devices")
	}
	layer := program([]byte("\x00\x00\x00\x00\x10"), "/tmp")
	diffID, _, _ := v1.SHA256(bytes.NewReader(layer))
	config := `{"rootfs":{"diff_ids":["` + diffID.String() + `"]}}`
	pack := func(pairs ...string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := 0; i < len(pairs); i += 2 {
			_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: pairs[i], Size: int64(len(pairs[i+1])), Mode: 0o600})
			_, _ = w.Write([]byte(pairs[i+1]))
		}
		_ = w.Close()
		return b.Bytes()
	}
	f.Add("manifest.json", `[{"Config":"b","RepoTags":["a:1"],"Layers":["c"]}]`, config, layer, false)
	f.Add("manifest.json", `[{"Config":"../b","Layers":["/c"]},{}]`, "{", layer, true)
	descriptor := func(content string) string {
		h, n, _ := v1.SHA256(strings.NewReader(content))
		d, _ := json.Marshal(v1.Descriptor{Digest: h, Size: n})
		return string(d)
	}
	f.Add("index.json", `{"manifests":[`+descriptor(config)+`]}`, config, layer, false)
	manifest := `{"schemaVersion":2,"config":` + descriptor(config) + `,"layers":[` + descriptor(string(layer)) + `]}`
	f.Add("index.json", `{"manifests":[`+descriptor(manifest)+`]}`, manifest, []byte(config), false)
	f.Fuzz(func(t *testing.T, first, index, second string, third []byte, cut bool) {
		if len(index)+len(second)+len(third) > 256<<10 {
			return
		}
		dir, root := t.TempDir(), filepath.Join(t.TempDir(), "images")
		blob := func(content string) string {
			h, _, _ := v1.SHA256(strings.NewReader(content))
			return "blobs/sha256/" + h.Hex
		}
		archive := pack(first, index, "oci-layout", "{}", "b", second, "c", string(third), blob(second), second, blob(string(third)), string(third))
		if first == "manifest.json" {
			archive = pack(first, index, "b", second, "c", string(third))
		}
		if cut {
			archive = archive[:len(archive)/2]
		}
		if err := os.WriteFile(filepath.Join(dir, "a.tar"), archive, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx := klog.NewContext(t.Context(), ktesting.NewLogger(t, ktesting.NewConfig(ktesting.Verbosity(0))))
		s, err := Open(ctx, Options{Root: root, ArchiveDir: dir, Limits: Limits{UnpackedBytes: 4 << 20, LayerEntries: 2000}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for _, image := range s.List() {
			if _, ok := s.Image(image.ID); !ok {
				t.Errorf("image %s is not found", image.ID)
			}
			for _, tag := range image.Tags {
				if got, ok := s.Image(tag); !ok || got.ID != image.ID {
					t.Errorf("tag %s is %v", tag, got)
				}
			}
		}
	})
}
