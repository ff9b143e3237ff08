package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"minikubelet/e2e/stack"
)

// kubeletClient is a client of the node's server with the certificate of a user, or none.
func kubeletClient(t *testing.T, name string, groups ...string) *http.Client {
	t.Helper()
	c, err := shared.KubeletClient(name, groups...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// askKubelet sends "METHOD PATH" to the node's server and returns the status and the body.
func askKubelet(ctx context.Context, t *testing.T, c *http.Client, token, request string) (int, string) {
	t.Helper()
	method, path, _ := strings.Cut(request, " ")
	r, err := http.NewRequestWithContext(ctx, method, shared.KubeletURL()+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	return answer.StatusCode, string(body)
}

// serverPaths are one of each kind that the node's server answers.
func serverPaths(pod *corev1.Pod) []string {
	in := "/default/" + pod.Name
	return []string{
		"GET /healthz", "GET /healthz/ping", "GET /healthz/log", "GET /healthz/syncloop", "GET /healthz/device-plugin", "GET /pods", "GET /pods/", "GET /runningpods/", "GET /runningpods", "GET /configz", "GET /flagz", "GET /statusz", "GET /logs/",
		"GET /metrics", "GET /metrics/resource", "GET /metrics/cadvisor", "GET /metrics/probes", "GET /metrics/slis", "GET /stats/summary", "GET /debug/pprof/", "PUT /debug/flags/v",
		"GET /containerLogs" + in + "/app", "POST /checkpoint" + in + "/app", "POST /run" + in + "/app?cmd=id", "POST /run" + in + "/" + string(pod.UID) + "/app?cmd=id", "GET /nothing", "GET /",
		"GET /exec" + in + "/app?command=id&output=1", "POST /exec" + in + "/app?command=id&output=1", "POST /exec" + in + "/" + string(pod.UID) + "/app?command=id&output=1",
		"GET /attach" + in + "/app?output=1", "POST /attach" + in + "/app?output=1", "POST /attach" + in + "/" + string(pod.UID) + "/app?output=1",
		"GET /portForward" + in, "POST /portForward" + in, "POST /portForward" + in + "/" + string(pod.UID),
	}
}

// TestServerRefuses: who has no credentials, wrong ones, another node's or too few rights gets nowhere.
func TestServerRefuses(t *testing.T) {
	ctx, s := node(t)
	pod := ready(ctx, t, sleeper(t))
	client := func(name string, groups ...string) *http.Client { return kubeletClient(t, name, groups...) }
	ask := func(c *http.Client, token, request string) (int, string) {
		t.Helper()
		return askKubelet(ctx, t, c, token, request)
	}
	impostor, err := s.ImpostorClient("kube-apiserver-kubelet-client", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	plain := client("")
	reader := serviceAccount(ctx, t, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes/pods", "nodes/log"}, Verbs: []string{"get"}})
	scraper := serviceAccount(ctx, t, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes/metrics", "nodes/stats"}, Verbs: []string{"get"}})
	powerless := serviceAccount(ctx, t, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes", "pods", "pods/exec", "pods/log"}, Verbs: []string{"*"}})
	viewer := serviceAccount(ctx, t, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes/proxy"}, Verbs: []string{"get"}})
	watcher := serviceAccount(ctx, t, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes/healthz", "nodes/configz", "nodes/statusz"}, Verbs: []string{"get"}})
	saver := serviceAccount(ctx, t, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes/checkpoint"}, Verbs: []string{"create"}})
	for _, who := range []struct {
		name   string
		client *http.Client
		token  string
		want   int
		except map[string]bool // what is allowed, by path
	}{
		{"nobody", plain, "", http.StatusUnauthorized, nil},
		{"a made-up token", plain, "made.up.token", http.StatusUnauthorized, nil},
		{"another authority's certificate", impostor, "", http.StatusUnauthorized, nil},
		{"another node", client("system:node:other", "system:nodes"), "", http.StatusForbidden, nil},
		{"the node itself", client("system:node:"+s.NodeName, "system:nodes"), "", http.StatusForbidden, nil},
		{"a user without rights", client("somebody"), "", http.StatusForbidden, nil},
		{"an account without rights on the node's parts", plain, powerless, http.StatusForbidden, nil},
		{"a reader of pods and logs", plain, reader, http.StatusForbidden, map[string]bool{"/pods": true, "/pods/": true, "/runningpods/": true, "/runningpods": true, "/logs/": true}},
		{"a collector of metrics", plain, scraper, http.StatusForbidden, map[string]bool{
			"/metrics": true, "/metrics/resource": true, "/metrics/cadvisor": true, "/metrics/probes": true, "/metrics/slis": true, "/stats/summary": true,
		}},
		{"who looks at the kubelet itself", plain, watcher, http.StatusForbidden, map[string]bool{
			"/healthz": true, "/healthz/ping": true, "/healthz/log": true, "/healthz/syncloop": true, "/healthz/device-plugin": true, "/configz": true, "/flagz": true, "/statusz": true,
		}},
		{"who saves containers", plain, saver, http.StatusForbidden, map[string]bool{"/checkpoint/default/" + pod.Name + "/app": true}},
	} {
		for _, request := range serverPaths(pod) {
			_, path, _ := strings.Cut(request, " ")
			code, body := ask(who.client, who.token, request)
			served := code == http.StatusOK || strings.HasPrefix(path, "/checkpoint/") && code != http.StatusUnauthorized && code != http.StatusForbidden // the runtime may be unable
			if allowed := who.except[path]; allowed && !served || !allowed && code != who.want {
				t.Errorf("%s, %s: %d %.200s", who.name, request, code, body)
			}
		}
	}
	// Who may look through the proxy may not run anything, whatever the method.
	for _, request := range serverPaths(pod) {
		_, path, _ := strings.Cut(request, " ")
		code, body := ask(plain, viewer, request)
		into := strings.HasPrefix(path, "/exec/") || strings.HasPrefix(path, "/attach/") || strings.HasPrefix(path, "/portForward/") || strings.HasPrefix(path, "/run/")
		if into && code != http.StatusForbidden {
			t.Errorf("get nodes/proxy, %s: %d %.200s", request, code, body)
		}
		if (path == "/configz" || path == "/pods" || strings.HasPrefix(path, "/containerLogs/")) && code != http.StatusOK {
			t.Errorf("get nodes/proxy, %s: %d %.200s", request, code, body)
		}
	}
	admin := client("admin", "system:masters")
	for request, want := range map[string]string{
		"GET /healthz": "ok", "GET /pods": pod.Name, "GET /runningpods/": pod.Name, "GET /configz": `"kubeletconfig"`, "GET /statusz": "kubelet statusz", "GET /flagz": "root-dir=",
		"GET /metrics": "kubelet_http_requests_total{", "GET /metrics/resource": "node_cpu_usage_seconds_total", "GET /stats/summary": `"nodeName"`,
		"GET /metrics/slis": `kubernetes_healthcheck{name="syncloop",type="healthz"} 1`,
		"POST /run/default/" + pod.Name + "/app?cmd=echo%20hi": "hi\n",
	} {
		if code, body := ask(admin, "", request); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("the administrator, %s: %d %.200s", request, code, body)
		}
	}
	_, status := ask(admin, "", "GET /statusz")
	everyPath(t, status, serverPaths(pod))
}

// everyPath checks that among the requests there is one for each path that /statusz lists.
func everyPath(t *testing.T, status string, requests []string) {
	t.Helper()
	_, list, _ := strings.Cut(status, "\nPaths: ")
	paths := strings.Fields(list)
	if len(paths) < 20 {
		t.Fatalf("/statusz lists %q", paths)
	}
	for _, path := range paths {
		mux := http.NewServeMux()
		mux.Handle(path, http.NotFoundHandler())
		if !slices.ContainsFunc(requests, func(request string) bool {
			method, asked, _ := strings.Cut(request, " ")
			r, err := http.NewRequestWithContext(t.Context(), method, asked, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			_, found := mux.Handler(r)
			return found == path
		}) {
			t.Errorf("nobody was refused at %s", path)
		}
	}
}

// serviceAccount makes an account with a rule and returns a token of it.
func serviceAccount(ctx context.Context, t *testing.T, rule rbacv1.PolicyRule) string {
	t.Helper()
	core, rbac := shared.Client.CoreV1(), shared.Client.RbacV1()
	meta := metav1.ObjectMeta{Name: podName(t), Namespace: corev1.NamespaceDefault}
	if _, err := core.ServiceAccounts(meta.Namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: meta.Name}, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: meta.Name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: meta.Name, Namespace: meta.Namespace}},
	}
	if _, err := rbac.ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = rbac.ClusterRoleBindings().Delete(clean, meta.Name, metav1.DeleteOptions{})
		_ = rbac.ClusterRoles().Delete(clean, meta.Name, metav1.DeleteOptions{})
		_ = core.ServiceAccounts(meta.Namespace).Delete(clean, meta.Name, metav1.DeleteOptions{})
	})
	token, err := core.ServiceAccounts(meta.Namespace).CreateToken(ctx, meta.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token.Status.Token
}

// TestClientsThatLeave: those who follow logs and run commands, and go, leave nothing open.
func TestClientsThatLeave(t *testing.T) {
	ctx, s := node(t)
	pod := ready(ctx, t, sleeper(t))
	kubectlRun(ctx, t, "exec", pod.Name, "--", "true") // what stays for good is there after the first
	admin := kubeletClient(t, "admin", "system:masters")
	open := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", kubelet.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := open()
	const many = 20
	leaving, leave := context.WithCancel(ctx)
	defer leave()
	for range many {
		r, err := http.NewRequestWithContext(leaving, http.MethodGet, s.KubeletURL()+"/containerLogs/default/"+pod.Name+"/app?follow=true", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := admin.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
	}
	command := s.KubectlCommand(leaving, "exec", "-i", pod.Name, "--", "sh", "-c", "echo here; cat")
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("here\n"))); err != nil {
		t.Fatal(err)
	}
	if during := open(); during < before+2*many {
		t.Errorf("%d files are open for %d readers of logs, %d before", during, many, before)
	}
	leave()
	_ = command.Wait()
	eventually(ctx, t, "what they held is free", func() bool { return open() <= before+2 })
}

// strongCiphers are those that the benchmark names.
var strongCiphers = []string{
	"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
	"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
	"TLS_RSA_WITH_AES_256_GCM_SHA384", "TLS_RSA_WITH_AES_128_GCM_SHA256",
}

// byItsHostname runs the kubelet on a machine of the node's name, without being told the name.
func byItsHostname(args []string) []string {
	args = slices.DeleteFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--hostname-override=") })
	return append([]string{"unshare", "--uts", "sh", "-c", `hostname "$0" && exec "$@"`, shared.NodeName}, args...)
}

// TestCIS: section 4.2 of the CIS Kubernetes Benchmark (kubelet configuration), with this kubelet's own defaults and only what a
// node must be told. Looked at from outside where that is possible, else in /configz.
func TestCIS(t *testing.T) {
	ctx, s := nodeWith(t, stack.KubeletOptions{
		Config: map[string]any{"authorization": nil, "podPidsLimit": nil, "featureGates": map[string]any{"RotateKubeletServerCertificate": true}},
		Wrap:   byItsHostname,
	})
	admin, stranger := kubeletClient(t, "admin", "system:masters"), kubeletClient(t, "")
	connects := func(address string) bool {
		conn, err := s.DialContext(ctx, "tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	eventually(ctx, t, "the server listens", func() bool { return connects(strings.TrimPrefix(s.KubeletURL(), "https://")) })
	_, body := askKubelet(ctx, t, admin, "", "GET /configz")
	var answer struct {
		KubeletConfig kubeletconfig.KubeletConfiguration
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	c := answer.KubeletConfig
	speaks := func(config *tls.Config) bool {
		raw, err := s.DialContext(ctx, "tcp", strings.TrimPrefix(s.KubeletURL(), "https://"))
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		config.InsecureSkipVerify = true //nolint:gosec // only the handshake counts
		return tls.Client(raw, config).HandshakeContext(ctx) == nil
	}
	var weak []uint16
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if !slices.Contains(strongCiphers, suite.Name) {
			weak = append(weak, suite.ID)
		}
	}
	_, flags := askKubelet(ctx, t, admin, "", "GET /flagz")
	code, _ := askKubelet(ctx, t, stranger, "", "GET /pods")
	roleless, _ := askKubelet(ctx, t, kubeletClient(t, "somebody"), "", "GET /pods")
	for rule, ok := range map[string]bool{
		"4.2.1 anonymous-auth is false":                    code == http.StatusUnauthorized && !*c.Authentication.Anonymous.Enabled,
		"4.2.2 authorization-mode is not AlwaysAllow":      roleless == http.StatusForbidden && c.Authorization.Mode == kubeletconfig.KubeletAuthorizationModeWebhook,
		"4.2.3 client-ca-file is set":                      c.Authentication.X509.ClientCAFile != "",
		"4.2.4 read-only-port is 0":                        c.ReadOnlyPort == 0 && !connects(stack.NodeIP+":10255"),
		"4.2.5 streaming-connection-idle-timeout is not 0": c.StreamingConnectionIdleTimeout.Duration > 0,
		"4.2.6 make-iptables-util-chains is true":          *c.MakeIPTablesUtilChains,
		"4.2.7 hostname-override is not set":               strings.Contains(flags, "root-dir="+s.RootDir()) && !strings.Contains(flags, "hostname-override="+s.NodeName),
		"4.2.8 eventRecordQPS captures events":             *c.EventRecordQPS > 0,
		"4.2.9 tls-cert-file and tls-private-key-file":     c.TLSCertFile != "" && c.TLSPrivateKeyFile != "",
		"4.2.10 rotate-certificates is not false":          c.RotateCertificates,
		"4.2.11 the serving certificate is renewed":        c.FeatureGates["RotateKubeletServerCertificate"],                                 // TestKubeletServingCertificate shows what comes of it
		"4.2.12 TLS 1.2 is the least":                      !speaks(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}), //nolint:gosec // it must fail
		"4.2.12 only strong ciphers":                       !speaks(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: weak}),           //nolint:gosec // it must fail
		"4.2.12 strong ciphers":                            speaks(&tls.Config{MaxVersion: tls.VersionTLS12}),                                //nolint:gosec // nothing is sent
		"4.2.13 podPidsLimit is set":                       *c.PodPidsLimit > 0,
		"4.2.14 seccomp-default is true":                   *c.SeccompDefault,
		"healthz is on the loopback interface":             !connects(stack.NodeIP+":10248") && connects("127.0.0.1:10248"),
		"profiling is off":                                 !*c.EnableProfilingHandler && !*c.EnableDebugFlagsHandler,
	} {
		if !ok {
			t.Errorf("not so: %s", rule)
		}
	}
}
