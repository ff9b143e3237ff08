package pleg

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/crifake"
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

func TestChanged(t *testing.T) {
	withIP := func(p *cri.PodStatus, ip string) *cri.PodStatus { p.IPs = []string{ip}; return p }
	for name, test := range map[string]struct {
		old, now *cri.PodStatus
		want     bool
	}{
		"nothing":               {nil, nil, false},
		"empty":                 {nil, pod(), false},
		"equal":                 {pod("c", runs, "s", isReady), pod("c", runs, "s", isReady), false},
		"created":               {nil, pod("c", created), false},
		"sandbox started":       {nil, pod("s", isReady), false},
		"started":               {pod("c", created), pod("c", runs), true},
		"new and running":       {nil, pod("c", runs), true},
		"died":                  {pod("c", runs), pod("c", dead), true},
		"dead when first seen":  {nil, pod("c", dead), true},
		"removed after its end": {pod("c", dead), pod(), false},
		"removed while running": {pod("c", runs), nil, true},
		"unknown":               {pod("c", runs), pod("c", unsure), true},
		"sandbox ended":         {pod("s", isReady), pod("s", isNotReady), true},
		"sandbox removed":       {pod("s", isNotReady), pod(), false},
		"ready sandbox removed": {pod("s", isReady), pod(), true},
		"restarted":             {pod("a", runs), pod("b", runs, "a", dead), true},
		"another IP":            {withIP(pod("s", isReady), "1.1.1.1"), withIP(pod("s", isReady), "1.1.1.2"), true},
	} {
		if got := changed(test.old, test.now); got != test.want {
			t.Errorf("%s: changed = %v, want %v", name, got, test.want)
		}
	}
}

func TestTakeEvent(t *testing.T) {
	start := time.Now().Add(-time.Minute)
	early, late := start.Add(time.Second), start.Add(2*time.Second)
	for name, test := range map[string]struct {
		old, payload *cri.PodStatus
		deleted      string
		want         *cri.PodStatus // nil: nothing new
	}{
		"first":                        {nil, pod("c", created, "s", isReady).At(late), "", pod("c", created, "s", isReady)},
		"progress":                     {pod("c", created, "s", isReady).At(early), pod("c", runs, "s", isReady).At(late), "", pod("c", runs, "s", isReady)},
		"older than the reading":       {pod("c", dead).At(late), pod("c", runs, "d", runs, "s", isReady).At(early), "", pod("c", dead)},
		"older, but further":           {pod("c", runs, "s", isReady).At(late), pod("c", dead, "s", isNotReady).At(early), "", pod("c", dead, "s", isNotReady)},
		"never back":                   {pod("c", dead, "s", isNotReady).At(early), pod("c", runs, "s", isReady).At(late), "", pod("c", dead, "s", isNotReady)},
		"what it lacks stays":          {pod("c", runs, "s", isReady, "old", isNotReady).At(early), pod("s", isReady).At(late), "", pod("c", runs, "s", isReady, "old", isNotReady)},
		"deleted container":            {pod("c", dead, "s", isReady).At(early), pod("s", isReady).At(late), "c", pod("s", isReady)},
		"deleted sandbox":              {pod("s", isNotReady).At(early), pod("s", isNotReady).At(late), "s", pod()},
		"last event of a forgotten":    {nil, pod("s", isNotReady).At(late), "s", nil},
		"unknown is not the end":       {pod("c", unsure).At(early), pod("c", runs).At(late), "", pod("c", runs)},
		"unknown does not undo an end": {pod("c", dead).At(early), pod("c", unsure).At(late), "", pod("c", dead)},
	} {
		cache := NewCache(nil)
		if test.old != nil {
			cache.Put(test.old)
		}
		cache.gone(test.deleted)
		cache.take(test.payload, fromEvent)
		got, ok := cache.Get("p")
		if ok != (test.want != nil) || ok && !same(got, test.want) {
			t.Errorf("%s: %v, want %v", name, states(got), states(test.want))
		}
		if ok && !got.ObservedAt.Equal(late) {
			t.Errorf("%s: observed at %v", name, got.ObservedAt)
		}
	}
}

func TestCache(t *testing.T) {
	c, start := NewCache(nil), time.Now()
	old, newer := pod("c", runs).At(start), pod("c", dead).At(start.Add(time.Second))
	for _, reading := range []*cri.PodStatus{newer, old, newer} {
		c.Put(reading)
		if got, ok := c.Get("p"); !ok || !same(got, newer) {
			t.Errorf("Get = %v, %v", states(got), ok)
		}
	}
	none := func(_, now *cri.PodStatus) {
		if now == nil {
			t.Error("a list that began earlier removed a newer reading")
		}
	}
	c.retain(nil, start, none)
	if uids := c.UIDs(); len(uids) != 1 {
		t.Errorf("UIDs = %v", uids)
	}
	if of, now := c.gone("d"); of != nil || now != nil {
		t.Errorf("of what is not known something is gone: %v", of)
	}
	c.Delete("p")
	if _, ok := c.Get("p"); ok {
		t.Error("still there after Delete")
	}
}

