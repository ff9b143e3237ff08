package stack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Request is one finished request of a node to the apiserver.
type Request struct {
	Time                                         time.Time // of the response
	Verb, Resource, Subresource, Namespace, Name string
	Code                                         int
	UserAgent                                    string
}

// NodeRequests lists what kubelets asked of the apiserver so far, from its
// audit log. Watches count when they end.
func (s *Stack) NodeRequests() ([]Request, error) {
	data, err := os.ReadFile(s.auditLog())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	var requests []Request
	for line := range bytes.Lines(data) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // being written
		}
		var event struct {
			Verb, UserAgent, StageTimestamp string
			ObjectRef                       struct{ Resource, Subresource, Namespace, Name string }
			ResponseStatus                  struct{ Code int }
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, fmt.Errorf("parse audit log: %w", err)
		}
		at, err := time.Parse(time.RFC3339Nano, event.StageTimestamp)
		if err != nil {
			return nil, fmt.Errorf("parse audit log: %w", err)
		}
		requests = append(requests, Request{
			Time: at, Verb: event.Verb, Resource: event.ObjectRef.Resource, Subresource: event.ObjectRef.Subresource,
			Namespace: event.ObjectRef.Namespace, Name: event.ObjectRef.Name, Code: event.ResponseStatus.Code, UserAgent: event.UserAgent,
		})
	}
	return requests, nil
}
