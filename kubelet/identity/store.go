package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"
)

// store keeps a certificate and its key together in DIR/PREFIX-TIME.pem, to which DIR/PREFIX-current.pem is a link, and
// has the newest at hand.
//
// Upstream: k8s.io/client-go/util/certificate/certificate_store.go fileStore
type store struct {
	dir, prefix string
	// certFile and keyFile are where there may be a certificate besides; "" for none.
	certFile, keyFile string
	// onUpdate is told of new certificates; may be nil.
	onUpdate func()

	current atomic.Pointer[tls.Certificate]
	once    sync.Once
	first   chan struct{} // closed when there is a certificate
}

// newStore opens a store. What an interrupted update of upstream's kubelet left, which has a moment without a current
// certificate, is mended.
func newStore(dir, prefix string) (*store, error) {
	s := &store{dir: dir, prefix: prefix, first: make(chan struct{})}
	_, err := os.Stat(s.currentPath())
	if errors.Is(err, fs.ErrNotExist) {
		if _, err = os.Stat(s.path("updated")); err == nil {
			err = s.switchTo("updated")
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open --cert-dir %s: %w", dir, err)
	}
	return s, nil
}

func (s *store) path(name string) string { return filepath.Join(s.dir, s.prefix+"-"+name+".pem") }

// currentPath is the link to the certificate in use.
func (s *store) currentPath() string { return s.path("current") }

// load reads the certificates that there are, and their keys: the current one, that of the files named, that of upstream's
// former place. One that a kubelet wrote and that cannot be understood, after a power loss for example, is passed over: the
// next one takes its place. Files that the settings name must be right, unless there is another certificate.
func (s *store) load(ctx context.Context) (have []kept, err error) {
	for _, files := range [][2]string{
		{s.currentPath(), s.currentPath()}, {s.certFile, s.keyFile}, {filepath.Join(s.dir, s.prefix+".crt"), filepath.Join(s.dir, s.prefix+".key")},
	} {
		c, one := tls.LoadX509KeyPair(files[0], files[1])
		_, unread := errors.AsType[*fs.PathError](one)
		switch {
		case errors.Is(one, fs.ErrNotExist) || files[0] == "":
		case one == nil:
			have = append(have, kept{Certificate: &c, file: files[0], current: files[0] == s.currentPath()})
		case files[0] != s.certFile && !unread, files[0] == s.currentPath() && !unread:
			klog.FromContext(ctx).Error(one, "The certificate cannot be read, it is passed over", "certificate", files[0])
		default:
			err = errors.Join(err, fmt.Errorf("read the certificate %s and its key %s: %w", files[0], files[1], one))
		}
	}
	if len(have) > 0 && err != nil {
		klog.FromContext(ctx).Error(err, "A certificate cannot be read, another one is used", "certificate", have[0].file)
		err = nil
	}
	return have, err
}

// update keeps a certificate that goes with the key; connections made from now on show it.
func (s *store) update(cert, key []byte) (*tls.Certificate, error) {
	c, err := s.write(cert, key)
	if err == nil {
		s.set(c)
	}
	return c, err
}

// write keeps a certificate and its key, for the next start.
func (s *store) write(cert, key []byte) (*tls.Certificate, error) {
	c, file, err := join(cert, key)
	if err != nil {
		return nil, err
	}
	return c, s.keep(file)
}

// join puts a certificate, without what may stand between its parts, and its key into one file.
func join(cert, key []byte) (*tls.Certificate, []byte, error) {
	certs, err := certutil.ParseCertsPEM(cert)
	if err != nil {
		return nil, nil, fmt.Errorf("read the new certificate: %w", err)
	}
	var file bytes.Buffer
	for _, c := range certs {
		if err := pem.Encode(&file, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			return nil, nil, fmt.Errorf("write the new certificate: %w", err)
		}
	}
	file.Write(key)
	c, err := tls.X509KeyPair(file.Bytes(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("read the new certificate and its key: %w", err)
	}
	return &c, file.Bytes(), nil
}

// keep writes a file and then makes it the current one: there is a whole one at any time.
func (s *store) keep(data []byte) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("make --cert-dir: %w", err)
	}
	path, err := filepath.Abs(s.path(time.Now().Format("2006-01-02-15-04-05")))
	if err != nil {
		return fmt.Errorf("find --cert-dir: %w", err)
	}
	if err := writePrivate(path, data); err != nil {
		return err
	}
	if err := os.Remove(s.path("updated")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keep the new certificate: %w", err)
	}
	if err := os.Symlink(path, s.path("updated")); err != nil {
		return fmt.Errorf("keep the new certificate: %w", err)
	}
	return s.switchTo("updated")
}

// switchTo makes a link the current one. A file in its place, which an administrator has put there, stays.
func (s *store) switchTo(name string) error {
	if info, err := os.Lstat(s.currentPath()); err == nil && info.Mode().Type() != fs.ModeSymlink {
		return fmt.Errorf("keep the new certificate: %s is not a link", s.currentPath())
	}
	if err := os.Rename(s.path(name), s.currentPath()); err != nil {
		return fmt.Errorf("keep the new certificate: %w", err)
	}
	return nil
}

// set makes a certificate the one that is used from now on.
func (s *store) set(c *tls.Certificate) {
	s.current.Store(c)
	if s.onUpdate != nil {
		s.onUpdate()
	}
	s.once.Do(func() { close(s.first) }) // last: connections are made then, which onUpdate would close
}

// valid is the current certificate, nil if there is none or it has expired.
func (s *store) valid() *tls.Certificate {
	if c := s.current.Load(); c != nil && time.Now().Before(c.Leaf.NotAfter) {
		return c
	}
	return nil
}
