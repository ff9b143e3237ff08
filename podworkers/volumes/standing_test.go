package volumes

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers/objects"
	"minikubelet/podworkers/objects/objectstest"
)

// TestStandingVolumes needs root. What a volume was made of goes: pods that had the volume keep it, across a restart of the
// kubelet too, and are told once; a pod that never had it waits.
func TestStandingVolumes(t *testing.T) {
	client := fake.NewClientset()
	meta := metav1.ObjectMeta{Name: "o", Namespace: "ns"}
	for _, err := range []error{
		create(client.CoreV1().ConfigMaps("ns").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})),
		create(client.CoreV1().Secrets("ns").Create(t.Context(), &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"s": []byte("x")}}, metav1.CreateOptions{})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var noToken error
	object := objects.New(objects.Options{
		Watch: objectstest.Watch(client),
		CreateToken: func(context.Context, string, string, *authv1.TokenRequest) (*authv1.TokenRequest, error) {
			return &authv1.TokenRequest{Status: authv1.TokenRequestStatus{Token: "t", ExpirationTimestamp: metav1.Now()}}, noToken
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { object.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })

	host := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	mode, ref := int32(0o644), corev1.LocalObjectReference{Name: "o"}
	pod := testPod(
		corev1.Volume{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref, DefaultMode: &mode}}},
		corev1.Volume{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "o", DefaultMode: &mode}}},
		corev1.Volume{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref}},
		}}}},
		corev1.Volume{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
		}}}},
		corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host, Type: new(corev1.HostPathDirectory)}}},
	)
	events := record.NewFakeRecorder(100)
	opts := Options{PodsDir: t.TempDir(), Objects: object, Allocatable: func() corev1.ResourceList { return nil }, Events: events}
	m := New(opts)
	object.Register(pod)
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(context.Background(), pod.UID); err != nil {
			t.Error(err)
		}
	})

	noToken = errors.New("no such service account")
	for _, err := range []error{
		client.CoreV1().ConfigMaps("ns").Delete(t.Context(), "o", metav1.DeleteOptions{}),
		client.CoreV1().Secrets("ns").Delete(t.Context(), "o", metav1.DeleteOptions{}),
		os.Remove(host), os.WriteFile(host, nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, gone := range []func() error{
		func() error { _, err := object.ConfigMap(t.Context(), "ns", "o"); return err },
		func() error { _, err := object.Secret(t.Context(), "ns", "o"); return err },
	} {
		for gone() == nil {
			time.Sleep(time.Millisecond)
		}
	}
	for range 3 {
		if err := m.Mount(t.Context(), pod); err != nil {
			t.Fatalf("volumes that stand: %v", err)
		}
	}
	var told []string
	for len(events.Events) > 0 {
		told = append(told, <-events.Events)
	}
	if all := strings.Join(told, "\n"); len(told) != 5 || !strings.Contains(all, `Warning FailedMount MountVolume.SetUp failed for volume "config" : configmap "o" not found`) {
		t.Errorf("five volumes are behind, and told is:\n%s", all)
	}
	if next := m.Next(pod.UID); next.IsZero() || time.Until(next) > 30*time.Second || !next.After(time.Now()) {
		t.Errorf("tried again at %v", next)
	}

	m = New(opts) // a kubelet that was restarted
	if err := m.Mount(t.Context(), pod); err == nil || !strings.Contains(err.Error(), `"host"`) || strings.Contains(err.Error(), `"config"`) {
		t.Errorf("of volumes on the disk, and one of which nothing is there: %v", err)
	}
	m.Adopt(pod.UID)
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Errorf("the pod's sandbox runs: %v", err)
	}
	for path, want := range map[string]string{"configmap/config/k": "v", "secret/secret/s": "x", "projected/all/k": "v", "projected/token/token": "t"} {
		if got := read(t, filepath.Join(opts.PodsDir, "uid-1/volumes/kubernetes.io~"+path)); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
	fresh := testPod(pod.Spec.Volumes...)
	fresh.UID = "uid-2"
	object.Register(fresh)
	err := m.Mount(t.Context(), fresh)
	for _, v := range pod.Spec.Volumes {
		if err == nil || !strings.Contains(err.Error(), `"`+v.Name+`"`) {
			t.Errorf("volume %s never stood: %v", v.Name, err)
		}
	}
	if err := m.Unmount(t.Context(), fresh.UID); err != nil {
		t.Error(err)
	}
}

func create(_ any, err error) error { return err }

// TestHalfWritten: a volume counts as standing when all its names lead to its files.
func TestHalfWritten(t *testing.T) {
	dir := t.TempDir()
	if complete(dir) {
		t.Error("an empty directory stands")
	}
	if err := writeAtomic(dir, map[string]file{"a": {mode: 0o644}, "b/c": {mode: 0o644}}, nil); err != nil {
		t.Fatal(err)
	}
	if !complete(dir) {
		t.Error("what was written does not stand")
	}
	if err := os.Remove(dir + "/b"); err != nil {
		t.Fatal(err)
	}
	if complete(dir) {
		t.Error("with a name missing it stands")
	}
}

// TestMemoryAfterReboot needs root. The directories of volumes of memory are there after a reboot, and the mounts are not:
// new ones are as open to the pod as the first were.
func TestMemoryAfterReboot(t *testing.T) {
	m, dir := manager(t)
	pod := testPod(
		corev1.Volume{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		corev1.Volume{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	)
	want := map[string]fs.FileMode{"memory": 0o777 | fs.ModeSticky | fs.ModeSetgid, "disk": 0o777 | fs.ModeSetgid}
	if _, err := os.Stat("/sys/kernel/mm/hugepages/hugepages-2048kB"); err == nil {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "huge", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "HugePages-2Mi"}}})
		pod.Spec.Containers = []corev1.Container{{
			VolumeMounts: []corev1.VolumeMount{{Name: "huge", MountPath: "/huge"}}, Resources: corev1.ResourceRequirements{Requests: requests("hugepages-2Mi", "4Mi")},
		}}
		want["huge"] = 0o777 | fs.ModeSetgid
	}
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(4711))}
	t.Cleanup(func() {
		if err := m.Unmount(context.Background(), pod.UID); err != nil {
			t.Error(err)
		}
	})
	for _, when := range []string{"at first", "after a reboot"} {
		if err := m.Mount(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		for name, mode := range want {
			info, err := os.Stat(filepath.Join(dir, "uid-1/volumes/kubernetes.io~empty-dir", name))
			if err != nil {
				t.Fatal(err)
			}
			if group := info.Sys().(*syscall.Stat_t).Gid; info.Mode()&^fs.ModeDir != mode || group != 4711 {
				t.Errorf("%s: %s is %v of group %d, want %v", when, name, info.Mode(), group, mode)
			}
			if name != "disk" {
				if err := unix.Unmount(filepath.Join(dir, "uid-1/volumes/kubernetes.io~empty-dir", name), 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		m = New(m.opts)
	}
}

// TestTokenOwner needs root. Who may read a token follows from the user that all containers run as and the pod's group.
func TestTokenOwner(t *testing.T) {
	user, group, other := int64(1001), int64(2002), int64(1003)
	for name, tt := range map[string]struct {
		pod        *corev1.PodSecurityContext
		containers []*int64 // the users that containers ask for
		mode       fs.FileMode
		uid, gid   uint32
	}{
		"neither":                   {nil, []*int64{nil}, 0o644, 0, 0},
		"user":                      {&corev1.PodSecurityContext{RunAsUser: &user}, []*int64{nil, nil}, 0o600, 1001, 0},
		"user of all containers":    {nil, []*int64{&user, &user}, 0o600, 1001, 0},
		"different users":           {nil, []*int64{&user, &other}, 0o644, 0, 0},
		"one container's":           {nil, []*int64{&user, nil}, 0o644, 0, 0},
		"group":                     {&corev1.PodSecurityContext{FSGroup: &group}, []*int64{nil}, 0o640, 0, 2002},
		"user and group":            {&corev1.PodSecurityContext{RunAsUser: &user, FSGroup: &group}, []*int64{nil}, 0o640, 1001, 2002},
		"different users and group": {&corev1.PodSecurityContext{RunAsUser: &user, FSGroup: &group}, []*int64{nil, &other}, 0o640, 0, 2002},
	} {
		t.Run(name, func(t *testing.T) {
			pod := testPod()
			pod.Spec.SecurityContext = tt.pod
			for _, u := range tt.containers {
				pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{SecurityContext: &corev1.SecurityContext{RunAsUser: u}})
			}
			dir := t.TempDir()
			// An earlier kubelet may have written the same token for somebody else.
			if err := writeAtomic(dir, map[string]file{"token": {data: []byte("t"), mode: 0o600}}, podinfo.FSGroup(pod)); err != nil {
				t.Fatal(err)
			}
			if err := writeAtomic(dir, map[string]file{"token": private(pod, file{data: []byte("t"), mode: 0o644})}, podinfo.FSGroup(pod)); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(dir + "/token")
			if err != nil {
				t.Fatal(err)
			}
			if s := info.Sys().(*syscall.Stat_t); info.Mode() != tt.mode || s.Uid != tt.uid || s.Gid != tt.gid {
				t.Errorf("%v of %d:%d, want %v of %d:%d", info.Mode(), s.Uid, s.Gid, tt.mode, tt.uid, tt.gid)
			}
		})
	}
}
