package podworkers

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/crifake"
)

// TestCrashLoop: the worker comes back for a crashed container when its back-off is over, without being woken.
func TestCrashLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("u", nil)})
		b.settle()
		for attempt, delay := range []time.Duration{0, 10 * time.Second, 20 * time.Second} {
			before := b.fake.Count("StartContainer")
			b.fake.SetExit(b.fake.ContainerID("a"), 1)
			ended := time.Now()
			synctest.Wait()
			if delay > 0 {
				w := b.statusOf("u").ContainerStatuses[0].State.Waiting
				if w == nil || w.Reason != "CrashLoopBackOff" {
					t.Errorf("attempt %d waits as %+v", attempt, b.statusOf("u").ContainerStatuses[0].State)
				}
				b.wait(delay - time.Millisecond)
			}
			if delay > 0 && b.fake.Count("StartContainer") != before {
				t.Errorf("attempt %d is early", attempt)
			}
			b.wait(2 * time.Millisecond)
			if b.fake.Count("StartContainer") != before+1 {
				t.Errorf("attempt %d is late: %v after the end", attempt, time.Since(ended))
			}
			b.settle()
		}
		if s := b.statusOf("u").ContainerStatuses[0]; s.RestartCount != 3 || s.State.Running == nil {
			t.Errorf("in the end: %+v", s)
		}
	})
}

func TestCompletedPod(t *testing.T) {
	for code, phase := range map[int32]corev1.PodPhase{0: corev1.PodSucceeded, 3: corev1.PodFailed} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) { pod.Spec.RestartPolicy = corev1.RestartPolicyNever })})
			b.fake.SetExit(b.fake.ContainerID("a"), code)
			b.settle()
			b.wantPhase("u", Finished)
			if s := b.statusOf("u"); s.Phase != phase {
				t.Errorf("exit code %d makes the pod %s", code, s.Phase)
			}
			observed, _ := b.opts.Cache.Get("u")
			if observed == nil || len(observed.Containers) != 1 {
				t.Error("the container is gone, and its logs with it")
			}
			b.Removed("u")
			b.settle()
			b.wantGone("u")
		})
	}
}

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) { pod.Spec.ActiveDeadlineSeconds = new(int64(30)) })})
		b.wait(29 * time.Second)
		b.wantPhase("u", Syncing)
		b.wait(3 * time.Second) // startTime has no fractions of a second
		b.wantPhase("u", Finished)
		if s := b.statusOf("u"); s.Phase != corev1.PodFailed || s.Reason != "DeadlineExceeded" {
			t.Errorf("the status is %s, %s", s.Phase, s.Reason)
		}
		b.wantEvent("Normal DeadlineExceeded Pod was active on the node longer than the specified deadline")
	})
}

func TestUntilDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := metav1.NewTime(time.Now().Add(-10 * time.Second))
		limited := testPod("u", func(pod *corev1.Pod) { pod.Spec.ActiveDeadlineSeconds = new(int64(30)) })
		endless := testPod("u", func(pod *corev1.Pod) { pod.Spec.ActiveDeadlineSeconds = new(int64(1e10)) })
		if left, ok := untilDeadline(endless, corev1.PodStatus{StartTime: &start}); left < 1e9*time.Second || !ok {
			t.Errorf("of 10,000,000,000 s %v are left", left)
		}
		for _, tt := range []struct {
			pod     *corev1.Pod
			start   *metav1.Time
			left    time.Duration
			limited bool
		}{{limited, &start, 20 * time.Second, true}, {limited, nil, 0, false}, {testPod("u", nil), &start, 0, false}} {
			left, ok := untilDeadline(tt.pod, corev1.PodStatus{StartTime: tt.start})
			if left != tt.left || ok != tt.limited {
				t.Errorf("%v, %v, want %v, %v", left, ok, tt.left, tt.limited)
			}
		}
	})
}

// TestNetworkNotReady: a pod waits for the node's network, unless it is on the host's.
func TestNetworkNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.node.setNetwork(errors.New("no CNI"))
		b.update(Update{Pod: testPod("u", nil)})
		b.update(Update{Pod: testPod("host", func(pod *corev1.Pod) { pod.Name, pod.Spec.HostNetwork = "host", true })})
		b.want("u", "")
		b.want("host", "box a:run")
		b.wantEvent("Warning NetworkNotReady network is not ready: no CNI")
		b.wait(time.Minute)
		b.want("u", "")
		b.node.setNetwork(nil)
		b.wait(lastRetry)
		b.want("u", "box a:run")
	})
}

