package images

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/crifake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder keeps events as "Type Reason fieldPath: message".
type recorder struct {
	mu     sync.Mutex
	events []string
}

func (r *recorder) Event(object runtime.Object, kind, reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, fmt.Sprintf("%s %s %s: %s", kind, reason, object.(*corev1.ObjectReference).FieldPath, message))
}

func (r *recorder) Eventf(object runtime.Object, kind, reason, format string, args ...any) {
	r.Event(object, kind, reason, fmt.Sprintf(format, args...))
}

func (r *recorder) AnnotatedEventf(object runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	r.Eventf(object, kind, reason, format, args...)
}

func (r *recorder) want(t *testing.T, want ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.events, want) {
		t.Errorf("events:\n  %s\nwant:\n  %s", strings.Join(r.events, "\n  "), strings.Join(want, "\n  "))
	}
	r.events = nil
}

func newManager(options Options) (*Manager, *crifake.Server, *recorder) {
	fake, events := crifake.New(), &recorder{}
	options.CRI, options.Events = fake.Direct(), events
	return New(options), fake, events
}

func request(image string, policy corev1.PullPolicy) Request {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "uid"}}
	pod.Spec.Containers = []corev1.Container{{Name: "app", Image: image}}
	return Request{Pod: pod, Container: &pod.Spec.Containers[0], Image: image, PullPolicy: policy}
}

func reason(err error) string {
	if of, ok := errors.AsType[*Error](err); ok {
		return of.Reason
	}
	return fmt.Sprint(err)
}

func TestParse(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("0", 64)
	for _, test := range []struct {
		in, image, repository string
		policy                corev1.PullPolicy
	}{
		{"busybox", "busybox:latest", "docker.io/library/busybox", corev1.PullAlways},
		{"busybox:latest", "busybox:latest", "docker.io/library/busybox", corev1.PullAlways},
		{"busybox:1.36", "busybox:1.36", "docker.io/library/busybox", corev1.PullIfNotPresent},
		{"reg.local:5000/a/b", "reg.local:5000/a/b:latest", "reg.local:5000/a/b", corev1.PullAlways},
		{"reg.local:5000/a/b" + digest, "reg.local:5000/a/b" + digest, "reg.local:5000/a/b", corev1.PullIfNotPresent},
		{"a/b:latest" + digest, "a/b:latest" + digest, "docker.io/a/b", corev1.PullIfNotPresent},
	} {
		got, err := parse(test.in)
		if want := (imageName{test.image, test.repository, test.policy}); err != nil || got != want {
			t.Errorf("parse(%q) = %+v, %v, want %+v", test.in, got, err, want)
		}
	}
	for _, bad := range []string{"", "UPPER", "a b", "x@sha256:12", "-/x:y", "http://x/y"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("parse(%q) succeeded", bad)
		}
	}
}

func TestPolicies(t *testing.T) {
	const (
		pulling = `Normal Pulling spec.containers{app}: Pulling image "reg/app:1"`
		pulled  = `Normal Pulled spec.containers{app}: Successfully pulled image "reg/app:1" in 0s (0s including waiting). Image size: 1048576 bytes.`
		there   = `Normal Pulled spec.containers{app}: Container image "reg/app:1" already present on machine`
		never   = `Warning ErrImageNeverPull spec.containers{app}: Container image "reg/app:1" is not present with pull policy of Never`
	)
	for _, test := range []struct {
		policy  corev1.PullPolicy
		present bool
		reason  string
		calls   []string
		events  []string
	}{
		{corev1.PullAlways, false, "", []string{"PullImage", "ImageStatus"}, []string{pulling, pulled}},
		{corev1.PullAlways, true, "", []string{"PullImage", "ImageStatus"}, []string{pulling, pulled}},
		{corev1.PullIfNotPresent, false, "", []string{"ImageStatus", "PullImage", "ImageStatus"}, []string{pulling, pulled}},
		{corev1.PullIfNotPresent, true, "", []string{"ImageStatus"}, []string{there}},
		{"", true, "", []string{"ImageStatus"}, []string{there}},
		{corev1.PullNever, true, "", []string{"ImageStatus"}, []string{there}},
		{corev1.PullNever, false, ErrImageNeverPull, []string{"ImageStatus"}, []string{never}},
	} {
		t.Run(fmt.Sprintf("%s present=%v", test.policy, test.present), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, fake, events := newManager(Options{})
				if test.present {
					fake.AddImage("reg/app:1")
				}
				ref, err := m.EnsureImageExists(t.Context(), request("reg/app:1", test.policy))
				if test.reason == "" && (err != nil || !strings.HasPrefix(ref, "sha256:")) || test.reason != "" && reason(err) != test.reason {
					t.Errorf("EnsureImageExists = %q, %v", ref, err)
				}
				if got := fake.Calls(); !slices.Equal(got, test.calls) {
					t.Errorf("calls = %v, want %v", got, test.calls)
				}
				events.want(t, test.events...)
			})
		})
	}
}

