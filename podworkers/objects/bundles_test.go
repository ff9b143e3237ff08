package objects

import (
	"context"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	"minikubelet/podworkers/objects/objectstest"
)

func certificate(text string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(text)}))
}

func bundle(name, signer string, labels map[string]string, certificates ...string) *certificatesv1.ClusterTrustBundle {
	b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer}}
	for _, c := range certificates {
		b.Spec.TrustBundle += "text between\n" + certificate(c)
	}
	return b
}

func TestTrustAnchors(t *testing.T) {
	client := fake.NewClientset(bundle("one", "", nil, "b", "a", "b"), bundle("s1", "signer", map[string]string{"l": "1"}, "x"), bundle("s2", "signer", nil, "y", "x"))
	changed := make(chan types.UID, 100)
	m := New(Options{
		Watch: objectstest.Watch(client), OnChange: func(uid types.UID) { changed <- uid },
		TrustBundles: func() cache.ListerWatcher {
			return objectstest.ListWatch(client, client.CertificatesV1().ClusterTrustBundles(), fields.Everything())
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })

	everything := &metav1.LabelSelector{}
	labelled := &metav1.LabelSelector{MatchLabels: map[string]string{"l": "1"}}
	for _, tt := range []struct {
		p    corev1.ClusterTrustBundleProjection
		want string // certificates; ! for an error
	}{
		{corev1.ClusterTrustBundleProjection{Name: new("one")}, "a b"}, {corev1.ClusterTrustBundleProjection{Name: new("none")}, "!"},
		{corev1.ClusterTrustBundleProjection{Name: new("none"), Optional: new(true)}, ""},
		{corev1.ClusterTrustBundleProjection{SignerName: new("signer"), LabelSelector: everything}, "x y"},
		{corev1.ClusterTrustBundleProjection{SignerName: new("signer"), LabelSelector: labelled}, "x"},
		{corev1.ClusterTrustBundleProjection{SignerName: new("signer")}, "!"}, // no selector is nothing
		{corev1.ClusterTrustBundleProjection{SignerName: new("signer"), Optional: new(true)}, ""},
		{corev1.ClusterTrustBundleProjection{SignerName: new("other"), LabelSelector: everything}, "!"}, {corev1.ClusterTrustBundleProjection{}, "!"},
	} {
		got, err := m.TrustAnchors(t.Context(), &tt.p)
		var want strings.Builder
		for c := range strings.FieldsSeq(strings.Trim(tt.want, "!")) {
			want.WriteString(certificate(c))
		}
		if string(got) != want.String() || (err != nil) != (tt.want == "!") {
			t.Errorf("%+v: %q, %v", tt.p, got, err)
		}
	}

	pod := user("1", "c")
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: new("one")}}},
	}}}}
	m.Register(pod)
	if _, err := client.CertificatesV1().ClusterTrustBundles().Update(t.Context(), bundle("one", "", nil, "c"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if uid := <-changed; uid != pod.UID {
		t.Errorf("told of a change: %s", uid)
	}
	if got, err := m.TrustAnchors(t.Context(), &corev1.ClusterTrustBundleProjection{Name: new("one")}); err != nil || string(got) != certificate("c") {
		t.Errorf("after the change: %q, %v", got, err)
	}
	if _, err := New(Options{}).TrustAnchors(t.Context(), &corev1.ClusterTrustBundleProjection{}); !errors.Is(err, ErrStandalone) {
		t.Errorf("without an apiserver: %v", err)
	}
}
