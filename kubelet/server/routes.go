package server

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/server/auth"
)

// route is one kind of request. What it needs to be allowed stands beside its handler, so that no way of writing a
// path leads to one handler by the rights of another.
type route struct {
	pattern     string
	subresource []string // of nodes; one of them is enough
	verb        string   // "" for that of the method
	kind        *shares  // of streams, which last as long as their user likes; nil for requests that do not
	readOnly    bool     // answered on the read-only port too
	health      bool     // answered to every local program where a token opens the rest
	handler     func(http.ResponseWriter, *http.Request) error
}

// nodesProxy is the subresource of paths that have none of their own. Who may use it may use the finer ones too.
const nodesProxy = "proxy"

// routes are all that the server answers.
//
// Upstream: pkg/kubelet/server/server.go InstallAuthNotRequiredHandlers and InstallAuthRequiredHandlers
func (s *Server) routes() []route {
	checks := append([]Check{{Name: "ping", Check: func() error { return nil }}, {Name: "log", Check: newLogCheck()}}, s.options.Checks...)
	checks = Observed(checks, s.options.ObserveCheck)
	all := []route{
		{pattern: "/healthz", subresource: []string{"healthz", nodesProxy}, readOnly: true, health: true, handler: healthz(checks)},
		{pattern: "GET /pods", subresource: []string{"pods", nodesProxy}, readOnly: true, handler: s.getPods},
	}
	for _, c := range checks {
		all = append(all, route{pattern: "/healthz/" + c.Name, subresource: []string{"healthz", nodesProxy}, readOnly: true, health: true, handler: healthz([]Check{c})})
	}
	for pattern, h := range map[string]http.Handler{
		"GET /metrics": s.options.Metrics, "GET /metrics/resource": s.options.Resource,
		"GET /metrics/probes": s.options.Probes, "GET /metrics/cadvisor": s.options.Cadvisor,
		"GET /metrics/slis": s.options.SLIs,
	} {
		all = appendHandler(all, route{pattern: pattern, subresource: []string{"metrics"}, readOnly: true}, h)
	}
	for _, method := range []string{"GET", "POST"} {
		all = appendHandler(all, route{pattern: method + " /stats/summary", subresource: []string{"stats"}, readOnly: true}, s.options.Summary)
	}
	if !*s.settings.EnableDebuggingHandlers {
		return append(all, disabled("Debug endpoints are disabled.",
			"/run/", "/exec/", "/attach/", "/portForward/", "/containerLogs/", "/runningpods/", "/debug/", "/logs/")...)
	}
	return slices.Concat(all, s.containerRoutes(), s.nodeRoutes())
}

// containerRoutes lead into containers. They are "create" whatever the method: a user who may only look must not get a shell.
func (s *Server) containerRoutes() []route {
	all := []route{
		{pattern: "GET /containerLogs/{namespace}/{pod}/{container}", subresource: []string{nodesProxy}, kind: s.logs, handler: s.getContainerLogs},
		{pattern: "POST /checkpoint/{namespace}/{pod}/{container}", subresource: []string{"checkpoint"}, kind: s.commands, handler: s.checkpoint},
	}
	for _, method := range []string{"GET", "POST"} {
		for _, uid := range []string{"", "/{uid}"} {
			for path, handler := range map[string]func(http.ResponseWriter, *http.Request) error{
				"/exec/{namespace}/{pod}" + uid + "/{container}":   s.getExec,
				"/attach/{namespace}/{pod}" + uid + "/{container}": s.getAttach,
				"/portForward/{namespace}/{pod}" + uid:             s.getPortForward,
				"/run/{namespace}/{pod}" + uid + "/{container}":    s.getRun,
			} {
				kind := s.commands
				if strings.HasPrefix(path, "/portForward/") {
					kind = s.forwards
				}
				if method == "GET" && strings.HasPrefix(path, "/run/") {
					continue
				}
				all = append(all, route{pattern: method + " " + path, subresource: []string{nodesProxy}, verb: "create", kind: kind, handler: handler})
			}
		}
	}
	return all
}

