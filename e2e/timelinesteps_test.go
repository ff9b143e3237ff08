package e2e

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/e2e/stack"
)

// TestTimelineSteps: of all that the kubelet does in a pod's life the page has a step, which says why, how long, where here and where
// upstream, and what it changed; a collector is sent the same spans.
func TestTimelineSteps(t *testing.T) {
	got, path, stop := collect(t)
	ctx, s := nodeWith(t, stack.KubeletOptions{Config: tracingTo(path), Args: []string{"--timeline"}})
	t.Cleanup(func() {
		stopKubelet(t) // its last spans have somewhere to go
		stop()
	})
	link := timelineLink(ctx, t, s)
	pod := newPod(t)
	main, failing := shell("main", "sleep 1; touch /data/ready; trap 'exit 0' TERM; while true; do sleep 0.1; done"), shell("failing", "exit 3")
	main.ImagePullPolicy = corev1.PullAlways
	main.Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}},
		PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}},
	}
	main.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/data/ready"}}}, PeriodSeconds: 1}
	pod.Spec.Containers = []corev1.Container{main, failing}
	volumed(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, "")(pod)
	pod = create(ctx, t, pod)
	eventually(ctx, t, "what the source told is there", func() bool {
		return slices.ContainsFunc(podSteps(ctx, t, s, link, *pod), func(step timelineStep) bool {
			return step.Name == "merge" && step.Before == "" && strings.Contains(step.After, `"name": "`+pod.Name+`"`)
		})
	})
	until(ctx, t, pod, "one container ready and one in back-off", func(p *corev1.Pod) bool {
		return slices.ContainsFunc(p.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.Ready }) &&
			slices.ContainsFunc(p.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
				return c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff"
			})
	})
	if _, err := s.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"colour":"blue"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "the change is merged, and what it changed is told, as of a status that was written", func() bool {
		steps := podSteps(ctx, t, s, link, *pod)
		return slices.ContainsFunc(steps, func(step timelineStep) bool {
			return step.Name == "merge" && strings.HasPrefix(step.Why, "UPDATE") && !strings.Contains(step.Before, "blue") && strings.Contains(step.After, `"colour": "blue"`)
		}) && slices.ContainsFunc(steps, func(step timelineStep) bool {
			return step.Name == "writeStatus" && step.Before != "" && step.After != ""
		})
	})
	remove(ctx, t, pod)

	const call = "runtime.v1."
	wanted := map[string][2]string{ // what the reason of each has, and what it made of the object
		"update": {"ADD from api"}, "merge": {"ADD from api"}, "admission": {"new"}, "wakeUp": {"an update of the pod"}, "syncPod": {"an update of the pod"},
		"mountVolumes": {"volumes"}, "createPodSandbox": {"no pod sandbox exists"}, "pullImage": {"with each start"}, "startContainer": {"no pod sandbox exists"}, "postStart": {"started"},
		"probe": {"Readiness of container main: success is true"}, "writeStatus": {"differs"}, "runtimeEvent": {"CONTAINER_STARTED"}, "backOff": {"restarting failed container=failing"},
		"preStop": {"stopped"}, "killContainer": {"main"}, "syncTerminatingPod": {"Terminating"}, "syncTerminatedPod": {}, "finishPod": {},
		call + "RuntimeService/RunPodSandbox": {}, call + "RuntimeService/CreateContainer": {}, call + "RuntimeService/StartContainer": {}, call + "ImageService/PullImage": {},
		call + "RuntimeService/StopContainer": {}, call + "RuntimeService/StopPodSandbox": {}, call + "RuntimeService/RemovePodSandbox": {},
	}
	var steps []timelineStep
	find := func(name string) int {
		return slices.IndexFunc(steps, func(step timelineStep) bool {
			return step.Name == name && step.End != "" && strings.Contains(step.Why, wanted[name][0]) && strings.Contains(step.After, wanted[name][1])
		})
	}
	var missing []string
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		steps, missing = podSteps(ctx, t, s, link, *pod), nil
		for name := range wanted {
			if find(name) < 0 {
				missing = append(missing, name)
			}
		}
		if len(missing) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		for _, step := range steps {
			t.Logf("%s: %s", step.Name, step.Why)
		}
		t.Fatalf("missing: %s", strings.Join(missing, ", "))
	}

	for name := range wanted {
		step := steps[find(name)]
		var detail struct {
			Code struct{ Function, File, Text, Upstream string }
		}
		if err := json.Unmarshal(askTimeline(ctx, t, s, link, "/step?pod="+string(pod.UID)+"&id="+step.ID, nil), &detail); err != nil {
			t.Fatal(err)
		}
		if c := detail.Code; c.Function == "" || c.File == "" || !strings.Contains(c.Text, "func ") || c.Upstream == "" {
			t.Errorf("%s: %s in %s with %d bytes of source, upstream %q", name, c.Function, c.File, len(c.Text), c.Upstream)
		}
		eventually(ctx, t, "the collector has "+name, func() bool {
			got.mu.Lock()
			defer got.mu.Unlock()
			for _, span := range got.all {
				if hex.EncodeToString(span.SpanId) == step.ID {
					return span.Name == name && span.EndTimeUnixNano >= span.StartTimeUnixNano
				}
			}
			return false
		})
	}
}

