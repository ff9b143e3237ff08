package stats

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// TestNoVolumes: where volumes are not to be measured no driver is asked.
func TestNoVolumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, off := range []bool{false, true} {
			p := New(Options{NoVolumes: off, Volume: func(*corev1.Pod, *corev1.Volume) (Volume, bool) {
				return Volume{Dir: "/volume", Usage: func(context.Context) (*statsapi.FsStats, error) { return &statsapi.FsStats{}, nil }}, true
			}})
			pod := &corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "data"}}}}
			if got := p.volumes(t.Context(), pod); (len(got) == 0) != off {
				t.Errorf("off %t: %+v", off, got)
			}
		}
	})
}

// TestForeignVolumes: a driver is asked once in a period, one that hangs or fails leaves the figures as they were, and the
// answer does not wait for it; what is gone is forgotten.
func TestForeignVolumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		used, questions := uint64(1), atomic.Int32{}
		var hang chan struct{}
		var failure error
		dir := "/volume"
		p := New(Options{VolumeAge: time.Minute, Volume: func(*corev1.Pod, *corev1.Volume) (Volume, bool) {
			return Volume{Dir: dir, Claim: "c", Usage: func(context.Context) (*statsapi.FsStats, error) {
				questions.Add(1)
				if hang != nil {
					<-hang
				}
				return &statsapi.FsStats{UsedBytes: new(used)}, failure
			}}, true
		}})
		pod, v := &corev1.Pod{}, &corev1.Volume{Name: "data"}
		pod.Namespace = "ns"
		ask := func(want uint64, wantQuestions int32) {
			t.Helper()
			began := time.Now()
			got := p.foreign(t.Context(), pod, v)
			if got == nil || *got.UsedBytes != want || *got.PVCRef != (statsapi.PVCReference{Name: "c", Namespace: "ns"}) || questions.Load() != wantQuestions {
				t.Errorf("%+v after %d questions, want %d after %d", got, questions.Load(), want, wantQuestions)
			}
			if took := time.Since(began); took > diskPatience {
				t.Errorf("the answer took %v", took)
			}
		}
		ask(1, 1)
		used = 2
		ask(1, 1)
		time.Sleep(time.Minute)
		ask(2, 2)
		hang, used = make(chan struct{}), 3
		time.Sleep(time.Minute)
		ask(2, 3)
		time.Sleep(time.Minute)
		ask(2, 3) // not a second question beside the first
		close(hang)
		synctest.Wait()
		hang = nil
		ask(3, 4) // what came late is shown until the next answer
		failure = errors.New("the driver is ill")
		time.Sleep(time.Minute)
		ask(3, 5)

		dir = "/another"
		failure = nil
		time.Sleep(time.Hour)
		ask(3, 6)
		if len(p.answers.volumes) != 1 {
			t.Errorf("%d volumes are remembered", len(p.answers.volumes))
		}
	})
}
