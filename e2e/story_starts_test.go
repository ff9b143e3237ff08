package e2e

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestExplainStarts: what keeps a container, or a pod's sandbox, from being started, although all that it is made of is there.
func TestExplainStarts(t *testing.T) {
	ctx, _ := node(t)
	memory := func(amount string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(amount)}
		}
	}
	explained(ctx, t, podName(t), map[string]storyCase{
		"memory": {"MemoryTooLow", []string{"512Ki", "resources.limits.memory"}, func(p *corev1.Pod) {
			memory("512Ki")(p)
			p.Spec.Containers = append(p.Spec.Containers, shell("other", "sleep 1000")) // so that the pod has no limit
		}},
		"memory-of-pod": {"MemoryTooLow", []string{"too low even to start it", "resources.limits.memory"}, memory("256Ki")},
		"seccomp": {"ProfileMissing", []string{"seccomp profile", "/seccomp/no-such.json", "on the node"}, first(func(c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: new("no-such.json")}}
		})},
		"mount": {"MountMismatch", []string{"/etc/passwd", "mountPath"}, func(p *corev1.Pod) {
			volumed(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, "")(p)
			p.Spec.Containers[0].VolumeMounts[0].MountPath = "/etc/passwd"
		}},
	})
}
