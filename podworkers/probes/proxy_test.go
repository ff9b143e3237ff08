package probes

import (
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// outside names the variable that tells the program under test to probe a pod at an address that proxies are asked for.
const outside = "PROBE_OUTSIDE_FOR"

// TestNoProxy: a probe goes to the pod itself, whatever proxy the kubelet's environment names. Such variables are read once in a
// program's life, so the probes are made by another one.
func TestNoProxy(t *testing.T) {
	handlers := map[string]corev1.ProbeHandler{
		"grpc": {GRPC: &corev1.GRPCAction{Port: 1}},
		"tcp":  {TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}},
		"http": {HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(1)}},
	}
	if kind := os.Getenv(outside); kind != "" {
		observed := reading("1", time.Now())
		observed.IPs = []string{"0.0.0.0"} // this machine, but no address for which a proxy is never asked, as one of loopback is
		w := &worker{manager: New(Options{}), pod: podWith(func(*corev1.Container) {}), probe: &corev1.Probe{ProbeHandler: handlers[kind], TimeoutSeconds: 1}}
		w.container = &w.pod.Spec.Containers[0]
		if got := w.try(t.Context(), observed); got.result != failure {
			t.Errorf("a probe of nothing: %+v", got)
		}
		return
	}
	for kind := range handlers {
		t.Run(kind, func(t *testing.T) {
			proxy, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			asked := make(chan string, 1)
			go func() {
				conn, err := proxy.Accept()
				if err != nil {
					close(asked)
					return
				}
				defer conn.Close()
				request := make([]byte, 200)
				n, _ := conn.Read(request)
				asked <- string(request[:n])
			}()
			probe := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNoProxy$")
			probe.Env = append(os.Environ(), outside+"="+kind, "HTTPS_PROXY=http://"+proxy.Addr().String(), "HTTP_PROXY=http://"+proxy.Addr().String(), "NO_PROXY=")
			output, err := probe.CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, output)
			}
			if err := proxy.Close(); err != nil {
				t.Fatal(err)
			}
			if request, ok := <-asked; ok {
				t.Errorf("the proxy was asked: %q", request)
			}
		})
	}
}
