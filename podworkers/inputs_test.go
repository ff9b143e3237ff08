package podworkers

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/crifake"
)

// TestInputs: environment, command and mounts reach the runtime; a pull secret that cannot be had is an event only.
func TestInputs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) {
			pod.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "secret"}}
			pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			c := &pod.Spec.Containers[0]
			c.Env = []corev1.EnvVar{
				{Name: "NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.name"}}},
				{Name: "HOST", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "status.hostIP"}}},
				{Name: "SUB", Value: "$(NAME)-dir"},
			}
			c.Command, c.Args = []string{"run", "$(NAME)"}, []string{"$(SUB)", "$$(SUB)", "$(OTHER)"}
			c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		})})
		b.want("u", "box a:run")
		request := crifake.Requests[*runtimeapi.CreateContainerRequest](b.fake)[0].Config
		if !slices.Equal(request.Command, []string{"run", "pod"}) || !slices.Equal(request.Args, []string{"pod-dir", "$(SUB)", "$(OTHER)"}) {
			t.Errorf("command %q, args %q", request.Command, request.Args)
		}
		var envs []string
		for _, e := range request.Envs {
			envs = append(envs, e.Key+"="+string(e.Value))
		}
		for _, want := range []string{"NAME=pod", "HOST=192.0.2.1", "SUB=pod-dir"} {
			if !slices.Contains(envs, want) {
				t.Errorf("no %s in %q", want, envs)
			}
		}
		if !slices.ContainsFunc(request.Mounts, func(m *runtimeapi.Mount) bool {
			return m.ContainerPath == "/v" && m.HostPath == b.dir+"/pods/u/volumes/kubernetes.io~empty-dir/v"
		}) {
			t.Errorf("mounts: %v", request.Mounts)
		}
		b.wantEvent("Warning FailedToRetrieveImagePullSecret Unable to retrieve some image pull secrets (secret)")
	})
}

// TestConfigError: an environment that cannot be made keeps its container waiting, and says why.
func TestConfigError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) {
			pod.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}}}}
		})})
		b.want("u", "box")
		if w := b.statusOf("u").ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "CreateContainerConfigError" || !strings.Contains(w.Message, "absent") {
			t.Errorf("it waits as %+v", w)
		}
	})
}

// TestPostStartHookFailed: a container whose postStart hook failed is not ready until it has ended, which is tried again.
func TestPostStartHookFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.fake.OnExec = func(context.Context, string, []string) (string, int32) { return "no", 1 }
		for range 8 {
			b.fake.FailNext("StopContainer", errors.New("it takes long"))
		}
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) {
			pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hook"}}}}
		})})
		for _, after := range []time.Duration{10 * time.Millisecond, time.Second} {
			b.wait(after)
			b.want("u", "box a:run")
			if s := b.statusOf("u").ContainerStatuses[0]; s.State.Running == nil || s.Ready || *s.Started {
				t.Errorf("the container is %+v", s)
			}
		}
		b.wait(time.Minute)
		if s := b.statusOf("u").ContainerStatuses[0]; s.State.Waiting == nil || s.LastTerminationState.Terminated == nil {
			t.Errorf("the container is %+v", s)
		}
	})
}

// TestUnreadable: a pod of which the runtime cannot tell is told so, and ends when it can.
func TestUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.fake.MuteEvents(true)
		b.update(Update{Pod: testPod("u", nil)})
		b.update(Update{Pod: testPod("v", nil)})
		b.settle()
		for range 3 {
			b.fake.FailNext("ContainerStatus", errors.New("no status"))
		}
		b.update(Update{Pod: testPod("u", nil), Kill: &Kill{}})
		b.wait(100 * time.Millisecond)
		b.wantPhase("u", Terminating)
		b.wantEvent("Warning FailedSync error determining status: ")
		b.wait(time.Minute)
		b.wantPhase("u", Finished)
		b.want("v", "box a:run")
	})
}
