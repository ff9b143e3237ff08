package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

// benchLayer is like a distribution's base layer: 4,000 files, most of them small, 60 MB that compress to a third.
func benchLayer(b *testing.B) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	random := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 500)
	for i := range words {
		words[i] = fmt.Sprintf("%x ", random.Uint64())
	}
	for i := range 4000 {
		if i%40 == 0 {
			_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("usr/lib/d%d/", i/40), Mode: 0o755})
		}
		var content bytes.Buffer
		for size := int(random.ExpFloat64() * 15_000); content.Len() < size; {
			content.WriteString(words[random.IntN(len(words))])
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("usr/lib/d%d/f%d", i/40, i), Mode: 0o644, Size: int64(content.Len())}); err != nil {
			b.Fatal(err)
		}
		_, _ = w.Write(content.Bytes())
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}

// BenchmarkUnpack unpacks one layer; the rate is of its uncompressed bytes.
func BenchmarkUnpack(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root: layers have owners")
	}
	plain := benchLayer(b)
	diffID, _, _ := v1.SHA256(bytes.NewReader(plain))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.Copy(z, bytes.NewReader(plain))
	_ = z.Close()
	encoder, _ := zstd.NewWriter(nil)
	for _, c := range []struct {
		name string
		blob []byte
	}{{"plain", plain}, {"gzip", zipped.Bytes()}, {"zstd", encoder.EncodeAll(plain, nil)}} {
		b.Run(c.name, func(b *testing.B) {
			s := &Store{options: Options{Root: os.TempDir(), Limits: Limits{}.withDefaults()}}
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			base := b.TempDir()
			for i := 0; b.Loop(); i++ {
				dir := filepath.Join(base, fmt.Sprint(i))
				if _, _, err := s.unpackLayer(b.Context(), bytes.NewReader(c.blob), dir, diffID, s.newBudget(), false); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkMount mounts and unmounts an image of ten layers: what each container costs.
func BenchmarkMount(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root: it mounts")
	}
	s, err := Open(b.Context(), Options{Root: filepath.Join(b.TempDir(), "images")})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	r := &record{ID: "sha256:bench"}
	for i := range 10 {
		chain := fmt.Sprintf("%064d", i)
		if err := os.MkdirAll(s.layerFS(chain), 0o755); err != nil {
			b.Fatal(err)
		}
		r.Chains = append(r.Chains, chain)
	}
	s.images[r.ID] = r
	dir := filepath.Join(b.TempDir(), "rootfs")
	for b.Loop() {
		if err := s.Mount(b.Context(), "c1", r.ID, dir, nil); err != nil {
			b.Fatal(err)
		}
		if err := s.Unmount("c1", dir); err != nil {
			b.Fatal(err)
		}
	}
}