func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, fake, events := newManager(Options{})
		_, err := m.EnsureImageExists(t.Context(), request("Not An Image", ""))
		if reason(err) != InvalidImageName {
			t.Error(err)
		}
		events.want(t, `Warning InspectFailed spec.containers{app}: Failed to apply default image tag "Not An Image": couldn't parse image name "Not An Image": invalid reference format: repository name (library/Not An Image) must be lowercase`)

		fake.FailNext("ImageStatus", status.Error(codes.Unknown, "no disk"))
		_, err = m.EnsureImageExists(t.Context(), request("reg/app:1", ""))
		if reason(err) != ImageInspectError {
			t.Error(err)
		}
		events.want(t, `Warning InspectFailed spec.containers{app}: Failed to inspect image "reg/app:1": rpc error: code = Unknown desc = no disk`)

		for text, want := range map[string]string{
			"RegistryUnavailable: 503":  "RegistryUnavailable: image pull failed for reg/app:1 because the registry is unavailable: 503",
			"SignatureValidationFailed": "SignatureValidationFailed: image pull failed for reg/app:1 because the signature validation failed",
			"manifest unknown":          "ErrImagePull: manifest unknown",
		} {
			if got := pullError("reg/app:1", errors.New(text)).Error(); got != want {
				t.Errorf("pullError(%q) = %q, want %q", text, got, want)
			}
		}
	})
}

// ErrImagePull, then ImagePullBackOff for 10 s, 20 s and so on up to 5 min; another pod is not affected.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, fake, events := newManager(Options{})
		ensure := func(change ...func(*Request)) error {
			r := request("reg/app:1", "")
			for _, c := range change {
				c(&r)
			}
			_, err := m.EnsureImageExists(t.Context(), r)
			return err
		}
		for _, wait := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			wait *= time.Second
			fake.FailNext("PullImage", status.Error(codes.Unknown, "no route to registry"))
			if err := ensure(); reason(err) != ErrImagePull || err.Error() != "ErrImagePull: no route to registry" {
				t.Fatalf("after a failed pull: %v", err)
			}
			events.want(t, `Normal Pulling spec.containers{app}: Pulling image "reg/app:1"`,
				`Warning Failed spec.containers{app}: Failed to pull image "reg/app:1": no route to registry`)
			failed := time.Now()
			time.Sleep(wait - time.Millisecond)
			err := ensure()
			var of *Error
			if !errors.As(err, &of) || of.Reason != ImagePullBackOff || !of.RetryAt.Equal(failed.Add(wait)) ||
				of.Message != `Back-off pulling image "reg/app:1": ErrImagePull: no route to registry` {
				t.Fatalf("in back-off of %v: %+v", wait, of)
			}
			events.want(t, `Normal BackOff spec.containers{app}: Back-off pulling image "reg/app:1"`)
			time.Sleep(time.Millisecond)
		}
		if err := ensure(func(r *Request) { r.Pod.UID = "other" }); err != nil {
			t.Errorf("another pod waits too: %v", err)
		}
	})
}

func TestSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, fake, _ := newManager(Options{})
		fake.Delay("PullImage", 3*time.Second)
		var running sync.WaitGroup
		leader, leave := context.WithCancel(t.Context())
		for i := range 10 {
			running.Go(func() {
				r := request("reg/app:1", corev1.PullAlways)
				r.Pod.UID += "x"
				ctx := t.Context()
				if i == 0 {
					ctx = leader
				}
				if i == 9 {
					r.PullSecrets = []corev1.Secret{dockerConfig("pull", "docker.io")}
				}
				_, err := m.EnsureImageExists(ctx, r)
				if (i == 0) != errors.Is(err, context.Canceled) {
					t.Errorf("EnsureImageExists %d = %v", i, err)
				}
			})
		}
		time.Sleep(time.Second)
		leave() // the others still want it
		running.Wait()
		if n := fake.Count("PullImage"); n != 2 {
			t.Errorf("%d pulls, want one for each set of credentials", n)
		}
	})
}

