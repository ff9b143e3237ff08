package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/stack"
)

// TestStaticPodBeforeCertificate: a kubelet that the apiserver does not know yet runs its static pods; once its certificate
// is signed, node, mirror and the events of before come without delay.
func TestStaticPodBeforeCertificate(t *testing.T) {
	ctx := onStack(t)
	allowBootstrap(ctx, t)
	bootstrap, err := shared.TokenKubeconfig("bootstrap", bootstrapToken)
	if err != nil {
		t.Fatal(err)
	}
	if kubelet != nil {
		stopKubelet(t)
	}
	if err := shared.Client.CoreV1().Nodes().Delete(ctx, shared.NodeName, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	stopComponent(ctx, t, stack.ControllerManager) // it signs certificates
	name, dir := podName(t), t.TempDir()
	full := name + "-" + shared.NodeName
	file := filepath.Join(shared.ManifestDir(), name+".yaml")
	write(t, file, fmt.Sprintf(manifest, name, "red"))
	k, err := shared.StartKubelet(stack.KubeletOptions{
		Config: map[string]any{"rotateCertificates": true},
		Args:   []string{"--kubeconfig=" + filepath.Join(dir, "kubeconfig"), "--cert-dir=" + dir, "--bootstrap-kubeconfig=" + bootstrap},
	})
	if err != nil {
		t.Fatal(err)
	}
	kubelet = k
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("kubelet's log:\n%s", k.LogTail(80))
		}
		removeFile(t, file)
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if err := shared.WaitPodGone(clean, corev1.NamespaceDefault, full); err != nil {
			t.Error(err)
		}
		stopKubelet(t)
	})
	eventually(ctx, t, "the static pod runs", func() bool { return len(running(ctx, t, full)) == 1 })
	if _, err := os.Stat(filepath.Join(dir, "kubelet-client-current.pem")); err == nil {
		t.Fatal("there is a certificate already")
	}

	startComponent(ctx, t, stack.ControllerManager)
	node, err := shared.WaitNodeReady(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mirror, err := shared.WaitPodReady(ctx, corev1.NamespaceDefault, full)
	if err != nil {
		t.Fatal(err)
	}
	if late := mirror.CreationTimestamp.Sub(node.CreationTimestamp.Time); late > 2*time.Second {
		t.Errorf("the mirror was made %v after the node", late)
	}
	event(ctx, t, full, "Started")
}
