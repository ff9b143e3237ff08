package server

import (
	"bufio"
	"net"
	"net/http"
	"time"
)

// patient waits for a slow client as long as each write may take, however many there are.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	begun   bool
}

// Unwrap is for http.ResponseController.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (p *patient) WriteHeader(status int) {
	p.begun = true
	p.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (p *patient) Write(data []byte) (int, error) {
	p.begun = true
	p.extend()
	return p.ResponseWriter.Write(data)
}

// Flush implements http.Flusher.
func (p *patient) Flush() { _ = p.FlushError() }

// FlushError is Flush for http.ResponseController.
func (p *patient) FlushError() error {
	p.begun = true
	p.extend()
	return p.control.Flush()
}

// Hijack implements http.Hijacker.
func (p *patient) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	p.begun = true
	return p.control.Hijack()
}

func (p *patient) extend() {
	deadline := time.Time{} // none
	if p.timeout > 0 {
		deadline = time.Now().Add(p.timeout)
	}
	_ = p.control.SetWriteDeadline(deadline)
}
