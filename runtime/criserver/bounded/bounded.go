// Package bounded reads and keeps what others have written, up to a limit.
package bounded

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// ErrTooLong is the error of readers whose content does not end within their limit.
var ErrTooLong = errors.New("content is larger than its limit")

// ReadFile is os.ReadFile of a file that should not be large.
func ReadFile(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := ReadAll(file, limit)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return content, nil
}

// ReadJSON reads a file that should not be large into a value.
func ReadJSON(path string, limit int64, into any) error {
	content, err := ReadFile(path, limit)
	if err == nil {
		err = json.Unmarshal(content, into)
	}
	return err
}

// ReadAll is io.ReadAll of what should end within the limit.
func ReadAll(r io.Reader, limit int64) ([]byte, error) {
	var content bytes.Buffer
	if _, err := content.ReadFrom(NewReader(r, limit)); err != nil {
		return nil, err
	}
	return content.Bytes(), nil
}

// NewReader returns a reader that fails where that of io.LimitReader pretends that the content has ended.
func NewReader(r io.Reader, limit int64) io.Reader {
	return &reader{io.LimitReader(r, limit+1), limit, limit}
}

type reader struct {
	inner       io.Reader
	left, limit int64
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.inner.Read(p)
	if r.left -= int64(n); r.left < 0 {
		return 0, fmt.Errorf("%w of %d bytes", ErrTooLong, r.limit)
	}
	return n, err
}

// Buffer keeps the first bytes that are written to it and drops the rest. It may be read while it is written to, as when
// children of a command still write after its end.
type Buffer struct {
	Limit int

	mu     sync.Mutex
	buffer bytes.Buffer
	cut    bool
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(p), b.Limit-b.buffer.Len())
	b.cut = b.cut || n < len(p)
	b.buffer.Write(p[:n])
	return len(p), nil
}

// Bytes are those that were kept.
func (b *Buffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buffer.Bytes())
}

// String is Bytes as text.
func (b *Buffer) String() string { return string(b.Bytes()) }

// Cut tells whether something was dropped.
func (b *Buffer) Cut() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cut
}
