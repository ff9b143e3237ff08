package pleg

import (
	"slices"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
)

const (
	created    = runtimeapi.ContainerState_CONTAINER_CREATED
	runs       = runtimeapi.ContainerState_CONTAINER_RUNNING
	dead       = runtimeapi.ContainerState_CONTAINER_EXITED
	unsure     = runtimeapi.ContainerState_CONTAINER_UNKNOWN
	isReady    = runtimeapi.PodSandboxState_SANDBOX_READY
	isNotReady = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
)

func pod(parts ...any) *cri.PodStatus {
	out := &cri.PodStatus{UID: "p"}
	for i := 0; i < len(parts); i += 2 {
		switch state := parts[i+1].(type) {
		case runtimeapi.ContainerState:
			out.Containers = append(out.Containers, &cri.ContainerStatus{ID: parts[i].(string), State: state})
		case runtimeapi.PodSandboxState:
			out.Sandboxes = append(out.Sandboxes, &runtimeapi.PodSandboxStatus{Id: parts[i].(string), State: state})
		}
	}
	return out
}

func TestDiff(t *testing.T) {
	event := func(kind EventType, id string) Event { return Event{"p", kind, id} }
	withIP := func(p *cri.PodStatus, ip string) *cri.PodStatus { p.IPs = []string{ip}; return p }
	for name, test := range map[string]struct {
		old, now *cri.PodStatus
		want     []Event
	}{
		"nothing":                      {nil, nil, nil},
		"empty":                        {nil, pod(), nil},
		"equal":                        {pod("c", runs, "s", isReady), pod("c", runs, "s", isReady), nil},
		"created":                      {nil, pod("c", created), nil},
		"sandbox started":              {nil, pod("s", isReady), nil},
		"started":                      {pod("c", created), pod("c", runs), []Event{event(ContainerStarted, "c")}},
		"new and running":              {nil, pod("c", runs), []Event{event(ContainerStarted, "c")}},
		"died":                         {pod("c", runs), pod("c", dead), []Event{event(ContainerDied, "c")}},
		"dead when first seen":         {nil, pod("c", dead), []Event{event(ContainerDied, "c")}},
		"removed after its end":        {pod("c", dead), pod(), []Event{event(ContainerRemoved, "c")}},
		"removed while running":        {pod("c", runs), nil, []Event{event(ContainerDied, "c"), event(ContainerRemoved, "c")}},
		"unknown":                      {pod("c", runs), pod("c", unsure), []Event{event(ContainerChanged, "c")}},
		"sandbox ended":                {pod("s", isReady), pod("s", isNotReady), []Event{event(ContainerDied, "s")}},
		"sandbox removed":              {pod("s", isNotReady), pod(), []Event{event(ContainerRemoved, "s")}},
		"restarted: death comes first": {pod("a", runs), pod("b", runs, "a", dead), []Event{event(ContainerDied, "a"), event(ContainerStarted, "b")}},
		"another IP":                   {withIP(pod("s", isReady), "1.1.1.1"), withIP(pod("s", isReady), "1.1.1.2"), []Event{{UID: "p", Type: PodSync}}},
	} {
		if got := Diff(test.old, test.now); !slices.Equal(got, test.want) {
			t.Errorf("%s: Diff = %v, want %v", name, got, test.want)
		}
	}
}

func TestMerge(t *testing.T) {
	start := time.Now()
	early, late := start.Add(time.Second), start.Add(2*time.Second)
	for name, test := range map[string]struct {
		old, payload *cri.PodStatus
		deleted      string
		want         *cri.PodStatus // nil: nothing new
	}{
		"first":                        {nil, pod("c", created, "s", isReady).At(late), "", pod("c", created, "s", isReady)},
		"progress":                     {pod("c", created, "s", isReady).At(early), pod("c", runs, "s", isReady).At(late), "", pod("c", runs, "s", isReady)},
		"older than the reading":       {pod("c", dead).At(late), pod("c", runs, "d", runs, "s", isReady).At(early), "", nil},
		"older, but further":           {pod("c", runs, "s", isReady).At(late), pod("c", dead, "s", isNotReady).At(early), "", pod("c", dead, "s", isNotReady)},
		"never back":                   {pod("c", dead, "s", isNotReady).At(early), pod("c", runs, "s", isReady).At(late), "", pod("c", dead, "s", isNotReady)},
		"what it lacks stays":          {pod("c", runs, "s", isReady, "old", isNotReady).At(early), pod("s", isReady).At(late), "", pod("c", runs, "s", isReady, "old", isNotReady)},
		"deleted container":            {pod("c", dead, "s", isReady).At(early), pod("s", isReady).At(late), "c", pod("s", isReady)},
		"deleted sandbox":              {pod("s", isNotReady).At(early), pod("s", isNotReady).At(late), "s", pod()},
		"last event of a forgotten":    {nil, pod("s", isNotReady).At(late), "s", nil},
		"unknown is not the end":       {pod("c", unsure).At(early), pod("c", runs).At(late), "", pod("c", runs)},
		"unknown does not undo an end": {pod("c", dead).At(early), pod("c", unsure).At(late), "", pod("c", dead)},
	} {
		got := merge(test.old, test.payload, func(id string) bool { return id == test.deleted })
		if (got == nil) != (test.want == nil) || got != nil && !same(got, test.want) {
			t.Errorf("%s: merge = %v, want %v", name, states(got), states(test.want))
		}
		if got != nil && !got.ObservedAt.Equal(late) {
			t.Errorf("%s: observed at %v", name, got.ObservedAt)
		}
	}
}

func TestCache(t *testing.T) {
	c, start := NewCache(), time.Now()
	old, newer := pod("c", runs).At(start), pod("c", dead).At(start.Add(time.Second))
	if !c.Put(newer) || c.Put(old) || !c.Put(newer) {
		t.Error("an older reading replaced a newer one, or an equal one was refused")
	}
	if got, ok := c.Get("p"); !ok || got != newer {
		t.Errorf("Get = %v, %v", got, ok)
	}
	if c.owner("c") != "p" || c.owner("d") != "" {
		t.Error("owner")
	}
	if c.gone(&cri.PodStatus{UID: "p", ObservedAt: start}) != nil {
		t.Error("a list that began earlier removed a newer reading")
	}
	if !slices.Equal(c.UIDs(), c.UIDs()) || len(c.UIDs()) != 1 {
		t.Errorf("UIDs = %v", c.UIDs())
	}
	c.Delete("p")
	if _, ok := c.Get("p"); ok {
		t.Error("still there after Delete")
	}
}
