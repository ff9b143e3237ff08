package config

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	podinfo "minikubelet/config/pod"
)

func pod(uid, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Name: name, Namespace: "ns", Annotations: map[string]string{podinfo.SourceAnnotation: podinfo.SourceAPI}}}
	for _, c := range change {
		c(p)
	}
	return p
}

func image(p *corev1.Pod)   { p.Spec.Containers = []corev1.Container{{Name: "c", Image: "other"}} }
func deleted(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: metav1.Now().Time} }
func running(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }
func mirror(p *corev1.Pod)  { p.Annotations[podinfo.MirrorAnnotation] = "hash" }
func label(p *corev1.Pod)   { p.Labels = map[string]string{"new": "label"} }
func seen(p *corev1.Pod)    { p.Annotations[podinfo.SeenAnnotation] = "later" }
func version(v string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.ResourceVersion = v }
}

// set is one source's pods.
type set struct {
	source string
	pods   []*corev1.Pod
}

func TestMerge(t *testing.T) {
	a := pod("1", "a")
	tests := []struct {
		name string
		sets []set
		want []string // what the last set changed: operation and UIDs
	}{
		{"first set", []set{{"api", []*corev1.Pod{a, pod("2", "b")}}}, []string{"ADD 1 2"}},
		{"empty set", []set{{"api", nil}}, []string{"ADD"}},
		{"empty set again", []set{{"api", nil}, {"api", nil}}, nil},
		{"the very same pod twice", []set{{"api", []*corev1.Pod{a, a}}}, []string{"ADD 1"}},
		{"the same again", []set{{"api", []*corev1.Pod{a}}, {"api", []*corev1.Pod{a}}}, nil},
		{"one gone", []set{{"api", []*corev1.Pod{a, pod("2", "b")}}, {"api", []*corev1.Pod{a}}}, []string{"REMOVE 2"}},
		{"all gone", []set{{"api", []*corev1.Pod{a}}, {"api", nil}}, []string{"REMOVE 1"}},
		{"spec changed", []set{{"api", []*corev1.Pod{a}}, {"api", []*corev1.Pod{pod("1", "a", image)}}}, []string{"UPDATE 1"}},
		{"label changed", []set{{"api", []*corev1.Pod{a}}, {"api", []*corev1.Pod{pod("1", "a", label)}}}, []string{"UPDATE 1"}},
		{"seen again", []set{{"api", []*corev1.Pod{a}}, {"api", []*corev1.Pod{pod("1", "a", seen)}}}, nil},
		{"same version", []set{{"api", []*corev1.Pod{pod("1", "a", version("7"))}}, {"api", []*corev1.Pod{pod("1", "a", version("7"), image)}}}, nil},
		{"status changed", []set{{"api", []*corev1.Pod{a}}, {"api", []*corev1.Pod{pod("1", "a", running)}}}, []string{"RECONCILE 1"}},
		{"being deleted", []set{{"api", []*corev1.Pod{a}}, {"api", []*corev1.Pod{pod("1", "a", deleted)}}}, []string{"DELETE 1"}},
		{"came being deleted", []set{{"api", []*corev1.Pod{pod("1", "a", deleted)}}}, []string{"ADD 1"}},
		{"made again under its name", []set{{"api", []*corev1.Pod{a}}, {"api", []*corev1.Pod{pod("3", "a")}}}, []string{"REMOVE 1", "ADD 3"}},
		{"twice in a set", []set{{"file", []*corev1.Pod{a, pod("2", "a")}}}, []string{"ADD 1"}},
		{"name taken by another source", []set{{"file", []*corev1.Pod{a}}, {"http", []*corev1.Pod{pod("2", "a"), pod("3", "c")}}}, []string{"ADD 3"}},
		{"UID taken by another source", []set{{"api", []*corev1.Pod{a}}, {"file", []*corev1.Pod{pod("1", "b"), pod("3", "c")}}}, []string{"ADD 3"}},
		{"name free again", []set{{"file", []*corev1.Pod{a}}, {"file", nil}, {"http", []*corev1.Pod{pod("2", "a")}}}, []string{"ADD 2"}},
		{"a mirror takes no name", []set{{"file", []*corev1.Pod{a}}, {"api", []*corev1.Pod{pod("9", "a", mirror)}}}, []string{"ADD 9"}},
		{"a mirror gives none away", []set{{"api", []*corev1.Pod{pod("9", "a", mirror)}}, {"file", []*corev1.Pod{a}}}, []string{"ADD 1"}},
		{"another name, the UID is in the manifest", []set{{"file", []*corev1.Pod{a}}, {"file", []*corev1.Pod{pod("1", "b")}}}, []string{"REMOVE 1", "ADD 1"}},
		{"another name, which another source's has", []set{{"file", []*corev1.Pod{a}}, {"http", []*corev1.Pod{pod("2", "b")}}, {"file", []*corev1.Pod{pod("1", "b")}}}, []string{"REMOVE 1"}},
		{"other sources stay", []set{{"file", []*corev1.Pod{a}}, {"api", []*corev1.Pod{pod("2", "b")}}, {"api", nil}}, []string{"REMOVE 2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMerger()
			var got []string
			for _, s := range tt.sets {
				got = nil
				for _, u := range m.merge(t.Context(), s.source, s.pods) {
					if u.Source != s.source {
						t.Errorf("the update is of source %q, want %q", u.Source, s.source)
					}
					line := u.Op.String()
					for _, p := range u.Pods {
						line += " " + string(p.UID)
					}
					got = append(got, line)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("changes are %q, want %q", got, tt.want)
			}
		})
	}
}
