package runtime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/config/pod/podtest"
	"minikubelet/e2e/crifake"
	"minikubelet/runtime/spec"
)

// TestNewPodTakesSixCalls is the path every pod goes, and its price.
func TestNewPodTakesSixCalls(t *testing.T) {
	b := newBench(t, nil)
	warm := podtest.Pod("c:w", corev1.RestartPolicyAlways)
	warm.UID = "uid-0"
	b.mustSync(t, warm) // the image's user is asked for once
	b.fake.ResetCalls()

	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	pod.Spec.Containers[0].TerminationMessagePath = "/dev/termination-log"
	b.mustSync(t, pod)
	want := []string{"RunPodSandbox", "PodSandboxStatus", "ImageStatus", "CreateContainer", "StartContainer", "ContainerStatus"}
	if got := b.fake.Calls(); !slices.Equal(got, want) {
		t.Errorf("calls %v\nwant  %v", got, want)
	}
	if got := state(b.seen(pod)); got != "box0 a/0:run" || len(b.seen(pod).IPs) != 1 || b.seen(pod).Name != "pod" {
		t.Errorf("observed %q %v", got, b.seen(pod).IPs)
	}
	wantEvents(t, b, "Normal Created spec.containers{a}: Container created", "Normal Started spec.containers{a}: Container started")

	request := crifake.Requests[*runtimeapi.CreateContainerRequest](b.fake)[0]
	config := request.Config
	if string(config.Envs[0].Value) != b.seen(pod).IPs[0] || config.LogPath != "a/0.log" || config.Metadata.Attempt != 0 {
		t.Errorf("config %v", config)
	}
	mounts := map[string]string{}
	for _, m := range config.Mounts {
		mounts[m.ContainerPath] = m.HostPath
	}
	for path, mode := range map[string]os.FileMode{"/etc/hosts": 0o644, "/dev/termination-log": 0o666} {
		info, err := os.Stat(mounts[path])
		if err != nil || info.Mode().Perm() != mode || !strings.HasPrefix(mounts[path], filepath.Join(b.opts.RootDir, "pods/uid-1/")) {
			t.Errorf("%s is %s: %v %v", path, mounts[path], info, err)
		}
	}
	if _, err := os.Stat(filepath.Join(request.SandboxConfig.LogDirectory, "a")); err != nil {
		t.Error(err)
	}
	b.fake.ResetCalls()
	b.mustSync(t, pod)
	if state(b.seen(pod)) != "box0 a/0:run" || b.fake.Count("CreateContainer") != 0 {
		t.Errorf("a second sync did something: %v", b.fake.Calls())
	}
}

func TestInitSidecarRegularInOrder(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("i:i s:s c:a", corev1.RestartPolicyNever)
	b.mustSync(t, pod)
	if got := state(b.seen(pod)); got != "box0 i/0:run" {
		t.Fatalf("%q", got)
	}
	b.fake.SetExit(b.fake.ContainerID("i"), 0)
	for range 2 {
		_, err := b.sync(t, pod, inputs{verdicts: verdicts{"*": "w"}})
		if got := state(b.seen(pod)); err != nil || got != "box0 i/0:exit0 s/0:run" {
			t.Fatalf("the sidecar is starting: %q %v", got, err)
		}
	}
	b.mustSync(t, pod)
	b.want(t, pod, "box0 a/0:run i/0:exit0 s/0:run")
	b.fake.SetExit(b.fake.ContainerID("a"), 3)
	b.mustSync(t, pod)
	if got := state(b.seen(pod)); got != "box0- a/0:exit3 i/0:exit0 s/0:exit143" {
		t.Errorf("ended as %q", got)
	}
	calls := len(b.fake.Calls())
	b.mustSync(t, pod)
	for _, call := range b.fake.Calls()[calls:] {
		if strings.HasPrefix(call, "Stop") || strings.HasPrefix(call, "Run") {
			t.Errorf("an ended pod is ended again: %s", call)
		}
	}
}

func TestCrashLoopBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
		b.mustSync(t, pod)
		exit := func() { b.fake.SetExit(b.fake.ContainerID("a"), 1) }
		exit()
		b.mustSync(t, pod)
		b.want(t, pod, "box0 a/0:exit1 a/1:run") // the first time at once
		for attempt, delay := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
			exit()
			result := b.mustSync(t, pod)
			failure := result.Containers["a"]
			if want := "back-off " + delay.String() + " restarting failed container=a pod=pod_ns(uid-1)"; failure != (Failure{"CrashLoopBackOff", want}) {
				t.Fatalf("attempt %d: %+v", attempt+1, failure)
			}
			if left := time.Until(result.RetryAt); left != delay {
				t.Errorf("retry in %v, want %v", left, delay)
			}
			time.Sleep(delay - time.Second)
			if result = b.mustSync(t, pod); len(result.Containers) == 0 {
				t.Error("started a second too early")
			}
			time.Sleep(time.Second)
			if result = b.mustSync(t, pod); len(result.Containers) != 0 {
				t.Errorf("not started in time: %v", result.Containers)
			}
		}
		wantEvents(t, b, "Warning BackOff spec.containers{a}: Back-off restarting failed container a in pod pod_ns(uid-1)")
		time.Sleep(crashLoopReset + time.Second)
		exit()
		if result := b.mustSync(t, pod); len(result.Containers) != 0 {
			t.Errorf("a long run does not end the loop: %v", result.Containers)
		}
	})
}

func TestSandboxDies(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("i:i c:a", corev1.RestartPolicyAlways)
	b.mustSync(t, pod)
	b.fake.SetExit(b.fake.ContainerID("i"), 0)
	b.mustSync(t, pod)
	b.fake.KillSandbox(b.fake.SandboxIDs()[0])
	b.mustSync(t, pod)
	b.want(t, pod, "box1 box0- a/0:exit137 i/1:run")
	wantEvents(t, b, "Normal SandboxChanged : Pod sandbox changed, it will be killed and re-created.")
	b.fake.SetExit(b.fake.ContainerID("i"), 0)
	b.mustSync(t, pod)
	b.want(t, pod, "box1 box0- a/0:exit137 a/1:run i/1:exit0")
}

func TestLeftoversOfAKilledKubelet(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a", corev1.RestartPolicyNever)
	b.fake.FailNext("StartContainer", status.Error(codes.Unavailable, "gone"))
	result, err := b.sync(t, pod, inputs{})
	if err == nil || result.Containers["a"].Reason != ReasonRunContainer {
		t.Fatalf("%v %v", result.Containers, err)
	}
	b.want(t, pod, "box0 a/0:new")
	b.mustSync(t, pod)
	b.want(t, pod, "box0 a/0:run")
	wantEvents(t, b, "Warning Failed spec.containers{a}: Error: gone")
}

