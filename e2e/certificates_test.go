package e2e

import (
	"crypto/tls"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/stack"
)

// credentials starts the kubelet with a kubeconfig and a --cert-dir of its own, and takes it down when the test ends.
func credentials(ctx testContext, t *testing.T, kubeconfig, dir string, config map[string]any, args ...string) {
	t.Helper()
	if kubelet != nil {
		stopKubelet(t)
	}
	t.Cleanup(func() {
		if kubelet == nil {
			return
		}
		if t.Failed() {
			t.Logf("kubelet's log:\n%s", kubelet.LogTail(80))
		}
		stopKubelet(t)
	})
	startKubelet(ctx, t, stack.KubeletOptions{Config: config, Args: append([]string{"--kubeconfig=" + kubeconfig, "--cert-dir=" + filepath.Join(dir, "pki")}, args...)})
}

func modes(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", path, info, err)
		}
	}
}

// TestKubeletBootstrap: with a bootstrap kubeconfig and nothing else the node comes, runs pods, and comes again.
func TestKubeletBootstrap(t *testing.T) {
	ctx := onStack(t)
	allowBootstrap(ctx, t)
	bootstrap, err := shared.TokenKubeconfig("bootstrap", bootstrapToken)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kubeconfig, current := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "pki", "kubelet-client-current.pem")
	for _, rotate := range []bool{true, false} {
		credentials(ctx, t, kubeconfig, dir, map[string]any{"rotateCertificates": rotate}, "--bootstrap-kubeconfig="+bootstrap)
		ready(ctx, t, newPod(t))
		modes(t, kubeconfig, current)
		first := read(t, current)
		stopKubelet(t)
		credentials(ctx, t, kubeconfig, dir, map[string]any{"rotateCertificates": rotate}, "--bootstrap-kubeconfig="+bootstrap)
		ready(ctx, t, newPod(t))
		if read(t, current) != first {
			t.Error("the second start asked for another certificate")
		}
		if strings.Contains(read(t, kubeconfig), bootstrapToken) {
			t.Error("the kubeconfig has the bootstrap token")
		}
		stopKubelet(t)
		removeFile(t, kubeconfig)
	}
	requests, err := shared.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{FieldSelector: "spec.signerName=" + certificatesv1.KubeAPIServerClientKubeletSignerName})
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, r := range requests.Items {
		if strings.HasPrefix(r.Name, "node-csr-") && r.Spec.Username == "system:bootstrap:e2etok" {
			named++
		}
	}
	if named == 0 {
		t.Errorf("no request of the bootstrap token in %d", len(requests.Items))
	}
}

// TestKubeletRotation: a certificate that is about to expire is replaced while pods run, and after a restart too it is the new one.
func TestKubeletRotation(t *testing.T) {
	ctx := onStack(t)
	allowBootstrap(ctx, t)
	expires := time.Now().Add(25 * time.Second)
	kubeconfig, err := shared.NodeKubeconfigFor("short-lived", expires.Add(-time.Minute), expires) // due between 7 and 19 s from now
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	credentials(ctx, t, kubeconfig, dir, nil)
	pod := ready(ctx, t, newPod(t))
	process, current := kubelet.Pid(), filepath.Join(dir, "pki", "kubelet-client-current.pem")
	eventually(ctx, t, "another certificate", func() bool { return read(t, current) != "" })
	modes(t, current)
	pair, err := tls.LoadX509KeyPair(current, current)
	if err != nil || pair.Leaf.Subject.CommonName != "system:node:"+shared.NodeName || pair.Leaf.NotAfter.Before(expires.Add(time.Hour)) {
		t.Errorf("the new certificate: %v, %v", pair.Leaf, err)
	}
	eventually(ctx, t, "the old certificate expires", func() bool { return time.Now().After(expires) })
	ready(ctx, t, newPod(t))
	if now := until(ctx, t, pod, "there", func(*corev1.Pod) bool { return true }); restarts(now) != 0 || now.Status.ContainerStatuses[0].ContainerID != pod.Status.ContainerStatuses[0].ContainerID {
		t.Errorf("the pod's container: %+v", now.Status.ContainerStatuses)
	}
	if kubelet.Pid() != process {
		t.Error("the kubelet was started again")
	}
	credentials(ctx, t, kubeconfig, dir, nil)
	remove(ctx, t, pod)
}

// TestKubeletExpired: with a certificate that has expired, and an apiserver that says so, the kubelet ends, for whoever
// started it to find new credentials. Its pods go on.
func TestKubeletExpired(t *testing.T) {
	ctx, _ := node(t)
	pod := ready(ctx, t, newPod(t))
	stopKubelet(t)
	kubeconfig, err := shared.NodeKubeconfigFor("expired", time.Now().Add(-time.Hour), time.Now().Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	k, err := shared.StartKubelet(stack.KubeletOptions{Args: []string{"--kubeconfig=" + kubeconfig, "--cert-dir=" + t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := k.Wait(ctx); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(k.LogTail(3), "no valid client certificate") {
		_ = k.Kill()
		t.Fatalf("the kubelet ended with %v:\n%s", err, k.LogTail(20))
	}
	node(t)
	if now := until(ctx, t, pod, "there", func(*corev1.Pod) bool { return true }); restarts(now) != 0 {
		t.Errorf("the pod's container: %+v", now.Status.ContainerStatuses)
	}
}

// TestKubeletServingCertificate: a serving certificate that the cluster signs makes kubectl logs work once it has been approved.
func TestKubeletServingCertificate(t *testing.T) {
	ctx := onStack(t)
	dir := t.TempDir()
	credentials(ctx, t, shared.NodeKubeconfig, dir, map[string]any{"serverTLSBootstrap": true, "tlsCertFile": nil, "tlsPrivateKeyFile": nil})
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{shell("app", "echo here; sleep 1000")}
	ready(ctx, t, pod)
	if _, stderr, code := kubectlWith(ctx, t, nil, "logs", pod.Name); code == 0 || !strings.Contains(stderr, "tls: internal error") {
		t.Errorf("before anybody approved it: exit code %d, %s", code, stderr)
	}
	approve(ctx, t, stack.NodeIP)
	eventually(ctx, t, "kubectl logs works", func() bool {
		stdout, _, code := kubectlWith(ctx, t, nil, "logs", pod.Name)
		return code == 0 && stdout == "here\n"
	})
	current := filepath.Join(dir, "pki", "kubelet-server-current.pem")
	modes(t, current)
	conn, err := shared.DialContext(ctx, "tcp", stack.NodeIP+":10250")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // kubectl logs verified it
	if err := client.HandshakeContext(ctx); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(current, current)
	if err != nil || !client.ConnectionState().PeerCertificates[0].Equal(pair.Leaf) || pair.Leaf.Subject.CommonName != "system:node:"+shared.NodeName {
		t.Errorf("the server shows %v; the file has %v, %v", client.ConnectionState().PeerCertificates[0].Subject, pair.Leaf, err)
	}
}
