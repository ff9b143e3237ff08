package objects

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"

	"minikubelet/podworkers/objects/objectstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func user(uid, config string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: uid, Namespace: "ns", UID: types.UID(uid)}, Spec: corev1.PodSpec{
		ServiceAccountName: "sa",
		Volumes:            []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: config}}}}},
	}}
}

func newManager(t *testing.T, client *fake.Clientset, change func(types.UID)) *Manager {
	t.Helper()
	m := New(Options{Watch: objectstest.Watch(client), CreateToken: objectstest.CreateToken(client), OnChange: change})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { m.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return m
}

func TestReferences(t *testing.T) {
	ref := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	pod := user("p", "volume")
	pod.Spec.ImagePullSecrets = []corev1.LocalObjectReference{ref("pull")}
	pod.Spec.InitContainers = []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref("from")}}}}}
	pod.Spec.Containers = []corev1.Container{{Env: []corev1.EnvVar{
		{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("key")}}},
		{ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("volume")}}},
	}}}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{Secret: &corev1.SecretProjection{LocalObjectReference: ref("projected")}},
	}}}})
	want := []key{{secret, "ns", "pull"}, {secret, "ns", "from"}, {secret, "ns", "key"}, {configMap, "ns", "volume"}, {secret, "ns", "projected"}}
	if got := references(pod); !slices.Equal(got, want) {
		t.Errorf("references are %v, want %v", got, want)
	}
}

// TestSharedWatch: two pods share one watch, both hear of a change, and the watch ends with the last of them.
func TestSharedWatch(t *testing.T) {
	client := fake.NewClientset()
	changed := make(chan types.UID, 100)
	m := newManager(t, client, func(uid types.UID) { changed <- uid })
	m.Register(user("1", "c"))
	m.Register(user("2", "c"))
	m.Register(user("2", "c")) // a second sync of the same pod
	if _, err := m.ConfigMap(t.Context(), "ns", "c"); !apierrors.IsNotFound(err) {
		t.Errorf("one that is not there: %v", err)
	}
	made, err := client.CoreV1().ConfigMaps("ns").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns"}, Data: map[string]string{"k": "1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := []types.UID{<-changed, <-changed}
	slices.Sort(got)
	if !slices.Equal(got, []types.UID{"1", "2"}) {
		t.Errorf("told of the change: %v", got)
	}
	if c, err := m.ConfigMap(t.Context(), "ns", "c"); err != nil || c.Data["k"] != made.Data["k"] {
		t.Errorf("%v, %v", c, err)
	}
	watches := 0
	for _, a := range client.Actions() {
		if a.GetVerb() == "watch" {
			watches++
		}
	}
	if watches != 1 {
		t.Errorf("%d watches, want 1", watches)
	}
	m.Unregister("1")
	if _, err := m.ConfigMap(t.Context(), "ns", "c"); err != nil {
		t.Errorf("after one of two pods went: %v", err)
	}
	m.Unregister("2")
	if _, err := m.ConfigMap(t.Context(), "ns", "c"); err == nil || !strings.Contains(err.Error(), "no pod on this node") {
		t.Errorf("after both went: %v", err)
	}
}

// TestImmutable: what cannot change is read once, its watch ends, and it serves all pods that refer to it.
func TestImmutable(t *testing.T) {
	client := fake.NewClientset(
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns"}, Immutable: new(true), Data: map[string]string{"k": "1"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "ns"}, Immutable: new(false)},
	)
	m := newManager(t, client, nil)
	m.Register(user("1", "c"))
	changing := user("2", "c")
	changing.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s"}}
	m.Register(changing)
	if _, err := m.ConfigMap(t.Context(), "ns", "c"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Secret(t.Context(), "ns", "s"); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	watched, still := m.objects[key{configMap, "ns", "c"}].stopped, m.objects[key{secret, "ns", "s"}].stopped
	m.mu.Unlock()
	<-watched
	select {
	case <-still:
		t.Error("what may change is not watched")
	default:
	}
	if err := client.CoreV1().ConfigMaps("ns").Delete(t.Context(), "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	m.Register(user("3", "c"))
	m.Unregister("1")
	m.Unregister("2")
	if c, err := m.ConfigMap(t.Context(), "ns", "c"); err != nil || c.Data["k"] != "1" {
		t.Errorf("%v, %v", c, err)
	}
	m.Unregister("3")
	m.Register(user("4", "c"))
	if _, err := m.ConfigMap(t.Context(), "ns", "c"); !apierrors.IsNotFound(err) {
		t.Errorf("after all went that used it: %v", err)
	}
}

// TestForbiddenAtFirst: the node authorizer may need a moment to learn of a pod.
func TestForbiddenAtFirst(t *testing.T) {
	client := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns"}})
	refusals := 2
	client.PrependReactor("list", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		if refusals--; refusals >= 0 {
			return true, nil, apierrors.NewForbidden(corev1.Resource("configmaps"), "c", errors.New("not yet"))
		}
		return false, nil, nil
	})
	m := newManager(t, client, nil)
	m.Register(user("1", "c"))
	if _, err := m.ConfigMap(t.Context(), "ns", "c"); err != nil {
		t.Error(err)
	}
}

// TestPodUnknownAtFirst: the apiserver's NodeRestriction may need a moment to learn of a pod that the kubelet has already. An
// account that is not there is told at once.
func TestPodUnknownAtFirst(t *testing.T) {
	for resource, want := range map[string]int{"pod": 3, "serviceaccounts": 1} {
		client, asked := fake.NewClientset(), 0
		client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if asked++; asked < 3 {
				return true, nil, apierrors.NewNotFound(corev1.Resource(resource), "p")
			}
			return true, &authv1.TokenRequest{}, nil
		})
		tokens := newTokens(Options{CreateToken: objectstest.CreateToken(client), Clock: clocktesting.NewFakePassiveClock(time.Now())})
		if _, err := tokens.get(t.Context(), user("1", "c"), &authv1.TokenRequest{}); asked != want || (err == nil) != (resource == "pod") {
			t.Errorf("no such %s: asked %d times, want %d; %v", resource, asked, want, err)
		}
	}
}

