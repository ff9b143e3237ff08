package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestWrittenVolume: what a container sees of a volume that the kubelet writes is its group's, and the directory that it has for a subPath
// which is not in the volume stays when the volume is written again.
func TestWrittenVolume(t *testing.T) {
	ctx, s := node(t)
	meta := metav1.ObjectMeta{Name: podName(t), Namespace: corev1.NamespaceDefault}
	configs := s.Client.CoreV1().ConfigMaps(meta.Namespace)
	if _, err := configs.Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "first"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = configs.Delete(ctx, meta.Name, metav1.DeleteOptions{}) })
	pod := newPod(t)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(4321)), RunAsUser: new(int64(77))}
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: meta.Name}, DefaultMode: new(int32(0o400)),
	}}}}
	c := shell("app", `stat -c "%a %g" /config /config/..data/ /config/..data/k; stat -c %g /config/k
		until grep -q second /config/k; do sleep 0.1; done; stat -c "%h links" /missing`)
	c.VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: "/config"}, {Name: "config", MountPath: "/missing", SubPath: "missing"}}
	pod.Spec.Containers = []corev1.Container{c}
	pod = create(ctx, t, pod)
	until(ctx, t, pod, "the container runs", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Running != nil
	})
	if info, err := os.Stat(filepath.Join(s.RootDir(), "pods", string(pod.UID))); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("the pod's directory: %v, %v", info, err)
	}
	if _, err := configs.Patch(ctx, meta.Name, types.MergePatchType, []byte(`{"data": {"k": "second"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	phase(ctx, t, pod, corev1.PodSucceeded)
	if got, want := strings.Fields(logs(t, pod, "app", 0)), "2777 4321 2755 4321 440 4321 4321 2 links"; strings.Join(got, " ") != want {
		t.Errorf("the container saw %q, want %q", got, want)
	}
}
