package timeline

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// TestExport: what is exported is what Perfetto reads: each step is complete, has its place in a pod's process and in a thread of its
// side, and lies within the one that it overlaps in there; and as JSON with all that is known.
func TestExport(t *testing.T) {
	n := newNode(t, nil, nil)
	base := time.Now().Add(-time.Minute)
	n.start(t.Context(), newPod("web", "Ready"), base, "")
	n.start(t.Context(), newPod("bad", "Pending"), base.Add(20*time.Millisecond), "no such image")
	n.start(t.Context(), newPod("web", "Ready"), base.Add(70*time.Millisecond), "") // beside the first
	_, open := n.provider.Tracer(tracer).Start(t.Context(), "collect", trace.WithTimestamp(base))
	defer open.End()
	get := func(path string, into any) {
		t.Helper()
		answer := httptest.NewRecorder()
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost"+path, http.NoBody)
		request.Header.Set("Authorization", "Bearer "+n.token)
		n.handler().ServeHTTP(answer, request)
		if err := json.Unmarshal(answer.Body.Bytes(), into); err != nil || answer.Code != http.StatusOK {
			t.Fatalf("%s: %d, %v", path, answer.Code, err)
		}
	}
	var steps []map[string]any
	get("/steps.json", &steps)
	if len(steps) != 3*14+1 {
		t.Errorf("%d steps are exported", len(steps))
	}
	for _, pod := range []string{"", "?pod=uid-web", "?pod="} {
		var ordered []struct{ Start time.Time }
		get("/steps.json"+pod, &ordered)
		if len(ordered) == 0 || !slices.IsSortedFunc(ordered, func(a, b struct{ Start time.Time }) int { return a.Start.Compare(b.Start) }) {
			t.Errorf("/steps.json%s is not by the steps' beginning", pod)
		}
	}
	for _, key := range []string{"name", "id", "parent", "trace", "pod", "podName", "start", "end", "why", "function", "file", "line", "before", "after"} {
		found := false
		for _, s := range steps {
			_, has := s[key]
			found = found || has && s["name"] == "createPodSandbox"
		}
		if !found {
			t.Errorf("no step has %q", key)
		}
	}

	var trace struct {
		TraceEvents []struct {
			Name, Ph string
			Pid, Tid *int
			Ts, Dur  *int64
			Args     map[string]string
		}
	}
	get("/perfetto.json", &trace)
	processes, threads, took := map[int]string{}, map[[2]int]string{}, map[string]int64{}
	type span struct{ from, to int64 }
	last, complete := map[[2]int][]span{}, 0
	for _, e := range trace.TraceEvents {
		if e.Name == "" || e.Pid == nil || e.Tid == nil {
			t.Fatalf("an event without name or place: %+v", e)
		}
		at := [2]int{*e.Pid, *e.Tid}
		switch {
		case e.Ph == "M" && e.Name == "process_name":
			processes[*e.Pid] = e.Args["name"]
		case e.Ph == "M" && e.Name == "thread_name":
			threads[at] = e.Args["name"]
		case e.Ph == "X" && e.Ts != nil && e.Dur != nil && *e.Dur >= 0:
			complete++
			took[processes[*e.Pid]+" "+threads[at]+" "+e.Name] = *e.Dur
			now := span{*e.Ts, *e.Ts + *e.Dur}
			for _, before := range last[at] {
				if before.from > now.from || before.to > now.from && before.to < now.to {
					t.Errorf("%s overlaps another of its thread and is no part of it", e.Name)
				}
			}
			last[at] = append(last[at], now)
		default:
			t.Errorf("not to be read: %+v", e)
		}
	}
	if complete != len(steps) {
		t.Errorf("%d steps of %d", complete, len(steps))
	}
	for what, want := range map[string]int64{"default/web kubelet createPodSandbox": 81000, "default/web runtime RunPodSandbox 1": 8000, "default/bad kubelet syncPod": 150000, "default/web runtime runtime.v1.RuntimeService/RunPodSandbox": 74000} {
		if got, has := took[what]; !has || got < want-1 || got > want+1 {
			t.Errorf("%s took %d µs, want %d: %v", what, got, want, took)
		}
	}
	if got := took["node kubelet collect"]; got < 59_000_000 {
		t.Errorf("what goes on has taken %d µs", got)
	}
}

// TestHostile: a pod that fills its steps with text keeps its room and others theirs, and what is cut stays text.
func TestHostile(t *testing.T) {
	r := NewRecorder()
	tr := newTracer(r)
	_, calm := begin(t.Context(), tr, "syncPod", "calm", attribute.String("step.why", "the pod is new"))
	calm.End()
	evil := "<script>alert(1)</script>" + strings.Repeat("日本", 2000) + "\xff\xfe"
	for i := range 400 {
		ctx, s := begin(t.Context(), tr, "startContainer", "evil", attribute.String("k8s.container.name", fmt.Sprint(i, evil)), attribute.String("step.why", evil),
			attribute.String("step.before", evil), attribute.String("step.after", evil), attribute.String("code.function.name", evil))
		for k := range 5 {
			s.SetAttributes(attribute.String(fmt.Sprint(evil, k), evil))
			s.AddEvent(evil)
		}
		_, inner := tr.Start(ctx, "inner")
		inner.End()
		s.End()
	}
	if got := r.Steps("calm"); len(got) != 1 || got[0].Why != "the pod is new" {
		t.Errorf("the other pod has %+v", got)
	}
	steps := r.Steps("evil")
	bytes := 0
	for _, s := range steps {
		text, err := json.Marshal(s)
		if err != nil || !utf8.Valid(text) || strings.Contains(string(text), "<script>") {
			t.Fatalf("not to be shown: %v, %.100s", err, text)
		}
		for _, part := range []string{s.Why, s.Before, s.After, s.Container, s.Function} {
			if !utf8.ValidString(part) || len(part) > maxText+4 {
				t.Fatalf("%d bytes: %q", len(part), part[len(part)-10:])
			}
		}
		bytes += len(text)
	}
	if len(steps) == 0 || bytes > 4*maxBytes {
		t.Errorf("%d steps with %d bytes", len(steps), bytes)
	}
}
