package stack

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// victimEnv makes this test binary the owner of a stack that is about to be
// killed, instead of running tests.
const victimEnv = "MINIKUBELET_STACK_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(victimEnv) != "" {
		if err := beVictim(context.Background()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func requireStack(t *testing.T) {
	t.Helper()
	if os.Getenv(BinEnv) == "" {
		t.Skipf("end-to-end: %s is not set; make test sets it", BinEnv)
	}
}

// TestUpstreamKubelet proves the stack with a kubelet known to work: what fails
// in a test of ours is then ours.
func TestUpstreamKubelet(t *testing.T) {
	requireStack(t)
	if os.Getenv(UpstreamEnv) == "" {
		t.Skip("make compare, a part of make verify, runs the tests against upstream's kubelet")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	s, err := Start(ctx, Options{Progress: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if left := s.print.resources(); len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		if _, err := os.Stat(s.Dir); err == nil {
			t.Errorf("left behind: %s", s.Dir)
		}
	}()
	k, err := s.StartKubelet(KubeletOptions{Upstream: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitNodeReady(ctx); err != nil {
		t.Fatalf("%v\n%s", err, k.LogTail(40))
	}
	runPod(ctx, t, s, "warm-up") // what stays for good: the bridge, cgroup levels
	before, err := s.Resources()
	if err != nil {
		t.Fatal(err)
	}
	runPod(ctx, t, s, "measured")
	after, err := s.Resources()
	if err != nil {
		t.Fatal(err)
	}
	if leaked := Leaked(before, after); len(leaked) > 0 {
		t.Errorf("a deleted pod left behind:\n%s", strings.Join(leaked, "\n"))
	}
	if pulls := s.Registry.Pulls("library/testapp"); pulls != 1 {
		t.Errorf("testapp was pulled %d times, want 1", pulls)
	}
	if err := k.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
}

// runPod takes a pod from creation to its end.
func runPod(ctx context.Context, t *testing.T, s *Stack, name string) {
	t.Helper()
	pods := s.Client.CoreV1().Pods(corev1.NamespaceDefault)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{NodeName: s.NodeName, Containers: []corev1.Container{{
			Name: "app", Image: TestappImage, ImagePullPolicy: corev1.PullIfNotPresent,
			ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080)}}},
		}}},
	}
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod, err := s.WaitPodReady(ctx, pod.Namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := s.Get(ctx, "http://"+pod.Status.PodIP+":8080/"); err != nil || body != name+"\n" {
		t.Fatalf("pod says %q, %v", body, err)
	}
	if out, err := s.Kubectl(ctx, "logs", name); err != nil || !strings.Contains(out, "serving :8080") {
		t.Fatalf("logs: %q, %v", out, err)
	}
	if err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))}); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitPodGone(ctx, pod.Namespace, name); err != nil {
		t.Fatal(err)
	}
}

// TestOwnerKilled: a stack whose owner gets SIGKILL goes, with its containers.
func TestOwnerKilled(t *testing.T) {
	requireStack(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var print footprint
	if err := json.Unmarshal([]byte(line), &print); err != nil {
		t.Fatalf("victim says %s", line)
	}
	if len(print.resources()) < 10 { // or the test proves nothing
		t.Errorf("the victim's stack holds only %q", print.resources())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	deadline := time.Now().Add(30 * time.Second)
	for {
		left := print.resources()
		if _, err := os.Stat(print.Dir); os.IsNotExist(err) && len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind:\n%s", strings.Join(left, "\n"))
		}
		time.Sleep(50 * time.Millisecond) // foreign processes end without notice
	}
}

// beVictim starts a stack with a sandbox in it, prints its footprint and waits
// to be killed.
func beVictim(ctx context.Context) error {
	s, err := Start(ctx, Options{NoControlPlane: true})
	if err != nil {
		return err
	}
	_, err = runtimeapi.NewRuntimeServiceClient(s.CRI).RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "victim", Namespace: "default", Uid: "1"},
		Linux:    &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/" + s.CgroupName() + "/victim"},
	}})
	if err != nil {
		return err
	}
	line, err := json.Marshal(s.print)
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	select {}
}

func TestLeaked(t *testing.T) {
	got := Leaked([]string{"a", "b"}, []string{"b", "c"})
	if len(got) != 1 || got[0] != "c" {
		t.Errorf("Leaked = %q, want [c]", got)
	}
}
