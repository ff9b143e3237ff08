package podworkers

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

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
