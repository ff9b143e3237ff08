package identity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func open(t *testing.T, dir string) *store {
	t.Helper()
	s, err := newStore(dir, "p")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	a, dir := newAuthority(t), filepath.Join(t.TempDir(), "pki")
	s := open(t, dir)
	if c, err := s.load(t.Context()); c != nil || err != nil {
		t.Fatalf("an empty store has %v, %v", c, err)
	}
	told := 0
	s.onUpdate = func() { told++ }
	cert, key := a.issue("n", time.Now().Add(time.Hour))
	_, other := a.issue("n", time.Now().Add(time.Hour))
	for name, bad := range map[string][2][]byte{"no certificate": {nil, key}, "no key": {cert, nil}, "another's key": {cert, other}, "garbage": {[]byte("x"), key}} {
		if _, err := s.update(bad[0], bad[1]); err == nil {
			t.Errorf("%s: kept", name)
		}
	}
	if entries, err := os.ReadDir(dir); len(entries) != 0 || told != 0 {
		t.Errorf("after refused updates: %v, %v", entries, err)
	}
	if _, err := s.update(append([]byte("a comment\n"), cert...), key); err != nil {
		t.Fatal(err)
	}
	<-s.first
	target, err := os.Readlink(s.currentPath())
	if err != nil || !strings.HasPrefix(target, filepath.Join(dir, "p-2")) || filepath.Ext(target) != ".pem" || told != 1 {
		t.Errorf("the current certificate is a link to %q, %v; told %d times", target, err, told)
	}
	private(t, target)
	if data, err := os.ReadFile(target); err != nil || string(data) != string(cert)+string(key) {
		t.Errorf("the file has %q, %v", data, err)
	}
	if again, err := open(t, dir).load(t.Context()); err != nil || !again[0].Leaf.Equal(s.valid().Leaf) {
		t.Errorf("after a restart: %v", err)
	}
	if _, err := s.update(a.issue("n", time.Now().Add(-time.Minute))); err != nil || s.valid() != nil {
		t.Errorf("an expired certificate is valid: %v", err)
	}
}

// TestStoreRecovers: upstream's kubelet may have been interrupted between removing a link and putting the next in place.
func TestStoreRecovers(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	s := open(t, dir)
	if _, err := s.update(a.issue("n", time.Now().Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.currentPath(), s.path("updated")); err != nil {
		t.Fatal(err)
	}
	if c, err := open(t, dir).load(t.Context()); err != nil || c == nil {
		t.Errorf("the interrupted update is lost: %v", err)
	}
}

// TestStoreLeavesFiles: a file where the link should be is an administrator's, and is not replaced.
func TestStoreLeavesFiles(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	s := open(t, dir)
	cert, key := a.issue("n", time.Now().Add(time.Hour))
	write(t, s.currentPath(), append(cert, key...))
	if c, err := s.load(t.Context()); err != nil || c == nil {
		t.Errorf("it is not read: %v", err)
	}
	if _, err := s.update(a.issue("n", time.Now().Add(time.Hour))); err == nil || !strings.Contains(err.Error(), "is not a link") {
		t.Errorf("update: %v", err)
	}
}

func TestStoreElsewhere(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	put := func(serial int64, certFile, keyFile string) {
		t.Helper()
		cert, key := a.issue("n", time.Now().Add(time.Hour))
		write(t, certFile, cert)
		write(t, keyFile, key)
		s := open(t, dir)
		s.certFile, s.keyFile = filepath.Join(dir, "c"), filepath.Join(dir, "k")
		if c, err := s.load(t.Context()); err != nil || c[0].Leaf.SerialNumber.Int64() != serial {
			t.Errorf("with %s: %v, %v", certFile, c, err)
		}
	}
	put(2, filepath.Join(dir, "p.crt"), filepath.Join(dir, "p.key"))
	put(3, filepath.Join(dir, "c"), filepath.Join(dir, "k")) // the configured files come first
	write(t, filepath.Join(dir, "c"), []byte("garbage"))
	s := open(t, dir)
	s.certFile, s.keyFile = filepath.Join(dir, "c"), filepath.Join(dir, "k")
	if c, err := s.load(t.Context()); err != nil || len(c) != 1 {
		t.Errorf("garbage beside a certificate: %v, %v", c, err)
	}
	for _, name := range []string{"p.crt", "p.key"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.load(t.Context()); err == nil {
		t.Error("garbage is no error")
	}
}
