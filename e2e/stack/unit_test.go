package stack

import (
	"archive/tar"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"k8s.io/client-go/tools/clientcmd"
)

func TestAuthority(t *testing.T) {
	a, err := newAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := a.issue("kubelet", pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes"}}, NodeIP, "n")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.LoadX509KeyPair(pair.Cert, pair.Key); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(pair.Cert)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	for _, host := range []string{NodeIP, "n"} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			t.Errorf("as server %s: %v", host, err)
		}
	}
	path, err := a.kubeconfig("admin", pkix.Name{CommonName: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil || config.Host != "https://"+NodeIP+":6443" {
		t.Errorf("kubeconfig leads to %v, %v", config, err)
	}
}

func TestBuildImage(t *testing.T) {
	image, err := BuildImage([]File{
		{Path: "/bin", Dir: true, Mode: 0o755},
		{Path: "/bin/sh", Link: "busybox"},
		{Path: "/bin/busybox", Data: []byte("x"), Mode: 0o755},
	}, v1.Config{Cmd: []string{"sh"}})
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.OS != "linux" || config.Architecture != runtimeArch || config.Config.Cmd[0] != "sh" {
		t.Errorf("config = %+v", config)
	}
	r := mutate.Extract(image)
	defer r.Close()
	var got []string
	for reader := tar.NewReader(r); ; {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Name+">"+h.Linkname)
	}
	if want := "bin> bin/sh>busybox bin/busybox>"; strings.Join(got, " ") != want {
		t.Errorf("files = %q, want %q", got, want)
	}
}

func TestNodeRequests(t *testing.T) {
	s := &Stack{Dir: t.TempDir()}
	if got, err := s.NodeRequests(); err != nil || got != nil {
		t.Errorf("without a log: %v, %v", got, err)
	}
	if err := os.Mkdir(filepath.Dir(s.auditLog()), 0o755); err != nil {
		t.Fatal(err)
	}
	log := `{"verb":"patch","stageTimestamp":"2026-01-02T03:04:05.678901Z","userAgent":"kubelet","objectRef":{"resource":"pods","subresource":"status","namespace":"default","name":"p"},"responseStatus":{"code":200}}` + "\n" +
		`{"verb":"pat`
	if err := os.WriteFile(s.auditLog(), []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := s.NodeRequests()
	if err != nil || len(got) != 1 {
		t.Fatalf("requests = %v, %v, want the one complete line", got, err)
	}
	if r := got[0]; r.Verb != "patch" || r.Subresource != "status" || r.Name != "p" || r.Code != 200 || r.Time.Second() != 5 {
		t.Errorf("request = %+v", r)
	}
}

// TestSweep: only stacks whose owner is gone are removed, and nothing else.
func TestSweep(t *testing.T) {
	parent := t.TempDir()
	plant := func(name string, change func(*footprint)) string {
		f := footprint{Dir: filepath.Join(parent, name), Name: name, OwnerPid: os.Getpid(), OwnerStart: "1"}
		change(&f)
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		at := f
		at.Dir = dir
		if err := at.save(); err != nil {
			t.Fatal(err)
		}
		if f.Dir != dir { // one that names another directory
			data, _ := os.ReadFile(filepath.Join(dir, stateFile))
			text := strings.Replace(string(data), dir, f.Dir, 1)
			if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	dead := plant(namePrefix+"sweeptest-dead", func(*footprint) {})
	alive := plant(namePrefix+"sweeptest-alive", func(f *footprint) { f.OwnerStart = processStart(os.Getpid()) })
	forged := plant(namePrefix+"sweeptest-forged", func(f *footprint) { f.Dir = "/nonexistent" })
	if err := Sweep(parent); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dead stack stays: %v", err)
	}
	for _, dir := range []string{alive, forged} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("removed what is not a dead stack: %v", err)
		}
	}
}

func TestProcessStart(t *testing.T) {
	if got := processStart(os.Getpid()); got == "" || strings.Trim(got, "0123456789") != "" {
		t.Errorf("own start = %q", got)
	}
	if got := processStart(1 << 30); got != "" {
		t.Errorf("start of no process = %q", got)
	}
}
