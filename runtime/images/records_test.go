package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// Who may use an image that a secret pulled: see the policy's documentation.
func TestRecords(t *testing.T) {
	dir := t.TempDir()
	const image = "reg.io/app:1"
	present := `Normal Pulled spec.containers{app}: Container image "reg.io/app:1" already present on machine and can be accessed by the pod`
	m, fake, events := newManager(Options{RecordsDir: dir})
	pulls := func(m *Manager, policy corev1.PullPolicy, secrets ...corev1.Secret) (n int, err error) {
		t.Helper()
		before := fake.Count("PullImage")
		r := request(image, policy)
		r.PullSecrets = secrets
		_, err = m.EnsureImageExists(t.Context(), r)
		return fake.Count("PullImage") - before, err
	}
	expect := func(what string, want int, n int, err error) {
		t.Helper()
		if n != want || err != nil {
			t.Errorf("%s: %d pulls, %v; want %d", what, n, err, want)
		}
	}
	mine, rotated, others := dockerConfig("pull", "reg.io"), dockerConfig("pull", "https://reg.io"), dockerConfig("theirs", "reg.io/app")
	others.UID = "other"

	fake.AddImage(image)
	n, err := pulls(m, "")
	expect("put on the node by its administrator", 0, n, err)
	events.want(t, present)
	n, err = pulls(m, corev1.PullAlways, mine)
	expect("pulled with a secret", 1, n, err)
	n, err = pulls(m, "", mine)
	expect("the same secret", 0, n, err)
	n, err = pulls(m, "", rotated)
	expect("the secret with another login", 0, n, err)
	if _, err = pulls(m, corev1.PullNever); reason(err) != ErrImageNeverPull {
		t.Errorf("no secret, policy Never: %v", err)
	}

	m = New(Options{CRI: m.CRI, RecordsDir: dir, Events: events}) // a kubelet that was restarted
	n, err = pulls(m, "", others)
	expect("another secret", 1, n, err)
	n, err = pulls(m, "", others)
	expect("another secret, again", 0, n, err)
	n, err = pulls(m, "")
	expect("no secret: the registry lets everybody pull", 1, n, err)
	n, err = pulls(m, corev1.PullNever)
	expect("and so may everybody", 0, n, err)

	if left, _ := os.ReadDir(filepath.Join(dir, "pulling")); len(left) != 0 {
		t.Errorf("%d records of pulls in flight left", len(left))
	}
	if _, err := m.List(t.Context()); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "pulled")); len(left) != 1 {
		t.Errorf("%d records, want that of the image", len(left))
	}
	_, _ = m.CRI.Images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	if _, err := m.List(t.Context()); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "pulled")); len(left) != 0 {
		t.Error("the record of a removed image is still there")
	}
}

// A kubelet killed during a pull leaves a record; the image does not count as the administrator's.
func TestRecordsAfterKill(t *testing.T) {
	dir := t.TempDir()
	m, fake, _ := newManager(Options{RecordsDir: dir})
	fake.AddImage("reg.io/app:1")
	if err := newRecords(dir).begin("reg.io/app:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.EnsureImageExists(t.Context(), request("reg.io/app:1", "")); err != nil || fake.Count("PullImage") != 1 {
		t.Errorf("%d pulls, %v", fake.Count("PullImage"), err)
	}
	// Nor does a broken record open the image to everybody.
	sub := filepath.Join(dir, "pulled")
	entries, _ := os.ReadDir(sub)
	if err := os.WriteFile(filepath.Join(sub, entries[0].Name()), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	m = New(Options{CRI: m.CRI, RecordsDir: dir})
	if _, err := m.EnsureImageExists(t.Context(), request("reg.io/app:1", "")); err != nil || fake.Count("PullImage") != 2 {
		t.Errorf("%d pulls, %v", fake.Count("PullImage"), err)
	}
}

// TestSlowCredentials: the credentials of a pod may come from a plugin or the apiserver, which take long. No other pod waits for them.
func TestSlowCredentials(t *testing.T) {
	m, _, _ := newManager(Options{RecordsDir: t.TempDir()})
	const image, ref = "reg.io/app:1", "sha256:app"
	secret := kubeletconfig.ImagePullSecret{UID: "secret", Namespace: "ns", Name: "pull"}
	with := Credential{Source: kubeletconfig.ImagePullCredentials{KubernetesSecrets: []kubeletconfig.ImagePullSecret{secret}}}
	if err := m.records.begin(image); err != nil {
		t.Fatal(err)
	}
	m.records.end(t.Context(), image, pullResult{ref: ref}, &with)
	asked := false
	if m.mustPull(t.Context(), image, ref, func() []Credential {
		asked = true
		if !m.records.mu.TryLock() {
			t.Error("the records are locked meanwhile")
		} else {
			m.records.mu.Unlock()
		}
		return []Credential{with}
	}) {
		t.Error("the pod may not use the image that its secret pulled")
	}
	if !asked {
		t.Error("the pod's credentials do not count")
	}
}

func TestVerification(t *testing.T) {
	allowed := []string{"reg.io/base", "reg.io/public/*"}
	for _, test := range []struct {
		policy kubeletconfig.ImagePullCredentialsVerificationPolicy
		image  string
		pulled bool
		want   bool
	}{
		{"", "reg.io/app:1", true, true},
		{kubeletconfig.NeverVerifyPreloadedImages, "reg.io/app:1", false, false},
		{kubeletconfig.NeverVerify, "reg.io/app:1", true, false},
		{kubeletconfig.AlwaysVerify, "reg.io/app:1", false, true},
		{"Typo", "reg.io/app:1", false, true},
		{kubeletconfig.NeverVerifyAllowlistedImages, "reg.io/base:1", false, false},
		{kubeletconfig.NeverVerifyAllowlistedImages, "reg.io/public/x@sha256:" + strings.Repeat("0", 64), false, false},
		{kubeletconfig.NeverVerifyAllowlistedImages, "reg.io/based:1", false, true},
		{kubeletconfig.NeverVerifyAllowlistedImages, "reg.io/public", false, true},
	} {
		m := New(Options{Verification: test.policy, Preloaded: allowed})
		name, err := trim(test.image)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.verifies(name, test.pulled); got != test.want {
			t.Errorf("policy %q, image %s, pulled %v: verify = %v", test.policy, test.image, test.pulled, got)
		}
	}
}