// TestTimeoutThatSucceeded wants a call that got no answer to be looked into, not repeated.
func TestTimeoutThatSucceeded(t *testing.T) {
	for _, method := range []string{"PodSandboxStatus", "StartContainer"} {
		t.Run(method, func(t *testing.T) {
			b := newBench(t, nil)
			pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
			b.fake.FailNext(method, status.Error(codes.DeadlineExceeded, "no answer"))
			if _, err := b.SyncPod(t.Context(), pod, inputs{}); err == nil {
				t.Fatal("no error")
			}
			if method == "PodSandboxStatus" {
				wantEvents(t, b, "Warning FailedPodSandBoxStatus : Unable to get pod sandbox status")
			}
			if _, err := b.SyncPod(t.Context(), pod, inputs{}); err != nil {
				t.Fatal(err)
			}
			if n := b.fake.Count("RunPodSandbox"); n != 1 {
				t.Errorf("%d sandboxes", n)
			}
			if got := state(b.seen(pod)); got != "box0 a/0:run" {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		fail   string
		change func(*corev1.Pod)
		in     inputs
		want   Failure
		event  string
	}{
		"sandbox": {fail: "RunPodSandbox", want: Failure{"", "oops"},
			event: "Warning FailedCreatePodSandBox : Failed to create pod sandbox: rpc error: code = Unknown desc = oops"},
		"runtime class": {change: func(p *corev1.Pod) { p.Spec.RuntimeClassName = new("wasm") }, want: Failure{"", ""},
			event: "Warning FailedCreatePodSandBox : Failed to create pod sandbox: failed to create sandbox for pod \"pod_ns(uid-1)\": "},
		"sysctl": {change: func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "vm.swappiness"}}}
		}, want: Failure{"", `forbidden sysctl: "vm.swappiness" not allowlisted`}, event: "Warning FailedCreatePodSandBox"},
		"create": {fail: "CreateContainer", want: Failure{ReasonCreateContainer, "oops"}, event: "Warning Failed spec.containers{a}: Error: oops"},
		"start":  {fail: "StartContainer", want: Failure{ReasonRunContainer, "oops"}, event: "Warning Failed spec.containers{a}: Error: oops"},
		"environment": {in: inputs{envErr: errors.New(`configmap "x" not found`)}, want: Failure{ReasonCreateContainerConfig, `configmap "x" not found`},
			event: `Warning Failed spec.containers{a}: Error: configmap "x" not found`},
		"non-root": {change: func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: new(true)}
		}, want: Failure{ReasonCreateContainerConfig, `container has runAsNonRoot and image will run as root (pod: "pod_ns(uid-1)", container: a)`}, event: "Warning Failed"},
		"image never pulled": {change: func(p *corev1.Pod) {
			p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "none:1", corev1.PullNever
		}, want: Failure{"ErrImageNeverPull", `Container image "none:1" is not present with pull policy of Never`}, event: "Warning Failed spec.containers{a}: Error: ErrImageNeverPull"},
		"user namespace": {change: func(p *corev1.Pod) { p.Spec.HostUsers = new(false) },
			want:  Failure{"", "can't set `spec.hostUsers: false`, runtime does not support user namespaces"},
			event: "Warning FailedCreatePodSandBox : Failed to create pod sandbox: can't set `spec.hostUsers: false`"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
			if tc.change != nil {
				tc.change(pod)
			}
			if tc.fail != "" {
				b.fake.FailNext(tc.fail, errors.New("oops"))
				b.fake.FailNext(tc.fail, errors.New("oops"))
			}
			result, err := b.sync(t, pod, tc.in)
			got := result.Containers["a"]
			if tc.want.Reason == "" && err != nil && strings.Contains(err.Error(), tc.want.Message) {
				got = tc.want // there is no sandbox, so no container has failed
			}
			if err == nil || !strings.Contains(err.Error(), "ns/pod") || got.Reason != tc.want.Reason || (tc.want.Message != "" && got.Message != tc.want.Message) {
				t.Errorf("%+v %v, want %+v", got, err, tc.want)
			}
			wantEvents(t, b, tc.event)
		})
	}
}

// TestOneFailureHoldsUpNoOther starts what can be started.
func TestOneFailureHoldsUpNoOther(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a c:b", corev1.RestartPolicyAlways)
	pod.Spec.Containers[0].Image, pod.Spec.Containers[0].ImagePullPolicy = "none:1", corev1.PullNever
	_, err := b.sync(t, pod, inputs{})
	if err == nil || state(b.seen(pod)) != "box0 b/0:run" {
		t.Errorf("%q %v", state(b.seen(pod)), err)
	}
}

func TestUnsupported(t *testing.T) {
	for want, change := range map[string]func(*corev1.Pod){
		"spec.resourceClaims": func(p *corev1.Pod) { p.Spec.ResourceClaims = make([]corev1.PodResourceClaim, 1) },
		"spec.os.name":        func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} },
		"resources.claims":    func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Claims = make([]corev1.ResourceClaim, 1) },
		"restartPolicyRules": func(p *corev1.Pod) {
			p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: "Other"}}
		},
	} {
		pod := podtest.Pod("i:i c:a e:e", "")
		if err := Unsupported(pod); err != nil {
			t.Fatal(err)
		}
		change(pod)
		if err := Unsupported(pod); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error naming %s", err, want)
		}
	}
}

