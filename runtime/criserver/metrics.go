package criserver

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/stats"
)

var (
	containerLabels = []string{"id", "name", "image"}
	networkLabels   = []string{"id", "name", "image", "interface"}
)

// metric is one that the kubelet shows at /metrics/cadvisor, by cAdvisor's name.
type metric struct {
	name, help string
	kind       runtimeapi.MetricType
	of         func(stats.Usage) uint64
}

var containerMetrics = []metric{
	{"container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", runtimeapi.MetricType_COUNTER, func(u stats.Usage) uint64 { return u.CPUNanoseconds / 1e9 }},
	{"container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", runtimeapi.MetricType_COUNTER, func(u stats.Usage) uint64 { return u.ThrottledPeriods }},
	{"container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed.", runtimeapi.MetricType_GAUGE, func(u stats.Usage) uint64 { return u.MemoryUsage }},
	{"container_memory_working_set_bytes", "Current working set in bytes.", runtimeapi.MetricType_GAUGE, func(u stats.Usage) uint64 { return u.WorkingSet }},
	{"container_memory_rss", "Size of RSS in bytes.", runtimeapi.MetricType_GAUGE, func(u stats.Usage) uint64 { return u.RSS }},
	{"container_memory_swap", "Container swap usage in bytes.", runtimeapi.MetricType_GAUGE, func(u stats.Usage) uint64 { return u.Swap }},
	{"container_oom_events_total", "Count of out of memory events observed for the container.", runtimeapi.MetricType_COUNTER, func(u stats.Usage) uint64 { return u.OOMKills }},
	{"container_processes", "Number of processes running inside the container.", runtimeapi.MetricType_GAUGE, func(u stats.Usage) uint64 { return u.Processes }},
	{"container_spec_memory_limit_bytes", "Memory limit for the container.", runtimeapi.MetricType_GAUGE, func(u stats.Usage) uint64 { return u.MemoryLimit }},
}

var networkMetrics = []struct {
	name, help string
	of         func(stats.Interface) uint64
}{
	{"container_network_receive_bytes_total", "Cumulative count of bytes received.", func(i stats.Interface) uint64 { return i.RxBytes }},
	{"container_network_receive_packets_total", "Cumulative count of packets received.", func(i stats.Interface) uint64 { return i.RxPackets }},
	{"container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving.", func(i stats.Interface) uint64 { return i.RxDrops }},
	{"container_network_receive_errors_total", "Cumulative count of errors encountered while receiving.", func(i stats.Interface) uint64 { return i.RxErrors }},
	{"container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", func(i stats.Interface) uint64 { return i.TxBytes }},
	{"container_network_transmit_packets_total", "Cumulative count of packets transmitted.", func(i stats.Interface) uint64 { return i.TxPackets }},
	{"container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting.", func(i stats.Interface) uint64 { return i.TxDrops }},
	{"container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting.", func(i stats.Interface) uint64 { return i.TxErrors }},
}

// ListMetricDescriptors names the metrics and what their labels mean.
func (s *Server) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	response := &runtimeapi.ListMetricDescriptorsResponse{}
	for _, m := range containerMetrics {
		response.Descriptors = append(response.Descriptors, &runtimeapi.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: containerLabels})
	}
	for _, m := range networkMetrics {
		response.Descriptors = append(response.Descriptors, &runtimeapi.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: networkLabels})
	}
	return response, nil
}

// ListPodSandboxMetrics measures all pods that run.
func (s *Server) ListPodSandboxMetrics(context.Context, *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: s.podMetrics()}, nil
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics for answers of any length.
func (s *Server) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, stream runtimeapi.RuntimeService_StreamPodSandboxMetricsServer) error {
	return inPieces(s.podMetrics(), func(part []*runtimeapi.PodSandboxMetrics) error {
		return stream.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: part})
	})
}

func (s *Server) podMetrics() []*runtimeapi.PodSandboxMetrics {
	var pods []*runtimeapi.PodSandboxMetrics
	for _, sb := range s.sandboxes.All() {
		if !sb.ready() {
			continue
		}
		pod := &runtimeapi.PodSandboxMetrics{PodSandboxId: sb.ID}
		now := time.Now().UnixNano()
		add := func(to []*runtimeapi.Metric, usage stats.Usage, labels ...string) []*runtimeapi.Metric {
			for _, m := range containerMetrics {
				to = append(to, &runtimeapi.Metric{Name: m.name, Timestamp: now, MetricType: m.kind, LabelValues: labels, Value: value(m.of(usage))})
			}
			return to
		}
		pod.Metrics = add(nil, s.podUsage(sb), sb.ID, "POD", "")
		if sb.netns() != "" {
			interfaces, _ := stats.Interfaces(sb.netns()) // it may be stopped just now
			for _, i := range interfaces {
				for _, m := range networkMetrics {
					pod.Metrics = append(pod.Metrics, &runtimeapi.Metric{Name: m.name, Timestamp: now, MetricType: runtimeapi.MetricType_COUNTER,
						LabelValues: []string{sb.ID, "POD", "", i.Name}, Value: value(m.of(i))})
				}
			}
		}
		for _, c := range s.containersOf(sb.ID) {
			if usage, err := s.cgroups().Read(oci.CgroupDir(c.Config.CgroupsPath)); err == nil {
				pod.ContainerMetrics = append(pod.ContainerMetrics, &runtimeapi.ContainerMetrics{
					ContainerId: c.ID, Metrics: add(nil, usage, c.ID, c.Config.Config.GetMetadata().GetName(), c.Config.ImageRef),
				})
			}
		}
		pods = append(pods, pod)
	}
	return pods
}
