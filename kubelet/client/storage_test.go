package client

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// answering is an apiserver that knows some paths.
func answering(t *testing.T, answers map[string]string) *Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer, known := answers[r.URL.Path]
		if !known {
			w.WriteHeader(http.StatusNotFound)
			answer = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`
		}
		fmt.Fprintln(w, answer)
	}))
	t.Cleanup(server.Close)
	c, err := New(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestClusterTrustBundles: an apiserver has them in v1, or else in v1beta1.
func TestClusterTrustBundles(t *testing.T) {
	for _, version := range []string{"v1", "v1beta1"} {
		list := `{"kind":"ClusterTrustBundleList","apiVersion":"certificates.k8s.io/VERSION","metadata":{"resourceVersion":"1"},
			"items":[{"metadata":{"name":"b"},"spec":{"signerName":"s","trustBundle":"t"}}]}`
		c := answering(t, map[string]string{"/apis/certificates.k8s.io/" + version + "/clustertrustbundles": strings.ReplaceAll(list, "VERSION", version)})
		got, err := cache.ToListerWatcherWithContext(c.ClusterTrustBundles()).ListWithContext(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Errorf("%s: %v", version, err)
			continue
		}
		bundles, ok := got.(*certificatesv1.ClusterTrustBundleList)
		if !ok || len(bundles.Items) != 1 || bundles.Items[0].Spec.SignerName != "s" {
			t.Errorf("%s: %#v", version, got)
		}
	}
}

func TestGet(t *testing.T) {
	c := answering(t, map[string]string{
		"/api/v1/namespaces/ns/secrets/s": `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s"},"data":{"k":"dg=="}}`,
		"/api/v1/persistentvolumes/pv":    `{"kind":"PersistentVolume","apiVersion":"v1","metadata":{"name":"pv"}}`,
	})
	secret, pv := &corev1.Secret{}, &corev1.PersistentVolume{}
	if err := c.Get(t.Context(), "secrets", "ns", "s", secret); err != nil || string(secret.Data["k"]) != "v" {
		t.Errorf("%v, %v", secret, err)
	}
	if err := c.Get(t.Context(), "persistentvolumes", "", "pv", pv); err != nil || pv.Name != "pv" {
		t.Errorf("%v, %v", pv, err)
	}
	if err := c.Get(t.Context(), "secrets", "ns", "other", secret); err == nil {
		t.Error("what is not there was read")
	}
}
