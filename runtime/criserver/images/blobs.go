package images

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

const (
	downloadAge   = 24 * time.Hour // how long Open keeps a download nobody has gone on with
	downloadTries = 20             // of one blob; each goes on where the one before ended
	futileTries   = 3              // of them in a row that bring nothing
	retryDelay    = 200 * time.Millisecond
	reportEvery   = 500 * time.Millisecond
)

// stallTimeout ends a download that brings nothing for so long. Tests shorten it.
var stallTimeout = time.Minute

func blobName(digest v1.Hash) string { return digest.Algorithm + "-" + digest.Hex }

func blobNames(layers []v1.Descriptor) []string {
	names := make([]string, len(layers))
	for i, l := range layers {
		names[i] = blobName(l.Digest)
	}
	return names
}

// download is a blob on its way.
type download struct {
	file   *os.File
	hasher hash.Hash // of the first done bytes
	done   int64
	want   v1.Descriptor
	report func(done int64)
	last   time.Time // of the last report
}

// fetchBlob downloads a blob, or what is missing of it, and opens it when its digest is right. What an earlier pull left
// behind, perhaps before a crash, is hashed like what comes from the network.
func (s *Store) fetchBlob(ctx context.Context, from *session, want v1.Descriptor, report func(int64)) (io.ReadCloser, error) {
	unlock, err := s.busy.lock(ctx, blobName(want.Digest))
	if err != nil {
		return nil, err
	}
	defer unlock()
	d := &download{want: want, report: report}
	if d.hasher, err = v1.Hasher(want.Digest.Algorithm); err != nil {
		return nil, err
	}
	if d.file, err = os.OpenFile(s.path("blobs", blobName(want.Digest)), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if err := s.checkFree(want.Size); err != nil {
		d.file.Close()
		return nil, fmt.Errorf("download %s: %w", want.Digest, err)
	}
	if err := d.fetch(ctx, from); err != nil {
		d.file.Close()
		return nil, fmt.Errorf("download %s: %w", want.Digest, err)
	}
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		d.file.Close()
		return nil, err
	}
	return d.file, nil
}

// fetch leaves a file with the right digest, or one that can be gone on with, or none.
func (d *download) fetch(ctx context.Context, from *session) error {
	found, err := io.Copy(d.hasher, io.LimitReader(d.file, d.want.Size+1))
	if err != nil {
		return fmt.Errorf("read what is there: %w", err)
	}
	d.done = found
	if found > d.want.Size || found == d.want.Size && !d.complete() {
		if err := d.restart(); err != nil {
			return err
		}
		found = 0
	}
	for {
		err := d.fetchRest(ctx, from)
		if err != nil {
			if errors.Is(err, unix.ENOSPC) {
				err = errors.Join(err, os.Remove(d.file.Name())) // the disk needs it more than the next try
			}
			return err
		}
		if d.complete() {
			return nil
		}
		if err := d.restart(); err != nil {
			return err
		}
		if found == 0 {
			return errors.Join(errors.New("the registry sent content with another digest"), os.Remove(d.file.Name()))
		}
		klog.FromContext(ctx).Info("What was downloaded earlier is not part of the blob", "digest", d.want.Digest)
		found = 0
	}
}

func (d *download) complete() bool {
	return d.done == d.want.Size && fmt.Sprintf("%x", d.hasher.Sum(nil)) == d.want.Digest.Hex
}

func (d *download) restart() error {
	d.hasher.Reset()
	d.done = 0
	_, err := d.file.Seek(0, io.SeekStart)
	return errors.Join(err, d.file.Truncate(0))
}

// fetchRest asks again for what is missing until nothing is, as long as that brings something.
func (d *download) fetchRest(ctx context.Context, from *session) error {
	futile := 0
	for try := 1; d.done < d.want.Size; try++ {
		before := d.done
		err := d.fetchSome(ctx, from)
		if err == nil {
			continue
		}
		if d.done == before {
			futile++
		} else {
			futile = 0
		}
		if ctx.Err() != nil || isFinal(err) || futile == futileTries || try == downloadTries {
			return err
		}
		klog.FromContext(ctx).Info("Download was interrupted", "digest", d.want.Digest, "at", d.done, "of", d.want.Size, "err", err)
		timer := time.NewTimer(retryDelay << futile)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil
}

// isFinal tells errors that asking again does not cure.
func isFinal(err error) bool {
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		return answer.StatusCode < 500 && answer.StatusCode != http.StatusTooManyRequests && answer.StatusCode != http.StatusRequestTimeout
	}
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, errTooMuch)
}

