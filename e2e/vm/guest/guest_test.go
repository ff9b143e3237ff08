// Package guest is what runs inside the virtual machine of the cgroup v2 tests: a node of containerd and this
// project's kubelet, alone on a kernel that has cgroup v2 and nothing else. Elsewhere its tests are skipped.
package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const (
	manifests       = "/run/manifests"
	registryAddress = "127.0.0.1:5000"
	socket          = "/run/containerd.sock"
	podLogs         = "/var/log/pods"
	kubeletURL      = "http://127.0.0.1:10255"
	root            = "/sys/fs/cgroup"
	nodeName        = "vm"
	reservedMemory  = 100 << 20
	podPids         = 40
	busybox         = registryAddress + "/busybox:1"
)

const containerdConfig = `version = 4
root = "/var/lib/containerd"
state = "/run/containerd"
imports = []
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[plugins."io.containerd.server.v1.grpc"]
  address = "` + socket + `"
[plugins."io.containerd.server.v1.ttrpc"]
  address = "` + socket + `.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "/run/opt"
[plugins."io.containerd.cri.v1.images"]
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "` + registryAddress + `/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  cdi_spec_dirs = []
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/programs"]
    conf_dir = "/run/cni"
`

const cniConfig = `{"cniVersion": "1.0.0", "name": "vm", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
  "ipam": {"type": "host-local", "dataDir": "/run/ipam", "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
`

