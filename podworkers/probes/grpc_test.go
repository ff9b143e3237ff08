package probes

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// health is a server of the protocol whose answer depends on the service that is asked for.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (health) Check(ctx context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	switch r.GetService() {
	case "":
		return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
	case "sick":
		return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_NOT_SERVING}, nil
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	case "away":
		return nil, status.Error(codes.Unavailable, "starting")
	}
	return nil, status.Error(codes.Unimplemented, "no")
}

// TestGRPC: what a probe says of a server, in upstream's words.
func TestGRPC(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health{})
	go func() { _ = server.Serve(listener) }() // ends with Stop
	defer server.Stop()
	for service, want := range map[string]outcome{
		"":      {result: success, output: "service healthy"},
		"sick":  {output: `service unhealthy (responded with "NOT_SERVING")`},
		"slow":  {output: "timeout: health rpc did not complete within 1s"},
		"away":  {output: "error: health rpc probe failed: rpc error: code = Unavailable desc = starting"},
		"other": {output: "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): no"},
	} {
		pod := podWith(func(*corev1.Container) {})
		w := &worker{manager: New(Options{}), pod: pod, container: &pod.Spec.Containers[0], probe: &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{
			GRPC: &corev1.GRPCAction{Port: int32(listener.Addr().(*net.TCPAddr).Port), Service: &service},
		}}}
		if got := w.try(t.Context(), reading("1", time.Now())); got != want {
			t.Errorf("%q: %+v, want %+v", service, got, want)
		}
	}
}

// TestHTTP2: a server with TLS that speaks only HTTP/2 can be probed.
func TestHTTP2(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			w.WriteHeader(http.StatusHTTPVersionNotSupported)
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	pod := podWith(func(*corev1.Container) {})
	w := &worker{manager: New(Options{}), pod: pod, container: &pod.Spec.Containers[0], probe: &corev1.Probe{TimeoutSeconds: 5, ProbeHandler: corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Scheme: corev1.URISchemeHTTPS, Port: intstr.Parse(u.Port())},
	}}}
	if got := w.try(t.Context(), reading("1", time.Now())); got.result != success {
		t.Errorf("outcome %+v", got)
	}
}

// TestExecVariables: the command of a probe has those of the container's variables that the pod gives a value.
func TestExecVariables(t *testing.T) {
	var ran []string
	m := New(Options{Exec: func(_ context.Context, _ string, command []string, _ time.Duration) ([]byte, int, error) {
		ran = command
		return nil, 0, errors.New("enough")
	}})
	pod := podWith(func(c *corev1.Container) {
		c.Env = []corev1.EnvVar{{Name: "PORT", Value: "80"}, {Name: "NODE", ValueFrom: &corev1.EnvVarSource{}}}
	})
	w := &worker{manager: m, pod: pod, container: &pod.Spec.Containers[0], probe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
		Exec: &corev1.ExecAction{Command: []string{"check", "$(PORT)", "$(NODE)", "$(NONE)", "$$(PORT)"}},
	}}}
	w.try(t.Context(), reading("1", time.Now()))
	if want := []string{"check", "80", "", "$(NONE)", "$(PORT)"}; !slices.Equal(ran, want) {
		t.Errorf("ran %q, want %q", ran, want)
	}
}
