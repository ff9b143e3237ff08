package cri_test

import (
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
)

// TestClockSetBack: the later attempt is the newer one even when the clock was set back before it was made.
func TestClockSetBack(t *testing.T) {
	now := time.Now()
	observed := (&cri.PodStatus{UID: "u"}).
		WithContainer(&cri.ContainerStatus{ID: "first", Name: "a", Attempt: 0, CreatedAt: now}, now).
		WithContainer(&cri.ContainerStatus{ID: "second", Name: "a", Attempt: 1, CreatedAt: now.Add(-time.Hour)}, now).
		WithSandbox(&runtimeapi.PodSandboxStatus{Id: "old", Metadata: &runtimeapi.PodSandboxMetadata{}, CreatedAt: now.UnixNano()}, now).
		WithSandbox(&runtimeapi.PodSandboxStatus{Id: "new", Metadata: &runtimeapi.PodSandboxMetadata{Attempt: 1}, CreatedAt: now.Add(-time.Hour).UnixNano()}, now)
	if got := observed.Container("a").ID; got != "second" {
		t.Errorf("the newest container is the %s", got)
	}
	if got := observed.ReadySandbox().Id; got != "new" {
		t.Errorf("the newest sandbox is the %s one", got)
	}
}
