package local

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/kubelet/timeline/story"
)

// Client talks to a kubelet on this machine.
type Client struct {
	path string
	// Transport connects to the socket, whatever host a URL names.
	Transport *http.Transport
}

// NewClient makes a client of the kubelet with that root directory; it does not connect.
func NewClient(rootDir string) *Client {
	c := &Client{path: Path(rootDir)}
	c.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", c.path)
	}}
	return c
}

// URL is the address of a request.
func (c *Client) URL(query url.Values, path ...string) *url.URL {
	u := (&url.URL{Scheme: "http", Host: "kubelet"}).JoinPath(path...)
	u.RawQuery = query.Encode()
	return u
}

// Do sends a request and returns the body of its answer, which is to be closed.
func (c *Client) Do(ctx context.Context, method string, query url.Values, path ...string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.URL(query, path...).String(), nil)
	if err != nil {
		return nil, err
	}
	answer, err := (&http.Client{Transport: c.Transport}).Do(r)
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no kubelet answers on %s: see that one runs, and name its --root-dir", c.path)
	case err != nil:
		return nil, fmt.Errorf("ask the kubelet on %s, which only root may: %w", c.path, err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	return nil, cmp.Or(err, errors.New(strings.TrimSpace(string(text))))
}

// Find returns the pod called NAME or NAMESPACE/NAME. A static pod is found by its manifest's name too, without the node's
// at its end.
func (c *Client) Find(ctx context.Context, name string) (*corev1.Pod, error) {
	namespace, short, ok := strings.Cut(name, "/")
	if !ok {
		namespace, short = corev1.NamespaceDefault, name
	}
	body, err := c.Do(ctx, http.MethodGet, nil, "pods")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var pods corev1.PodList
	if err := json.NewDecoder(body).Decode(&pods); err != nil {
		return nil, fmt.Errorf("read the kubelet's answer: %w", err)
	}
	var found *corev1.Pod
	answer := []string{fmt.Sprintf("pod %s/%s is not on this node", namespace, short)}
	for i := range pods.Items {
		p := &pods.Items[i]
		switch {
		case p.Name != short && (p.Name != short+"-"+p.Spec.NodeName || !podinfo.IsStatic(p)):
		case p.Namespace != namespace:
			answer = append(answer, fmt.Sprintf("but %s/%s is", p.Namespace, p.Name))
		case found == nil || p.Name == short:
			found = p
		}
	}
	if found == nil {
		return nil, errors.New(strings.Join(answer, ", "))
	}
	return found, nil
}

// Watch calls on with a line of each pod, and again after each change and each second, until ctx or the kubelet ends or on wants no
// more.
func (c *Client) Watch(ctx context.Context, on func([]story.Summary) (more bool)) error {
	body, err := c.Do(ctx, http.MethodGet, nil, "watch")
	if err != nil {
		return err
	}
	defer body.Close()
	in := json.NewDecoder(body)
	for more := true; more; {
		var lines []story.Summary
		if err := in.Decode(&lines); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("the kubelet tells no more of its pods: %w", err)
		}
		more = on(lines)
	}
	return nil
}