// nodeRoutes tell of the node and the kubelet itself.
func (s *Server) nodeRoutes() []route {
	all := []route{
		{pattern: "GET /runningpods", subresource: []string{"pods", nodesProxy}, handler: s.getRunningPods},
		{pattern: "GET /configz", subresource: []string{"configz", nodesProxy}, handler: s.getConfigz},
		{pattern: "GET /flagz", subresource: []string{"configz"}, handler: s.getFlagz},
		{pattern: "GET /statusz", subresource: []string{"statusz"}, handler: s.getStatusz},
	}
	if s.settings.EnableSystemLogHandler == nil || *s.settings.EnableSystemLogHandler {
		all = append(all, route{pattern: "GET /logs/", subresource: []string{"log"}, kind: s.logs, handler: s.getLogs})
	} else {
		all = append(all, disabled("logs endpoint is disabled.", "/logs/")...)
	}
	return append(all, s.debugRoutes()...)
}

// disabled answers that paths are switched off.
func disabled(message string, paths ...string) []route {
	var all []route
	for _, path := range paths {
		subresource := nodesProxy
		if path == "/logs/" {
			subresource = "log"
		}
		all = append(all, route{pattern: path, subresource: []string{subresource}, handler: func(http.ResponseWriter, *http.Request) error {
			return &httpError{http.StatusMethodNotAllowed, message}
		}})
	}
	return all
}

func appendHandler(all []route, r route, h http.Handler) []route {
	if h == nil {
		return all
	}
	r.handler = func(w http.ResponseWriter, req *http.Request) error {
		h.ServeHTTP(w, req)
		return nil
	}
	return append(all, r)
}

// subtrees are where there may be no route. What is asked for there needs what its neighbours need: a mistake in a path must
// not be answered as if nodes/proxy, which opens all, was wanting.
var subtrees = map[string][]string{
	"/checkpoint": {"checkpoint"}, "/configz": {"configz", nodesProxy}, "/flagz": {"configz"}, "/healthz": {"healthz", nodesProxy},
	"/metrics": {"metrics"}, "/pods": {"pods", nodesProxy}, "/runningpods": {"pods", nodesProxy}, "/stats": {"stats"}, "/statusz": {"statusz"},
}

// handler puts the routes together: it finds out the user and the route, asks whether the user may, and answers.
// The read-only port has some routes only, and no users.
func (s *Server) handler(secure bool) http.Handler {
	byPath := map[string][]route{}
	for _, r := range s.routes() {
		if secure || r.readOnly {
			_, path := r.methodAndPath()
			byPath[path] = append(byPath[path], r)
		}
	}
	if secure {
		s.paths = slices.Sorted(maps.Keys(byPath))
	}
	for path, routes := range maps.Clone(byPath) {
		if !strings.HasSuffix(path, "/") { // some clients ask for /stats/summary/
			byPath[path+"/{$}"] = routes
		}
	}
	byPath["/"] = []route{{pattern: "/", subresource: []string{nodesProxy}, handler: nothingThere}}
	for root, subresource := range subtrees {
		for _, path := range []string{root, root + "/"} { // both, or the mux would send from one to the other before access is checked
			if byPath[path] == nil {
				byPath[path] = []route{{pattern: path, subresource: subresource, handler: nothingThere}}
			}
		}
	}
	mux := http.NewServeMux()
	for path, routes := range byPath {
		mux.Handle(path, s.byMethod(routes, secure))
	}
	if !secure {
		return s.instrumented("readonly", mux)
	}
	return s.instrumented("readwrite", s.authenticated(mux))
}

func nothingThere(http.ResponseWriter, *http.Request) error { return notFound("404 page not found") }

// methodAndPath are the parts of the pattern. Without a method it is for all.
func (r *route) methodAndPath() (method, path string) {
	method, path, ok := strings.Cut(r.pattern, " ")
	if !ok {
		return "", r.pattern
	}
	return method, path
}

// byMethod answers requests for one path by that of its routes which has the request's method. Where none has it, the answer
// names the methods that there are.
func (s *Server) byMethod(routes []route, secure bool) http.Handler {
	answering := func(r route) http.Handler {
		if secure {
			return s.allowed(r, s.bounded(r))
		}
		return s.bounded(r)
	}
	answers := map[string]http.Handler{}
	for _, r := range routes {
		method, _ := r.methodAndPath()
		answers[method] = answering(r)
	}
	if answers[""] == nil {
		allow := strings.Join(slices.Sorted(maps.Keys(answers)), ", ")
		answers[""] = answering(route{subresource: routes[0].subresource, handler: func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Allow", allow)
			return &httpError{http.StatusMethodNotAllowed, "Method Not Allowed"}
		}})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		answer, ok := answers[method]
		if !ok {
			answer = answers[""]
		}
		answer.ServeHTTP(w, r)
	})
}

