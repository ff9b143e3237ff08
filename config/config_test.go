package config

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	podinfo "minikubelet/config/pod"
)

// podsOneByOne is an apiserver that has no pod at first, and tells of n, one after the other.
func podsOneByOne(n int) cache.ListerWatcher {
	events := watch.NewFakeWithChanSize(n, false)
	for i := range n {
		events.Add(pod(fmt.Sprint(i), fmt.Sprint("p", i), version(fmt.Sprint(i+2))))
	}
	return apiserver(events)
}

// noWatchList makes the reflector list and then watch.
type noWatchList struct{}

func (noWatchList) IsWatchListSemanticsUnSupported() bool { return true }

// TestFull: a reader that is behind, however far, gets its answers, and in the end all pods in their order.
func TestFull(t *testing.T) {
	const pods = 200
	c, err := New(Options{NodeName: "n", Pods: podsOneByOne(pods)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan struct{})
	go func() { c.Run(ctx); close(ended) }()
	for len(c.updates) < cap(c.updates) {
		if ctx.Err() != nil {
			t.Fatalf("only %d updates are sent", len(c.updates))
		}
		time.Sleep(time.Millisecond)
	}
	answered := make(chan bool)
	go func() {
		answered <- c.AllReady() || c.SourceReady(podinfo.SourceAPI) || c.SourceReady(podinfo.SourceFile)
	}()
	select {
	case ready := <-answered:
		if ready {
			t.Error("a source is ready before anything of it was handled")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the reader waits for a source that waits for the reader")
	}
	var got, want []string
	for len(got) < pods {
		select {
		case u := <-c.Updates():
			for _, p := range u.Pods {
				got = append(got, p.Name)
			}
			c.Handled(u)
		case <-ctx.Done():
			t.Fatalf("only %d pods came", len(got))
		}
	}
	for i := range pods {
		want = append(want, fmt.Sprint("p", i))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the pods came as %v", got)
	}
	if !c.AllReady() || !c.SourceReady(podinfo.SourceAPI) {
		t.Error("the source is not ready after it was handled")
	}
	cancel()
	<-ended
}

// TestSourceReady: a source is ready when what it sent first was handled, be it nothing; an unknown one when all others are.
func TestSourceReady(t *testing.T) {
	c, err := New(Options{NodeName: "n", ManifestPath: t.TempDir(), ManifestURL: "http://127.0.0.1/x"})
	if err != nil {
		t.Fatal(err)
	}
	check := func(want ...bool) {
		t.Helper()
		got := []bool{c.SourceReady(podinfo.SourceFile), c.SourceReady(podinfo.SourceHTTP), c.SourceReady(podinfo.SourceAPI), c.AllReady()}
		if !slices.Equal(got, want) {
			t.Errorf("ready (file, http, api, all): %v, want %v", got, want)
		}
	}
	check(false, false, false, false)
	c.set(t.Context(), podinfo.SourceFile, nil)
	check(false, false, false, false)
	u := <-c.Updates()
	if u.Op != ADD || len(u.Pods) != 0 {
		t.Errorf("update %+v", u)
	}
	c.Handled(u)
	check(true, false, false, false)
	c.set(t.Context(), podinfo.SourceHTTP, []*corev1.Pod{pod("1", "a")})
	check(true, false, false, false)
	if u = <-c.Updates(); u.Op != ADD || len(u.Pods) != 1 {
		t.Errorf("update %+v", u)
	}
	c.Handled(u)
	check(true, true, true, true)
}

// TestNameFree: a pod that was passed over because of its name comes when the name is free, also from a source that has
// nothing new to say.
func TestNameFree(t *testing.T) {
	m := newMerger()
	step := func(source string, pods []*corev1.Pod, want ...string) {
		t.Helper()
		var got []string
		for _, u := range m.merge(t.Context(), source, pods) {
			line := u.Op.String() + " " + u.Source
			for _, p := range u.Pods {
				line += " " + string(p.UID)
			}
			got = append(got, line)
		}
		if !slices.Equal(got, want) {
			t.Errorf("changes are %q, want %q", got, want)
		}
	}
	step(podinfo.SourceFile, []*corev1.Pod{pod("1", "a")}, "ADD file 1")
	step(podinfo.SourceHTTP, []*corev1.Pod{pod("2", "a"), pod("3", "c")}, "ADD http 3")
	step(podinfo.SourceFile, []*corev1.Pod{pod("4", "a")}, "REMOVE file 1", "ADD file 4") // its own next version comes first
	step(podinfo.SourceFile, nil, "REMOVE file 4", "ADD http 2")
	step(podinfo.SourceFile, []*corev1.Pod{pod("4", "a"), pod("5", "a"), pod("6", "b")}, "ADD file 6")
	step(podinfo.SourceHTTP, []*corev1.Pod{pod("3", "c")}, "REMOVE http 2", "ADD file 4")
	step(podinfo.SourceFile, []*corev1.Pod{pod("5", "a"), pod("6", "b")}, "REMOVE file 4", "ADD file 5")
	step(podinfo.SourceFile, []*corev1.Pod{pod("4", "a"), pod("5", "a")}, "REMOVE file 6") // the first pod of a name keeps it
}
