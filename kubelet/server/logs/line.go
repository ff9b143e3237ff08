// Package logs reads the files that container runtimes write for their containers. Whatever stands in them was
// written by a container, and none of it is trusted: not the format, not the length of a line, not what the path is.
package logs

import (
	"bytes"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// timeFormat is RFC 3339 with nine digits, so that times stand below each other.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// header is what stands before the text of an entry: "time stream tag ".
type header struct {
	time    time.Time
	stream  runtimeapi.LogStreamType
	partial bool // the next entry of the stream goes on in the same line
}

// parseHeader takes the header off an entry. Tags that are not known are passed over, as the CRI asks.
//
// Upstream: staging/src/k8s.io/cri-client/pkg/logs/logs.go parseCRILog
func parseHeader(entry []byte) (h header, text []byte, ok bool) {
	parts := bytes.SplitN(entry, []byte(" "), 4)
	if len(parts) < 4 {
		return header{}, nil, false
	}
	h.stream = runtimeapi.LogStreamType(parts[1])
	if h.stream != runtimeapi.Stdout && h.stream != runtimeapi.Stderr {
		return header{}, nil, false
	}
	var err error
	if h.time, err = time.Parse(time.RFC3339Nano, string(parts[0])); err != nil {
		return header{}, nil, false
	}
	tag, _, _ := bytes.Cut(parts[2], []byte(runtimeapi.LogTagDelimiter))
	h.partial = runtimeapi.LogTag(tag) == runtimeapi.LogTagPartial
	return h, parts[3], true
}
