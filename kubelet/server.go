package kubelet

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/kubelet/client"
	"minikubelet/kubelet/identity"
	"minikubelet/kubelet/live"
	"minikubelet/kubelet/metrics"
	"minikubelet/kubelet/server"
	"minikubelet/kubelet/stats"
	"minikubelet/syncloop"
)

// newServers opens the kubelet's ports, so that one that is taken is found out at once, and returns what serves them.
func newServers(ctx context.Context, b *base, c *core, loop *syncloop.Loop, statistics *stats.Provider, reloader *live.Reloader) (runs []func(context.Context), err error) {
	slis := metrics.NewSLIs(b.metrics.slis)
	syncLoop := server.Check{Name: "syncloop", Check: loop.Healthy}
	if port := *b.settings.HealthzPort; port != 0 {
		checks := []server.Check{{Name: "ping", Check: func() error { return nil }}, syncLoop}
		healthz, err := server.ListenHealthz(net.JoinHostPort(b.settings.HealthzBindAddress, strconv.Itoa(int(port))), server.Observed(checks, slis.Observe))
		if err != nil {
			return nil, err
		}
		runs = append(runs, healthz.Run)
	}
	if !*b.settings.EnableServer {
		return runs, nil
	}
	certificate, renew, err := servingCertificate(ctx, b, c)
	if err != nil {
		return nil, err
	}
	if renew != nil {
		runs = append(runs, renew)
	}
	https, err := server.Listen(server.Options{
		GetCertificate: certificate,
		Settings:       b.settings, CRI: b.cri, Pods: c.podsWithStatus, Observed: c.cache.Get, Checks: []server.Check{syncLoop, {Name: "device-plugin", Check: c.devices.Check}},
		Tokens: b.api.tokens, Access: b.api.access, Addresses: c.node.HostIPs,
		Metrics: metrics.Handler(b.metrics.main), Probes: metrics.Plain(b.metrics.probes), Instrument: instrument(b),
		Resource: statistics.Resource(), Cadvisor: statistics.Cadvisor(), Summary: statistics.Summary(),
		Current: reloader.Current,
		SLIs:    metrics.Plain(b.metrics.slis), ObserveCheck: slis.Observe,
	})
	if err != nil {
		return nil, err
	}
	return append(runs, https.Run), nil
}

// instrument returns what goes around the handlers of the server.
func instrument(b *base) func(port string, handler http.Handler) http.Handler {
	counts := metrics.NewHTTP(b.metrics.main)
	return func(port string, handler http.Handler) http.Handler {
		return b.tracing.Handler(counts.Wrap(port, handler))
	}
}

// servingCertificate returns the certificate that the cluster signs for the kubelet's port, and what renews it. Both are
// nil without serverTLSBootstrap: then the server takes tlsCertFile, or a certificate that it signs itself.
func servingCertificate(ctx context.Context, b *base, c *core) (get func(*tls.ClientHelloInfo) (*tls.Certificate, error), renew func(context.Context), err error) {
	s := b.settings
	if !s.ServerTLSBootstrap || b.api.base == nil {
		return nil, nil, nil
	}
	api, err := client.New(b.api.base)
	if err != nil {
		return nil, nil, err
	}
	return identity.Serving(ctx, identity.ServingOptions{
		NodeName: s.NodeName, CertDir: s.CertDir, Kubeconfig: s.Kubeconfig, Requests: api.CertificateSigningRequests(),
		Addresses: func() []corev1.NodeAddress { return c.node.Node().Status.Addresses },
		CertFile:  s.TLSCertFile, KeyFile: s.TLSPrivateKeyFile, Registerer: b.metrics.main,
	})
}
