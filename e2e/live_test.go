package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"minikubelet/e2e/stack"
)

const dropInHead = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

// TestLiveSettings: a drop-in that is written while the kubelet runs is in force at once where that is possible, is named
// where it needs a restart, and changes nothing when it has a fault. SIGHUP does the same and the supervisor is told.
func TestLiveSettings(t *testing.T) {
	ctx := onStack(t)
	if kubelet != nil {
		stopKubelet(t)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "10-live.conf")
	path := filepath.Join(t.TempDir(), "notify")
	supervisor, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer supervisor.Close()
	nodeWith(t, stack.KubeletOptions{
		Config: map[string]any{"containerLogMonitorInterval": "3s"}, Args: []string{"--config-dir=" + dir},
		Wrap: func(args []string) []string { return append([]string{"env", "NOTIFY_SOCKET=" + path}, args...) },
	})
	defer stopKubelet(t)
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{shell("app", "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.005; done")}
	pod = ready(ctx, t, pod)

	write(t, file, dropInHead+"containerLogMaxSize: 10Ki\n")
	nodeEvent(ctx, t, "KubeletConfigApplied", "containerLogMaxSize")
	if config, restart := configz(ctx, t); config.ContainerLogMaxSize != "10Ki" || len(restart) != 0 {
		t.Errorf("in force: containerLogMaxSize %s; needs a restart: %q", config.ContainerLogMaxSize, restart)
	}
	logs := fmt.Sprintf("%s/%s_%s_%s/app", shared.PodLogsDir(), pod.Namespace, pod.Name, pod.UID)
	eventually(ctx, t, "a log of the new size is rotated", func() bool {
		entries, err := os.ReadDir(logs)
		return err == nil && len(entries) > 1
	})

	write(t, file, dropInHead+"containerLogMaxSize: 10Ki\nnodeStatusMaxImages: 1\n")
	nodeEvent(ctx, t, "KubeletConfigApplied", "nodeStatusMaxImages")
	eventually(ctx, t, "the node's status names one image", func() bool {
		node, err := shared.Client.CoreV1().Nodes().Get(ctx, shared.NodeName, metav1.GetOptions{})
		return err == nil && len(node.Status.Images) == 1
	})

	write(t, file, dropInHead+"containerLogMaxSize: 10Ki\nmaxPods: 99\n")
	nodeEvent(ctx, t, "KubeletConfigNeedsRestart", "maxPods")
	if config, restart := configz(ctx, t); config.MaxPods != 250 || !slices.Equal(restart, []string{"maxPods"}) {
		t.Errorf("in force: maxPods %d; needs a restart: %q", config.MaxPods, restart)
	}

	write(t, file, dropInHead+"containerLogMaxSize: 20Ki\nimageGCHighThresholdPercent: 191\n")
	nodeEvent(ctx, t, "KubeletConfigInvalid", filepath.Base(file), "imageGCHighThresholdPercent")
	if config, _ := configz(ctx, t); config.ContainerLogMaxSize != "10Ki" || *config.ImageGCHighThresholdPercent != 100 {
		t.Errorf("in force after a fault: containerLogMaxSize %s, imageGCHighThresholdPercent %d", config.ContainerLogMaxSize, *config.ImageGCHighThresholdPercent)
	}

	write(t, file, dropInHead+"containerLogMaxSize: 30Ki\n")
	if err := syscall.Kill(kubelet.Pid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	deadline, _ := ctx.Deadline()
	if err := supervisor.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	want := []*regexp.Regexp{regexp.MustCompile(`^READY=1$`), regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=\d+$`), regexp.MustCompile(`^READY=1$`)}
	for i, w := range want {
		buffer := make([]byte, 100)
		n, err := supervisor.Read(buffer)
		if err != nil || !w.Match(buffer[:n]) {
			t.Fatalf("word %d to the supervisor: %q, %v; want %s", i, buffer[:n], err, w)
		}
	}
	if config, restart := configz(ctx, t); config.ContainerLogMaxSize != "30Ki" || config.MaxPods != 250 || len(restart) != 0 {
		t.Errorf("in force after SIGHUP: containerLogMaxSize %s, maxPods %d; needs a restart: %q", config.ContainerLogMaxSize, config.MaxPods, restart)
	}
	remove(ctx, t, pod)
}

// TestLiveCertificates: another client authority and another serving certificate in the files count without a restart,
// and files that hold none leave the last good ones in use.
func TestLiveCertificates(t *testing.T) {
	ctx := onStack(t)
	dir := t.TempDir()
	authority, serving, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	before, beforeKey := ownCertificate(t, "before")
	after, afterKey := ownCertificate(t, "after")
	write(t, authority, read(t, shared.AuthorityPath()))
	write(t, serving, before)
	write(t, key, beforeKey)
	nodeWith(t, stack.KubeletOptions{Config: map[string]any{
		"authentication": map[string]any{"x509": map[string]any{"clientCAFile": authority}},
		"tlsCertFile":    serving, "tlsPrivateKeyFile": key,
	}})
	defer stopKubelet(t)
	ask := func(c *http.Client) (code int, servedBy string) {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, shared.KubeletURL()+"/configz", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		return answer.StatusCode, answer.TLS.PeerCertificates[0].Subject.CommonName
	}
	old, other := kubeletClient(t, "admin", "system:masters"), kubeletClient(t, "")
	pair, err := tls.X509KeyPair([]byte(after), []byte(afterKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*http.Client{old, other} {
		c.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true // the test looks at the certificate itself
	}
	other.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{pair}
	for _, step := range []struct {
		name, authority, cert, key string
		old, other                 int
		servedBy                   string
	}{
		{"at first", read(t, authority), before, beforeKey, http.StatusOK, http.StatusUnauthorized, "before"},
		{"replaced", after, after, afterKey, http.StatusUnauthorized, http.StatusOK, "after"},
		{"broken", "none", after, beforeKey, http.StatusUnauthorized, http.StatusOK, "after"},
	} {
		write(t, authority, step.authority)
		write(t, serving, step.cert)
		write(t, key, step.key)
		if code, by := ask(old); code != step.old || by != step.servedBy {
			t.Errorf("%s: a client of the first authority gets %d from %s, want %d from %s", step.name, code, by, step.old, step.servedBy)
		}
		if code, by := ask(other); code != step.other || by != step.servedBy {
			t.Errorf("%s: a client of the other authority gets %d from %s, want %d from %s", step.name, code, by, step.other, step.servedBy)
		}
	}
}

// configz returns the configuration that is in force and the fields that need a restart.
func configz(ctx context.Context, t *testing.T) (config kubeletconfig.KubeletConfiguration, needsRestart []string) {
	t.Helper()
	code, body := askKubelet(ctx, t, kubeletClient(t, "admin", "system:masters"), "", "GET /configz")
	var answer struct {
		KubeletConfig kubeletconfig.KubeletConfiguration `json:"kubeletconfig"`
		NeedsRestart  []string                           `json:"needsRestart"`
	}
	if err := json.Unmarshal([]byte(body), &answer); code != http.StatusOK || err != nil {
		t.Fatalf("configz: %d, %v: %s", code, err, body)
	}
	return answer.KubeletConfig, answer.NeedsRestart
}

// nodeEvent waits for an event of the node whose message has all the parts.
func nodeEvent(ctx context.Context, t *testing.T, reason string, parts ...string) {
	t.Helper()
	eventually(ctx, t, fmt.Sprintf("event %s with %q", reason, parts), func() bool {
		list, err := shared.Client.CoreV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: "reason=" + reason + ",involvedObject.name=" + shared.NodeName})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			lacks := func(part string) bool { return !strings.Contains(list.Items[i].Message, part) }
			if !slices.ContainsFunc(parts, lacks) {
				return true
			}
		}
		return false
	})
}

// ownCertificate makes a certificate that is its own authority, good for clients and servers, and its key, as PEM.
func ownCertificate(t *testing.T, name string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: []string{"system:masters"}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, data []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}))
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", secret)
}
