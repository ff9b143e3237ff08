package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

const (
	downloadAge   = 24 * time.Hour // how long Open keeps a download that no pull has gone on with
	downloadTries = 20             // of one blob; each goes on where the one before ended
	futileTries   = 3              // of them in a row that bring nothing
	retryDelay    = 200 * time.Millisecond
	reportEvery   = 500 * time.Millisecond
)

// stallTimeout ends a request that brings nothing for so long. Tests shorten it.
var stallTimeout = time.Minute

var (
	errStalled = errors.New("no data came for too long")
	errTooMuch = errors.New("the registry sends more than the manifest says")
	errOther   = errors.New("the registry sent content with another digest")
)

// download is a blob on its way into a file. What is written to it comes from the registry.
type download struct {
	file    *os.File
	hasher  hash.Hash // of the first done bytes
	done    int64
	want    v1.Descriptor
	report  func(done int64)
	last    time.Time // of the last report
	stalled *time.Timer
}

// fetchBlob downloads a blob, or what is missing of it, and opens it when its digest is right. What an earlier pull left
// behind, perhaps before a crash, is hashed like what comes from the network.
func (s *Store) fetchBlob(ctx context.Context, from *session, want v1.Descriptor, report func(int64)) (_ io.ReadCloser, err error) {
	name := s.blobFile(want)
	unlock, err := s.busy.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d := &download{want: want, report: report}
	if d.hasher, err = v1.Hasher(want.Digest.Algorithm); err != nil {
		return nil, err
	}
	if d.file, err = os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if err = s.checkFree(want.Size); err == nil {
		err = d.fetch(ctx, from)
	}
	if err == nil {
		_, err = d.file.Seek(0, io.SeekStart)
	}
	if err == nil {
		return d.file, nil
	}
	d.file.Close()
	if errors.Is(err, errOther) || errors.Is(err, unix.ENOSPC) { // else the next try can go on with it
		err = errors.Join(err, os.Remove(name))
	}
	return nil, fmt.Errorf("download %s: %w", want.Digest, err)
}

// fetch goes on with what is there, and begins anew if that does not belong to the blob.
func (d *download) fetch(ctx context.Context, from *session) (err error) {
	if d.done, err = io.Copy(d.hasher, io.LimitReader(d.file, d.want.Size+1)); err != nil {
		return fmt.Errorf("read what is there: %w", err)
	}
	if d.done > 0 && d.done <= d.want.Size {
		if err := d.complete(ctx, from); !errors.Is(err, errOther) {
			return err
		}
		klog.FromContext(ctx).Info("What was downloaded earlier is not part of the blob", "digest", d.want.Digest)
	}
	if err := d.restart(); err != nil {
		return err
	}
	return d.complete(ctx, from)
}

// complete asks for what is missing as long as that brings something, and checks the digest.
func (d *download) complete(ctx context.Context, from *session) error {
	for futile, try := 0, 1; d.done < d.want.Size; try++ {
		before := d.done
		err := d.request(ctx, from)
		if err == nil {
			break
		}
		futile++
		if d.done != before {
			futile = 0
		}
		if ctx.Err() != nil || isFinal(err) || futile == futileTries || try == downloadTries {
			return err
		}
		klog.FromContext(ctx).Info("Download was interrupted", "digest", d.want.Digest, "at", d.done, "of", d.want.Size, "err", err)
		select {
		case <-time.After(retryDelay << futile):
		case <-ctx.Done():
		}
	}
	if checkDigest(d.hasher, d.want.Digest) != nil {
		return errOther
	}
	return nil
}

// restart forgets all that was downloaded.
func (d *download) restart() error {
	d.hasher.Reset()
	d.done = 0
	_, err := d.file.Seek(0, io.SeekStart)
	return errors.Join(err, d.file.Truncate(0))
}

// isFinal tells errors that asking again does not cure.
func isFinal(err error) bool {
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		return answer.StatusCode < 500 && answer.StatusCode != http.StatusTooManyRequests && answer.StatusCode != http.StatusRequestTimeout
	}
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, errTooMuch)
}

// request asks once for what is missing, and takes what comes.
func (d *download) request(ctx context.Context, from *session) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.stalled = time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	defer d.stalled.Stop()
	body, offset, err := from.blob(ctx, d.want, d.done)
	if err != nil {
		return err
	}
	defer body.Close()
	if offset != d.done {
		if err := d.restart(); err != nil {
			return err
		}
	}
	_, err = io.Copy(d, body)
	if err == nil && d.done < d.want.Size {
		err = fmt.Errorf("the registry sent %d bytes of %d: %w", d.done, d.want.Size, io.ErrUnexpectedEOF)
	}
	if err != nil {
		err = cmp.Or(context.Cause(ctx), err)
	}
	return err
}

// Write implements io.Writer.
func (d *download) Write(p []byte) (int, error) {
	d.stalled.Reset(stallTimeout)
	if d.done+int64(len(p)) > d.want.Size {
		return 0, errTooMuch
	}
	if n, err := d.file.Write(p); err != nil {
		return n, errors.Join(err, d.restart())
	}
	d.hasher.Write(p)
	d.done += int64(len(p))
	if now := time.Now(); now.Sub(d.last) > reportEvery || d.done == d.want.Size {
		d.last = now
		d.report(d.done)
	}
	return len(p), nil
}

// blobFile is the file of a download. The size is part of its name, since manifests that give one blob different sizes do not
// share a file: what belongs to the wrong size would be appended to or cut off a file that the pull of another image reads.
func (s *Store) blobFile(want v1.Descriptor) string {
	return s.path("blobs", fmt.Sprintf("%s-%s-%d", want.Digest.Algorithm, want.Digest.Hex, want.Size))
}

// dropBlobs deletes downloads that are unpacked by now. A pull that is reading one has it open, and goes on.
func (s *Store) dropBlobs(layers []v1.Descriptor) {
	for _, l := range layers {
		os.Remove(s.blobFile(l)) // or it stays until sweepBlobs
	}
}

// sweepBlobs deletes downloads that have not gone on for a time.
func (s *Store) sweepBlobs(age time.Duration) error {
	files, err := os.ReadDir(s.path("blobs"))
	if err != nil {
		return err
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || time.Since(info.ModTime()) < age {
			continue
		}
		if err := os.RemoveAll(s.path("blobs", f.Name())); err != nil {
			return err
		}
	}
	return nil
}
