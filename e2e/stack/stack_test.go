package stack

import (
	"context"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestUpstreamKubelet proves the stack with a kubelet known to work: whatever
// fails in a test of ours is then ours.
func TestUpstreamKubelet(t *testing.T) {
	if os.Getenv(BinEnv) == "" {
		t.Skipf("end-to-end: %s is not set; make test sets it", BinEnv)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	start := time.Now()
	s, err := Start(ctx, Options{Progress: t.Logf, KeepDir: os.Getenv("KEEP") != ""})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Logf("stack up after %v", time.Since(start))
	k, err := s.StartKubelet(KubeletOptions{Upstream: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitNodeReady(ctx); err != nil {
		t.Fatalf("%v\n%s", err, k.LogTail(40))
	}
	t.Logf("node ready after %v", time.Since(start))
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "first"},
		Spec:       corev1.PodSpec{NodeName: s.NodeName, Containers: []corev1.Container{{Name: "app", Image: TestappImage}}},
	}
	if _, err := s.Client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := s.WaitPodReady(ctx, "default", "first")
	if err != nil {
		t.Fatalf("%v\n%s", err, k.LogTail(40))
	}
	body, err := s.Get(ctx, "http://"+got.Status.PodIP+":8080/")
	if err != nil || body != "first\n" {
		t.Fatalf("pod says %q, %v", body, err)
	}
	t.Logf("pod ready after %v", time.Since(start))
	if out, err := s.Kubectl(ctx, "logs", "first"); err != nil || out == "" {
		t.Fatalf("logs: %q, %v", out, err)
	}
	if err := s.Client.CoreV1().Pods("default").Delete(ctx, "first", metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))}); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitPodGone(ctx, "default", "first"); err != nil {
		t.Fatal(err)
	}
	if err := k.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
}
