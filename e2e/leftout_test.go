package e2e

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/kubelet/settings"
	"minikubelet/podworkers/volumes"
	"minikubelet/runtime"
	"minikubelet/syncloop"
)

// TestLeftOut: what is left out by decision is refused with words that say what and why, and docs/compatibility.md has it.
func TestLeftOut(t *testing.T) {
	documentation := read(t, "../docs/compatibility.md")
	config := func(lines string) func() string {
		return func() string {
			file := filepath.Join(t.TempDir(), "kubelet.yaml")
			write(t, file, dropInHead+lines+"\n")
			_, err := settings.Load([]string{"--config=" + file}, io.Discard)
			return message(err)
		}
	}
	flag := func(args ...string) func() string {
		return func() string {
			_, err := settings.Load(args, io.Discard)
			return message(err)
		}
	}
	pod := func(check func(*corev1.Pod) error, change func(*corev1.PodSpec)) func() string {
		return func() string {
			p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}
			change(&p.Spec)
			return message(check(p))
		}
	}
	volume := func(source corev1.VolumeSource) func() string {
		return pod(volumes.Unsupported, func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{Name: "data", VolumeSource: source}}
			s.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		})
	}
	admission := func(change func(*corev1.PodSpec)) func() string {
		return pod(func(p *corev1.Pod) error {
			if r := syncloop.Admit(syncloop.AdmissionInput{Pod: p, Node: &corev1.Node{}, GOOS: "linux", MaxPods: 1}); r != nil {
				return refusal(*r)
			}
			return nil
		}, change)
	}
	const byDecision = "left out by decision"
	const managers, claims, drivers, windows = "static CPU and memory managers, topology policies", "dynamic resource allocation", "in-tree volume drivers", "Windows"
	for _, tt := range []struct {
		part    string // of a row of the documentation
		refused func() string
		says    []string
	}{
		{managers, config("cpuManagerPolicy: static"), []string{"kubelet.yaml", "cpuManagerPolicy: static", byDecision}},
		{managers, config("cpuManagerPolicyOptions: {full-pcpus-only: \"true\"}"), []string{"cpuManagerPolicyOptions", byDecision}},
		{managers, config("memoryManagerPolicy: Static"), []string{"memoryManagerPolicy: Static", byDecision}},
		{managers, config("topologyManagerPolicy: restricted"), []string{"topologyManagerPolicy: restricted", byDecision}},
		{managers, config("topologyManagerPolicy: single-numa-node"), []string{"topologyManagerPolicy: single-numa-node", byDecision}},
		{managers, flag("--cpu-manager-policy=static"), []string{"cpuManagerPolicy: static", byDecision}},
		{managers, flag("--memory-manager-policy=Static"), []string{"memoryManagerPolicy: Static", byDecision}},
		{managers, flag("--topology-manager-policy=restricted"), []string{"topologyManagerPolicy: restricted", byDecision}},
		{claims, pod(runtime.Unsupported, func(s *corev1.PodSpec) { s.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu"}} }), []string{"spec.resourceClaims", claims, byDecision}},
		{claims, pod(runtime.Unsupported, func(s *corev1.PodSpec) { s.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: "gpu"}} }), []string{"container app: resources.claims", claims, byDecision}},
		{drivers, volume(corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}), []string{"data", "nfs", byDecision}},
		{drivers, volume(corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{}}), []string{"data", "iscsi", byDecision}},
		{drivers, volume(corev1.VolumeSource{FlexVolume: &corev1.FlexVolumeSource{}}), []string{"data", "flexVolume", byDecision}},
		{drivers, volume(corev1.VolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{}}), []string{"data", "awsElasticBlockStore", byDecision}},
		{windows, admission(func(s *corev1.PodSpec) { s.OS = &corev1.PodOS{Name: corev1.Windows} }), []string{"PodOSNotSupported", "OS field doesn't match node OS"}},
		{windows, admission(func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{corev1.LabelOSStable: "windows"} }), []string{"NodeAffinity", "node affinity/selector"}},
	} {
		got := tt.refused()
		for _, part := range tt.says {
			if !strings.Contains(got, part) {
				t.Errorf("%s: refused with %q, want %q in it", tt.part, got, part)
			}
		}
		row := "| " + tt.part
		_, after, found := strings.Cut(documentation, row)
		if line, _, _ := strings.Cut(after, "\n"); !found || !strings.Contains(line, byDecision+": ") {
			t.Errorf("docs/compatibility.md has no row %q with the reason", row)
		}
	}
}

type refusal syncloop.Rejection

func (r refusal) Error() string { return r.Reason + ": " + r.Message }

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
