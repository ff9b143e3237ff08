package images

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

type answering string

func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(string(a)))}, nil
}

// TestGuard checks what no test server can show: names that are not of this machine.
func TestGuard(t *testing.T) {
	for _, c := range []struct {
		url      string
		insecure bool
		blob     bool
		says     string
	}{
		{"https://registry.example/v2/", false, false, ""},
		{"http://registry.example/v2/", false, false, "not configured as insecure"},
		{"http://10.0.0.1:5000/v2/", false, false, "not configured as insecure"},
		{"http://registry.example/v2/", true, false, ""},
		{"http://127.0.0.1:5000/v2/", false, false, ""},
		{"http://[::1]:5000/v2/", false, false, ""},
		{"https://registry.example/large", false, false, "limit of 10 bytes"},
		{"https://registry.example/large", false, true, ""},
	} {
		content := "ten bytes!"
		if strings.Contains(c.url, "large") {
			content += "!"
		}
		ctx := context.Background()
		if c.blob {
			ctx = context.WithValue(ctx, blobKey{}, true)
		}
		request, _ := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
		response, err := (&guard{inner: answering(content), insecure: c.insecure, limit: 10}).RoundTrip(request)
		if err == nil {
			_, err = io.ReadAll(response.Body)
			response.Body.Close()
		}
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestCheckRedirect(t *testing.T) {
	for _, c := range []struct {
		from, to string
		allowed  bool
	}{
		{"https://registry.example/", "https://cdn.example/", true},
		{"https://registry.example/", "https://169.254.169.254/", false},
		{"https://registry.example/", "https://[::ffff:10.1.2.3]/", false},
		{"https://registry.example/", "https://localhost/", false},
		{"https://registry.example/", "https://127.0.0.1/", false},
		{"https://registry.example/", "https://0.0.0.0/", false},
		{"http://127.0.0.1:5000/", "http://127.0.0.1:6000/", true},
		{"http://10.0.0.1/", "http://10.0.0.2/", true},
	} {
		from, _ := url.Parse(c.from)
		to, _ := url.Parse(c.to)
		between := &http.Request{URL: &url.URL{Scheme: "https", Host: "between.example"}, Response: &http.Response{Request: &http.Request{URL: from}}}
		for _, sender := range []*http.Request{{URL: from}, between} {
			err := checkRedirect(&http.Request{URL: to, Response: &http.Response{Request: sender}})
			if (err == nil) != c.allowed {
				t.Errorf("from %s to %s: %v", c.from, c.to, err)
			}
		}
	}
}

// TestRedirectIntoTheNetwork: not even the description of an image is fetched from where a public registry has no business.
func TestRedirectIntoTheNetwork(t *testing.T) {
	g := &guard{inner: redirecting("https://169.254.169.254/token"), limit: 100}
	response, err := (&http.Client{Transport: g}).Get("https://registry.example/v2/")
	if err == nil {
		response.Body.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "private address") {
		t.Error(err)
	}
}

// TestRealmInTheNetwork: nor do credentials go there.
func TestRealmInTheNetwork(t *testing.T) {
	for _, c := range []struct {
		registry, realm string
		replaced        bool
	}{
		{"https://registry.example/v2/", "https://10.0.0.1/token", false},
		{"https://registry.example/v2/", "https://auth.example/token", false},
		{"https://10.0.0.1:5050/v2/", "https://auth.example/token", false},
		{"https://10.0.0.1:5050/v2/", "https://10.0.0.1:5050/token", false},
		{"https://10.0.0.1:5050/v2/", "https://10.0.0.2/token", false},
		{"https://10.0.0.1:5050/v2/", "https://10.0.0.1/token", true},
	} {
		g := &guard{inner: challenging(c.realm), limit: 100}
		response, err := (&http.Client{Transport: g}).Get(c.registry)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if replaced := !strings.Contains(response.Header.Get("WWW-Authenticate"), c.realm); replaced != c.replaced {
			t.Errorf("%s says %q", c.registry, response.Header.Get("WWW-Authenticate"))
		}
	}
}

type challenging string

func (c challenging) RoundTrip(request *http.Request) (*http.Response, error) {
	header := http.Header{"Www-Authenticate": {`Bearer realm="` + string(c) + `",service="test"`}}
	return &http.Response{StatusCode: http.StatusUnauthorized, Header: header, Body: http.NoBody, Request: request}, nil
}

type redirecting string

func (r redirecting) RoundTrip(request *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {string(r)}}, Body: http.NoBody, Request: request}, nil
}
