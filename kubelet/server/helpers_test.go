package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"sigs.k8s.io/yaml"

	"minikubelet/kubelet/settings"
	"minikubelet/runtime/cri"
)

// fixture is a server with one pod, an apiserver that grants what it is told to, and a runtime that streams.
type fixture struct {
	*Server
	dir      string
	ca       *authority
	settings *settings.Settings
	pod      *corev1.Pod
	observed *cri.PodStatus
	runtime  *fakeRuntime
	reviews  *reviews
	stop     func()
}

// newFixture starts a server. change may alter the options; config is laid over the configuration.
func newFixture(t testing.TB, config map[string]any, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{dir: t.TempDir(), ca: newAuthority(t), runtime: &fakeRuntime{}, reviews: &reviews{allow: map[string]bool{}}}
	writeFile(t, filepath.Join(f.dir, "ca.crt"), string(f.ca.pem))
	f.settings = load(t, f.dir, config, "--kubeconfig=/none")
	f.settings.Port, f.settings.Address = 0, "127.0.0.1"
	f.pod = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}, {Name: "other"}}, InitContainers: []corev1.Container{{Name: "init"}}},
	}
	f.observed = &cri.PodStatus{
		UID: "u1", Sandboxes: []*runtimeapi.PodSandboxStatus{{Id: "s1", State: runtimeapi.PodSandboxState_SANDBOX_READY}},
		Containers: []*cri.ContainerStatus{{ID: "c1", Name: "app", State: runtimeapi.ContainerState_CONTAINER_RUNNING, LogPath: filepath.Join(f.logDir(), "app", "0.log")}},
	}
	serving := f.ca.issue(t, pkix.Name{CommonName: "system:node:node"})
	o := Options{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return serving, nil },
		Settings:       f.settings, CRI: &cri.Client{Runtime: f.runtime}, Tokens: tokenReviews{f.reviews}, Access: accessReviews{f.reviews},
		Pods: func() []*corev1.Pod { return []*corev1.Pod{f.pod} },
		Observed: func(uid types.UID) (*cri.PodStatus, bool) {
			return f.observed, uid == f.pod.UID
		},
		Checks:  []Check{{Name: "syncloop", Check: func() error { return nil }}},
		Metrics: page("metrics"), Resource: page("resource"), Probes: page("probes"), Cadvisor: page("cadvisor"), SLIs: page("slis"), Summary: page("summary"),
	}
	if change != nil {
		change(&o)
	}
	var err error
	if f.Server, err = Listen(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	f.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(f.stop)
	return f
}

func (f *fixture) logDir() string { return filepath.Join(f.dir, "podlogs", "default_web_u1") }

