// Package httpget makes the requests of httpGet actions, which probes and lifecycle hooks have in common.
package httpget

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const maxRedirects = 10

// Client returns a client for one kind of action. A pod's own certificate proves nothing, so it is not verified. Redirects to
// another host are not followed, or a pod could make the node call anything.
func Client(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true, DisableCompression: true, ForceAttemptHTTP2: true, // with TLS the server chooses
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Hostname() != via[0].URL.Hostname() {
				return http.ErrUseLastResponse
			}
			if len(via) >= maxRedirects {
				return fmt.Errorf("stopped after %d redirects", maxRedirects)
			}
			return nil
		},
	}
}

// Request returns the request of an action; host is where it goes unless the action names another.
//
// Upstream: pkg/probe/http/request.go NewRequestForHTTPGetAction
func Request(ctx context.Context, container *corev1.Container, get *corev1.HTTPGetAction, host, userAgent string) (*http.Request, error) {
	port, err := Port(container, get.Port)
	if err != nil {
		return nil, err
	}
	if get.Host != "" {
		host = get.Host
	}
	target, err := url.Parse(get.Path)
	if err != nil {
		target = &url.URL{Path: get.Path}
	}
	target.Scheme, target.Host = "http", net.JoinHostPort(host, port)
	if get.Scheme != "" {
		target.Scheme = strings.ToLower(string(get.Scheme))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, header := range get.HTTPHeaders {
		request.Header.Add(header.Name, header.Value)
	}
	for name, value := range map[string]string{"User-Agent": userAgent, "Accept": "*/*"} {
		if given, set := request.Header[name]; !set {
			request.Header.Set(name, value)
		} else if given[0] == "" {
			request.Header[name] = nil // an empty value asks for no header
		}
	}
	request.Host = request.Header.Get("Host")
	return request, nil
}

// Port is a number, or that of the container's port of this name.
func Port(container *corev1.Container, port intstr.IntOrString) (string, error) {
	number := port.IntValue()
	if port.Type == intstr.String {
		i := slices.IndexFunc(container.Ports, func(p corev1.ContainerPort) bool { return p.Name == port.StrVal })
		if i < 0 {
			return "", fmt.Errorf("port %q not found", port.StrVal)
		}
		number = int(container.Ports[i].ContainerPort)
	}
	if number < 1 || number > 65535 {
		return "", fmt.Errorf("invalid port number: %s", port.String())
	}
	return strconv.Itoa(number), nil
}
