package server

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"net/url"
	"runtime"
	"strings"

	"k8s.io/klog/v2"
)

// masked stands for what is secret.
const masked = "<masked>"

// getConfigz answers with the configuration that is in force, without the secrets in it.
//
// Upstream: staging/src/k8s.io/component-base/configz/configz.go
func (s *Server) getConfigz(w http.ResponseWriter, _ *http.Request) error {
	config := s.settings.DeepCopy()
	config.StaticPodURL = maskedURL(config.StaticPodURL)
	for name := range config.StaticPodURLHeader {
		config.StaticPodURLHeader[name] = []string{masked}
	}
	return writeJSON(w, map[string]any{"kubeletconfig": config})
}

// maskedURL is a URL without what may be secret in it: who asks, and what for.
func maskedURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return masked
	}
	if u.User != nil {
		u.User = url.User("masked")
	}
	if u.RawQuery != "" {
		u.RawQuery = "masked"
	}
	return u.String()
}

func writeText(w http.ResponseWriter, text string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := io.WriteString(w, text)
	return err
}

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
//
// Upstream: staging/src/k8s.io/apiserver/pkg/server/routes/flags.go StringFlagPutHandler
func putVerbosity(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64))
	if err != nil {
		return badRequest("read body: %v", err)
	}
	var flags flag.FlagSet
	klog.InitFlags(&flags)
	text := strings.TrimSpace(string(body))
	if err := flags.Set("v", text); err != nil {
		return badRequest("%q is not a verbosity: %v", text, err)
	}
	return writeText(w, fmt.Sprintf("successfully set klog.logging.verbosity to %s\n", text))
}
