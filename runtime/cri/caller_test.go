package cri

import (
	"math"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestLimit(t *testing.T) {
	c := newCaller(time.Minute, nil)
	for _, test := range []struct {
		request any
		want    time.Duration
	}{
		{&runtimeapi.VersionRequest{}, time.Minute},
		{&runtimeapi.RunPodSandboxRequest{}, 2 * time.Minute},
		{&runtimeapi.StopPodSandboxRequest{}, 2 * time.Minute},
		{&runtimeapi.StopContainerRequest{Timeout: 30}, time.Minute + 30*time.Second},
		{&runtimeapi.StopContainerRequest{Timeout: -1}, time.Minute},
		{&runtimeapi.ExecSyncRequest{Timeout: 1}, time.Minute + time.Second},
		{&runtimeapi.ExecSyncRequest{}, 0},
		{&runtimeapi.PullImageRequest{}, 0},
	} {
		if got := c.limit(test.request); got != test.want {
			t.Errorf("limit(%T) = %v, want %v", test.request, got, test.want)
		}
	}
	for seconds, want := range map[int64]time.Duration{1: time.Second, -1: -time.Second, 1e10: 9223372036 * time.Second, math.MinInt64: -9223372036 * time.Second} {
		if got := Seconds(seconds); got != want {
			t.Errorf("%d s are %v", seconds, got)
		}
	}
	if got := c.limit(&runtimeapi.StopContainerRequest{Timeout: math.MaxInt64}); got < time.Hour {
		t.Errorf("limit of the longest grace period = %v", got)
	}
}

func TestOperation(t *testing.T) {
	for method, want := range map[string]string{
		"/runtime.v1.RuntimeService/RunPodSandbox":            "run_podsandbox",
		"/runtime.v1.RuntimeService/ListPodSandboxStats":      "list_podsandbox_stats",
		"/runtime.v1.RuntimeService/UpdateContainerResources": "update_container",
		"/runtime.v1.RuntimeService/GetContainerEvents":       "get_container_events",
		"/runtime.v1.ImageService/ImageFsInfo":                "image_fs_info",
		"/runtime.v1.RuntimeService/Version":                  "version",
	} {
		if got := operation(method); got != want {
			t.Errorf("operation(%s) = %s, want %s", method, got, want)
		}
	}
}
