package e2e

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/logindtest"
	"minikubelet/e2e/matrix"
	"minikubelet/e2e/stack"
)

// TestExplainNode: a node that takes four pods, may not read Secrets, has a runtime that hangs for one pod and refuses another's
// image, and then is shut down.
func TestExplainNode(t *testing.T) {
	ctx := onStack(t)
	s := shared
	logind := logindtest.Start(t)
	logind.SetDelay(time.Minute, time.Minute)
	name := podName(t)
	o := stack.KubeletOptions{
		Config: map[string]any{"maxPods": 4, "shutdownGracePeriod": "3s", "shutdownGracePeriodCriticalPods": "1s", "runtimeRequestTimeout": "3s"},
		Args:   []string{"--kubeconfig=" + withoutSecrets(ctx, t, name)},
	}
	hangs, signature := name+"-hangs", name+"-signature"
	if s.RuntimeIsProgram() {
		proxy, err := matrix.StartCRIProxy(filepath.Join(s.Dir, "run", "story.sock"), s.RuntimeSocket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(proxy.Close)
		o.Args = append(o.Args, "--container-runtime-endpoint=unix://"+proxy.Socket)
		proxy.Inject(matrix.Fault{Kind: matrix.Hanging, Method: "RunPodSandbox", Subject: matrix.NewSubject(hangs)})
		// The words are CRI-O's.
		proxy.Inject(matrix.Fault{Kind: matrix.Failing, Method: "PullImage", Subject: matrix.NewSubject(signature), Message: "SignatureValidationFailed: Source image rejected: A signature was required, but no signature exists"})
	} else {
		o.Args = append(o.Args, "--chaos=RunPodSandbox=hang:1")
	}
	nodeWith(t, o)
	defer stopKubelet(t)

	secret := withVolume(t, corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}})
	pods := map[string]*corev1.Pod{hangs: newPod(t), signature: newPod(t), name + "-secret": secret, name + "-runs": newPod(t)}
	image("story/unsigned:1", corev1.PullAlways)(pods[signature])
	for name, pod := range pods {
		pod.Name = name
		create(ctx, t, pod)
	}
	for _, pod := range pods {
		until(ctx, t, pod, "taken", func(p *corev1.Pod) bool { return p.Status.StartTime != nil })
	}
	told(ctx, t, create(ctx, t, newPod(t)).Name, "OutOfpods", "4 of 4", "maxPods")
	if s.RuntimeIsProgram() {
		told(ctx, t, signature, "ImageSignature", "story/unsigned:1", "A signature was required")
		until(ctx, t, pods[name+"-runs"], "Ready", stack.PodReady)
	}
	told(ctx, t, hangs, "RuntimeHangs", "sandbox", "did not answer in time", "runtimeRequestTimeout")
	told(ctx, t, name+"-secret", "NotAuthorized", `secrets "`+name+`"`, "system:serviceaccount:default:"+name)

	logind.Lock(t)
	logind.Announce(t, true)
	told(ctx, t, name+"-runs", "Terminated", "the node was about to shut down", "create it again")
	told(ctx, t, create(ctx, t, newPod(t)).Name, "NodeShutdown", "the node is shutting down", "created anew")
}

// withoutSecrets makes a user who may do what nodes may, but read Secrets, and returns a kubeconfig of it.
func withoutSecrets(ctx context.Context, t *testing.T, name string) string {
	t.Helper()
	accounts, rbac := shared.Client.CoreV1().ServiceAccounts(corev1.NamespaceDefault), shared.Client.RbacV1()
	role, err := rbac.ClusterRoles().Get(ctx, "system:node", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	role.ObjectMeta = metav1.ObjectMeta{Name: name}
	for i := range role.Rules {
		role.Rules[i].Resources = slices.DeleteFunc(role.Rules[i].Resources, func(resource string) bool { return resource == "secrets" })
	}
	if _, err := rbac.ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rbac.ClusterRoles().Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{}) })
	if _, err := rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: corev1.NamespaceDefault, Name: name}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = rbac.ClusterRoleBindings().Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{})
	})
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accounts.Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{}) })
	token, err := accounts.CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	path, err := shared.TokenKubeconfig(name, token.Status.Token)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
