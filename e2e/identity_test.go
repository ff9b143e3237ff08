package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"minikubelet/e2e/stack"
	"minikubelet/kubelet/identity"
)

// doorway lets this process, which is outside of the stack's network, reach the apiserver; it counts its connections.
type doorway struct {
	url  string
	ca   []byte
	made atomic.Int32
}

func newDoorway(ctx context.Context, t *testing.T) *doorway {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", shared.NodeKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &doorway{url: "https://" + listener.Addr().String(), ca: []byte(read(t, config.CAFile))}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			d.made.Add(1)
			running.Go(func() { d.pass(ctx, near) })
		}
	})
	t.Cleanup(func() { cancel(); listener.Close(); running.Wait() })
	return d
}

// pass copies both ways until one side or the test ends.
func (d *doorway) pass(ctx context.Context, near net.Conn) {
	defer near.Close()
	far, err := shared.DialContext(ctx, "tcp", stack.NodeIP+":6443")
	if err != nil {
		return
	}
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(far, near); far.Close() })
	_, _ = io.Copy(near, far)
	near.Close()
	both.Wait()
}

// kubeconfig writes one that goes through the doorway; user is in YAML's flow form.
func (d *doorway) kubeconfig(t *testing.T, user string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	write(t, path, fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: s, user: u}}],
clusters: [{name: s, cluster: {server: %q, certificate-authority-data: %s}}], users: [{name: u, user: %s}]}`,
		d.url, base64.StdEncoding.EncodeToString(d.ca), user))
	return path
}

const bootstrapToken = "e2etok.0123456789abcdef"

// allowBootstrap sets up what an administrator does, kubeadm for example: a token, and the rights to ask for
// certificates with it and to renew them.
func allowBootstrap(ctx context.Context, t *testing.T) {
	t.Helper()
	id, secret, _ := strings.Cut(bootstrapToken, ".")
	_, err := shared.Client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: "bootstrap.kubernetes.io/token",
		StringData: map[string]string{"token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true"},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	const csr = "system:certificates.k8s.io:certificatesigningrequests:"
	for role, group := range map[string]string{"system:node-bootstrapper": "system:bootstrappers", csr + "nodeclient": "system:bootstrappers", csr + "selfnodeclient": "system:nodes"} {
		_, err := shared.Client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "e2e-" + strings.ReplaceAll(role, ":", "-")},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: group}},
		}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
}

func clientset(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// isNode checks that the client may make its own node and no other.
func isNode(ctx context.Context, t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	nodes := client.CoreV1().Nodes()
	if _, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Errorf("make node %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = shared.Client.CoreV1().Nodes().Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{})
	})
	if _, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "another"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("make another node: %v, want it forbidden", err)
	}
}

// TestBootstrap: with a token the kubelet gets a certificate of its own, once.
func TestBootstrap(t *testing.T) {
	ctx := onStack(t)
	allowBootstrap(ctx, t)
	d, dir := newDoorway(ctx, t), t.TempDir()
	o := identity.Options{
		NodeName: "bootstrapped", CertDir: filepath.Join(dir, "pki"), Kubeconfig: filepath.Join(dir, "kubeconfig"),
		BootstrapKubeconfig: d.kubeconfig(t, "{token: "+bootstrapToken+"}"),
	}
	if err := identity.Bootstrap(ctx, o); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{o.Kubeconfig, filepath.Join(o.CertDir, "kubelet-client-current.pem")} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	entries, err := os.ReadDir(o.CertDir)
	if err != nil || len(entries) != 2 {
		t.Errorf("--cert-dir has %v, %v; want the certificate and the link to it", entries, err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	isNode(ctx, t, clientset(t, config), o.NodeName)
	before := d.made.Load()
	if err := identity.Bootstrap(ctx, o); err != nil || d.made.Load() != before {
		t.Errorf("a second time: %v, %d connections", err, d.made.Load()-before)
	}
	o = identity.Options{NodeName: "nobody", CertDir: t.TempDir(), Kubeconfig: filepath.Join(t.TempDir(), "k"), BootstrapKubeconfig: d.kubeconfig(t, "{token: e2etok.wrongwrongwrong1}")}
	if err := identity.Bootstrap(ctx, o); !apierrors.IsUnauthorized(err) && (err == nil || !strings.Contains(err.Error(), "nauthorized")) {
		t.Errorf("with a wrong token: %v", err)
	}
}

// TestBootstrapInBackground: the kubelet has a client before it has a certificate.
func TestBootstrapInBackground(t *testing.T) {
	ctx := onStack(t)
	allowBootstrap(ctx, t)
	d, dir := newDoorway(ctx, t), t.TempDir()
	c := runClient(ctx, t, identity.Options{
		NodeName: "background", CertDir: dir, Kubeconfig: filepath.Join(dir, "kubeconfig"), BootstrapKubeconfig: d.kubeconfig(t, "{token: "+bootstrapToken+"}"),
	})
	<-c.Ready()
	isNode(ctx, t, clientset(t, c.Config), "background")
}

// runClient runs a client until the test ends.
func runClient(ctx context.Context, t *testing.T, o identity.Options) *identity.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	c, err := identity.ClientCertificates(ctx, o)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the client's certificate: %v", err)
		}
		utilnet.CloseIdleConnectionsFor(c.Config.Transport)
	})
	return c
}

// TestClientRotation: a certificate inside of the kubeconfig is replaced at once, and connections made with it go.
func TestClientRotation(t *testing.T) {
	ctx := onStack(t)
	allowBootstrap(ctx, t)
	d := newDoorway(ctx, t)
	given, err := clientcmd.BuildConfigFromFlags("", shared.NodeKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(path string) string { return base64.StdEncoding.EncodeToString([]byte(read(t, path))) }
	o := identity.Options{NodeName: shared.NodeName, CertDir: t.TempDir(), Kubeconfig: d.kubeconfig(t, fmt.Sprintf("{client-certificate-data: %s, client-key-data: %s}", encode(given.CertFile), encode(given.KeyFile)))}
	c, err := identity.ClientCertificates(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	first := c.Certificate()
	client := clientset(t, c.Config)
	pods := func() {
		t.Helper()
		if _, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + shared.NodeName}); err != nil {
			t.Errorf("list pods: %v", err)
		}
	}
	pods()
	before := d.made.Load()
	run, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(run) }()
	eventually(ctx, t, "another certificate", func() bool { return !c.Certificate().Leaf.Equal(first.Leaf) })
	pods()
	if d.made.Load() == before {
		t.Error("requests go on over the connection of the certificate before")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	utilnet.CloseIdleConnectionsFor(c.Config.Transport)
	again, err := identity.ClientCertificates(ctx, o)
	if err != nil || !again.Certificate().Leaf.Equal(c.Certificate().Leaf) {
		t.Errorf("after a restart it is not the rotated certificate: %v", err)
	}
}

// TestServingRotation: the serving certificate comes when it has been approved, and again when the addresses change.
func TestServingRotation(t *testing.T) {
	ctx := onStack(t)
	d := newDoorway(ctx, t)
	given, err := clientcmd.BuildConfigFromFlags("", shared.NodeKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	given.Host, given.CAFile, given.CAData = d.url, "", d.ca
	var address atomic.Value
	address.Store("192.0.2.1")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dir := t.TempDir()
	get, run, err := identity.Serving(ctx, identity.ServingOptions{
		NodeName: shared.NodeName, CertDir: dir, Requests: clientset(t, given).CertificatesV1().CertificateSigningRequests(),
		Addresses: func() []corev1.NodeAddress {
			return []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address.Load().(string)}, {Type: corev1.NodeHostName, Address: shared.NodeName}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { run(ctx) })
	defer running.Wait()
	defer cancel()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(d.ca)
	for _, ip := range []string{"192.0.2.1", "192.0.2.2"} {
		address.Store(ip)
		approve(ctx, t, ip)
		var c *tls.Certificate
		eventually(ctx, t, "a certificate of "+ip, func() bool {
			c, err = get(nil)
			return err == nil && c.Leaf.VerifyHostname(ip) == nil
		})
		if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: shared.NodeName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Errorf("clients do not trust the certificate: %v", err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "kubelet-server-current.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// approve waits for a request that names the address and approves it, as an administrator does.
func approve(ctx context.Context, t *testing.T, ip string) {
	t.Helper()
	requests := shared.Client.CertificatesV1().CertificateSigningRequests()
	eventually(ctx, t, "a request for a serving certificate of "+ip, func() bool {
		list, err := requests.List(ctx, metav1.ListOptions{FieldSelector: "spec.signerName=" + certificatesv1.KubeletServingSignerName})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			r := &list.Items[i]
			if len(r.Status.Conditions) > 0 || !asksFor(t, r.Spec.Request, ip) {
				continue
			}
			r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "E2E"}}
			if _, err := requests.UpdateApproval(ctx, r.Name, r, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			return true
		}
		return false
	})
}

// asksFor tells whether a certificate request, in PEM, asks for the address.
func asksFor(t *testing.T, request []byte, ip string) bool {
	t.Helper()
	block, _ := pem.Decode(request)
	if block == nil {
		t.Fatalf("no certificate request: %q", request)
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, have := range r.IPAddresses {
		if have.String() == ip {
			return true
		}
	}
	return false
}
