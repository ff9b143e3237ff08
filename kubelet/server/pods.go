package server

import (
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// getPods answers with the pods that should run here.
//
// Upstream: pkg/kubelet/server/server.go getPods
func (s *Server) getPods(w http.ResponseWriter, _ *http.Request) error {
	return writePods(w, s.options.Pods())
}

// getRunningPods answers with the pods that the runtime has something running of, as far as it knows them.
func (s *Server) getRunningPods(w http.ResponseWriter, r *http.Request) error {
	observed, err := cri.ListPods(r.Context(), s.options.CRI)
	if err != nil {
		return err
	}
	var pods []*corev1.Pod
	for _, pod := range observed {
		if !pod.Gone() {
			pods = append(pods, runningPod(pod))
		}
	}
	return writePods(w, pods)
}

// runningPod is what the runtime knows of a pod, in the form of one.
func runningPod(observed *cri.PodStatus) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: observed.UID, Name: observed.Name, Namespace: observed.Namespace}}
	for _, c := range observed.Containers {
		if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			continue
		}
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c.Name, Image: c.Image})
	}
	return pod
}

func writePods(w http.ResponseWriter, pods []*corev1.Pod) error {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []corev1.Pod{}}
	for _, pod := range pods {
		list.Items = append(list.Items, *pod)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return writeJSON(w, list)
}

// pod returns the pod of that name, and of that UID if one is given. A mirror pod's UID counts as its static pod's.
func (s *Server) pod(r *http.Request) (*corev1.Pod, error) {
	namespace, name, uid := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid")
	pods := s.options.Pods()
	i := slices.IndexFunc(pods, func(p *corev1.Pod) bool { return p.Namespace == namespace && p.Name == name })
	if i < 0 {
		return nil, notFound("pod %q does not exist", name)
	}
	// The apiserver knows a static pod by the UID of its mirror.
	if uid != "" && uid != string(pods[i].UID) && !podinfo.IsStatic(pods[i]) {
		return nil, notFound("pod %q with UID %q does not exist", name, uid)
	}
	return pods[i], nil
}
