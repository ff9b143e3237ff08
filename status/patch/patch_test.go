package patch_test

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"minikubelet/status/patch"
)

// apply is what the apiserver does with a patch.
func apply[T any](t *testing.T, to *T, body []byte) *T {
	t.Helper()
	original, err := json.Marshal(to)
	if err != nil {
		t.Fatal(err)
	}
	var none T
	patched, err := strategicpatch.StrategicMergePatch(original, body, none)
	if err != nil {
		t.Fatalf("apply %s: %v", body, err)
	}
	got := new(T)
	if err := json.Unmarshal(patched, got); err != nil {
		t.Fatal(err)
	}
	return got
}

// encode is an object as it goes over the wire, where times have whole seconds.
func encode(t *testing.T, object any) string {
	t.Helper()
	body, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// check has a patch made and applied, and returns it.
func check[T any](t *testing.T, before, after *T) string {
	t.Helper()
	body, err := patch.Diff(before, after)
	if err != nil {
		t.Fatal(err)
	}
	same := encode(t, before) == encode(t, after)
	if (body == nil) != same {
		t.Fatalf("patch %q of objects that are the same: %v", body, same)
	}
	if same {
		return ""
	}
	if got := apply(t, before, body); encode(t, got) != encode(t, after) {
		t.Fatalf("before %s\nafter  %s\npatch  %s\ngives  %s", encode(t, before), encode(t, after), body, encode(t, got))
	}
	return string(body)
}

func condition(kind corev1.PodConditionType, status corev1.ConditionStatus, reason string) corev1.PodCondition {
	return corev1.PodCondition{Type: kind, Status: status, Reason: reason}
}

var (
	ready  = condition(corev1.PodReady, corev1.ConditionTrue, "")
	broken = condition(corev1.PodReady, corev1.ConditionFalse, "ContainersNotReady")
	theirs = condition("example.com/gate", corev1.ConditionTrue, "Theirs")
)

func TestPodStatus(t *testing.T) {
	second := metav1.NewTime(time.Unix(1700000000, 0))
	for _, tt := range []struct {
		name          string
		before, after corev1.PodStatus
		want          string
	}{
		{name: "nothing"},
		{
			name:   "parts of a second are not written",
			before: corev1.PodStatus{StartTime: &second},
			after:  corev1.PodStatus{StartTime: &metav1.Time{Time: second.Add(time.Millisecond)}},
		},
		{
			name: "a scalar comes, changes and goes", before: corev1.PodStatus{Phase: corev1.PodPending, Reason: "R"},
			after: corev1.PodStatus{Phase: corev1.PodRunning, Message: "m"},
			want:  `{"message":"m","phase":"Running","reason":null}`,
		},
		{
			name: "a condition changes", before: corev1.PodStatus{Conditions: []corev1.PodCondition{theirs, broken}},
			after: corev1.PodStatus{Conditions: []corev1.PodCondition{theirs, ready}},
			want: `{"$setElementOrder/conditions":[{"type":"example.com/gate"},{"type":"Ready"}],` +
				`"conditions":[{"reason":null,"status":"True","type":"Ready"}]}`,
		},
		{
			name: "a condition goes", before: corev1.PodStatus{Conditions: []corev1.PodCondition{theirs, ready}},
			after: corev1.PodStatus{Conditions: []corev1.PodCondition{ready}},
			want: `{"$setElementOrder/conditions":[{"type":"Ready"}],` +
				`"conditions":[{"$patch":"delete","type":"example.com/gate"}]}`,
		},
		{
			name: "conditions change places", before: corev1.PodStatus{Conditions: []corev1.PodCondition{theirs, ready}},
			after: corev1.PodStatus{Conditions: []corev1.PodCondition{ready, theirs}},
			want:  `{"$setElementOrder/conditions":[{"type":"Ready"},{"type":"example.com/gate"}]}`,
		},
		{
			name: "all addresses go", before: corev1.PodStatus{PodIP: "1.2.3.4", PodIPs: []corev1.PodIP{{IP: "1.2.3.4"}, {IP: "::1"}}},
			want: `{"podIP":null,"podIPs":null}`,
		},
		{
			name:   "an address goes and another comes",
			before: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "1.2.3.4"}, {IP: "::1"}}},
			after:  corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "::2"}, {IP: "::1"}}},
			want: `{"$setElementOrder/podIPs":[{"ip":"::2"},{"ip":"::1"}],` +
				`"podIPs":[{"ip":"::2"},{"$patch":"delete","ip":"1.2.3.4"}]}`,
		},
		{
			name:   "containers are replaced",
			before: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "a", ImageID: "i"}, {Name: "b"}}},
			after:  corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "a"}}},
			want:   `{"containerStatuses":[{"image":"","imageID":"","lastState":{},"name":"a","ready":false,"restartCount":0,"state":{}}]}`,
		},
		{
			name:   "resources are merged",
			before: corev1.PodStatus{AllocatedResources: corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")}},
			after:  corev1.PodStatus{AllocatedResources: corev1.ResourceList{"cpu": resource.MustParse("2"), "example.com/x": resource.MustParse("1")}},
			want:   `{"allocatedResources":{"cpu":"2","example.com/x":"1","memory":null}}`,
		},
		{
			name:   "an element keeps nothing that is not mentioned",
			before: corev1.PodStatus{ResourceClaimStatuses: []corev1.PodResourceClaimStatus{{Name: "c", ResourceClaimName: new("x")}}},
			after:  corev1.PodStatus{ResourceClaimStatuses: []corev1.PodResourceClaimStatus{{Name: "c"}}},
			want: `{"$setElementOrder/resourceClaimStatuses":[{"name":"c"}],` +
				`"resourceClaimStatuses":[{"$retainKeys":["name"],"name":"c","resourceClaimName":null}]}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := check(t, &tt.before, &tt.after); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestOthersStay: what somebody else wrote after the kubelet last looked survives its patch.
func TestOthersStay(t *testing.T) {
	before := corev1.PodStatus{Conditions: []corev1.PodCondition{broken}}
	after := corev1.PodStatus{Conditions: []corev1.PodCondition{ready}}
	body, err := patch.Diff(&before, &after)
	if err != nil {
		t.Fatal(err)
	}
	meanwhile := corev1.PodStatus{NominatedNodeName: "n", Conditions: []corev1.PodCondition{broken, theirs}}
	got := apply(t, &meanwhile, body)
	if !slices.Contains(got.Conditions, ready) || !slices.Contains(got.Conditions, theirs) || len(got.Conditions) != 2 || got.NominatedNodeName != "n" {
		t.Errorf("got %+v", got)
	}
}

// TestNode: labels are merged, and large numbers stay what they are.
func TestNode(t *testing.T) {
	labelled := func(labels map[string]string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: labels}}
		n.Status.Images = []corev1.ContainerImage{{Names: []string{"i"}, SizeBytes: 1<<62 + 1}}
		return n
	}
	got := check(t, labelled(map[string]string{"a": "1", "b": "1"}), labelled(map[string]string{"a": "2", "c": "1"}))
	if want := `{"metadata":{"labels":{"a":"2","b":null,"c":"1"}}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// FuzzPodStatus: whatever status follows whatever other, the apiserver comes to have it.
func FuzzPodStatus(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := random{rand.New(rand.NewPCG(seed, 0))} //nolint:gosec // not for secrets
		check(t, r.podStatus(), r.podStatus())
		check(t, r.node(), r.node())
	})
}

// random makes objects of few words, so that two have much in common.
type random struct{ *rand.Rand }

func (r random) word() string { return []string{"", "a", "b", "c", "d"}[r.IntN(5)] }

// list has up to six elements whose keys differ, unless they need not.
func list[T any](r random, repeats bool, element func(key string) T) []T {
	var all []T
	keys := []string{"k1", "k2", "k3", "k4", "k5", "k6"}
	r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, key := range keys[:r.IntN(len(keys)+1)] {
		all = append(all, element(key))
		if repeats && r.IntN(8) == 0 {
			all = append(all, element(key))
		}
	}
	return all
}

func (r random) time() metav1.Time {
	if r.IntN(2) == 0 {
		return metav1.Time{}
	}
	return metav1.Unix(1700000000+r.Int64N(3), r.Int64N(1e9))
}

func (r random) resources() corev1.ResourceList {
	all := corev1.ResourceList{}
	for range r.IntN(4) {
		all[corev1.ResourceName(r.word())] = *resource.NewMilliQuantity(r.Int64N(3000), resource.DecimalSI)
	}
	return all
}

func (r random) podStatus() *corev1.PodStatus {
	s := &corev1.PodStatus{
		ObservedGeneration: r.Int64N(3) << 61, Phase: corev1.PodPhase(r.word()), Message: r.word(), Reason: r.word(), HostIP: r.word(),
		HostIPs:            list(r, false, func(k string) corev1.HostIP { return corev1.HostIP{IP: k} }),
		PodIPs:             list(r, false, func(k string) corev1.PodIP { return corev1.PodIP{IP: k} }),
		AllocatedResources: r.resources(),
		Conditions: list(r, false, func(k string) corev1.PodCondition {
			return corev1.PodCondition{Type: corev1.PodConditionType(k), Status: "True", Reason: r.word(), Message: r.word(), LastProbeTime: r.time(), LastTransitionTime: r.time()}
		}),
		ContainerStatuses: list(r, true, func(k string) corev1.ContainerStatus {
			return corev1.ContainerStatus{Name: k, RestartCount: r.Int32N(3), AllocatedResources: r.resources(), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: r.time()}}}
		}),
		ResourceClaimStatuses: list(r, false, func(k string) corev1.PodResourceClaimStatus {
			return corev1.PodResourceClaimStatus{Name: k, ResourceClaimName: []*string{nil, new(r.word())}[r.IntN(2)]}
		}),
	}
	if start := r.time(); !start.IsZero() {
		s.StartTime = &start
	}
	if r.IntN(2) == 0 {
		s.Resources = &corev1.ResourceRequirements{Limits: r.resources(), Requests: r.resources()}
	}
	return s
}

func (r random) node() *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", CreationTimestamp: r.time(), Labels: map[string]string{r.word(): r.word(), r.word(): r.word()}},
		Spec:       corev1.NodeSpec{ProviderID: r.word()},
	}
	n.Status = corev1.NodeStatus{
		Capacity: r.resources(), Allocatable: r.resources(),
		Conditions: list(r, false, func(k string) corev1.NodeCondition {
			return corev1.NodeCondition{Type: corev1.NodeConditionType(k), Status: "True", LastHeartbeatTime: r.time(), Reason: r.word()}
		}),
		Addresses: list(r, false, func(k string) corev1.NodeAddress {
			return corev1.NodeAddress{Type: corev1.NodeAddressType(k), Address: r.word()}
		}),
		Images: list(r, false, func(k string) corev1.ContainerImage {
			return corev1.ContainerImage{Names: []string{k, r.word()}, SizeBytes: r.Int64()}
		}),
		VolumesInUse: list(r, true, func(k string) corev1.UniqueVolumeName { return corev1.UniqueVolumeName(k) }),
	}
	n.Status.NodeInfo.KubeletVersion = r.word()
	return n
}
