package volumes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func requests(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}

func TestPageSize(t *testing.T) {
	for _, tt := range []struct {
		medium   corev1.StorageMedium
		requests corev1.ResourceList
		want     string // "" for an error
	}{
		{"HugePages", requests("hugepages-2Mi", "4Mi"), "2Mi"}, {"HugePages", requests("cpu", "1"), ""},
		{"HugePages", requests("hugepages-2Mi", "4Mi", "hugepages-1Gi", "1Gi"), ""},
		{"HugePages-1Gi", requests("hugepages-2Mi", "4Mi", "hugepages-1Gi", "1Gi"), "1Gi"}, {"HugePages-1Gi", requests("hugepages-2Mi", "4Mi"), ""},
		{"HugePages-2048Ki", requests("hugepages-2Mi", "4Mi"), "2Mi"},
	} {
		pod := testPod()
		pod.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: tt.requests}}}
		got, err := pageSize(pod, tt.medium)
		if (err == nil) != (tt.want != "") || err == nil && got.String() != tt.want {
			t.Errorf("%s of %v: %v, %v", tt.medium, tt.requests, got.String(), err)
		}
	}
}

// TestHugePages needs root and a kernel with huge pages of 2 MiB.
func TestHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/hugepages/hugepages-2048kB"); err != nil {
		t.Skip("no huge pages here:", err)
	}
	m, dir := manager(t)
	pod := testPod(corev1.Volume{Name: "huge", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "HugePages-2Mi"}}})
	pod.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: requests("hugepages-2Mi", "4Mi")}}}
	for range 2 {
		if err := m.Mount(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Join(dir, "uid-1/volumes/kubernetes.io~empty-dir/huge"), &fs); err != nil || fs.Type != unix.HUGETLBFS_MAGIC || fs.Bsize != 2<<20 {
		t.Errorf("file system %x of pages of %d, %v", fs.Type, fs.Bsize, err)
	}
	if err := m.Unmount(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
}

func TestMemorySize(t *testing.T) {
	limit := func(memory string) corev1.Container {
		c := corev1.Container{}
		if sidecar, is := strings.CutPrefix(memory, "+"); is {
			c.RestartPolicy, memory = new(corev1.ContainerRestartPolicyAlways), sidecar
		}
		if memory != "" {
			c.Resources.Limits = requests("memory", memory)
		}
		return c
	}
	m := New(Options{Allocatable: func() corev1.ResourceList { return requests("memory", "100") }})
	for _, tt := range []struct {
		inits, containers []string
		size              string
		want              int64
	}{
		{nil, []string{""}, "", 100}, {nil, []string{"30", "20"}, "", 50}, {nil, []string{"30", ""}, "", 100}, {nil, []string{"30", "20"}, "10", 10},
		{[]string{"70"}, []string{"30"}, "", 70}, {[]string{"+10", "70"}, []string{"30"}, "", 80}, {[]string{"70", "+10"}, []string{"30"}, "", 70}, {[]string{"+10"}, []string{"30"}, "", 40}, {[]string{""}, []string{"30"}, "", 100}, {nil, []string{"300"}, "200", 100},
	} {
		pod, e := testPod(), &corev1.EmptyDirVolumeSource{}
		for _, memory := range tt.inits {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, limit(memory))
		}
		for _, memory := range tt.containers {
			pod.Spec.Containers = append(pod.Spec.Containers, limit(memory))
		}
		if tt.size != "" {
			e.SizeLimit = new(resource.MustParse(tt.size))
		}
		if got := m.memorySize(pod, e); got != tt.want {
			t.Errorf("%+v: %d", tt, got)
		}
	}
}

func TestReadFile(t *testing.T) {
	m, dir := manager(t)
	pod := testPod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	volume, outside := filepath.Join(dir, "uid-1/volumes/kubernetes.io~empty-dir/v"), t.TempDir()
	for _, err := range []error{
		os.WriteFile(volume+"/env", []byte("A='1'"), 0o600), os.WriteFile(outside+"/secret", []byte("s"), 0o600),
		os.Symlink(outside+"/secret", volume+"/out"), os.Symlink("env", volume+"/in"), os.Mkdir(volume+"/dir", 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"env", "in", "/env", "../env"} { // as within a root
		if data, err := m.ReadFile(pod, "v", path, 100); err != nil || string(data) != "A='1'" {
			t.Errorf("%s: %q, %v", path, data, err)
		}
	}
	for _, path := range []string{"out", "dir", "none"} {
		if data, err := m.ReadFile(pod, "v", path, 100); err == nil {
			t.Errorf("%s: %q", path, data)
		}
	}
	if _, err := m.ReadFile(pod, "v", "env", 2); err == nil || !strings.Contains(err.Error(), "at most 2 bytes") {
		t.Errorf("a file that is too large: %v", err)
	}
	if _, err := m.ReadFile(pod, "none", "env", 100); err == nil {
		t.Error("a volume that is not there")
	}
}