func TestTokens(t *testing.T) {
	client := fake.NewClientset()
	clock := clocktesting.NewFakePassiveClock(time.Now())
	asked, fail := 0, false
	client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		asked++
		if fail {
			return true, nil, errors.New("away")
		}
		request := a.(clienttesting.CreateAction).GetObject().(*authv1.TokenRequest).DeepCopy()
		request.Status = authv1.TokenRequestStatus{Token: "t", ExpirationTimestamp: metav1.NewTime(clock.Now().Add(time.Hour))}
		return true, request, nil
	})
	tokens := newTokens(Options{CreateToken: objectstest.CreateToken(client), Clock: clock})
	get := func(audience string, wantAsked int, wantErr bool) {
		t.Helper()
		_, err := tokens.get(t.Context(), user("1", "c"), &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{Audiences: []string{audience}}})
		if (err != nil) != wantErr || asked != wantAsked {
			t.Errorf("asked %d times, error %v; want %d, error %v", asked, err, wantAsked, wantErr)
		}
	}
	get("a", 1, false)
	get("a", 1, false)
	get("b", 2, false) // another audience is another token
	clock.SetTime(clock.Now().Add(50 * time.Minute))
	get("a", 3, false)
	fail = true
	clock.SetTime(clock.Now().Add(50 * time.Minute))
	get("a", 4, false) // the old one serves until it expires
	get("a", 4, false) // and what failed is not asked for again at once
	clock.SetTime(clock.Now().Add(20 * time.Minute))
	get("a", 5, true)
	tokens.forget("1")
	fail = false
	get("a", 6, false)
}

// TestTokensOfWrongClock: a token is replaced in time although the node's clock was an hour behind or ahead when it came,
// and at once when the clock says that its time has come.
func TestTokensOfWrongClock(t *testing.T) {
	for _, wrong := range []time.Duration{-time.Hour, 0, time.Hour} {
		client, asked, apiserver := fake.NewClientset(), 0, time.Now()
		clock := clocktesting.NewFakePassiveClock(apiserver.Add(wrong))
		client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
			asked++
			request := a.(clienttesting.CreateAction).GetObject().(*authv1.TokenRequest).DeepCopy()
			request.Spec.ExpirationSeconds = new(int64(3600))
			request.Status = authv1.TokenRequestStatus{Token: "t", ExpirationTimestamp: metav1.NewTime(apiserver.Add(time.Hour).Round(0))}
			return true, request, nil
		})
		tokens := newTokens(Options{CreateToken: objectstest.CreateToken(client), Clock: clock})
		for i, step := range []struct {
			passes time.Duration
			want   int
		}{{0, 1}, {45 * time.Minute, 1}, {5 * time.Minute, 2}, {0, 2}} {
			apiserver = apiserver.Add(step.passes)
			clock.SetTime(clock.Now().Add(step.passes))
			if _, err := tokens.get(t.Context(), user("1", "c"), &authv1.TokenRequest{}); err != nil || asked != step.want {
				t.Errorf("clock wrong by %v, step %d: asked %d times, want %d; %v", wrong, i, asked, step.want, err)
			}
		}
		clock.SetTime(clock.Now().Round(0).Add(time.Hour)) // the machine was suspended
		if _, err := tokens.get(t.Context(), user("1", "c"), &authv1.TokenRequest{}); err != nil || asked != 3 {
			t.Errorf("clock wrong by %v: after an hour that was not counted, asked %d times: %v", wrong, asked, err)
		}
	}
}

func TestStandalone(t *testing.T) {
	m := New(Options{})
	m.Register(user("1", "c"))
	if _, err := m.ConfigMap(t.Context(), "ns", "c"); !errors.Is(err, ErrStandalone) {
		t.Error(err)
	}
	if _, err := m.Secret(t.Context(), "ns", "c"); !errors.Is(err, ErrStandalone) {
		t.Error(err)
	}
	if _, err := m.Token(t.Context(), user("1", "c"), &authv1.TokenRequest{}); !errors.Is(err, ErrStandalone) {
		t.Error(err)
	}
	if services, err := m.Services(t.Context(), true); err != nil || services != nil {
		t.Errorf("%v, %v", services, err)
	}
}
