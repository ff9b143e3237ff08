package config

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
)

const urlTimeout = 10 * time.Second

// urlSource is a URL that answers with pods.
type urlSource struct {
	Options
	complete func(data []byte, source, from string) ([]*corev1.Pod, error)
	name     string // the URL without its password, for the log
	client   *http.Client
	etag     string
	modified string
	last     []byte
}

func newURLSource(opts Options) (*urlSource, error) {
	u, err := url.Parse(opts.ManifestURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("manifest URL %q: want an http or https URL", opts.ManifestURL)
	}
	c := &Config{opts: opts}
	return &urlSource{
		Options: opts, complete: c.complete, name: u.Redacted(),
		client: &http.Client{Timeout: urlTimeout, CheckRedirect: checkRedirect},
	}, nil
}

// checkRedirect keeps the headers, which may hold a secret, with the host that they are for and, if they were encrypted,
// encrypted.
func checkRedirect(to *http.Request, via []*http.Request) error {
	from := via[0].URL
	if to.URL.Host != from.Host || from.Scheme == "https" && to.URL.Scheme != "https" || len(via) > 5 {
		return fmt.Errorf("refusing to follow the redirect to %s", to.URL.Redacted())
	}
	return nil
}

// run fetches the pods every HTTPCheckFrequency until ctx ends. When the URL fails, its last good pods stay.
func (s *urlSource) run(ctx context.Context, send sink) {
	defer s.client.CloseIdleConnections()
	tick := time.NewTicker(s.HTTPCheckFrequency)
	defer tick.Stop()
	log := klog.FromContext(ctx).WithValues("url", s.name)
	for {
		pods, changed, err := s.fetch(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Error(err, "Fetching pods from the URL failed, the last good ones stay")
		case changed:
			send(ctx, pods)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// fetch asks for the pods, and whether they changed since the last answer.
func (s *urlSource) fetch(ctx context.Context) (pods []*corev1.Pod, changed bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.ManifestURL, nil)
	if err != nil {
		return nil, false, err
	}
	for name, values := range s.ManifestURLHeader {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	if s.etag != "" {
		request.Header.Set("If-None-Match", s.etag)
	}
	if s.modified != "" {
		request.Header.Set("If-Modified-Since", s.modified)
	}
	answer, err := s.client.Do(request)
	if err != nil {
		return nil, false, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusNotModified:
		return nil, false, nil
	case http.StatusOK:
	default:
		return nil, false, fmt.Errorf("the answer is %s", answer.Status)
	}
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxManifest+1))
	if err != nil {
		return nil, false, fmt.Errorf("read the answer: %w", err)
	}
	if s.last != nil && bytes.Equal(data, s.last) {
		return nil, false, nil
	}
	if pods, err = s.complete(data, podinfo.SourceHTTP, "url:"+s.ManifestURL); err != nil {
		return nil, false, err
	}
	// Remembered only now: a bad answer is looked at again, and told about again.
	s.last, s.etag, s.modified = data, answer.Header.Get("ETag"), answer.Header.Get("Last-Modified")
	return pods, true, nil
}
