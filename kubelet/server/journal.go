package server

import (
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
	"slices"
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

// isJournalQuery tells whether one of a query's parameters is there.
func isJournalQuery(values url.Values) bool {
	return slices.ContainsFunc([]string{"query", "sinceTime", "untilTime", "tailLines", "boot", "pattern"}, values.Has)
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
	if q.file == "" && len(q.services) == 0 || len(q.services) > queryServices || q.file != "" && len(q.services)+len(q.options) > 0 {
		return q, badRequest("query: want one to %d services, or one file without options", queryServices)
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

// queryLogs answers a query: first with what the journal has of those services that write to it, then with the file of each
// other service. What was found of none is said in the answer, which is one of several.
//
// Upstream: pkg/kubelet/kubelet_server_journal.go nodeLogQuery.copyForBoot.
func (s *Server) queryLogs(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Path != "/logs/" {
		return badRequest("path not allowed in query mode")
	}
	q, err := parseJournalQuery(r.URL.Query())
	if err != nil {
		return err
	}
	if q.file != "" {
		return s.showLog(w, r, q.file)
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	inJournal, inFiles := whereLogged(ctx, q.services)
	if len(inJournal) > 0 {
		args := append([]string{"--utc", "--no-pager", "--output=short-precise"}, q.options...)
		for _, service := range inJournal {
			args = append(args, "--unit="+service)
		}
		command := exec.CommandContext(ctx, "journalctl", args...)
		command.Stdout, command.Stderr = w, w // it says itself what is wrong, and that there is nothing
		err := command.Run()
		if _, ended := errors.AsType[*exec.ExitError](err); err != nil && (!ended || ctx.Err() != nil) {
			return fmt.Errorf("journalctl: %w", err)
		}
	}
	if len(inFiles) > 0 && len(q.options) > 0 {
		_, err := fmt.Fprintf(w, "\noptions present and query resolved to log files for %v\ntry without specifying options\n", inFiles)
		return err
	}
	for _, service := range inFiles {
		if err := s.copyServiceLog(w, service); err != nil {
			return err
		}
	}
	return nil
}

// whereLogged tells services that the journal knows as units from others, which may have a file.
func whereLogged(ctx context.Context, services []string) (inJournal, inFiles []string) {
	known, _ := exec.CommandContext(ctx, "journalctl", "--field=_SYSTEMD_UNIT").Output() // nothing where there is no journal
	units := strings.Fields(string(known))
	for _, service := range services {
		if slices.Contains(units, service) || slices.Contains(units, service+".service") {
			inJournal = append(inJournal, service)
		} else {
			inFiles = append(inFiles, service)
		}
	}
	return inJournal, inFiles
}

// copyServiceLog writes the first file that bears the service's name.
func (s *Server) copyServiceLog(w io.Writer, service string) error {
	for _, name := range []string{service, service + ".log", path.Join(service, service+".log")} {
		file, info, err := s.openLog(name)
		switch {
		case statusOf(err) == http.StatusNotFound:
			continue
		case err != nil:
			_, err = fmt.Fprintf(w, "\nerror getting log for %s: %v\n", service, err)
			return err
		case !info.IsDir():
			_, err = io.Copy(w, io.NewSectionReader(file, 0, info.Size()))
			return errors.Join(err, file.Close())
		}
		_ = file.Close()
	}
	_, err := fmt.Fprintf(w, "\nlog not found for %s\n", service)
	return err
}