// TestStartGate never has more sandboxes being started than it may, and lets a cancelled pod go.
func TestStartGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.starts = newGate(1)
		b.fake.Delay("RunPodSandbox", 10*time.Second)
		first, second := podtest.Pod("c:a", ""), podtest.Pod("c:a", "")
		second.UID = "uid-2"
		start := time.Now()
		done := make(chan error, 1)
		go func() {
			_, err := b.SyncPod(context.Background(), first, inputs{})
			done <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := b.SyncPod(ctx, second, inputs{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for its turn: %v", err)
		}
		if n := b.fake.Count("RunPodSandbox"); n != 1 {
			t.Errorf("%d at once", n)
		}
		if err := <-done; err != nil || time.Since(start) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if strings.Contains(b.events.all(), "Failed") {
			t.Errorf("an interruption is no failure: %s", b.events.all())
		}
	})
}

func TestImageVolumeAndEphemeralTarget(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "img", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "image:2"}}},
		{Name: "dir", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "img", MountPath: "/img", SubPath: "x"}, {Name: "dir", MountPath: "/etc/hosts"}}
	b.mustSync(t, pod)
	pod.Spec.EphemeralContainers = podtest.Pod("e:e", "").Spec.EphemeralContainers
	pod.Spec.EphemeralContainers[0].TargetContainerName = "a"
	b.mustSync(t, pod)
	b.want(t, pod, "box0 a/0:run e/0:run")
	requests := crifake.Requests[*runtimeapi.CreateContainerRequest](b.fake)
	mounts := requests[0].Config.Mounts
	if len(mounts) != 2 || mounts[1].HostPath != "/volumes/dir" || mounts[1].Image != nil || mounts[0].Image.GetUserSpecifiedImage() != "image:2" || mounts[0].Image.GetImage() == "" {
		t.Errorf("mounts %v", mounts)
	}
	if mounts[0].SelinuxRelabel || mounts[1].SelinuxRelabel {
		t.Error("labels are to be set where there is no SELinux")
	}
	ns := requests[1].Config.Linux.SecurityContext.NamespaceOptions
	if ns.Pid != runtimeapi.NamespaceMode_TARGET || ns.TargetId != b.fake.ContainerID("a") {
		t.Errorf("namespaces %v", ns)
	}
	wantEvents(t, b, "Normal Started spec.ephemeralContainers{e}: Container started")
}

func TestLivenessFailure(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a c:b", corev1.RestartPolicyAlways)
	pod.Spec.TerminationGracePeriodSeconds = new(int64(30))
	pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{TerminationGracePeriodSeconds: new(int64(7))}
	b.mustSync(t, pod)
	if _, err := b.sync(t, pod, inputs{verdicts: verdicts{b.fake.ContainerID("a"): "L"}}); err != nil {
		t.Fatal(err)
	}
	b.want(t, pod, "box0 a/0:exit143 a/1:run b/0:run")
	if stop := crifake.Requests[*runtimeapi.StopContainerRequest](b.fake); len(stop) != 1 || stop[0].Timeout != 7 {
		t.Errorf("%v", stop)
	}
	wantEvents(t, b, "Normal Killing spec.containers{a}: Container a failed liveness probe, will be restarted")
}

func TestLogLink(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	log := filepath.Join(spec.PodLogsDirectory(b.opts.Node.PodLogsDir, "ns", "pod", pod.UID), "a/0.log")
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		t.Fatal(err)
	}
	// The fake writes no logs; an earlier boot did, so this is attempt 1.
	for _, name := range []string{log, strings.Replace(log, "0.log", "1.log", 1)} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(strings.Replace(log, "0.log", "1.log", 1), strings.Replace(log, "0.log", "1.log.old", 1)); err != nil {
		t.Fatal(err)
	}
	b.mustSync(t, pod)
	b.want(t, pod, "box0 a/2:run")
	ctx := t.Context()
	b.linkLog(ctx, pod, &pod.Spec.Containers[0], "id", log)
	b.linkLog(ctx, pod, &pod.Spec.Containers[0], "id", log) // again is fine
	b.linkLog(ctx, pod, &pod.Spec.Containers[0], "other", log+".missing")
	links, err := os.ReadDir(b.opts.ContainerLogsDir)
	if err != nil || len(links) != 1 || links[0].Name() != "pod_ns_a-id.log" {
		t.Errorf("%v %v", links, err)
	}
	if to, err := os.Readlink(filepath.Join(b.opts.ContainerLogsDir, links[0].Name())); err != nil || to != log {
		t.Errorf("%s %v", to, err)
	}
}
