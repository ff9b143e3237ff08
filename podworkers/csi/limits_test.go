package csi

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// askedEach has the driver asked each second how many volumes the node takes.
func askedEach(s *storagev1.CSIDriverSpec) { s.NodeAllocatableUpdatePeriodSeconds = new(int64(1)) }

// limit is what the CSINode says of the volumes that the node takes of the driver, 0 for nothing.
func (w *world) limit() int32 {
	w.t.Helper()
	node, err := w.client.StorageV1().CSINodes().Get(w.t.Context(), "node", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	if e := find(node, driverName); e != nil && e.Allocatable != nil {
		return *e.Allocatable.Count
	}
	return 0
}

func (w *world) within(limit time.Duration, what string, is func() bool) {
	w.t.Helper()
	for until := time.Now().Add(limit); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			w.t.Fatalf("not after %s: %s", limit, what)
		}
	}
}

// scheduled tells whether the driver will be asked again.
func (w *world) scheduled() bool {
	w.Manager.mu.Lock()
	defer w.Manager.mu.Unlock()
	return w.timers[driverName] != nil
}

// TestLimitIsAskedAgain: the CSINode follows what the driver says of the volumes that the node takes, for as long as the driver's object
// wants that and the driver is registered.
func TestLimitIsAskedAgain(t *testing.T) {
	w := newWorld(t, object(nil))
	if w.scheduled() {
		t.Error("the driver is asked again although its object says nothing of that")
	}
	update := func(change func(*storagev1.CSIDriverSpec)) {
		if _, err := w.client.StorageV1().CSIDrivers().Update(t.Context(), object(change), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	update(askedEach)
	w.within(10*time.Second, "the driver is to be asked again", w.scheduled)
	for _, limit := range []int64{5, 2} {
		w.driver.SetMaxVolumes(limit)
		w.within(20*time.Second, "the CSINode has the driver's new limit", func() bool { return w.limit() == int32(limit) })
	}
	update(nil)
	w.within(10*time.Second, "the driver is not asked again any more", func() bool { return !w.scheduled() })
	update(askedEach)
	w.within(10*time.Second, "the driver is to be asked again", w.scheduled)
	w.Deregister(t.Context(), driverName, w.opts.RootDir+"/csi.sock")
	if w.scheduled() {
		t.Error("a driver that went is to be asked again")
	}
	if err := w.refresh(t.Context(), driverName); err == nil || w.limit() != 0 {
		t.Errorf("a driver that went is asked: %v, and has the limit %d", err, w.limit())
	}
}

// TestAttachLimit: a volume that its controller cannot attach since the node is full is told from one that waits, and has the driver
// asked anew. Only drivers that want to be asked again mean that.
func TestAttachLimit(t *testing.T) {
	before := attachTimeout
	attachTimeout = 50 * time.Millisecond
	t.Cleanup(func() { attachTimeout = before })
	attached := func(s *storagev1.CSIDriverSpec) { s.AttachRequired = new(true) }
	hourly := func(s *storagev1.CSIDriverSpec) {
		attached(s)
		s.NodeAllocatableUpdatePeriodSeconds = new(int64(3600))
	}
	for name, tt := range map[string]struct {
		driver func(*storagev1.CSIDriverSpec)
		code   *int32
		full   bool
	}{
		"full": {hourly, new(int32(codes.ResourceExhausted)), true}, "another error": {hourly, new(int32(codes.Internal)), false},
		"an error without a code": {hourly, nil, false}, "a driver that is not asked again": {attached, new(int32(codes.ResourceExhausted)), false},
	} {
		t.Run(name, func(t *testing.T) {
			r := Persistent(pod("1"), volume(corev1.ReadWriteOnce), false)
			var objects []runtime.Object
			objects = append(objects, object(tt.driver), &storagev1.VolumeAttachment{
				ObjectMeta: metav1.ObjectMeta{Name: (&Manager{opts: Options{NodeName: "node"}}).attachmentName(r.id())},
				Status:     storagev1.VolumeAttachmentStatus{AttachError: &storagev1.VolumeError{Message: "too many", ErrorCode: tt.code}},
			})
			w := newWorld(t, objects...)
			w.driver.SetMaxVolumes(1)
			_, err := w.Mount(t.Context(), r)
			limit := map[bool]int32{true: 1, false: 3}[tt.full]
			if !errors.Is(err, ErrNotAttached) || errors.Is(err, ErrAttachLimit) != tt.full || w.limit() != limit {
				t.Errorf("%v; the CSINode has the limit %d, want %d", err, w.limit(), limit)
			}
		})
	}
}
