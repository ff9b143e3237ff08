package volumes

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"minikubelet/e2e/metricstest"
)

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(registry)
	m.begin("u")
	for _, v := range []corev1.VolumeSource{
		{ConfigMap: &corev1.ConfigMapVolumeSource{}}, {HostPath: &corev1.HostPathVolumeSource{}}, {Image: &corev1.ImageVolumeSource{}}, {},
	} {
		m.mounted("u", &corev1.Volume{VolumeSource: v}, time.Now(), nil, true)
	}
	m.mounted("u", &corev1.Volume{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}}, time.Now(), errors.New("none"), false)
	metricstest.Want(t, registry,
		`storage_operation_duration_seconds_count{migrated="false",operation_name="volume_mount",status="success",volume_plugin="kubernetes.io/configmap"} 1`,
		`storage_operation_duration_seconds_count{migrated="false",operation_name="volume_mount",status="success",volume_plugin="kubernetes.io/host-path"} 1`,
		`storage_operation_duration_seconds_count{migrated="false",operation_name="volume_mount",status="fail-unknown",volume_plugin="kubernetes.io/secret"} 1`,
		`volume_operation_total_seconds_count{operation_name="volume_mount",plugin_name="kubernetes.io/configmap"} 1`,
		`volume_manager_total_volumes{plugin_name="kubernetes.io/configmap",state="actual_state_of_world"} 1`,
		`volume_manager_total_volumes{plugin_name="kubernetes.io/secret",state="desired_state_of_world"} 1`,
		`volume_manager_total_volumes{plugin_name="kubernetes.io/secret",state="actual_state_of_world"} 0`,
	)
	if n := strings.Count(metricstest.Scrape(registry), "storage_operation_duration_seconds_count{"); n != 3 {
		t.Errorf("%d kinds of volumes are counted, want 3", n)
	}
	m.forget("u")
	if text := metricstest.Scrape(registry); strings.Contains(text, "volume_manager_total_volumes{") {
		t.Errorf("the pod is gone, its volumes are still counted:\n%s", text)
	}
}
