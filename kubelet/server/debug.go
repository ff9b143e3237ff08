package server

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"runtime"
	"strconv"
	"strings"

	"k8s.io/klog/v2"
)

// debugRoutes are off unless the settings say otherwise.
//
// Upstream: pkg/kubelet/server/server.go InstallProfilingHandler and InstallDebugFlagsHandler
func (s *Server) debugRoutes() []route {
	var all []route
	if on := s.settings.EnableProfilingHandler; on != nil && *on {
		if s.settings.EnableContentionProfiling {
			runtime.SetBlockProfileRate(1)
		}
		for path, h := range map[string]http.HandlerFunc{"": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace} {
			all = appendHandler(all, route{pattern: "GET /debug/pprof/" + path, subresource: []string{nodesProxy}, kind: s.commands}, h)
		}
	} else {
		all = append(all, disabled("profiling endpoint is disabled.", "/debug/pprof/")...)
	}
	if on := s.settings.EnableDebugFlagsHandler; on != nil && *on {
		return append(all, route{pattern: "PUT /debug/flags/v", subresource: []string{nodesProxy}, handler: putVerbosity})
	}
	return append(all, disabled("flags endpoint is disabled.", "/debug/flags/v")...)
}

// putVerbosity sets how much is logged from now on.
func putVerbosity(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64))
	if err != nil {
		return badRequest("read body: %v", err)
	}
	var flags flag.FlagSet
	klog.InitFlags(&flags)
	text := strings.TrimSpace(string(body))
	if _, err = strconv.ParseUint(text, 10, 31); err == nil {
		err = flags.Set("v", text)
	}
	if err != nil {
		return badRequest("%q is not a verbosity: %v", text, err)
	}
	return writeText(w, fmt.Sprintf("successfully set klog.logging.verbosity to %s\n", text))
}
