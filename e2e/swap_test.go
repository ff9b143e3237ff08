package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"minikubelet/e2e/stack"
)

// swapping is the pods that stay while kubelets take each other's place.
type swapping struct {
	t      *testing.T
	pods   []*corev1.Pod
	before map[string]string // what was seen of each container
	agent  string            // version of the kubelet that ran last
}

// look notes the containers of all pods, with their restart counts and what the pods' volumes hold.
func (s *swapping) look(ctx context.Context) map[string]string {
	s.t.Helper()
	seen := map[string]string{}
	for _, p := range s.pods {
		now := until(ctx, s.t, p, "ready", stack.PodReady)
		for _, c := range slices.Concat(now.Status.InitContainerStatuses, now.Status.ContainerStatuses) {
			seen[p.Name+" "+c.Name] = fmt.Sprintf("%s restarts %d %s", c.ContainerID, c.RestartCount, now.Status.PodIP)
		}
		for _, path := range []string{"/scratch/mark", "/config/key"} {
			seen[p.Name+" "+path] = get(ctx, s.t, "http://"+now.Status.PodIP+":8080/file?path="+url.QueryEscape(path))
		}
	}
	return seen
}

// to exchanges the kubelet, and compares when another pod has lived from beginning to end.
func (s *swapping) to(ctx context.Context, upstream bool) {
	s.t.Helper()
	s.before = s.look(ctx)
	stopKubelet(s.t)
	startKubelet(ctx, s.t, stack.KubeletOptions{Upstream: upstream})
	node, err := shared.WaitNode(ctx, "another kubelet's", func(n *corev1.Node) bool {
		return n.Status.NodeInfo.KubeletVersion != s.agent && stack.NodeReady(n)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.agent = node.Status.NodeInfo.KubeletVersion
	remove(ctx, s.t, ready(ctx, s.t, newPod(s.t)))
	if now := s.look(ctx); !maps.Equal(now, s.before) {
		s.t.Errorf("under %s there is\n%v\nbefore\n%v", s.agent, now, s.before)
	}
}

// crash has a container of every pod end: its count goes on, and so do its logs.
func (s *swapping) crash(ctx context.Context) {
	s.t.Helper()
	for _, p := range s.pods {
		now := until(ctx, s.t, p, "ready", stack.PodReady)
		count := restarts(now) + 1
		end(ctx, s.t, now, 1)
		now = until(ctx, s.t, p, fmt.Sprintf("restarted %d times by %s, and ready", count, s.agent), func(p *corev1.Pod) bool {
			return restarts(p) == count && stack.PodReady(p)
		})
		now.UID = uidOnNode(now)
		for _, attempt := range []int32{count - 1, count} {
			_ = logs(s.t, now, "app", int(attempt)) // fails where there is none
		}
	}
}

// resize gives the pods that the API server has more memory, at the price of a restart. A kubelet that takes this one for
// what was before would pay it again.
func (s *swapping) resize(ctx context.Context) {
	s.t.Helper()
	for _, p := range s.pods {
		if uidOnNode(p) != p.UID {
			continue // a static pod cannot be resized
		}
		count := restarts(until(ctx, s.t, p, "ready", stack.PodReady)) + 1
		resize(ctx, s.t, p, nil, &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("80Mi")}})
		until(ctx, s.t, p, "resized, restarted and ready", func(p *corev1.Pod) bool {
			if restarts(p) != count || !stack.PodReady(p) {
				return false
			}
			has := p.Status.ContainerStatuses[0].Resources
			return has != nil && has.Limits.Memory().String() == "80Mi"
		})
	}
}

// uidOnNode is the UID by which the node knows a pod: a mirror stands for one of another UID.
func uidOnNode(pod *corev1.Pod) types.UID {
	if uid := pod.Annotations["kubernetes.io/config.mirror"]; uid != "" {
		return types.UID(uid)
	}
	return pod.UID
}