// instrumented bounds what a request may bring and how long it may take to do so, and has it counted.
func (s *Server) instrumented(port string, h http.Handler) http.Handler {
	if s.options.Instrument != nil {
		h = s.options.Instrument(port, h)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.ContentLength != 0 && r.Body != nil { // a body that never comes must not hold the connection
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			w.Header().Set("Connection", "close")
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
		h.ServeHTTP(w, r)
	})
}

// authenticated lets requests of known users through.
func (s *Server) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := s.user(r)
		if err != nil {
			klog.FromContext(r.Context()).V(2).Info("Unauthenticated request", "path", r.URL.Path, "from", r.RemoteAddr, "reason", err)
			w.Header().Set("Connection", "close") // strangers do not keep connections
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		r = r.WithContext(withUser(r.Context(), user))
		next.ServeHTTP(w, r)
	})
}

// allowed lets requests through that their user may make. The connections of others are not kept.
func (s *Server) allowed(of route, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		verb := of.verb
		if verb == "" {
			verb = auth.Verb(r.Method)
		}
		user := userOf(r.Context())
		refuse := func(status int, message string) {
			w.Header().Set("Connection", "close")
			http.Error(w, message, status)
		}
		if s.token != nil && user.Name != tokenUser {
			if of.health {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(http.StatusUnauthorized, "Unauthorized: send the token in "+tokenFile+" below the root directory as bearer token")
			return
		}
		ok, err := s.auth.Authorize(r.Context(), user, verb, of.subresource...)
		log := klog.FromContext(r.Context())
		switch {
		case err != nil:
			log.Error(err, "Request could not be authorized", "user", user.Name, "verb", verb, "subresources", of.subresource)
			refuse(http.StatusInternalServerError, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Name, verb, of.subresource))
		case !ok:
			log.V(2).Info("Forbidden", "user", user.Name, "verb", verb, "path", r.URL.Path, "subresources", of.subresource)
			refuse(http.StatusForbidden, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Name, verb, of.subresource))
		case !allowConn(r.Context(), user):
			w.Header().Set("Retry-After", "1")
			refuse(http.StatusTooManyRequests, "too many connections, try again")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// bounded answers while there is room, and turns a handler's error into an answer if none has begun.
func (s *Server) bounded(of route) http.Handler {
	places := of.kind
	if places == nil {
		places = s.requests
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := userOf(r.Context())
		leave, ok := places.take(places.share(user, r.RemoteAddr)...)
		if !ok {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests, try again", http.StatusTooManyRequests)
			return
		}
		defer leave()
		if of.pattern != "" { // part: tracing, kubelet/tracing
			trace.SpanFromContext(r.Context()).SetName(of.pattern)
		}
		if of.kind != nil {
			klog.FromContext(r.Context()).V(3).Info("Request", "method", r.Method, "path", r.URL.Path, "user", user.Name)
		}
		p := &patient{ResponseWriter: w, control: http.NewResponseController(w), timeout: writeTimeout}
		var err error
		if of.kind != nil {
			err = dropBody(p, r)
		}
		if err == nil {
			err = of.handler(p, r)
		}
		if err == nil || r.Context().Err() != nil {
			return
		}
		klog.FromContext(r.Context()).V(2).Info("Request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		if p.begun {
			panic(http.ErrAbortHandler) // a cut-off answer must not look whole
		}
		writeError(p, err)
	})
}

// dropBody reads a body that is of no use. net/http notices that a client has gone, and ends the request's context, only
// after the body was read.
func dropBody(p *patient, r *http.Request) error {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		status := http.StatusBadRequest
		if _, much := errors.AsType[*http.MaxBytesError](err); much {
			status = http.StatusRequestEntityTooLarge
		}
		return &httpError{status, fmt.Sprintf("read the request's body: %v", err)}
	}
	_ = p.control.SetReadDeadline(time.Time{}) // it was for the body
	return nil
}
