package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/crifake"
	"minikubelet/runtime/cgroups"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/images"
	"minikubelet/runtime/plan"
	"minikubelet/runtime/pleg"
	"minikubelet/runtime/runtimeclass"
	"minikubelet/runtime/spec"
)

// recorder keeps events as lines: "Warning BackOff spec.containers{a}: text".
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) Event(object runtime.Object, kind, reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf("%s %s %s: %s", kind, reason, object.(*corev1.ObjectReference).FieldPath, message))
}

func (r *recorder) Eventf(object runtime.Object, kind, reason, format string, args ...any) {
	r.Event(object, kind, reason, fmt.Sprintf(format, args...))
}

func (r *recorder) AnnotatedEventf(object runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	r.Event(object, kind, reason, fmt.Sprintf(format, args...))
}

func (r *recorder) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// inputs answers for the node.
type inputs struct {
	verdicts verdicts
	envErr   error
	assigned *runtimeapi.ContainerConfig
}

func (inputs) Command(c *corev1.Container, _ []*runtimeapi.KeyValue) ([]string, []string) {
	return c.Command, c.Args
}

func (in inputs) Env(_ context.Context, _ *corev1.Pod, _ *corev1.Container, podIPs []string) ([]*runtimeapi.KeyValue, error) {
	return []*runtimeapi.KeyValue{{Key: "POD_IPS", Value: []byte(strings.Join(podIPs, ","))}}, in.envErr
}

func (inputs) Mounts(_ context.Context, pod *corev1.Pod, c *corev1.Container, _ []string) ([]*runtimeapi.Mount, error) {
	var out []*runtimeapi.Mount
	for _, m := range c.VolumeMounts {
		mount := &runtimeapi.Mount{HostPath: "/volumes/" + m.Name, ContainerPath: m.MountPath, SelinuxRelabel: true}
		if source := imageVolume(pod, m.Name); source != nil {
			mount.Image = &runtimeapi.ImageSpec{UserSpecifiedImage: source.Reference}
		}
		out = append(out, mount)
	}
	return out, nil
}

func (in inputs) Assigned(context.Context, *corev1.Pod, *corev1.Container) (*runtimeapi.ContainerConfig, error) {
	return in.assigned, nil
}

// verdicts are the probes' answers by container ID, or "*" for any other: "L" and "S" for a failed liveness or startup
// probe, "w" for a startup probe still under way.
type verdicts map[string]string

func (in inputs) Verdict(id string) plan.Verdict {
	answer, ok := in.verdicts[id]
	if !ok {
		answer = in.verdicts["*"]
	}
	return plan.Verdict{Restart: map[string]string{"L": plan.RestartLiveness, "S": plan.RestartStartup}[answer], Started: answer == "" || answer == "L"}
}

func (inputs) PullSecrets(context.Context, *corev1.Pod) []corev1.Secret { return nil }

// bench is a Runtime over a runtime in memory.
type bench struct {
	*Runtime
	fake   *crifake.Server
	events *recorder
}

func newBench(t *testing.T, change func(*Options)) *bench {
	t.Helper()
	fake := crifake.New()
	fake.AddImage("image:1")
	fake.AddImage("image:2")
	client, events := fake.Direct(), &recorder{}
	groups, err := cgroups.New(cgroups.Options{Root: "/pods"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	resolv := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 192.0.2.1\nsearch example.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	options := Options{
		CRI: client, Images: images.New(images.Options{CRI: client, Events: events}), Classes: runtimeclass.New(nil), Cgroups: groups,
		Events: events, Cache: pleg.NewCache(client), RootDir: filepath.Join(dir, "root"),
		ContainerLogsDir: filepath.Join(dir, "links"), ResolvConf: resolv,
		Node: spec.Node{
			PodLogsDir: filepath.Join(dir, "logs"), ClusterDomain: "cluster.local", ClusterDNS: []string{"10.96.0.10"}, CPUCFSQuota: true, SeccompDefault: true,
		},
	}
	if change != nil {
		change(&options)
	}
	return &bench{Runtime: New(options), fake: fake, events: events}
}

// sync syncs with what the fake has now: there are no events that would tell the cache.
func (b *bench) sync(t *testing.T, pod *corev1.Pod, in inputs) (SyncResult, error) {
	t.Helper()
	if _, known := b.opts.Cache.Get(pod.UID); known {
		b.opts.Cache.Acted(pod.UID)
	} else {
		b.opts.Cache.Put(&cri.PodStatus{UID: pod.UID, ObservedAt: time.Now()})
	}
	return b.SyncPod(t.Context(), pod, in)
}

// seen is what the cache has of a pod.
func (b *bench) seen(pod *corev1.Pod) *cri.PodStatus {
	observed, _ := b.opts.Cache.Get(pod.UID)
	return observed
}

func (b *bench) mustSync(t *testing.T, pod *corev1.Pod) SyncResult {
	t.Helper()
	result, err := b.sync(t, pod, inputs{})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// state writes a reading as a line: "box0 a/0:run b/1:exit1".
func state(observed *cri.PodStatus) string {
	var out []string
	for _, s := range observed.Sandboxes {
		word := fmt.Sprintf("box%d", s.GetMetadata().GetAttempt())
		if s.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
			word += "-"
		}
		out = append(out, word)
	}
	containers := slices.Clone(observed.Containers)
	slices.SortFunc(containers, func(a, b *cri.ContainerStatus) int {
		return strings.Compare(fmt.Sprint(a.Name, a.Attempt), fmt.Sprint(b.Name, b.Attempt))
	})
	for _, c := range containers {
		word := map[runtimeapi.ContainerState]string{cri.Created: "new", cri.Running: "run"}[c.State]
		if c.State == cri.Exited {
			word = fmt.Sprint("exit", c.ExitCode)
		}
		out = append(out, fmt.Sprintf("%s/%d:%s", c.Name, c.Attempt, word))
	}
	return strings.Join(out, " ")
}

func (b *bench) want(t *testing.T, pod *corev1.Pod, want string) {
	t.Helper()
	observed, err := cri.ReadPod(t.Context(), b.opts.CRI, pod.UID, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := state(observed); got != want {
		t.Errorf("the runtime has %q, want %q", got, want)
	}
}

func wantEvents(t *testing.T, b *bench, want ...string) {
	t.Helper()
	all := b.events.all()
	for _, line := range want {
		if !strings.Contains(all, line) {
			t.Errorf("no event %q in:\n%s", line, all)
		}
	}
}