// remove ends all pods, after which nothing of them is on the node.
func (s *swapping) remove(ctx context.Context) {
	s.t.Helper()
	for _, p := range s.pods {
		if uidOnNode(p) == p.UID {
			remove(ctx, s.t, p)
		} else {
			removeFile(s.t, filepath.Join(shared.ManifestDir(), strings.TrimSuffix(p.Name, "-"+shared.NodeName)+".yaml"))
			if err := shared.WaitPodGone(ctx, p.Namespace, p.Name); err != nil {
				s.t.Fatal(err)
			}
		}
		eventually(ctx, s.t, "nothing is left of "+p.Name, func() bool {
			_, err := os.Stat(filepath.Join(shared.RootDir(), "pods", string(uidOnNode(p))))
			return errors.Is(err, fs.ErrNotExist) && len(running(ctx, s.t, p.Name)) == 0
		})
	}
}

// add makes a pod and a static pod under the kubelet that runs.
func (s *swapping) add(ctx context.Context) {
	s.t.Helper()
	pod := swapped(podName(s.t))
	pod.Spec.NodeName = shared.NodeName
	s.pods = append(s.pods, ready(ctx, s.t, pod))
	static := swapped(podName(s.t))
	static.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	static.Spec.Volumes = slices.DeleteFunc(static.Spec.Volumes, func(v corev1.Volume) bool { return v.ConfigMap != nil })
	static.Spec.Volumes = append(static.Spec.Volumes, corev1.Volume{Name: "config", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
		Items: []corev1.DownwardAPIVolumeFile{{Path: "key", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"}}},
	}}})
	file := filepath.Join(shared.ManifestDir(), static.Name+".yaml")
	s.t.Cleanup(func() { _ = os.Remove(file) })
	text, err := yaml.Marshal(static)
	if err != nil {
		s.t.Fatal(err)
	}
	write(s.t, file, string(text))
	mirror, err := shared.WaitPodReady(ctx, static.Namespace, static.Name+"-"+shared.NodeName)
	if err != nil {
		s.t.Fatal(err)
	}
	s.pods = append(s.pods, mirror)
}

// swapped is a pod with an init container, volumes, probes and resources.
func swapped(name string) *corev1.Pod {
	app := corev1.Container{
		Name: "app", Image: stack.TestappImage, ImagePullPolicy: corev1.PullIfNotPresent,
		VolumeMounts: []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}, {Name: "config", MountPath: "/config"}, {Name: "scratch", MountPath: "/part", SubPath: "part"}},
		Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m")}, Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}},
	}
	app.ResizePolicy = []corev1.ContainerResizePolicy{
		{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.RestartContainer}, {ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer},
	}
	app.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}}
	first := shell("first", "date > /scratch/mark")
	first.VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceDefault},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(2)),
			InitContainers:                []corev1.Container{first},
			Containers:                    []corev1.Container{app, shell("quiet", "trap 'exit 0' TERM; while :; do sleep 1; done")},
			Volumes: []corev1.Volume{
				{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "key"}}}}},
			},
		},
	}
}

// TestUpstreamKubeletSwap: Kubernetes' kubelet and this one take each other's place on the same directories, and the pods
// that the one or the other started go on, with their containers, counts, volumes and logs.
func TestUpstreamKubeletSwap(t *testing.T) {
	ctx := onStack(t)
	if os.Getenv(stack.UpstreamEnv) == "" {
		t.Skip("make compare, a part of make verify, runs the tests against upstream's kubelet")
	}
	if os.Getenv("E2E_RUNTIME") == stack.Embedded {
		t.Skip("upstream's kubelet has no runtime in it: E2E_RUNTIME=containerd runs this test")
	}
	node(t)
	n, err := shared.WaitNodeReady(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := &swapping{t: t, agent: n.Status.NodeInfo.KubeletVersion}
	t.Cleanup(func() {
		if t.Failed() && kubelet != nil {
			t.Logf("kubelet's log:\n%s", kubelet.LogTail(100))
		}
	})
	s.add(ctx)
	s.crash(ctx)
	s.to(ctx, true)
	s.crash(ctx)
	s.add(ctx)
	s.to(ctx, false)
	s.crash(ctx)
	s.resize(ctx)
	s.to(ctx, true)
	s.to(ctx, false)
	s.remove(ctx)
}