// kubeletConfig reserves memory, so that what pods get differs from what the machine has.
var kubeletConfig = fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
staticPodPath: %s
podLogsDir: %s
readOnlyPort: 10255
podPidsLimit: %d
systemReserved: {memory: "%d"}
authentication: {webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
evictionHard: {memory.available: 20Mi, nodefs.available: 0%%, nodefs.inodesFree: 0%%, imagefs.available: 0%%}
imageGCHighThresholdPercent: 100
resolvConf: ""
containerRuntimeEndpoint: unix://%s
`, manifests, podLogs, podPids, reservedMemory, socket)

func TestMain(m *testing.M) {
	if os.Getenv("MINIKUBELET_VM") == "" {
		fmt.Println("skipped: this is a test for the inside of a virtual machine, see e2e/vm")
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	stop, err := startNode()
	if err != nil {
		fmt.Println("start the node:", err)
		return 1
	}
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Println("stop the node:", err)
		code = 1
	}
	return code
}

// startNode starts the registry, containerd and the kubelet.
func startNode() (stop func() error, err error) {
	for path, text := range map[string]string{
		"/run/containerd.toml": containerdConfig, "/run/cni/10-vm.conflist": cniConfig, "/run/kubelet.yaml": kubeletConfig,
		manifests + "/.keep": "", "/run/opt/.keep": "",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if err := serveImages(); err != nil {
		return nil, err
	}
	containerd, err := start("containerd", "--config=/run/containerd.toml")
	if err != nil {
		return nil, err
	}
	if err := await(patience, func() error { _, err := os.Stat(socket); return err }); err != nil {
		return nil, fmt.Errorf("wait for containerd: %w", err)
	}
	return func() error { return errors.Join(end(kubelet), end(containerd)) }, startKubelet()
}

// kubelet is the one that runs.
var kubelet *exec.Cmd

func startKubelet() (err error) {
	kubelet, err = start("kubelet", "--config=/run/kubelet.yaml", "--hostname-override="+nodeName, "--root-dir=/var/lib/kubelet", "--v=2")
	if err != nil {
		return err
	}
	if err := await(patience, func() error { return fetch("/pods", new(corev1.PodList)) }); err != nil {
		return fmt.Errorf("wait for the kubelet: %w", err)
	}
	return nil
}

// patience is for a machine that is emulated on one that is busy. Nothing is tested with it but that things happen.
const patience = 3 * time.Minute

// serveImages serves the images of the initramfs on the loopback interface, so that pulls are real.
func serveImages() error {
	l, err := net.Listen("tcp", registryAddress)
	if err != nil {
		return err
	}
	go func() {
		server := http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), ReadHeaderTimeout: time.Minute}
		_ = server.Serve(l)
	}()
	files, err := filepath.Glob("/images/*.tar")
	if err != nil {
		return err
	}
	for _, file := range files {
		image, err := tarball.ImageFromPath(file, nil)
		if err != nil {
			return fmt.Errorf("read image %s: %w", file, err)
		}
		ref, err := name.ParseReference(registryAddress+"/"+strings.TrimSuffix(filepath.Base(file), ".tar")+":1", name.Insecure)
		if err != nil {
			return err
		}
		if err := remote.Write(ref, image); err != nil {
			return fmt.Errorf("push image %s: %w", file, err)
		}
	}
	return nil
}

// start starts a service in a cgroup of its own, as systemd would.
func start(program string, args ...string) (*exec.Cmd, error) {
	group := filepath.Join(root, "system", program)
	if err := os.MkdirAll(group, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.Open(group)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	log, err := os.OpenFile("/var/log/"+program+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	return cmd, cmd.Start()
}

func end(cmd *exec.Cmd) error {
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", cmd.Path, err)
	}
	return nil
}

// await tries until it works, for what no event tells of. The pause is one of an emulated machine.
func await(limit time.Duration, try func() error) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(250 * time.Millisecond) {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// eventually is await for a test.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	if err := await(patience, try); err != nil {
		t.Fatalf("never came true: %s: %v", what, err)
	}
}

// fetch asks the kubelet.
func fetch(path string, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, kubeletURL+path, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 16<<20))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %.200s", path, answer.Status, body)
	}
	return json.Unmarshal(body, into)
}

func summary(t *testing.T) *statsapi.Summary {
	t.Helper()
	out := &statsapi.Summary{}
	if err := fetch("/stats/summary", out); err != nil {
		t.Fatal(err)
	}
	return out
}

// shell is a container that runs a script.
func shell(name, script string, resources corev1.ResourceRequirements) corev1.Container {
	return corev1.Container{
		Name: name, Image: busybox, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", script}, Resources: resources,
	}
}

// static makes a static pod of the containers, and has it removed when the test ends.
func static(t *testing.T, name string, containers ...corev1.Container) {
	t.Helper()
	pod := corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault},
		Spec:       corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: containers},
	}
	data, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	file := manifest(name)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(file) })
}

func manifest(name string) string { return filepath.Join(manifests, name+".json") }

// find waits until a pod fulfils a condition.
func find(t *testing.T, name, what string, done func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var found *corev1.Pod
	eventually(t, "pod "+name+" is "+what, func() error {
		list := &corev1.PodList{}
		if err := fetch("/pods", list); err != nil {
			return err
		}
		for i := range list.Items {
			pod := &list.Items[i]
			if pod.Name != name+"-"+nodeName {
				continue
			}
			if found = pod; done(pod) {
				return nil
			}
			status, _ := json.Marshal(pod.Status)
			return fmt.Errorf("it is %s", status)
		}
		return errors.New("it is not there")
	})
	return found
}

func running(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	return find(t, name, "Running", func(p *corev1.Pod) bool {
		ready := p.Status.Phase == corev1.PodRunning && len(p.Status.ContainerStatuses) == len(p.Spec.Containers)
		for _, c := range p.Status.ContainerStatuses {
			ready = ready && c.State.Running != nil
		}
		return ready
	})
}

// value reads a file of a cgroup; spaces at its end are left out.
func value(t *testing.T, group, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, group, file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// keyed reads one number of a file such as memory.events.
func keyed(t *testing.T, group, file, key string) uint64 {
	t.Helper()
	for line := range strings.Lines(value(t, group, file)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == key {
			n, err := strconv.ParseUint(fields[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s/%s has no %s", group, file, key)
	return 0
}

// expect compares files of a cgroup with what they should hold.
func expect(t *testing.T, group string, want map[string]string) {
	t.Helper()
	for file, text := range want {
		if got := value(t, group, file); got != text {
			t.Errorf("%s/%s is %q, want %q", group, file, got, text)
		}
	}
}

// groupOf is the cgroup of a pod, and containerGroup that of one of its containers.
func groupOf(pod *corev1.Pod) string {
	switch pod.Status.QOSClass {
	case corev1.PodQOSBurstable:
		return "kubepods/burstable/pod" + string(pod.UID)
	case corev1.PodQOSBestEffort:
		return "kubepods/besteffort/pod" + string(pod.UID)
	}
	return "kubepods/pod" + string(pod.UID)
}

func containerGroup(pod *corev1.Pod, container string) string {
	for _, c := range pod.Status.ContainerStatuses {
		if c.Name == container {
			return filepath.Join(groupOf(pod), strings.TrimPrefix(c.ContainerID, "containerd://"))
		}
	}
	return "none"
}