var errTooMuch = errors.New("the registry sends more than the manifest says")

// errStalled is why a download that brings nothing is given up.
var errStalled = errors.New("no data came for too long")

// fetchSome makes one request and takes what comes.
func (d *download) fetchSome(ctx context.Context, from *session) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	defer stalled.Stop()
	body, offset, err := from.openAt(ctx, d.want.Digest, d.done, d.want.Size)
	if err != nil {
		return err
	}
	defer body.Close()
	if offset != d.done { // it does not know ranges
		if err := d.restart(); err != nil {
			return err
		}
	}
	buffer := make([]byte, 128<<10)
	for {
		n, err := body.Read(buffer)
		stalled.Reset(stallTimeout)
		if d.done+int64(n) > d.want.Size {
			return errTooMuch
		}
		if _, err := d.file.Write(buffer[:n]); err != nil {
			return errors.Join(err, d.restart())
		}
		d.hasher.Write(buffer[:n])
		d.done += int64(n)
		if now := time.Now(); now.Sub(d.last) > reportEvery || d.done == d.want.Size && n > 0 {
			d.last = now
			d.report(d.done)
		}
		switch {
		case errors.Is(err, io.EOF) && d.done < d.want.Size:
			return io.ErrUnexpectedEOF
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		}
	}
}

// open reads a whole blob.
func (s *session) open(ctx context.Context, digest v1.Hash, offset, size int64) (io.ReadCloser, error) {
	body, _, err := s.openAt(ctx, digest, offset, size)
	return body, err
}

// openAt asks for a blob from an offset on. The answer may begin at 0 nevertheless.
func (s *session) openAt(ctx context.Context, digest v1.Hash, offset, size int64) (io.ReadCloser, int64, error) {
	ctx = context.WithValue(ctx, blobKey{}, true)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url(digest.String()), nil)
	if err != nil {
		return nil, 0, err
	}
	request.Header.Set("Accept-Encoding", "identity") // the digest is of the content as it is
	if offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, size-1))
	}
	response, err := s.client.Do(request)
	if err != nil {
		if failed, ok := errors.AsType[*url.Error](err); ok { // where it was redirected to may be signed in the query
			failed.URL, _, _ = strings.Cut(failed.URL, "?")
		}
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, 0, err
	}
	if err := checkAnswer(response, offset); err != nil {
		response.Body.Close()
		return nil, 0, err
	}
	if response.StatusCode == http.StatusOK {
		offset = 0
	}
	return response.Body, offset, nil
}

// checkAnswer takes a whole blob, or exactly the range asked for.
func checkAnswer(response *http.Response, offset int64) error {
	if err := transport.CheckError(response, http.StatusOK, http.StatusPartialContent); err != nil {
		return classify(err)
	}
	if response.StatusCode == http.StatusOK {
		return nil
	}
	var start int64
	if _, err := fmt.Sscanf(response.Header.Get("Content-Range"), "bytes %d-", &start); err != nil || start != offset || offset == 0 {
		return fmt.Errorf("the registry sent the range %q where bytes from %d were asked for", response.Header.Get("Content-Range"), offset)
	}
	return nil
}

// claim keeps layers and downloads, there or to come, from being deleted until the function it returns is called.
func (s *Store) claim(names ...string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.claimLocked(names)
}

func (s *Store) claimLocked(names []string) (release func()) {
	for _, name := range names {
		s.claims[name]++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, name := range names {
			if s.claims[name]--; s.claims[name] == 0 {
				delete(s.claims, name)
			}
		}
	}
}

// dropBlobs deletes downloads that are unpacked by now and that no other pull is about to read.
func (s *Store) dropBlobs(layers []v1.Descriptor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range blobNames(layers) {
		if s.claims[name] == 0 {
			os.Remove(s.path("blobs", name)) // or it stays until sweepBlobs
		}
	}
}

// sweepBlobs deletes downloads nobody claims and that are older than age.
func (s *Store) sweepBlobs(age time.Duration) error {
	files, err := os.ReadDir(s.path("blobs"))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range files {
		info, err := f.Info()
		if err != nil || s.claims[f.Name()] > 0 || time.Since(info.ModTime()) < age {
			continue
		}
		if err := os.RemoveAll(s.path("blobs", f.Name())); err != nil {
			return err
		}
	}
	return nil
}
