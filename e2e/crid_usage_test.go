package e2e

import (
	"slices"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// layers are the bytes of the writable layers of all containers, by the containers' names.
func (p *criPod) layers(t *testing.T) map[string]uint64 {
	t.Helper()
	r, err := p.ListContainerStats(limited(t), &runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{PodSandboxId: p.id}})
	if err != nil {
		t.Fatal(err)
	}
	bytes := map[string]uint64{}
	for _, c := range r.GetStats() {
		bytes[c.GetAttributes().GetMetadata().GetName()] = c.GetWritableLayer().GetUsedBytes().GetValue()
	}
	return bytes
}

// TestCridLongPathCounts: what a container writes counts below a path that is longer than the kernel takes.
func TestCridLongPathCounts(t *testing.T) {
	p := crid(t).run(t, crid(t).sandboxConfig(t))
	id := p.start(t, script("app", forever))
	p.sh(t, id, `name=$(printf %0200d 0); deep=$(for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do printf /$name; done)
		mkdir -p /one$deep /two$deep && head -c 3000000 /dev/zero >/two$deep/file && mv /two /one$deep/two`)
	eventually(limited(t), t, "the file counts", func() bool { return p.layers(t)["app"] >= 3_000_000 })
}

// TestCridPodFilesCount: a pod's hostname and resolv.conf count once, for a container that runs.
func TestCridPodFilesCount(t *testing.T) {
	p := crid(t).run(t, crid(t).sandboxConfig(t))
	first := p.start(t, script("first", forever))
	p.sh(t, first, "head -c 2000000 /dev/zero >/etc/hostname; head -c 2000000 /dev/zero >/etc/resolv.conf")
	eventually(limited(t), t, "they count for the container", func() bool { return p.layers(t)["first"] >= 4_000_000 })
	second := p.start(t, script("second", forever))
	counted := func(name string) func() bool {
		return func() bool {
			bytes := p.layers(t)
			return bytes[name] >= 4_000_000 && bytes["first"]+bytes["second"] < 6_000_000
		}
	}
	eventually(limited(t), t, "they count once", counted("second"))
	p.stop(t, second, 5)
	eventually(limited(t), t, "they count for the one that runs", counted("first"))
}

// TestCridMetricLabels: metrics name container, pod and namespace, as cAdvisor's do.
func TestCridMetricLabels(t *testing.T) {
	c := crid(t)
	p := c.run(t, c.sandboxConfig(t))
	id := p.start(t, script("app", forever))
	named, err := c.ListMetricDescriptors(limited(t), &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range named.GetDescriptors() {
		keys[d.GetName()] = d.GetLabelKeys()
	}
	r, err := c.ListPodSandboxMetrics(limited(t), &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	check := func(metrics []*runtimeapi.Metric, name, container string) {
		t.Helper()
		if len(metrics) == 0 {
			t.Errorf("no metrics of %q", container)
		}
		for _, m := range metrics {
			for label, want := range map[string]string{"name": name, "container": container, "pod": p.config.Metadata.Name, "namespace": "contract"} {
				i := slices.Index(keys[m.GetName()], label)
				if i < 0 || len(m.GetLabelValues()) != len(keys[m.GetName()]) || m.GetLabelValues()[i] != want {
					t.Fatalf("%s: labels %q are %q, want %s=%q", m.GetName(), keys[m.GetName()], m.GetLabelValues(), label, want)
				}
			}
		}
	}
	for _, pod := range r.GetPodMetrics() {
		if pod.GetPodSandboxId() == p.id && len(pod.GetContainerMetrics()) == 1 {
			check(pod.GetMetrics(), p.id, "")
			check(pod.GetContainerMetrics()[0].GetMetrics(), id, "app")
			return
		}
	}
	t.Error("no metrics of the pod and its container")
}