// TestSuccessorHasItsName: a pod that has waited for its name does not say any more that it waits for that.
func TestSuccessorHasItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("old", static)})
		b.fake.Delay("StopContainer", 10*time.Second)
		b.Removed("old")
		b.update(Update{Pod: testPod("new", static)})
		b.node.setNetwork(errors.New("no CNI"))
		b.wait(12 * time.Second)
		b.wantGone("old")
		if w := b.statusOf("new").ContainerStatuses[0].State.Waiting; w == nil || w.Message != "" {
			t.Errorf("the container is %+v", w)
		}
	})
}

// TestRefusedVolume: what is not supported is named in an event, and the pod waits.
func TestRefusedVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) {
			pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "s", Path: "/"}}}}
		})})
		b.want("u", "")
		b.wantPhase("u", Syncing)
		b.wantEvent("Warning FailedMount spec.volumes[0] (v): volumes of kind nfs are not supported")
	})
}

func TestMountFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) {
			pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: new(int32(0o600))}}}}
		})})
		b.want("u", "")
		b.wantEvent(`Warning FailedMount MountVolume.SetUp failed for volume "v" :`)
	})
}

// TestImageSubPathExpr: a directory of an image volume can be named by variables, and mounts have the order of the pod's spec.
func TestImageSubPathExpr(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) {
			pod.Spec.Volumes = []corev1.Volume{
				{Name: "model", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "image:1", PullPolicy: corev1.PullIfNotPresent}}},
				{Name: "dir", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			}
			pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "WHICH", Value: "small"}}
			pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
				{Name: "model", MountPath: "/model", SubPathExpr: "models/$(WHICH)"}, {Name: "dir", MountPath: "/model/dir"},
			}
		})})
		b.want("u", "box a:run")
		mounts := crifake.Requests[*runtimeapi.CreateContainerRequest](b.fake)[0].Config.Mounts
		if len(mounts) < 2 || mounts[0].ImageSubPath != "models/small" || mounts[0].Image.GetUserSpecifiedImage() != "image:1" || mounts[0].Image.GetImage() == "" || !mounts[0].Readonly || mounts[0].HostPath != "" || mounts[1].ContainerPath != "/model/dir" {
			t.Errorf("mounts %v", mounts)
		}
	})
}

// TestStandingVolumeBlocksNothing: a container ends, or is killed by its liveness probe, after a volume of its pod has become
// one that could not be mounted. It comes back, after a restart of the kubelet too.
func TestStandingVolumeBlocksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var sick atomic.Value
		well := func(_ context.Context, id string, _ []string) (string, int32) {
			if id == sick.Load() {
				return "sick", 1
			}
			return "", 0
		}
		b.fake.OnExec = well
		dir := filepath.Join(t.TempDir(), "dir")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		pod := testPod("u", func(pod *corev1.Pod) {
			pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: new(corev1.HostPathDirectory)}}}}
			pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check"}}},
				PeriodSeconds: 1, FailureThreshold: 1, SuccessThreshold: 1, TimeoutSeconds: 1,
			}
		})
		b.update(Update{Pod: pod})
		b.settle()
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		restarted := func(b *bench, what string, want int32) {
			t.Helper()
			b.wait(time.Minute)
			if s := b.statusOf("u").ContainerStatuses[0]; s.RestartCount != want || s.State.Running == nil {
				t.Errorf("%s: %+v", what, s)
			}
		}
		b.fake.SetExit(b.fake.ContainerID("a"), 1)
		restarted(b, "after its end", 1)
		sick.Store(b.fake.ContainerID("a"))
		restarted(b, "killed by its probe", 2)
		if all := b.allEvents(); strings.Count(all, "FailedMount") != 1 {
			t.Errorf("not told once:\n%s", all)
		}
		b.stop()
		again := newBenchOver(t, b.fake, b.dir)
		again.update(Update{Pod: pod})
		b.fake.SetExit(b.fake.ContainerID("a"), 1)
		restarted(again, "after a restart of the kubelet", 3)
	})
}

