package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// bufferSize is the most of a file that is held in memory for one reader. A longer line goes out in parts.
const bufferSize = 64 << 10

// Request says what of a log is wanted.
type Request struct {
	Root string // the directory of all pods' logs
	Path string // the log's file, as the runtime names it

	Tail       *int64                   // so many entries from the end; nil for all
	Limit      *int64                   // at most so many bytes; nil for all
	Since      time.Time                // only what was written then or later
	Timestamps bool                     // the time before each line
	Stream     runtimeapi.LogStreamType // of both streams if empty

	Follow  bool        // go on until the container has ended
	Running func() bool // whether it has not; needed to follow
}

// errLimit says that as much was written as is wanted.
var errLimit = errors.New("limit reached")

// reader takes one log apart and writes what is wanted of it.
type reader struct {
	Request
	out    io.Writer
	before []rotated // what the log was rotated to, oldest first
	file   *os.File

	buffer []byte // read and not yet written: less than an entry
	offset int64  // in the file, behind the buffer
	drop   int64  // entries that come before the tail
	left   int64  // entries until the tail is told, -1 without end
	remain int64  // bytes, -1 without end

	current header // of the entry that the buffer continues
	inside  bool   // the buffer continues an entry
	skip    bool   // that entry is not wanted, or was none
	midLine bool   // what was written last did not end a line
}

// Copy writes the wanted parts of a log to out, and returns when they are written, or, if it follows, when the
// container has ended or ctx has. A log that is rotated meanwhile is followed into its new file, and one that was
// rotated before begins in the oldest file that is still there.
//
// Upstream: staging/src/k8s.io/cri-client/pkg/logs/logs.go ReadLogs
func Copy(ctx context.Context, out Writer, watcher *Watcher, request Request) error {
	file, before, err := openAll(request.Root, request.Path)
	if err != nil {
		return err
	}
	r := &reader{Request: request, out: out, before: before, file: file, left: -1, remain: -1, buffer: make([]byte, 0, bufferSize)}
	defer func() {
		closeAll(r.before)
		_ = r.file.Close()
	}()
	if request.Limit != nil {
		r.remain = *request.Limit
	}
	if request.Tail != nil {
		err = r.tail(ctx, *request.Tail)
	}
	if err == nil {
		err = r.history(ctx)
	}
	switch {
	case err != nil:
	case request.Follow:
		err = r.follow(ctx, out, watcher)
	default:
		if err = r.drain(ctx); err == nil {
			err = r.rest()
		}
	}
	if errors.Is(err, errLimit) {
		err = nil
	}
	return errors.Join(err, out.Flush())
}

// tail finds where the last n entries begin, in this file or in one of those before.
func (r *reader) tail(ctx context.Context, n int64) error {
	info, err := r.file.Stat()
	if err != nil {
		return fmt.Errorf("look at log: %w", err)
	}
	var have int64
	if r.offset, have, err = tailStart(r.file, info.Size(), n); err != nil {
		return err
	}
	r.skipTo(ctx, n-have)
	if !r.Follow {
		r.left = n
	}
	return nil
}

// Writer is where a log goes to. Flush hands on what is held back.
type Writer interface {
	io.Writer
	Flush() error
}

// drain writes everything up to the present end of the file, but for an entry whose end is not there yet.
func (r *reader) drain(ctx context.Context) error {
	return r.copyFrom(ctx, io.NewSectionReader(r.file, r.offset, 1<<62), func(n int) { r.offset += int64(n) })
}

// copyFrom writes the entries of a file up to its end, and tells of the bytes that it has read.
func (r *reader) copyFrom(ctx context.Context, content io.Reader, passed func(n int)) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.left == 0 && !r.inside {
			return errLimit
		}
		have := len(r.buffer)
		n, err := content.Read(r.buffer[have:cap(r.buffer)])
		r.buffer = r.buffer[:have+n]
		passed(n)
		if err := r.entries(); err != nil {
			return err
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", errUnreadable, err)
		}
	}
}

// entries writes the whole entries of the buffer, and what there is of one that fills it.
func (r *reader) entries() error {
	rest := r.buffer
	for {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			break
		}
		if err := r.part(rest[:end+1], true); err != nil {
			return err
		}
		rest = rest[end+1:]
	}
	r.buffer = r.buffer[:copy(r.buffer, rest)]
	if len(r.buffer) == cap(r.buffer) {
		return r.rest()
	}
	return nil
}

// rest writes the beginning of an entry that is not all there.
func (r *reader) rest() error {
	if len(r.buffer) == 0 {
		return nil
	}
	err := r.part(r.buffer, false)
	r.buffer = r.buffer[:0]
	return err
}

// part writes an entry, or a part of one: the first has the header, the last the newline.
func (r *reader) part(part []byte, last bool) error {
	text := part
	if !r.inside && r.drop > 0 {
		r.drop--
		r.inside, r.skip = !last, true
		return nil
	}
	if !r.inside {
		if r.left == 0 {
			return errLimit
		}
		if r.left > 0 {
			r.left--
		}
		var ok bool
		r.current, text, ok = parseHeader(part)
		r.skip = !ok || r.current.time.Before(r.Since) || r.Stream != "" && r.Stream != r.current.stream
	}
	begins := !r.inside
	r.inside = !last
	if r.skip {
		return nil
	}
	if last && r.current.partial {
		text = text[:len(text)-1]
	}
	if begins && r.Timestamps && !r.midLine {
		if err := r.write(append(r.current.time.AppendFormat(nil, timeFormat), ' ')); err != nil {
			return err
		}
	}
	r.midLine = len(text) == 0 && r.midLine || len(text) > 0 && text[len(text)-1] != '\n'
	return r.write(text)
}

// write writes within the limit.
func (r *reader) write(text []byte) error {
	if r.remain >= 0 {
		text = text[:min(int64(len(text)), r.remain)]
		r.remain -= int64(len(text))
	}
	if _, err := r.out.Write(text); err != nil {
		return err
	}
	if r.remain == 0 {
		return errLimit
	}
	return nil
}