// load reads a configuration with the fixture's defaults.
func load(t testing.TB, dir string, config map[string]any, args ...string) *settings.Settings {
	t.Helper()
	all := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "podLogsDir": filepath.Join(dir, "podlogs"),
		"authentication": map[string]any{"x509": map[string]any{"clientCAFile": filepath.Join(dir, "ca.crt")}},
	}
	maps.Copy(all, config)
	data, err := yaml.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "config.yaml"), string(data))
	s, err := settings.Load(append([]string{"--config=" + filepath.Join(dir, "config.yaml"), "--root-dir=" + dir, "--hostname-override=node", "--node-ip=10.1.2.3"}, args...), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func page(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// reviews allow what stands in allow, "verb subresource", to whom a token or certificate names.
type reviews struct {
	mu    sync.Mutex
	allow map[string]bool
	asked []string
}

// granting allows nothing but this from now on, and forgets what was asked.
func (r *reviews) granting(what ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allow, r.asked = map[string]bool{}, nil
	for _, w := range what {
		r.allow[w] = true
	}
}

func (r *reviews) were() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

type tokenReviews struct{ *reviews }

func (t tokenReviews) Create(_ context.Context, r *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
	name, ok := strings.CutPrefix(r.Spec.Token, "token-of-")
	return &authenticationv1.TokenReview{Status: authenticationv1.TokenReviewStatus{Authenticated: ok, User: authenticationv1.UserInfo{Username: name}}}, nil
}

type accessReviews struct{ *reviews }

func (a accessReviews) Create(_ context.Context, r *authorizationv1.SubjectAccessReview, _ metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	what := r.Spec.ResourceAttributes.Verb + " " + r.Spec.ResourceAttributes.Subresource
	a.asked = append(a.asked, what)
	ok := a.allow[what] || r.Spec.User == "root"
	return &authorizationv1.SubjectAccessReview{Status: authorizationv1.SubjectAccessReviewStatus{Allowed: ok}}, nil
}

// fakeRuntime answers calls for streams with one URL, and remembers the calls.
type fakeRuntime struct {
	runtimeapi.RuntimeServiceClient
	url     string
	streams streaming.Server // hands out the URLs instead, if not nil
	mu      sync.Mutex
	last    any
	err     error
	begun   chan struct{} // told that "sleep" runs, which ends with its request
}

func (f *fakeRuntime) took(request any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = request
	return f.err
}

func (f *fakeRuntime) Exec(_ context.Context, r *runtimeapi.ExecRequest, _ ...grpc.CallOption) (*runtimeapi.ExecResponse, error) {
	if f.streams != nil {
		return f.streams.GetExec(r)
	}
	return &runtimeapi.ExecResponse{Url: f.url}, f.took(r)
}

func (f *fakeRuntime) Attach(_ context.Context, r *runtimeapi.AttachRequest, _ ...grpc.CallOption) (*runtimeapi.AttachResponse, error) {
	if f.streams != nil {
		return f.streams.GetAttach(r)
	}
	return &runtimeapi.AttachResponse{Url: f.url}, f.took(r)
}

func (f *fakeRuntime) PortForward(_ context.Context, r *runtimeapi.PortForwardRequest, _ ...grpc.CallOption) (*runtimeapi.PortForwardResponse, error) {
	if f.streams != nil {
		return f.streams.GetPortForward(r)
	}
	return &runtimeapi.PortForwardResponse{Url: f.url}, f.took(r)
}

func (f *fakeRuntime) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest, _ ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error) {
	if r.Cmd[0] == "sleep" {
		f.begun <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	code := int32(0)
	if r.Cmd[0] == "false" {
		code = 3
	}
	return &runtimeapi.ExecSyncResponse{Stdout: []byte(strings.Join(r.Cmd, "+")), Stderr: []byte("!"), ExitCode: code}, f.took(r)
}

func (f *fakeRuntime) CheckpointContainer(_ context.Context, r *runtimeapi.CheckpointContainerRequest, _ ...grpc.CallOption) (*runtimeapi.CheckpointContainerResponse, error) {
	return &runtimeapi.CheckpointContainerResponse{}, f.took(r)
}

func (f *fakeRuntime) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{}, nil
}

func (f *fakeRuntime) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	labels := map[string]string{"io.kubernetes.pod.uid": "u1", "io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "default", "io.kubernetes.container.name": "app"}
	return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{
		{Id: "c1", Metadata: &runtimeapi.ContainerMetadata{Name: "app"}, State: runtimeapi.ContainerState_CONTAINER_RUNNING, Labels: labels, Image: &runtimeapi.ImageSpec{Image: "img"}},
		{Id: "c0", Metadata: &runtimeapi.ContainerMetadata{Name: "app"}, State: runtimeapi.ContainerState_CONTAINER_EXITED, Labels: labels},
	}}, nil
}

// authority signs client and server certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	pair := a.issue(t, pkix.Name{CommonName: "ca"})
	a.cert, a.key = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	return a
}

// issue makes a certificate for both ends of a connection; the first is the authority's own.
func (a *authority) issue(t testing.TB, subject pkix.Name) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: a.cert == nil, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// client connects with a certificate, or without.
func (f *fixture) client(t testing.TB, cert *tls.Certificate) *http.Client {
	config := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the certificate's own test is TestServingCertificate
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// do sends a request and returns the status and the body. headers are names and values in turn.
func (f *fixture) do(t testing.TB, client *http.Client, method, path string, headers ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://"+f.Addr()+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		body = fmt.Appendf(body, "!%v", err)
	}
	return answer.StatusCode, string(body)
}

// root returns a client that may do everything.
func (f *fixture) asRoot(t testing.TB) *http.Client {
	return f.client(t, f.ca.issue(t, pkix.Name{CommonName: "root"}))
}
