package e2e

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"minikubelet/e2e/stack"
)

// TestServerToken: a kubelet without an apiserver and without a client authority is opened by the token in its root
// directory, the same one after a restart, and by nothing else.
func TestServerToken(t *testing.T) {
	ctx, s := embeddedStack(t)
	client, err := s.KubeletClient("")
	if err != nil {
		t.Fatal(err)
	}
	client.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true // it is asked on the loopback interface
	status := func(path, authorization string) int {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:10250"+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		answer, err := client.Do(r)
		if err != nil {
			return 0
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	file := filepath.Join(s.RootDir(), "server-token")
	var token string
	for range 2 {
		k, err := s.StartKubelet(stack.KubeletOptions{Standalone: true, Config: map[string]any{"authentication": nil}})
		if err != nil {
			t.Fatal(err)
		}
		eventually(ctx, t, "the server answers", func() bool { return status("/healthz", "") == http.StatusOK })
		modes(t, file)
		now := "Bearer " + strings.TrimSpace(read(t, file))
		if token != "" && now != token {
			t.Error("the token is another after a restart")
		}
		token = now
		for _, path := range []string{"/pods", "/runningpods/", "/metrics", "/configz", "/exec/default/none/none?command=id&output=1"} {
			if code := status(path, ""); code != http.StatusUnauthorized {
				t.Errorf("%s without the token: %d", path, code)
			}
			if code := status(path, token); code == http.StatusUnauthorized || code == 0 {
				t.Errorf("%s with the token: %d", path, code)
			}
		}
		if !strings.Contains(k.Log(), file) {
			t.Error("the log does not tell where the token is")
		}
		if err := k.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}
	}
}