// When no request waits for it any more the pull ends, which is no failure.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, fake, events := newManager(Options{})
		fake.Delay("PullImage", time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.EnsureImageExists(ctx, request("reg/app:1", "")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("EnsureImageExists = %v", err)
		}
		synctest.Wait()
		events.want(t, `Normal Pulling spec.containers{app}: Pulling image "reg/app:1"`)
		fake.Delay("PullImage", 0)
		if _, err := m.EnsureImageExists(t.Context(), request("reg/app:1", "")); err != nil {
			t.Error(err)
		}
	})
}

func TestLimits(t *testing.T) {
	for _, test := range []struct {
		options Options
		want    time.Duration
	}{
		{Options{Serialize: true, MaxParallel: 5}, 6 * time.Second},
		{Options{MaxParallel: 2}, 3 * time.Second},
		{Options{}, time.Second},
		{Options{QPS: 2, Burst: 4}, 2 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			m, fake, _ := newManager(test.options)
			fake.Delay("PullImage", time.Second)
			start := time.Now()
			var running sync.WaitGroup
			for i := range 6 {
				running.Go(func() {
					if _, err := m.EnsureImageExists(t.Context(), request(fmt.Sprintf("reg/app:%d", i), "")); err != nil {
						t.Error(err)
					}
				})
			}
			running.Wait()
			if took := time.Since(start); took != test.want {
				t.Errorf("six pulls with %+v took %v, want %v", test.options, took, test.want)
			}
		})
	}
}

// TestSetRate: pulls wait for the rate that was set last, and 0 is no limit.
func TestSetRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, _ := newManager(Options{})
		pull := func(from, to int, want time.Duration) {
			t.Helper()
			start := time.Now()
			for i := from; i < to; i++ {
				if _, err := m.EnsureImageExists(t.Context(), request(fmt.Sprintf("reg/app:%d", i), "")); err != nil {
					t.Error(err)
				}
			}
			if took := time.Since(start); took != want {
				t.Errorf("pulls of %d to %d took %v, want %v", from, to, took, want)
			}
		}
		pull(0, 20, 0)
		m.SetRate(2, 0)
		pull(20, 24, 1500*time.Millisecond)
		m.SetRate(0, 0)
		pull(24, 50, 0)
	})
}

func TestPullCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, fake, _ := newManager(Options{})
		r := request("reg.io/team/app:1", "")
		r.PullSecrets = []corev1.Secret{dockerConfig("pull", "reg.io", "reg.io/team")}
		fake.FailNext("PullImage", status.Error(codes.Unknown, "denied"))
		if _, err := m.EnsureImageExists(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		var tried []string
		for _, pull := range crifake.Requests[*runtimeapi.PullImageRequest](fake) {
			tried = append(tried, pull.Auth.GetUsername())
		}
		if want := []string{"reg.io/team", "reg.io"}; !slices.Equal(tried, want) {
			t.Errorf("credentials tried: %v, want %v", tried, want)
		}
	})
}

func TestImageVolume(t *testing.T) {
	m, fake, events := newManager(Options{})
	fake.AddImage("reg/data:1")
	r := request("reg/app:1", "")
	r.Image = "reg/data:1"
	if _, err := m.EnsureImageExists(t.Context(), r); err != nil {
		t.Error(err)
	}
	events.want(t, `Normal Pulled : Container image "reg/data:1" already present on machine`)
}

func TestList(t *testing.T) {
	m, fake, _ := newManager(Options{})
	fake.AddImage("reg/a:1")
	fake.AddImage("reg/b:1")
	got, err := m.List(t.Context())
	if err != nil || len(got) != 2 || len(got[0].Names) != 2 || !strings.Contains(got[0].Names[0], "@sha256:") || got[0].SizeBytes == 0 {
		t.Errorf("List = %v, %v", got, err)
	}
	fake.FailNext("ListImages", status.Error(codes.Unavailable, "away"))
	if _, err := m.List(t.Context()); err == nil {
		t.Error("List succeeded without a runtime")
	}
}
