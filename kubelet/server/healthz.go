package server

import (
	"fmt"
	"net/http"
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

// answer writes "ok", or the verbose list when a check fails or the client asks for it.
func answer(w http.ResponseWriter, r *http.Request, checks []Check) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	var list strings.Builder
	failed := false
	for _, c := range checks {
		if err := c.Check(); err != nil {
			failed = true
			fmt.Fprintf(&list, "[-]%s failed: %v\n", c.Name, err)
			continue
		}
		fmt.Fprintf(&list, "[+]%s ok\n", c.Name)
	}
	_, verbose := r.URL.Query()["verbose"]
	switch {
	case failed:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%shealthz check failed\n", list.String())
	case verbose:
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