// TestSyncIsRetried: a call that fails is tried again, sooner at first.
func TestSyncIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for range 3 {
			b.fake.FailNext("RunPodSandbox", errors.New("broken"))
		}
		b.update(Update{Pod: testPod("u", nil)})
		b.want("u", "")
		b.wait(firstRetry)
		if n := b.fake.Count("RunPodSandbox"); n != 2 {
			t.Errorf("%d tries after %v, want 2", n, firstRetry)
		}
		b.wait(4 * time.Second)
		b.want("u", "box a:run")
		b.wantEvent("Warning FailedCreatePodSandBox")
	})
}

// TestKillIsRetried: a pod is Terminating until nothing of it runs.
func TestKillIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("u", nil)})
		for range 3 {
			b.fake.FailNext("StopContainer", errors.New("broken"))
			b.fake.FailNext("StopPodSandbox", errors.New("broken"))
		}
		b.update(Update{Pod: testPod("u", nil), Kill: &Kill{}})
		b.wantPhase("u", Terminating)
		b.wantEvent("Warning FailedKillPod error killing pod")
		b.wait(5 * time.Second)
		b.wantPhase("u", Finished)
	})
}

// TestLivenessRestarts: a container whose liveness probe fails is replaced, one whose probe passes is left alone.
func TestLivenessRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var sick atomic.Value
		b.fake.OnExec = func(_ context.Context, id string, _ []string) (string, int32) {
			if id == sick.Load() {
				return "sick", 1
			}
			return "", 0
		}
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) {
			pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check"}}},
				PeriodSeconds: 1, FailureThreshold: 2, SuccessThreshold: 1, TimeoutSeconds: 1,
			}
		})})
		b.wait(10 * time.Second)
		first := b.fake.ContainerID("a")
		if b.statusOf("u").ContainerStatuses[0].RestartCount != 0 {
			t.Error("a healthy container was restarted")
		}
		sick.Store(first)
		b.wait(10 * time.Second)
		if b.fake.ContainerID("a") == first || b.statusOf("u").ContainerStatuses[0].RestartCount != 1 {
			t.Errorf("the sick container was not restarted: %+v", b.statusOf("u").ContainerStatuses)
		}
		if all := b.allEvents(); !strings.Contains(all, "Warning Unhealthy Liveness probe failed: sick") || !strings.Contains(all, "failed liveness probe, will be restarted") {
			t.Errorf("events:\n%s", all)
		}
	})
}

// TestHookBeforeProbes: a container that was started again is probed once its postStart hook has returned.
func TestHookBeforeProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var hooked sync.Map
		b.fake.OnExec = func(_ context.Context, id string, command []string) (string, int32) {
			if command[0] == "hook" {
				time.Sleep(30 * time.Second)
				hooked.Store(id, true)
			} else if _, done := hooked.Load(id); !done {
				return "too early", 1
			}
			return "", 0
		}
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) {
			hook, check := &corev1.ExecAction{Command: []string{"hook"}}, &corev1.ExecAction{Command: []string{"check"}}
			pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: hook}}
			pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: check},
				PeriodSeconds: 10, FailureThreshold: 2, SuccessThreshold: 1, TimeoutSeconds: 1,
			}
		})})
		b.wait(time.Minute)
		b.fake.SetExit(b.fake.ContainerID("a"), 1)
		b.wait(2 * time.Minute)
		events := b.allEvents()
		if n := b.statusOf("u").ContainerStatuses[0].RestartCount; n != 1 || strings.Contains(events, "too early") {
			t.Errorf("%d restarts, events:\n%s", n, events)
		}
	})
}

