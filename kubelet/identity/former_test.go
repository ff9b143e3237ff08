package identity

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// pemOf is the authority's certificate.
func (a *authority) pemOf() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// clusterConfig is a kubeconfig of the server whose cluster has the authority.
func clusterConfig(t *testing.T, a *authority, s *httptest.Server, user string) string {
	t.Helper()
	path := kubeconfig(t, s, user)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	was := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	write(t, path, []byte(strings.Replace(string(data), was, base64.StdEncoding.EncodeToString(a.pemOf()), 1)))
	return path
}

func inFiles(t *testing.T, cert, key []byte) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "c"), cert)
	write(t, filepath.Join(dir, "k"), key)
	return fmt.Sprintf("{client-certificate: %s, client-key: %s}", filepath.Join(dir, "c"), filepath.Join(dir, "k"))
}

// formerly is a --cert-dir in which a kubelet of a former cluster, or an earlier start, has left a certificate.
func formerly(t *testing.T, a *authority, until time.Time) (dir string) {
	t.Helper()
	dir = t.TempDir()
	files, err := newStore(dir, clientPrefix)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := files.update(a.issue("n", until)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestNewCluster: the certificate that an earlier start has left loses against one in the kubeconfig that is newer, or
// that the cluster has signed when it has not signed the other.
func TestNewCluster(t *testing.T) {
	older, newer := time.Now().Add(40*time.Minute), time.Now().Add(50*time.Minute)
	expired := time.Now().Add(-time.Minute)
	for name, test := range map[string]struct {
		left, given time.Time
		former      bool // what is left is of another cluster
		known       bool // the kubeconfig's authority signs nodes' certificates
		wantGiven   bool
	}{
		"a new cluster":                        {older, newer, true, true, true},
		"a new cluster, by its authority":      {newer, older, true, true, true},
		"a new cluster, nodes signed by other": {older, newer, true, false, true},
		"rotated":                              {newer, older, false, true, false},
		"rotated, nodes signed by other":       {newer, older, false, false, false},
		"given anew":                           {older, newer, false, true, true},
		"rotated just after it was given":      {older, older.Add(4 * time.Minute), false, true, false},
		"left one expired":                     {expired, older, false, true, true},
		"given one expired":                    {older, expired, true, true, false},
	} {
		for form, user := range map[string]func(cert, key []byte) string{
			"embedded": embedded, "files": func(cert, key []byte) string { return inFiles(t, cert, key) },
		} {
			t.Run(name+"/"+form, func(t *testing.T) {
				a := newAuthority(t)
				former := a
				if test.former {
					former = newAuthority(t)
				}
				former.serial = 100
				dir := formerly(t, former, test.left)
				a.serial = 200
				s := a.server(whoAmI)
				path := kubeconfig(t, s, user(a.issue("n", test.given)))
				if test.known {
					path = clusterConfig(t, a, s, user(a.issue("n", test.given)))
				}
				c, err := ClientCertificates(t.Context(), Options{NodeName: "n", CertDir: dir, Kubeconfig: path})
				if err != nil {
					t.Fatal(err)
				}
				if serial := leaf(c.Certificate()).SerialNumber.Int64(); (serial > 200) != test.wantGiven {
					t.Errorf("certificate %d is used; the kubeconfig's is wanted: %v", serial, test.wantGiven)
				}
			})
		}
	}
}

// TestRefused: a certificate that the apiserver does not know gives way to the other that there is.
func TestRefused(t *testing.T) {
	noLeaks(t)
	a := newAuthority(t)
	a.serial = 100
	dir := formerly(t, a, time.Now().Add(50*time.Minute))
	a.serial = 200
	s := a.server(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.PeerCertificates[0].SerialNumber.Int64() == 102 {
			w.WriteHeader(http.StatusUnauthorized)
		}
		whoAmI(w, r)
	})
	c, err := ClientCertificates(t.Context(), Options{NodeName: "n", CertDir: dir, Kubeconfig: kubeconfig(t, s, embedded(a.issue("n", time.Now().Add(40*time.Minute))))})
	if err != nil {
		t.Fatal(err)
	}
	defer c.dialer.CloseAll()
	var serial string
	for range 20 {
		if serial, _ = ask(t, c.Config, s.URL); serial == "202" {
			break
		}
	}
	if serial != "202" {
		t.Fatalf("certificate %s is still shown, which the apiserver refuses", serial)
	}
}

// TestAcceptedStays: an apiserver that refuses a certificate which it knew before is out of order, and the certificate is
// not.
func TestAcceptedStays(t *testing.T) {
	noLeaks(t)
	a := newAuthority(t)
	a.serial = 100
	dir := formerly(t, a, time.Now().Add(50*time.Minute))
	var ill atomic.Bool
	s := a.server(func(w http.ResponseWriter, r *http.Request) {
		if ill.Load() {
			w.WriteHeader(http.StatusUnauthorized)
		}
		whoAmI(w, r)
	})
	c, err := ClientCertificates(t.Context(), Options{NodeName: "n", CertDir: dir, Kubeconfig: kubeconfig(t, s, embedded(a.issue("n", time.Now().Add(40*time.Minute))))})
	if err != nil {
		t.Fatal(err)
	}
	defer c.dialer.CloseAll()
	for i := range 20 {
		if serial, _ := ask(t, c.Config, s.URL); serial != "102" {
			t.Fatalf("certificate %s is shown at request %d", serial, i)
		}
		ill.Store(true)
	}
}

// TestRefusedBootstraps: without another certificate the bootstrap kubeconfig gets a new one.
func TestRefusedBootstraps(t *testing.T) {
	noLeaks(t)
	a := newAuthority(t)
	dir := formerly(t, a, time.Now().Add(50*time.Minute))
	asked := make(chan struct{}, 10)
	s := a.server(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.Header.Get("Authorization") == "Bearer x" {
			asked <- struct{}{}
		}
		w.WriteHeader(http.StatusUnauthorized)
		whoAmI(w, r)
	})
	o := Options{NodeName: "n", CertDir: dir, Kubeconfig: filepath.Join(dir, "kubeconfig"), BootstrapKubeconfig: kubeconfig(t, s, "{token: x}")}
	c, err := ClientCertificates(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.dialer.CloseAll()
	ends := runClient(t, c)
	for range 3 {
		if serial, _ := ask(t, c.Config, s.URL); serial != "2" {
			t.Errorf("certificate %s is shown", serial)
		}
	}
	select {
	case <-asked:
	case <-time.After(30 * time.Second):
		t.Error("no certificate is asked for")
	}
	ends()
}

// TestFormerBootstraps: without a kubeconfig, what a former cluster's kubelet has left is of no use.
func TestFormerBootstraps(t *testing.T) {
	former, a := newAuthority(t), newAuthority(t)
	dir := formerly(t, former, time.Now().Add(50*time.Minute))
	a.remake(pkix.Name{CommonName: "new"})
	s := a.server(whoAmI)
	o := Options{NodeName: "n", CertDir: dir, Kubeconfig: filepath.Join(dir, "kubeconfig"), BootstrapKubeconfig: clusterConfig(t, a, s, "{token: x}")}
	c, err := ClientCertificates(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if c.Certificate() != nil {
		t.Error("the former cluster's certificate is used")
	}
}

// TestBrokenCertificate: a file that a power loss has emptied does not keep the kubelet from starting.
func TestBrokenCertificate(t *testing.T) {
	a := newAuthority(t)
	s := a.server(whoAmI)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "kubelet-client-current.pem"), nil)
	write(t, filepath.Join(dir, "kubelet-server-current.pem"), []byte("garbage"))
	c, err := ClientCertificates(t.Context(), Options{NodeName: "n", CertDir: dir, Kubeconfig: kubeconfig(t, s, embedded(a.issue("n", time.Now().Add(time.Hour))))})
	if err != nil || c.Certificate() == nil {
		t.Errorf("beside an empty file: %v, %v", c, err)
	}
	if _, _, err := Serving(t.Context(), ServingOptions{NodeName: "n", CertDir: dir, Requests: newSigners(t, sign)}); err != nil {
		t.Errorf("the serving certificate: %v", err)
	}
}

