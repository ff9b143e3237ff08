package eviction

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/kubelet/settings"
)

// podOf reads a pod from words: name, priority, requests of memory and disk.
func podOf(name string, priority int32, memory, disk string) *corev1.Pod {
	requests := corev1.ResourceList{}
	if memory != "" {
		requests[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	if disk != "" {
		requests[corev1.ResourceEphemeralStorage] = resource.MustParse(disk)
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)},
		Spec: corev1.PodSpec{Priority: &priority, Containers: []corev1.Container{
			{Name: "app", Resources: corev1.ResourceRequirements{Requests: requests}},
		}},
	}
}

func namesOf(pods []*corev1.Pod) string {
	var out []string
	for _, pod := range pods {
		out = append(out, pod.Name)
	}
	return strings.Join(out, " ")
}

func TestRank(t *testing.T) {
	pods := []*corev1.Pod{
		podOf("within", 0, "1Gi", "1Gi"), podOf("over", 0, "10Mi", "10Mi"), podOf("none", 0, "", ""),
		podOf("important", 100, "", ""), podOf("unread", 100, "", ""),
	}
	const mi = 1 << 20
	files := func(rootfs, logs, volume int64) *podUsage {
		return &podUsage{
			containers: []containerUsage{{name: "app", rootfs: space{rootfs * mi, rootfs}, logs: space{logs * mi, logs}}},
			volumes:    map[string]space{"v": {volume * mi, volume}},
		}
	}
	used := usages{"within": files(500, 1, 0), "over": files(5, 10, 5), "none": files(0, 1, 40), "important": files(0, 0, 90)}
	for name, u := range map[types.UID][2]int64{"within": {500 * mi, 9}, "over": {20 * mi, 3}, "none": {5 * mi, 100}, "important": {900 * mi, 2}} {
		used[name].memory, used[name].processes = u[0], u[1]
	}
	for _, tt := range []struct {
		signal string
		l      layout
		want   string
	}{
		{signalMemory, layout{}, "unread over none important within"},
		{signalAllocatableMemory, layout{}, "unread over none important within"},
		{signalPIDs, layout{}, "none within over unread important"},
		{signalNodeFs, layout{}, "unread none over important within"},
		{signalNodeFsInodes, layout{}, "unread within none over important"},
		{signalNodeFs, layout{imageFs: true}, "unread none over important within"},
		{signalImageFs, layout{imageFs: true}, "unread none over within important"},
		{signalContainerFs, layout{imageFs: true}, "unread none over within important"},
		{signalImageFs, layout{imageFs: true, containerFs: true}, "unread none over within important"},
		{signalContainerFs, layout{imageFs: true, containerFs: true}, "unread none over important within"},
	} {
		before := namesOf(pods)
		if got := namesOf(rank(pods, used, tt.signal, tt.l)); got != tt.want {
			t.Errorf("%s %+v: %s, want %s", tt.signal, tt.l, got, tt.want)
		}
		if namesOf(pods) != before {
			t.Fatal("the argument is changed")
		}
	}
}

func TestOverLimit(t *testing.T) {
	limited := func(volume, first, second string) *corev1.Pod {
		pod := podOf("pod", 0, "", "")
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "other"})
		for i, text := range []string{first, second} {
			if text != "" {
				pod.Spec.Containers[i].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(text)}
			}
		}
		if volume != "" {
			pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: new(resource.MustParse(volume))}}}}
		}
		return pod
	}
	inits := func(policy *corev1.ContainerRestartPolicy) *corev1.Pod {
		pod := limited("", "1k", "9")
		pod.Spec.InitContainers, pod.Spec.Containers = pod.Spec.Containers[1:], pod.Spec.Containers[:1]
		pod.Spec.InitContainers[0].RestartPolicy = policy
		return pod
	}
	sidecar, init := inits(new(corev1.ContainerRestartPolicyAlways)), inits(nil)
	u := &podUsage{
		containers: []containerUsage{{name: "app", rootfs: space{bytes: 100}, logs: space{bytes: 50}}, {name: "other", rootfs: space{bytes: 10}}},
		volumes:    map[string]space{"v": {bytes: 30}}, host: space{bytes: 5},
	}
	for _, tt := range []struct {
		pod     *corev1.Pod
		l       layout
		message string
		limits  bool
	}{
		{limited("", "", ""), layout{}, "", false},
		{limited("30", "", ""), layout{}, "", true},
		{limited("29", "", ""), layout{}, `Usage of EmptyDir volume "v" exceeds the limit "29". `, true},
		{limited("0", "", ""), layout{}, "", false},
		{limited("", "150", "45"), layout{}, "", true},
		{limited("", "150", "44"), layout{}, "Pod ephemeral local storage usage exceeds the total limit of containers 194. ", true},
		{limited("", "149", "1k"), layout{}, `Container app exceeded its local ephemeral storage limit "149". `, true},
		{limited("", "149", "1k"), layout{imageFs: true}, "", true},
		{limited("", "49", "1k"), layout{imageFs: true}, `Container app exceeded its local ephemeral storage limit "49". `, true},
		{limited("", "", "84"), layout{imageFs: true}, "Pod ephemeral local storage usage exceeds the total limit of containers 84. ", true},
		{limited("", "100", "94"), layout{imageFs: true}, "Pod ephemeral local storage usage exceeds the total limit of containers 194. ", true},
		{sidecar, layout{}, `Container other exceeded its local ephemeral storage limit "9". `, true},
		{init, layout{}, "", true},
	} {
		message, signal := overLimit(tt.pod, u, tt.l)
		if message != tt.message || (signal == "") != (message == "") {
			t.Errorf("%q %s, want %q", message, signal, tt.message)
		}
		if isolated(tt.pod) != tt.limits {
			t.Errorf("has limits: %v, want %v", isolated(tt.pod), tt.limits)
		}
	}
}

