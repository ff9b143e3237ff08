package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"minikubelet/e2e/stack"
)

// TestMountPropagation: what a privileged container mounts below --root-dir, with propagation Bidirectional as a CSI
// driver has it, is seen by the node and by a container with HostToContainer that runs already, and by no other. The
// directory is made shared for that once, however often the kubelet starts.
func TestMountPropagation(t *testing.T) {
	ctx, s := node(t)
	dir := filepath.Join(s.RootDir(), "plugins", podName(t))
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "m"), unix.MNT_DETACH) })
	withDir := func(c corev1.Container, propagation corev1.MountPropagationMode) corev1.Container {
		c.VolumeMounts = []corev1.VolumeMount{{Name: "dir", MountPath: "/shared", MountPropagation: &propagation}, {Name: "done", MountPath: "/done"}}
		return c
	}
	podOf := func(containers ...corev1.Container) *corev1.Pod {
		pod := newPod(t)
		pod.Spec.RestartPolicy, pod.Spec.Containers = corev1.RestartPolicyNever, containers
		pod.Spec.Volumes = []corev1.Volume{
			{Name: "dir", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: new(corev1.HostPathDirectoryOrCreate)}}},
			{Name: "done", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		}
		return pod
	}
	const mounted = "until [ -f /shared/m/f ]; do sleep 0.1; done; cat /shared/m/f; touch /done/it"
	users := ready(ctx, t, podOf(
		withDir(shell("follows", mounted), corev1.MountPropagationHostToContainer),
		withDir(shell("private", "until [ -f /done/it ]; do sleep 0.1; done; ls -A /shared/m"), corev1.MountPropagationNone),
	))
	driver := shell("driver", "mkdir /shared/m && mount -t tmpfs t /shared/m && echo mounted > /shared/m/f")
	driver.SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
	phase(ctx, t, create(ctx, t, podOf(withDir(driver, corev1.MountPropagationBidirectional))), corev1.PodSucceeded)
	phase(ctx, t, users, corev1.PodSucceeded)
	if got := logs(t, users, "follows", 0); got != "mounted\n" {
		t.Errorf("the container that follows the node's mounts reads %q", got)
	}
	if got := logs(t, users, "private", 0); got != "" {
		t.Errorf("the container that does not sees %q", got)
	}
	if got := read(t, filepath.Join(dir, "m", "f")); got != "mounted\n" {
		t.Errorf("the node reads %q", got)
	}
	before := mountsAt(t, s.RootDir())
	stopKubelet(t)
	startKubelet(ctx, t, stack.KubeletOptions{})
	if after := mountsAt(t, s.RootDir()); after != before || after > 1 {
		t.Errorf("--root-dir is mounted on itself %d times before the kubelet starts again and %d times after", before, after)
	}
}

func mountsAt(t *testing.T, dir string) int {
	return strings.Count(read(t, "/proc/self/mountinfo"), " "+dir+" ")
}
