package syncloop

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	podinfo "minikubelet/config/pod"
)

// ofClass is a pod of a class that asks for milli-CPUs and mebibytes.
func ofClass(name string, class corev1.PodQOSClass, cpu, memory int64, change ...func(*corev1.Pod)) *corev1.Pod {
	return testPod(types.UID(name), func(pod *corev1.Pod) {
		pod.Status.QOSClass = class
		pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
			corev1.ResourceCPU: *resource.NewMilliQuantity(cpu, resource.DecimalSI), corev1.ResourceMemory: *resource.NewQuantity(memory<<20, resource.BinarySI),
		}
		for _, c := range change {
			c(pod)
		}
	})
}

func withPriority(p int32) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.Priority = &p }
}

func fromFile(pod *corev1.Pod) { pod.Annotations[podinfo.SourceAnnotation] = podinfo.SourceFile }

func TestVictims(t *testing.T) {
	const best, burst, sure = corev1.PodQOSBestEffort, corev1.PodQOSBurstable, corev1.PodQOSGuaranteed
	critical := ofClass("critical", burst, 1, 1, withPriority(podinfo.SystemCriticalPriority))
	short := func(name corev1.ResourceName, amount int64) shortage {
		return shortage{name, amount, 70, 70} // nothing is left, others take all
	}
	cpu := func(milli int64) []shortage { return []shortage{short(corev1.ResourceCPU, milli)} }
	both := func(milli, mebi int64) []shortage { return append(cpu(milli), short(corev1.ResourceMemory, mebi<<20)) }
	for _, tt := range []struct {
		name  string
		by    *corev1.Pod
		pods  []*corev1.Pod
		lacks []shortage
		want  string // UIDs, or an error
	}{
		{"nothing is lacking", critical, []*corev1.Pod{ofClass("a", burst, 100, 0)}, nil, ""},
		{"nobody is there", critical, nil, cpu(100), "no set of running pods found to reclaim resources: [(res: cpu, q: 100), ]"},
		{"all together are not enough", critical, []*corev1.Pod{ofClass("a", burst, 60, 0)}, cpu(100), "no set of running pods found to reclaim resources: [(res: cpu, q: 40), ]"},
		{"critical pods stay", critical, []*corev1.Pod{ofClass("a", burst, 100, 0, withPriority(podinfo.SystemCriticalPriority)), ofClass("b", burst, 100, 0, fromFile)}, cpu(100), "no set of running pods found to reclaim resources: [(res: cpu, q: 100), ]"},
		{"more critical ones do not stay", ofClass("node", burst, 1, 1, withPriority(podinfo.SystemCriticalPriority+1000)), []*corev1.Pod{ofClass("a", burst, 100, 0, withPriority(podinfo.SystemCriticalPriority))}, cpu(100), "a"},
		{"a static pod is critical", ofClass("static", burst, 1, 1, fromFile), []*corev1.Pod{ofClass("a", burst, 100, 0)}, cpu(100), "a"},
		{"the smallest that is enough", critical, []*corev1.Pod{ofClass("a", burst, 300, 0), ofClass("b", burst, 110, 0), ofClass("c", burst, 200, 0)}, cpu(100), "b"},
		{"little memory counts before little CPU", critical, []*corev1.Pod{ofClass("a", burst, 110, 9), ofClass("b", burst, 200, 5)}, cpu(100), "b"},
		{"as few as possible", critical, []*corev1.Pod{ofClass("a", burst, 60, 0), ofClass("b", burst, 60, 0), ofClass("c", burst, 110, 0)}, cpu(100), "c"},
		{"several", critical, []*corev1.Pod{ofClass("a", burst, 60, 0), ofClass("b", burst, 50, 0), ofClass("c", burst, 10, 0)}, cpu(100), "a b"},
		{"both resources", critical, []*corev1.Pod{ofClass("a", burst, 100, 0), ofClass("b", burst, 0, 100), ofClass("c", burst, 100, 100)}, both(100, 100), "c"},
		{"burstable before guaranteed", critical, []*corev1.Pod{ofClass("a", sure, 100, 0), ofClass("b", burst, 500, 0)}, cpu(100), "b"},
		{"guaranteed for what the others do not free", critical, []*corev1.Pod{ofClass("a", sure, 100, 0), ofClass("b", burst, 50, 0), ofClass("c", sure, 60, 0)}, cpu(100), "b c"},
		{"guaranteed and burstable", critical, []*corev1.Pod{ofClass("a", sure, 60, 0), ofClass("b", burst, 50, 0)}, cpu(100), "b a"},
		{"best effort frees room for pods", critical, []*corev1.Pod{ofClass("a", burst, 10, 0), ofClass("b", best, 0, 0)}, []shortage{{corev1.ResourcePods, 1, 2, 2}}, "b"},
		{"best effort frees no CPU", critical, []*corev1.Pod{ofClass("a", burst, 100, 0), ofClass("b", best, 0, 0)}, cpu(100), "a"},
		{"what is free is not to be freed", critical, []*corev1.Pod{ofClass("a", burst, 30, 0), ofClass("b", burst, 100, 0)}, []shortage{{corev1.ResourceCPU, 100, 930, 1000}}, "a"},
	} {
		var names []string
		chosen, err := victims(tt.by, tt.pods, tt.lacks)
		for _, pod := range chosen {
			names = append(names, string(pod.UID))
		}
		got := strings.Join(names, " ")
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
