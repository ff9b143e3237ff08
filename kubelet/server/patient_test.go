package server

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// deadlines keeps the last deadline for what is written.
type deadlines struct {
	*httptest.ResponseRecorder
	last time.Time
}

func (d *deadlines) SetWriteDeadline(at time.Time) error {
	d.last = at
	return nil
}

// TestLogPatience: a client of a log may take nothing for as long as streamingConnectionIdleTimeout says, with 0 for ever.
func TestLogPatience(t *testing.T) {
	for _, idle := range []time.Duration{0, time.Hour} {
		w := &deadlines{httptest.NewRecorder(), time.Now()}
		l := newLogWriter(&patient{ResponseWriter: w, control: http.NewResponseController(w), timeout: writeTimeout}, idle)
		_, err := l.WriteString("line\n")
		must(t, err)
		must(t, l.Flush())
		if none := w.last.IsZero(); none != (idle == 0) || !none && time.Until(w.last) < idle/2 {
			t.Errorf("with %v the deadline is %v", idle, w.last)
		}
	}
}
