package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Check is one named part of a health answer. A nil error is health.
type Check struct {
	Name  string
	Check func() error
}

// Observed returns checks that call observe, unless it is nil, with what each of them finds.
func Observed(checks []Check, observe func(name string, err error)) []Check {
	if observe == nil {
		return checks
	}
	all := make([]Check, len(checks))
	for i, c := range checks {
		all[i] = Check{Name: c.Name, Check: func() error {
			err := c.Check()
			observe(c.Name, err)
			return err
		}}
	}
	return all
}

// answer writes "ok", or the verbose list when a check fails or the client asks for it. Checks can be left out by name.
func answer(w http.ResponseWriter, r *http.Request, checks []Check) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	var list strings.Builder
	failed, query := false, r.URL.Query()
	excluded, unknown := query["exclude"], slices.Clone(query["exclude"])
	for _, c := range checks {
		if slices.Contains(excluded, c.Name) {
			unknown = slices.DeleteFunc(unknown, func(name string) bool { return name == c.Name })
			fmt.Fprintf(&list, "[+]%s excluded: ok\n", c.Name)
			continue
		}
		if err := c.Check(); err != nil {
			failed = true
			fmt.Fprintf(&list, "[-]%s failed: %v\n", c.Name, err)
			continue
		}
		fmt.Fprintf(&list, "[+]%s ok\n", c.Name)
	}
	if len(unknown) > 0 {
		fmt.Fprintf(&list, "warn: some health checks cannot be excluded: no matches for %q\n", strings.Join(unknown, ","))
	}
	switch {
	case failed:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%shealthz check failed\n", list.String())
	case query.Has("verbose"):
		fmt.Fprintf(w, "%shealthz check passed\n", list.String())
	default:
		fmt.Fprint(w, "ok")
	}
}

// healthz answers with the checks.
func healthz(checks []Check) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		answer(w, r, checks)
		return nil
	}
}