// TestReadinessWhilePulling: while the image of a debug container is pulled, what runs is probed, also after a restart of the kubelet,
// and a change of its readiness is reported.
func TestReadinessWhilePulling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := testPod("u", func(pod *corev1.Pod) {
			pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check"}}},
				PeriodSeconds: 10, FailureThreshold: 3, SuccessThreshold: 1, TimeoutSeconds: 1,
			}
		})
		first := newBench(t)
		var code atomic.Int32
		first.fake.OnExec = func(context.Context, string, []string) (string, int32) { return "", code.Load() }
		first.update(Update{Pod: pod})
		first.stop()

		b := newBenchOver(t, first.fake, first.dir)
		b.fake.Delay("PullImage", time.Hour)
		pod = pod.DeepCopy()
		pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "debug", Image: "large:1", ImagePullPolicy: corev1.PullIfNotPresent,
		}}}
		b.update(Update{Pod: pod})
		for _, ready := range []bool{true, false, true} {
			code.Store(map[bool]int32{false: 1}[ready])
			b.wait(time.Minute)
			if got := b.statusOf("u").ContainerStatuses[0].Ready; got != ready {
				t.Errorf("the container is ready: %v, want %v", got, ready)
			}
		}
	})
}

// TestReadyAnewWhilePulling: a container that was started anew is ready again once its probe passes, also while the same step pulls the
// image of another.
func TestReadyAnewWhilePulling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		pod := testPod("u", func(pod *corev1.Pod) {
			pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check"}}},
				PeriodSeconds: 10, FailureThreshold: 3, SuccessThreshold: 1, TimeoutSeconds: 1,
			}
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "b", Image: "image:2", ImagePullPolicy: corev1.PullIfNotPresent})
		})
		b.update(Update{Pod: pod})
		b.wait(time.Minute)
		before := b.fake.ContainerID("a")

		b.fake.Delay("PullImage", time.Hour)
		pod = pod.DeepCopy()
		pod.Spec.Containers[0].Image, pod.Spec.Containers[1].Image = "image:2", "large:1"
		b.update(Update{Pod: pod})
		b.wait(2 * time.Minute)
		if b.fake.ContainerID("a") == before || !strings.Contains(b.allEvents(), `Pulling image "large:1"`) {
			t.Fatal("the container was not started anew, or no image is pulled")
		}
		if s := b.statusOf("u").ContainerStatuses[0]; s.Name != "a" || !s.Ready {
			t.Errorf("container %s is ready: %v", s.Name, s.Ready)
		}
	})
}

// TestRingsOn: of what rings while a step reports meanwhile, the first is left for the next step, with its time.
func TestRingsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		pod := testPod("u", nil)
		b.update(Update{Pod: pod})
		observed, _ := b.opts.Cache.Get("u")
		w, began := newWorker(b.Workers, pod), time.Now()
		end := w.reportMeanwhile(pod, observed)
		for _, why := range []string{"first", "second"} {
			w.poke(why)
			b.wait(time.Second)
		}
		end()
		if bell := <-w.wake; bell != (ring{"first", began}) {
			t.Errorf("what rings is %q, since %v after the first", bell.why, bell.since.Sub(began))
		}
	})
}

// TestReadinessAndStartup: a container is started once its startup probe has passed, and ready once its readiness
// probe has.
func TestReadinessAndStartup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var good sync.Map
		b.fake.OnExec = func(_ context.Context, _ string, command []string) (string, int32) {
			if _, ok := good.Load(command[0]); ok {
				return "", 0
			}
			return "not yet", 1
		}
		probe := func(command string) *corev1.Probe {
			return &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{command}}},
				PeriodSeconds: 1, FailureThreshold: 100, SuccessThreshold: 1, TimeoutSeconds: 1,
			}
		}
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) {
			pod.Spec.Containers[0].StartupProbe, pod.Spec.Containers[0].ReadinessProbe = probe("startup"), probe("readiness")
		})})
		for _, step := range []struct {
			pass           string
			started, ready bool
		}{{"", false, false}, {"readiness", false, false}, {"startup", true, true}} {
			good.Store(step.pass, true)
			b.wait(3 * time.Second)
			if s := b.statusOf("u").ContainerStatuses[0]; *s.Started != step.started || s.Ready != step.ready {
				t.Errorf("after %q: started %v, ready %v", step.pass, *s.Started, s.Ready)
			}
		}
		good.Delete("readiness")
		b.wait(2 * time.Minute)
		if s := b.statusOf("u").ContainerStatuses[0]; !*s.Started || s.Ready || s.RestartCount != 0 {
			t.Errorf("after readiness went: started %v, ready %v, restarts %d", *s.Started, s.Ready, s.RestartCount)
		}
	})
}
