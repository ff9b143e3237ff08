package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	"minikubelet/podworkers/objects"
	"minikubelet/podworkers/objects/objectstest"
)

// signed is a Manager of objects whose requests for certificates are answered at once, or never.
func signed(t *testing.T, issue bool) *objects.Manager {
	t.Helper()
	client := fake.NewClientset()
	requests := client.CertificatesV1().PodCertificateRequests
	m := objects.New(objects.Options{
		Watch: objectstest.Watch(client),
		CertificateRequests: func() cache.ListerWatcher {
			return objectstest.ListWatch(client, requests(""), fields.Everything())
		},
		RequestCertificate: func(ctx context.Context, r *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
			r.Name = "req-" + string(r.Spec.PodUID)
			if issue {
				r.Status = certificatesv1.PodCertificateRequestStatus{
					CertificateChain: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
					Conditions:       []metav1.Condition{{Type: "Issued", Status: metav1.ConditionTrue}},
					BeginRefreshAt:   new(metav1.NewTime(time.Now().Add(time.Hour))), NotAfter: new(metav1.NewTime(time.Now().Add(2 * time.Hour))),
				}
			}
			return requests(r.Namespace).Create(ctx, r, metav1.CreateOptions{})
		},
		ServiceAccount: func(context.Context, string, string) (*corev1.ServiceAccount, error) {
			return &corev1.ServiceAccount{}, nil
		},
		Node: func() *corev1.Node { return &corev1.Node{} },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { m.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return m
}

func TestPodCertificate(t *testing.T) {
	pod := testPod(corev1.Volume{Name: "p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: new(int32(0o644)),
		Sources: []corev1.VolumeProjection{{PodCertificate: &corev1.PodCertificateProjection{
			SignerName: "a/b", KeyType: "ED25519", CredentialBundlePath: "all.pem", KeyPath: "deep/key.pem", CertificateChainPath: "chain.pem",
		}}},
	}}})
	pod.Spec.Containers = []corev1.Container{{Name: "c", SecurityContext: &corev1.SecurityContext{RunAsUser: new(int64(7))}}}
	m := New(Options{PodsDir: t.TempDir(), Objects: signed(t, true), Allocatable: func() corev1.ResourceList { return nil }})
	t.Cleanup(func() { _ = m.Unmount(context.WithoutCancel(t.Context()), pod.UID) })
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	dir := m.dir(pod.UID, &pod.Spec.Volumes[0])
	key, chain := read(t, filepath.Join(dir, "deep/key.pem")), read(t, filepath.Join(dir, "chain.pem"))
	if !strings.HasPrefix(key, "-----BEGIN PRIVATE KEY-----") || !strings.HasPrefix(chain, "-----BEGIN CERTIFICATE-----") {
		t.Errorf("key %q, chain %q", key, chain)
	}
	if all := read(t, filepath.Join(dir, "all.pem")); all != key+chain {
		t.Errorf("bundle %q", all)
	}
	if info, err := os.Stat(filepath.Join(dir, "all.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for _, at := range []string{"all.pem", "..data/all.pem", "deep"} {
		if info, err := os.Lstat(filepath.Join(dir, at)); err != nil || info.Sys().(*syscall.Stat_t).Uid != 7 {
			t.Errorf("%s is not the user's: %v", at, err)
		}
	}
	if at := m.Next(pod.UID); time.Until(at) < 30*time.Minute {
		t.Errorf("to be looked at again at %v", at)
	}

	// A kubelet that starts has no certificates. Those in the volume serve until it has; a new pod waits.
	again := New(Options{PodsDir: m.opts.PodsDir, Objects: signed(t, false), Allocatable: m.opts.Allocatable})
	expired, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := again.Mount(expired, pod); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if read(t, filepath.Join(dir, "deep/key.pem")) != key {
		t.Error("the key changed")
	}
	other := pod.DeepCopy()
	other.UID = "other"
	t.Cleanup(func() { _ = again.Unmount(context.WithoutCancel(t.Context()), other.UID) })
	if err := again.Mount(expired, other); !errors.Is(err, objects.ErrNotIssued) {
		t.Errorf("another pod: %v", err)
	}
}
