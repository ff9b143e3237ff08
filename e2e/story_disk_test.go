package e2e

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/stack"
)

// TestExplainDiskFull: no space is left for a volume, for a container's log, and for an image.
func TestExplainDiskFull(t *testing.T) {
	ctx, s := node(t)
	name := podName(t)
	if _, err := s.Client.CoreV1().ConfigMaps(corev1.NamespaceDefault).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"large": strings.Repeat("x", 100_000)},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 1<<20)
	_, _ = rand.Read(content)
	large, err := stack.BuildImage([]stack.File{{Path: "/large", Data: content, Mode: 0o644}}, v1.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Registry.Push(ctx, "story/"+name+":1", large); err != nil {
		t.Fatal(err)
	}

	volume, log, pull := newPod(t), newPod(t), newPod(t)
	volumed(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}, "")(volume)
	image("127.0.0.1:5000/story/"+name+":1", corev1.PullIfNotPresent)(pull)
	for _, pod := range []*corev1.Pod{volume, log, pull} {
		pod.Spec.NodeName = ""
		*pod = *create(ctx, t, pod)
	}
	full(t, filepath.Join(s.RootDir(), "pods", string(volume.UID), "volumes"), "size=16k")
	full(t, fmt.Sprintf("%s/%s_%s_%s", s.PodLogsDir(), log.Namespace, log.Name, log.UID), "nr_inodes=1") // the directory's own
	bind(ctx, t, volume)
	bind(ctx, t, log)
	told(ctx, t, volume.Name, "NodeDiskFull", "volume data", "the node's disk is full", "Free space on the node")
	told(ctx, t, log.Name, "NodeDiskFull", "Container app cannot be made", "the node's disk is full", "Free space on the node")
	room := t.TempDir()
	full(t, room, "size=64k")
	if err := errors.Join(os.Mkdir(room+"/upper", 0o755), os.Mkdir(room+"/work", 0o755)); err != nil {
		t.Fatal(err)
	}
	images := downloads(t, s) // of which pods need what is there already
	mount(t, images, "overlay", "lowerdir="+images+",upperdir="+room+"/upper,workdir="+room+"/work")
	bind(ctx, t, pull)
	told(ctx, t, pull.Name, "NodeDiskFull", name+":1", "the node's disk is full", "Free space on the node")
	for _, pod := range []*corev1.Pod{volume, log, pull} {
		if err := s.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
			t.Fatal(err)
		}
	}
}

// full puts a file system on a directory that has hardly any room, until the test ends.
func full(t *testing.T, dir, room string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mount(t, dir, "tmpfs", "mode=755,"+room)
}

// mount mounts a file system on a directory until the test ends. It may be gone with the directory by then.
func mount(t *testing.T, dir, kind, options string) {
	t.Helper()
	if err := unix.Mount(kind, dir, kind, 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			t.Error(err)
		}
	})
}

// downloads is where the runtime keeps what it fetches of images.
func downloads(t *testing.T, s *stack.Stack) string {
	t.Helper()
	for _, dir := range []string{
		filepath.Join(s.Dir, "containerd", "io.containerd.content.v1.content"), filepath.Join(s.Dir, "crid", "images", "tmp"), filepath.Join(s.RootDir(), "cri", "images", "tmp"),
	} {
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
	}
	t.Fatal("it is not known where the runtime keeps what it fetches")
	return ""
}