// TestServingOfFormerCluster: a serving certificate that a former cluster has signed is shown until this one has signed
// another.
func TestServingOfFormerCluster(t *testing.T) {
	noLeaks(t)
	former, now := newAuthority(t), newAuthority(t)
	now.remake(pkix.Name{CommonName: "new"})
	dir := t.TempDir()
	files, err := newStore(dir, servingPrefix)
	if err != nil {
		t.Fatal(err)
	}
	addresses := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}
	key := newKey(t)
	request, err := certutil.MakeCSRFromTemplate(key, servingTemplate("n", addresses))
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	former.backdate = 10 * time.Minute
	left, err := files.update(former.sign(request, 50*time.Minute), keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	requests := newSigners(t, sign)
	requests.a = now
	get, run, err := Serving(t.Context(), ServingOptions{
		NodeName: "n", CertDir: dir, Requests: requests, Kubeconfig: clusterConfig(t, now, now.server(whoAmI), "{token: x}"),
		Addresses: func() []corev1.NodeAddress { return addresses },
	})
	if err != nil {
		t.Fatal(err)
	}
	show := func() *tls.Certificate {
		c, err := get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if !show().Leaf.Equal(left.Leaf) {
		t.Error("the former cluster's certificate is not shown meanwhile")
	}
	defer inBackground(t, run)()
	deadline := time.Now().Add(30 * time.Second)
	for show().Leaf.CheckSignatureFrom(now.cert) != nil {
		if time.Now().After(deadline) {
			t.Fatal("the former cluster's certificate is still shown")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
