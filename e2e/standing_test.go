package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/stack"
)

// restartsOf is how often one of the pod's containers was started again.
func restartsOf(p *corev1.Pod, container string) int32 {
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == container {
			return s.RestartCount
		}
	}
	return 0
}

// TestStandingVolumes: what a pod's volumes were made of is deleted. A container that its liveness probe kills comes back,
// and so does one that ends while no kubelet runs; the volumes follow when there is something to follow again.
func TestStandingVolumes(t *testing.T) {
	ctx, s := node(t)
	meta := metav1.ObjectMeta{Name: podName(t), Namespace: corev1.NamespaceDefault}
	configs, secrets := s.Client.CoreV1().ConfigMaps(meta.Namespace), s.Client.CoreV1().Secrets(meta.Namespace)
	config := func(value string) {
		t.Helper()
		if _, err := configs.Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": value}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	config("first")
	if _, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"s": "x"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	host := filepath.Join(t.TempDir(), "host")
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, host+"/well", "")

	pod := newPod(t)
	pod.Spec.TerminationGracePeriodSeconds = new(int64(1))
	ref := corev1.LocalObjectReference{Name: meta.Name}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: meta.Name}}},
		{Name: "both", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref}}, {Secret: &corev1.SecretProjection{LocalObjectReference: ref}},
		}}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host, Type: new(corev1.HostPathDirectory)}}},
	}
	sick := shell("sick", "exec sleep 1000")
	sick.VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/host"}}
	sick.LivenessProbe = &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/busybox", "test", "-e", "/host/well"}}}, PeriodSeconds: 1, FailureThreshold: 1,
	}
	pod.Spec.Containers = append(pod.Spec.Containers, sick)
	for _, name := range []string{"config", "secret", "both"} {
		pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
	}
	pod = ready(ctx, t, pod)
	file := "http://" + pod.Status.PodIP + ":8080/file?path="

	for _, err := range []error{
		configs.Delete(ctx, meta.Name, metav1.DeleteOptions{}), secrets.Delete(ctx, meta.Name, metav1.DeleteOptions{}), os.RemoveAll(host),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	until(ctx, t, pod, "the container that its probe killed is back", func(p *corev1.Pod) bool { return restartsOf(p, "sick") >= 1 })
	if message := event(ctx, t, pod.Name, "FailedMount"); !strings.Contains(message, "MountVolume.SetUp failed for volume") {
		t.Errorf("the event says %q", message)
	}

	if err := kubelet.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-kubelet.Done()
	end(ctx, t, pod, 3)
	startKubelet(ctx, t, stack.KubeletOptions{})
	until(ctx, t, pod, "the container that ended while no kubelet ran is back", func(p *corev1.Pod) bool { return restartsOf(p, "app") == 1 })
	for path, want := range map[string]string{"/config/k": "first", "/secret/s": "x", "/both/k": "first", "/both/s": "x"} {
		if got := get(ctx, t, file+path); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
	config("second")
	eventually(ctx, t, "the volume follows the new ConfigMap", func() bool { return get(ctx, t, file+"/config/k") == "second" })
	remove(ctx, t, pod)
}

// TestTokenOwner: a token of a pod whose containers run as one user, and that has a group, is for these alone.
func TestTokenOwner(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(1001)), FSGroup: new(int64(2002))}
	pod.Spec.Volumes = []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
	}}}}}
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	c := shell("look", "ls -lnL /token/token && grep -q . /token/token")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "token", MountPath: "/token"}}
	pod.Spec.Containers = []corev1.Container{c}
	pod = phase(ctx, t, create(ctx, t, pod), corev1.PodSucceeded)
	if fields := strings.Fields(logs(t, pod, "look", 0)); len(fields) < 4 || !strings.HasPrefix(fields[0], "-rw-r-----") || fields[2] != "1001" || fields[3] != "2002" {
		t.Errorf("the token: %q", fields)
	}
	remove(ctx, t, pod)
}