// TestAddressStays: a pod whose sandbox has ended keeps the addresses it had, until another sandbox has some.
func TestAddressStays(t *testing.T) {
	c, start := NewCache(nil), time.Now()
	reading := func(second int, ip string, parts ...any) *cri.PodStatus {
		p := pod(parts...)
		for attempt, box := range p.Sandboxes {
			box.Metadata = &runtimeapi.PodSandboxMetadata{Attempt: uint32(attempt)}
			box.Network = &runtimeapi.PodSandboxNetworkStatus{Ip: ip}
		}
		return p.At(start.Add(time.Duration(second) * time.Second))
	}
	for i, step := range []struct {
		reading *cri.PodStatus
		want    string
	}{
		{reading(0, "10.0.0.5", "box", isReady), "10.0.0.5"},
		{reading(1, "", "box", isNotReady), "10.0.0.5"},
		{reading(2, "", "box", isNotReady, "c", dead), "10.0.0.5"},
		{reading(3, "10.0.0.6", "box", isNotReady, "next", isReady), "10.0.0.6"},
	} {
		c.Put(step.reading)
		if got, _ := c.Get("p"); !slices.Equal(got.At(start).IPs, []string{step.want}) {
			t.Errorf("reading %d: %v, want %s", i, got.At(start).IPs, step.want)
		}
	}
}

// Current asks the runtime only when nothing that is known is newer than the last action.
func TestCurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := crifake.New()
		cache := NewCache(fake.Direct())
		web := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "p", Namespace: "default", Name: "web"}}
		ask := func(what string, calls int) *cri.PodStatus {
			t.Helper()
			fake.ResetCalls()
			got, err := cache.Current(t.Context(), web)
			if err != nil || got.Name != "web" {
				t.Fatalf("%s: %+v, %v", what, got, err)
			}
			if n := fake.Count("ListContainers"); n != calls {
				t.Errorf("%s: the runtime was asked %d times, want %d", what, n, calls)
			}
			return got
		}
		ask("nothing is known", 1)
		cache.listedAt(time.Now())
		cache.Delete("p")
		ask("the runtime does not have the pod", 0)
		cache.Acted("p")
		time.Sleep(time.Second)
		ask("acted", 1)
		ask("read since", 0)
		reading := pod("c", runs).At(time.Now())
		reading.Name = "web"
		time.Sleep(time.Second)
		cache.Acted("p")
		cache.Put(reading)
		ask("a reading from before the action", 1)
		cache.Acted("p")
		later := pod("d", runs).At(time.Now().Add(time.Second))
		later.Name = "web"
		cache.Put(later)
		if got := ask("a reading from after the action", 0); !same(got, later) {
			t.Errorf("got %+v", got)
		}
		gone := 0
		cache.retain(nil, time.Now().Add(time.Minute), func(old, now *cri.PodStatus) {
			if old != nil && now == nil {
				gone++
			}
		})
		if gone != 1 || len(cache.UIDs()) != 0 {
			t.Errorf("a list without the pod left %v", cache.UIDs())
		}
		ask("a list without the pod", 0)
		cache.Acted("p")
		fake.FailNext("ListContainers", errors.New("away"))
		if _, err := cache.Current(t.Context(), web); err == nil {
			t.Error("no error although the runtime is away")
		}
		ask("after a failure", 1)
	})
}

// What is merged of one container changes no other, sets no state back, and does not count as a reading after an action.
func TestMergeIntoCache(t *testing.T) {
	cache := NewCache(nil)
	start := time.Now()
	of := func(at time.Duration, parts ...any) *cri.PodStatus {
		p := pod(parts...).At(start.Add(at))
		p.Namespace, p.Name = "default", "web"
		return p
	}
	want := func(what string, at time.Duration, parts ...any) {
		t.Helper()
		got, ok := cache.Get("p")
		if !ok || !same(got, pod(parts...)) || !got.ObservedAt.Equal(start.Add(at)) || got.Name != "web" {
			t.Errorf("%s: %+v", what, got)
		}
	}
	cache.Merge(of(1, "s", isReady))
	want("the first of a pod", 1, "s", isReady)
	cache.Merge(of(2, "c", runs))
	want("a container", 2, "s", isReady, "c", runs)
	cache.Put(of(1, "s", isReady))
	want("a reading that began before the container was made", 2, "s", isReady, "c", runs)
	cache.Put(of(5, "s", isReady, "c", dead))
	cache.Merge(of(4, "c", runs, "d", runs))
	want("a part that is older than the reading", 5, "s", isReady, "c", dead, "d", runs)
	cache.Acted("p")
	cache.Merge(of(time.Hour, "d", dead))
	want("after an action", time.Hour, "s", isReady, "c", dead, "d", dead)
	if _, current := cache.IfCurrent("p"); current {
		t.Error("a part counts as a reading that began after the action")
	}
}

// A reading counts if it began after the last action, not otherwise.
func TestIfCurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := NewCache(nil)
		want := func(what string, reading *cri.PodStatus, current bool) {
			t.Helper()
			if got, ok := cache.IfCurrent("p"); (got == nil) != (reading == nil) || got != nil && !same(got, reading) || ok != current {
				t.Errorf("%s: %+v, %v", what, got, ok)
			}
		}
		want("nothing is known", nil, true)
		before := pod("c", runs).At(time.Now())
		cache.Put(before)
		want("no action", before, true)
		time.Sleep(time.Second)
		cache.Acted("p")
		want("acted since", before, false)
		cache.Put(before.At(time.Now().Add(-time.Millisecond)))
		if _, current := cache.IfCurrent("p"); current {
			t.Error("a reading counts that began before the action")
		}
		cache.Put(before.At(time.Now()))
		if _, current := cache.IfCurrent("p"); current {
			t.Error("a reading counts that began at the same instant, which may have been before")
		}
		time.Sleep(time.Millisecond)
		after := pod("c", dead).At(time.Now())
		cache.Put(after)
		want("read since", after, true)
		time.Sleep(time.Second)
		cache.Acted("p")
		cache.Delete("p")
		want("forgotten", nil, true)
	})
}