func TestExplain(t *testing.T) {
	pod := podOf("pod", 0, "1Mi", "")
	pod.Spec.InitContainers = []corev1.Container{{Name: "side"}}
	u := &podUsage{memory: 7 << 20, containers: []containerUsage{
		{name: "app", memory: 3 << 20, rootfs: space{bytes: 4096}}, {name: "side", memory: 1024}, {name: "gone", memory: 5},
	}}
	o := observations{signalMemory: {available: 2048, capacity: 1 << 20}, signalNodeFsInodes: {available: 7, capacity: 1000}, signalNodeFs: {available: 1 << 20, capacity: 1 << 30}}
	const low = "The node was low on resource: "
	for _, tt := range []struct {
		u           *podUsage
		signal      string
		want        string
		annotations string
	}{
		{nil, signalMemory, low + "memory. Threshold quantity: 4Ki, available: 2Ki. ", "map[]"},
		{u, signalMemory, low + "memory. Threshold quantity: 4Ki, available: 2Ki. Container app was using 3Mi, request is 1Mi, has larger consumption of memory. " +
			"Container side was using 1Ki, request is 0, has larger consumption of memory. ", "map[offending_containers:app,side offending_containers_usage:3Mi,1Ki starved_resource:memory]"},
		{u, signalNodeFsInodes, low + "inodes. Threshold quantity: 4096, available: 7. ", "map[offending_containers: offending_containers_usage: starved_resource:inodes]"},
		{u, signalNodeFs, low + "ephemeral-storage. Threshold quantity: 4Ki, available: 1Mi. Container app was using 4Ki, request is 0, has larger consumption of ephemeral-storage. ",
			"map[offending_containers:app offending_containers_usage:4Ki starved_resource:ephemeral-storage]"},
	} {
		message, annotations := explain(pod, tt.u, hard(tt.signal, 4096), o)
		if message != tt.want || fmt.Sprint(annotations) != tt.annotations {
			t.Errorf("%s: %q %v\nwant %q %s", tt.signal, message, annotations, tt.want, tt.annotations)
		}
	}
	part := settings.EvictionThreshold{Signal: signalNodeFsInodes, Value: settings.Amount{Percent: 5}}
	if message, _ := explain(pod, nil, part, observations{signalNodeFsInodes: {available: 7, capacity: 6553600}}); message != low+"inodes. Threshold quantity: 320Ki, available: 7. " {
		t.Errorf("a part of all inodes: %q", message)
	}
	pod.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("5Mi")}}
	message, annotations := explain(pod, u, hard(signalMemory, 4096), o)
	if !strings.Contains(message, "Pod pod was using 7Mi, request is 5Mi, has larger consumption of memory. ") || annotations["offending_pod"] != "pod" {
		t.Errorf("a pod with resources of its own: %q %v", message, annotations)
	}
}

func TestReclaimable(t *testing.T) {
	for _, tt := range []struct {
		l    layout
		want string // signals and what can be reclaimed
	}{
		{layout{}, "nodefs:containers,images imagefs:containers,images containerfs:containers,images"},
		{layout{imageFs: true}, "nodefs: imagefs:containers,images containerfs:containers,images"},
		{layout{imageFs: true, containerFs: true}, "nodefs:containers imagefs:images containerfs:containers"},
	} {
		var got []string
		for _, signal := range []string{signalNodeFs, signalImageFs, signalContainerFs} {
			on := contentsOf(signal, tt.l)
			var what []string
			if on.containers {
				what = append(what, "containers")
			}
			if on.images {
				what = append(what, "images")
			}
			got = append(got, strings.TrimSuffix(signal, ".available")+":"+strings.Join(what, ","))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%+v: %s, want %s", tt.l, got, tt.want)
		}
	}
	for _, signal := range []string{signalMemory, signalPIDs} {
		if (&Manager{}).reclaim(t.Context(), signal, layout{}, nil) { // it would call what is nil
			t.Errorf("%s: something on disk is reclaimed", signal)
		}
	}
}
