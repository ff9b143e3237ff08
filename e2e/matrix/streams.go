package matrix

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport/spdy"
	httpstreamspdy "k8s.io/streaming/pkg/httpstream/spdy"
)

// The kubelet asks the runtime for a stream before it tells its client that there is one, so a client that gets one and
// leaves has had the call made.
func execStream(ctx context.Context, r *run, pod *corev1.Pod) error {
	return r.stream(ctx, pod, "exec", "v4.channel.k8s.io", url.Values{"container": {"app"}, "command": {"true"}, "stdout": {"true"}})
}

func attachStream(ctx context.Context, r *run, pod *corev1.Pod) error {
	return r.stream(ctx, pod, "attach", "v4.channel.k8s.io", url.Values{"container": {"app"}, "stdout": {"true"}})
}

func forwardStream(ctx context.Context, r *run, pod *corev1.Pod) error {
	return r.stream(ctx, pod, "portforward", "portforward.k8s.io", nil)
}

// stream asks for a stream until there is one: what a fault breaks is told to the client, which asks again.
func (r *run) stream(ctx context.Context, pod *corev1.Pod, kind, protocol string, query url.Values) error {
	target := r.s.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource(kind).URL()
	target.RawQuery = query.Encode()
	var err error
	if !r.soon(ctx, func() bool {
		transport, upgrader, tripErr := r.upgrading()
		if err = tripErr; err != nil {
			return false
		}
		request, requestErr := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), http.NoBody)
		if err = requestErr; err != nil {
			return false
		}
		conn, _, dialErr := spdy.Negotiate(upgrader, &http.Client{Transport: transport}, request, protocol)
		if err = dialErr; err != nil {
			return false
		}
		_ = conn.Close()
		return true
	}) {
		return fmt.Errorf("%s to %s never worked: %w", kind, pod.Name, err)
	}
	return nil
}

// upgrading returns what upgrades a connection to the apiserver: spdy.RoundTripperFor would dial from this process's
// network namespace, where another node's address or a proxy answers.
func (r *run) upgrading() (http.RoundTripper, spdy.Upgrader, error) {
	config := rest.CopyConfig(r.s.Config)
	config.NextProtos = []string{"http/1.1"} // HTTP/2 has no upgrades
	dialer, err := rest.TransportFor(config)
	if err != nil {
		return nil, nil, err
	}
	tripper, err := httpstreamspdy.NewRoundTripperWithConfig(httpstreamspdy.RoundTripperConfig{UpgradeTransport: dialer})
	if err != nil {
		return nil, nil, err
	}
	transport, err := rest.HTTPWrappersForConfig(config, tripper)
	return transport, spdy.NewUpgraderForStreaming(tripper), err
}

// checkpoint asks for a checkpoint until the kubelet answers. Most runtimes can make none, which is an answer too; that the kubelet
// does not know the pod yet, since it has just started, is none.
func checkpoint(ctx context.Context, r *run, pod *corev1.Pod) error {
	client, err := r.s.KubeletClient("matrix", "system:masters")
	if err != nil {
		return err
	}
	if !r.soon(ctx, func() bool {
		request, requestErr := http.NewRequestWithContext(ctx, http.MethodPost, r.s.KubeletURL()+"/checkpoint/"+pod.Namespace+"/"+pod.Name+"/app", http.NoBody)
		if err = requestErr; err != nil {
			return false
		}
		answer, askErr := client.Do(request)
		if err = askErr; err != nil {
			return false
		}
		defer answer.Body.Close()
		text, readErr := io.ReadAll(answer.Body)
		if err = readErr; err == nil && strings.Contains(string(text), "does not exist") {
			err = fmt.Errorf("%s: %s", answer.Status, text)
		}
		return err == nil
	}) {
		return fmt.Errorf("a checkpoint of %s was never answered: %w", pod.Name, err)
	}
	return nil
}

// soon tries something until it works or ctx ends, and tells whether it worked.
func (r *run) soon(ctx context.Context, works func() bool) bool {
	return r.eventually(ctx, "it works", works) == nil
}
