package images

import (
	"bytes"
	"os"
)

// fileWriter writes a file in order, with holes where there would be whole blocks of zeros, and pays for the rest.
type fileWriter struct {
	file    *os.File
	budget  *budget
	size    int64
	written int64
	hole    bool // at the end
}

var zeros [blockSize]byte

// Write implements io.Writer.
func (w *fileWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n, hole := w.run(p)
		if w.hole = hole; !hole {
			if err := w.budget.spend(int64(n)); err != nil {
				return total - len(p), err
			}
			if _, err := w.file.WriteAt(p[:n], w.size); err != nil {
				return total - len(p), err
			}
			w.written += int64(n)
		}
		w.size += int64(n)
		p = p[n:]
	}
	return total, nil
}

// run is how many bytes from the beginning, to the end of a block of the file, are all zeros or are not.
func (w *fileWriter) run(p []byte) (n int, hole bool) {
	n = min(len(p), blockSize-int(w.size%blockSize))
	hole = bytes.Equal(p[:n], zeros[:n])
	for n < len(p) {
		next := min(len(p)-n, blockSize)
		if bytes.Equal(p[n:n+next], zeros[:next]) != hole {
			break
		}
		n += next
	}
	return n, hole
}

// finish gives the file its size if it ends with a hole.
func (w *fileWriter) finish() error {
	if !w.hole {
		return nil
	}
	return w.file.Truncate(w.size)
}
