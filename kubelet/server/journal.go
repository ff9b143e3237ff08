package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"time"
)

// Limits of a query, which are upstream's.
const (
	queryTime     = 30 * time.Second
	queryServices = 4
	queryLines    = 100_000
)

// serviceName is what names of services are made of, none of which is a flag of journalctl.
var serviceName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.:@-]{0,255}$`)

// journalQuery is what /logs/?query=NAME asks for: what services wrote to the journal, or one file below /var/log.
type journalQuery struct {
	services []string
	file     string
	options  []string // of journalctl
}

// parseJournalQuery reads the parameters of a request. Those of upstream are known, others are not looked at.
//
// Upstream: pkg/kubelet/kubelet_server_journal.go newNodeLogQuery.
func parseJournalQuery(values url.Values) (q journalQuery, err error) {
	for _, name := range values["query"] {
		switch name = strings.TrimSpace(name); {
		case strings.ContainsAny(name, `/\`) && q.file == "":
			q.file = name
		case serviceName.MatchString(name):
			q.services = append(q.services, name)
		default:
			return q, badRequest("query: %q: want the name of a service, or one file", name)
		}
	}
	if q.options, err = journalOptions(values); err != nil {
		return q, err
	}
	if len(q.services) > queryServices || q.file != "" && len(q.services)+len(q.options) > 0 {
		return q, badRequest("query: want up to %d services, or one file without options", queryServices)
	}
	return q, nil
}

// journalOptions makes options of journalctl of the parameters.
func journalOptions(values url.Values) (options []string, err error) {
	var times [2]time.Time
	for i, name := range []string{"sinceTime", "untilTime"} {
		if text := values.Get(name); text != "" {
			if times[i], err = time.Parse(time.RFC3339, text); err != nil {
				return nil, badRequest("%s: %v", name, err)
			}
			options = append(options, "--"+strings.TrimSuffix(name, "Time")+"="+times[i].UTC().Format("2006-01-02 15:04:05 UTC"))
		}
	}
	if !times[1].IsZero() && times[0].After(times[1]) {
		return nil, badRequest("untilTime: must be after sinceTime")
	}
	for _, number := range []struct {
		name, option string
		least, most  int
	}{{"tailLines", "--lines=", 0, queryLines}, {"boot", "--boot=", -queryLines, 0}} {
		text := values.Get(number.name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < number.least || n > number.most {
			return nil, badRequest("%s: %q: want a number from %d to %d", number.name, text, number.least, number.most)
		}
		options = append(options, number.option+strconv.Itoa(n))
	}
	if pattern := values.Get("pattern"); pattern != "" {
		if _, err := syntax.Parse(pattern, syntax.Perl); err != nil {
			return nil, badRequest("pattern: %v", err)
		}
		options = append(options, "--grep="+pattern)
	}
	return options, nil
}

// queryLogs answers a query. A service that has nothing in the journal may have a file of its name.
func (s *Server) queryLogs(w http.ResponseWriter, r *http.Request) error {
	q, err := parseJournalQuery(r.URL.Query())
	if err != nil {
		return err
	}
	if q.file != "" {
		return s.showLog(w, r, q.file, true)
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	args := append([]string{"--utc", "--no-pager", "--quiet", "--output=short-precise"}, q.options...)
	for _, service := range q.services {
		args = append(args, "--unit="+service)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out, problems := &journalAnswer{Writer: w}, &bytes.Buffer{}
	command := exec.CommandContext(ctx, "journalctl", args...)
	command.Stdout, command.Stderr = out, problems
	failure := command.Run()
	if out.begun {
		return nil
	}
	if len(q.options) == 0 {
		for _, name := range q.services {
			for _, file := range []string{name, name + ".log", path.Join(name, name+".log")} {
				var missing *httpError
				if err := s.showLog(w, r, file, false); !errors.As(err, &missing) || missing.status != http.StatusNotFound {
					return err
				}
			}
		}
	}
	// journalctl ends with an error also when no entry matches the pattern.
	if _, ended := errors.AsType[*exec.ExitError](failure); failure != nil && (!ended || ctx.Err() != nil) {
		return fmt.Errorf("journalctl: %w", failure)
	}
	return notFound("no entries of %s %s", strings.Join(q.services, ", "), strings.TrimSpace(problems.String()))
}

// journalAnswer knows whether anything was written.
type journalAnswer struct {
	io.Writer
	begun bool
}

func (a *journalAnswer) Write(p []byte) (int, error) {
	a.begun = true
	return a.Writer.Write(p)
}