// TestStepEdited: a command and a variable that are typed over on the page are those of the real container, and of it alone: the pod's
// next container is made as its manifest says.
func TestStepEdited(t *testing.T) {
	ctx, s := embeddedStack(t)
	write(t, filepath.Join(s.ManifestDir(), "pod.yaml"), `apiVersion: v1
kind: Pod
metadata: {name: pod}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: "busybox:1", command: [sh, -c, "echo $COLOUR as in the manifest; sleep 1000"], env: [{name: COLOUR, value: red}]}
`)
	k := embeddedKubelet(t, s, "--timeline", "--step=CreateContainer")
	link := timelineLink(ctx, t, s)
	page := openTimeline(ctx, t, s, link)
	do := func(what string, actions ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		limited, cancel := context.WithTimeout(page, 30*time.Second)
		defer cancel()
		if err := chromedp.Do(limited, actions...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	over := func(field, text string) {
		t.Helper()
		do("write over "+field, chromedp.WaitVisible("#held [name="+field+"]"), chromedp.Evaluate[chromedp.Void](`(() => { const e = document.querySelector("#held [name=`+field+`]"); e.focus(); e.select() })()`), chromedp.KeyEvent(text))
	}
	wrote := func(want string, more ...string) {
		t.Helper()
		eventually(ctx, t, "the container writes "+want, func() bool {
			out, err := exec.CommandContext(ctx, s.KubeletBinary, append([]string{"logs", "pod", "--root-dir=" + s.RootDir()}, more...)...).Output()
			return err == nil && string(out) == want+"\n"
		})
	}
	do("wait for what is held", chromedp.WaitVisible("#held form"))
	if held, _ := chromedp.Run(page, chromedp.Evaluate[string](`document.querySelector("#held p").textContent`)); !strings.Contains(held, "CreateContainer is held: default/pod-"+s.NodeName+", app since ") {
		t.Errorf("the page shows %q", held)
	}
	over("command", "sh\r-c\recho $COLOUR as on the page; exit 3")
	over("env", "COLOUR=blue")
	do("release", chromedp.Click("#held button"))
	wrote("blue as on the page")
	pod := standalone(ctx, t, s, "the pod has failed, and its next container is held", func(corev1.Pod) bool { return strings.Contains(k.Log(), `"STEP MODE: a step is held" id=2`) })
	if c := pod.Spec.Containers[0]; c.Env[0].Value != "red" || !strings.Contains(c.Command[2], "as in the manifest") {
		t.Errorf("the pod itself was changed: %q with %v", c.Command, c.Env)
	}
	if !slices.ContainsFunc(podSteps(ctx, t, s, link, pod), func(step timelineStep) bool {
		return step.Name == "startContainer" && len(step.Notes) == 1 && step.Notes[0].Text == "step mode: the request was changed"
	}) {
		t.Error("no step says that its request was changed")
	}
	do("release the next", chromedp.WaitVisible("#held form:not([data-sent])"), chromedp.Click("#held form:not([data-sent]) button"))
	wrote("red as in the manifest")
	wrote("blue as on the page", "--previous")
	if err := k.Stop(20 * time.Second); err != nil {
		t.Error(err)
	}
}
