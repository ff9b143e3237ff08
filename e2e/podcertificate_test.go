package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/stack"
)

// TestPodCertificate: a container finds a key and a certificate for it, by a signer of the cluster, which is the test.
func TestPodCertificate(t *testing.T) {
	ctx, s := node(t)
	if err := s.Reflag(ctx, stack.APIServer, "--feature-gates=PodCertificateRequest=true", "--runtime-config=certificates.k8s.io/v1beta1/podcertificaterequests=true"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if err := s.Reflag(clean, stack.APIServer); err != nil {
			t.Error(err)
		}
	})
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{shell("app", "cat /certificate/bundle.pem; ls -ln /certificate/..data/; sleep 1000")}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "certificate", MountPath: "/certificate"}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "certificate", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{PodCertificate: &corev1.PodCertificateProjection{
			SignerName: "minikubelet.test/signer", KeyType: "ECDSAP256", CredentialBundlePath: "bundle.pem",
		}}},
	}}}}
	made := create(ctx, t, pod)
	request := sign(ctx, t, s, made)
	if request.Spec.PodUID != made.UID || string(request.Spec.NodeName) != s.NodeName {
		t.Errorf("the request is for %+v", request.Spec)
	}
	if _, err := s.WaitPodReady(ctx, pod.Namespace, pod.Name); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "the container shows a key that fits its certificate", func() bool {
		bundle := []byte(logs(t, made, "app", 0))
		pair, err := tls.X509KeyPair(bundle, bundle)
		return err == nil && pair.Leaf.Subject.CommonName == string(made.UID)
	})
	remove(ctx, t, made)
}

// sign issues the certificate that the pod's kubelet asks for.
func sign(ctx testContext, t *testing.T, s *stack.Stack, pod *corev1.Pod) *certificatesv1beta1.PodCertificateRequest {
	t.Helper()
	requests := s.Client.CertificatesV1beta1().PodCertificateRequests(pod.Namespace)
	var request *certificatesv1beta1.PodCertificateRequest
	eventually(ctx, t, "a request for a certificate", func() bool {
		list, err := requests.List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) == 0 {
			return false
		}
		request = &list.Items[0]
		return true
	})
	proof, err := x509.ParseCertificateRequest(request.Spec.StubPKCS10Request)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	from := time.Now().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: string(pod.UID)}, NotBefore: from, NotAfter: from.Add(2 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: pkix.Name{CommonName: "signer"}}, proof.PublicKey, ca)
	if err != nil {
		t.Fatal(err)
	}
	request.Status = certificatesv1beta1.PodCertificateRequestStatus{
		Conditions:       []metav1.Condition{{Type: "Issued", Status: metav1.ConditionTrue, Reason: "Test", LastTransitionTime: metav1.Now()}},
		CertificateChain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		NotBefore:        new(metav1.NewTime(from)), BeginRefreshAt: new(metav1.NewTime(from.Add(time.Hour))), NotAfter: new(metav1.NewTime(from.Add(2 * time.Hour))),
	}
	if request, err = requests.UpdateStatus(ctx, request, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return request
}
