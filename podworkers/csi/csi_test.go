package csi

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"minikubelet/e2e/csitest"
	"minikubelet/podworkers/objects/objectstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const driverName = "dirs.example.com"

// world is a Manager, its cluster and a driver.
type world struct {
	*Manager
	t      *testing.T
	client *fake.Clientset
	driver *csitest.Driver
	opts   Options
	stop   func()

	mu      sync.Mutex
	node    *corev1.Node
	changed chan struct{}
	checked int
}

// newWorld registers a driver that stages volumes. What objects hold is in the cluster.
func newWorld(t *testing.T, objects ...runtime.Object) *world {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", UID: "node-uid"}}
	w := &world{t: t, client: fake.NewClientset(append(objects, node)...), node: node, changed: make(chan struct{})}
	w.driver = &csitest.Driver{
		Name: driverName, NodeID: "id-1", Dir: t.TempDir(), Topology: map[string]string{"zone": "a"}, MaxVolumes: 3,
		Capabilities: []csiapi.NodeServiceCapability_RPC_Type{csiapi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME},
	}
	token := func(_ context.Context, _ *corev1.Pod, r *authv1.TokenRequest) (*authv1.TokenRequest, error) {
		answer := r.DeepCopy()
		answer.Status.Token = "token for " + strings.Join(r.Spec.Audiences, ",")
		return answer, nil
	}
	w.opts = Options{
		RootDir: t.TempDir(), NodeName: "node", NewToken: token, CachedToken: token,
		Drivers: objectstest.ListWatch(w.client, w.client.StorageV1().CSIDrivers(), fields.Everything()),
		Nodes:   w.client.CoreV1().Nodes(), CSINodes: w.client.StorageV1().CSINodes(), Attachments: w.client.StorageV1().VolumeAttachments(),
		Secret: func(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
			return w.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		Node: func() (*corev1.Node, <-chan struct{}) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.node, w.changed
		},
		InUseChanged: func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.checked++
		},
	}
	socket := filepath.Join(w.opts.RootDir, "csi.sock")
	stop, err := w.driver.Serve(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	w.restart()
	w.register()
	return w
}

// restart is a new kubelet over what the one before left.
func (w *world) restart() {
	w.t.Helper()
	if w.stop != nil {
		w.stop()
	}
	w.Manager = New(w.opts)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func(m *Manager) { defer close(done); m.Run(ctx) }(w.Manager)
	w.stop = func() { cancel(); <-done }
	w.t.Cleanup(w.stop)
}

func (w *world) register() {
	w.t.Helper()
	socket, versions := filepath.Join(w.opts.RootDir, "csi.sock"), []string{"1.0.0"}
	if err := w.Validate(driverName, socket, versions); err != nil {
		w.t.Fatal(err)
	}
	if err := w.Register(w.t.Context(), driverName, socket, versions); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) setNode(change func(*corev1.Node)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.node = w.node.DeepCopy()
	change(w.node)
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) mount(r *Request) Mounted {
	w.t.Helper()
	mounted, err := w.Mount(w.t.Context(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return mounted
}

func (w *world) unmount(mounted Mounted, uid types.UID) {
	w.t.Helper()
	if err := w.Unmount(w.t.Context(), filepath.Dir(mounted.Dir)); err != nil {
		w.t.Fatal(err)
	}
	w.Release(w.t.Context(), uid)
}

func (w *world) wantCalls(want ...string) {
	w.t.Helper()
	if got := w.driver.Calls(); !slices.Equal(got, want) {
		w.t.Errorf("the driver was called %q, want %q", got, want)
	}
}

func (w *world) wantNothingLeft() {
	w.t.Helper()
	for _, pattern := range []string{"plugins/kubernetes.io/csi/*/*", "pods/*/volumes/kubernetes.io~csi/*"} {
		if left, err := filepath.Glob(filepath.Join(w.opts.RootDir, pattern)); err != nil || len(left) > 0 {
			w.t.Errorf("left over: %v (%v)", left, err)
		}
	}
	if names := w.used(); len(names) > 0 {
		w.t.Errorf("still in use: %v", names)
	}
}

func object(change func(*storagev1.CSIDriverSpec)) *storagev1.CSIDriver {
	d := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}, Spec: storagev1.CSIDriverSpec{
		AttachRequired: new(false), VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent},
	}}
	if change != nil {
		change(&d.Spec)
	}
	return d
}

func pod(uid string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod-" + uid, UID: types.UID(uid)},
		Spec:       corev1.PodSpec{ServiceAccountName: "sa", SecurityContext: &corev1.PodSecurityContext{FSGroup: new(int64(42))}},
	}
}

func volume(mode corev1.PersistentVolumeAccessMode) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{mode}, MountOptions: []string{"noatime"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			Driver: driverName, VolumeHandle: "vol", FSType: "ext4", VolumeAttributes: map[string]string{"k": "v"},
		}},
	}}
}

// TestRegistration: the cluster is told of a driver, and of its end.
func TestRegistration(t *testing.T) {
	w := newWorld(t, object(nil))
	check := func(wantDrivers int, wantAnnotation string) {
		t.Helper()
		n, err := w.client.StorageV1().CSINodes().Get(t.Context(), "node", metav1.GetOptions{})
		if err != nil || len(n.Spec.Drivers) != wantDrivers || n.OwnerReferences[0].UID != "node-uid" {
			t.Errorf("CSINode: %+v, %v", n, err)
		}
		if wantDrivers > 0 && (n.Spec.Drivers[0].NodeID != "id-1" || *n.Spec.Drivers[0].Allocatable.Count != 3 || n.Spec.Drivers[0].TopologyKeys[0] != "zone") {
			t.Errorf("its driver: %+v", n.Spec.Drivers[0])
		}
		node, err := w.client.CoreV1().Nodes().Get(t.Context(), "node", metav1.GetOptions{})
		if err != nil || node.Annotations[nodeIDAnnotation] != wantAnnotation || node.Labels["zone"] != "a" {
			t.Errorf("node: %v %v, %v", node.Annotations, node.Labels, err)
		}
	}
	check(1, `{"dirs.example.com":"id-1"}`)
	w.register() // again changes nothing
	check(1, `{"dirs.example.com":"id-1"}`)
	w.Deregister(t.Context(), driverName, "/another/socket")
	check(1, `{"dirs.example.com":"id-1"}`)
	w.Deregister(t.Context(), driverName, filepath.Join(w.opts.RootDir, "csi.sock"))
	check(0, "")
	if _, err := w.Mount(t.Context(), Persistent(pod("1"), volume(corev1.ReadWriteOnce), false)); err == nil {
		t.Error("a volume of a driver that is gone is mounted")
	}
}

func TestValidate(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		endpoint string
		versions []string
		ok       bool
	}{
		{"/new", nil, false}, {"/new", []string{"0.3.0", "2.0.0"}, false}, {"/new", []string{"x"}, false},
		{"/new", []string{"1.0.0"}, false}, // as new as the one there is
		{"/new", []string{"1.0.0", "1.1.0"}, true}, {filepath.Join(w.opts.RootDir, "csi.sock"), []string{"1.0.0"}, true},
	} {
		if err := w.Validate(driverName, tt.endpoint, tt.versions); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

// TestSharedVolume: two pods have one volume; the first stages it, the last takes it off the node.
func TestSharedVolume(t *testing.T) {
	w := newWorld(t, object(nil))
	pv := volume(corev1.ReadWriteMany)
	first := w.mount(Persistent(pod("1"), pv, false))
	second := w.mount(Persistent(pod("2"), pv, true))
	if err := os.WriteFile(first.Dir+"/file", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(second.Dir + "/file"); err != nil || string(data) != "x" {
		t.Errorf("the second pod reads %q, %v", data, err)
	}
	if err := os.WriteFile(second.Dir+"/file", nil, 0o600); err == nil {
		t.Error("the second pod can write")
	}
	if got := w.used(); len(got) != 1 || !got[volumeID{driverName, "vol"}] {
		t.Errorf("in use: %v", got)
	}
	w.unmount(first, "1")
	w.wantCalls("Stage vol", "Publish vol", "Publish vol", "Unpublish vol")
	w.unmount(second, "2")
	w.wantCalls("Stage vol", "Publish vol", "Publish vol", "Unpublish vol", "Unpublish vol", "Unstage vol")
	w.wantNothingLeft()
	w.unmount(second, "2") // once more changes nothing
	stage := csitest.Requests[*csiapi.NodeStageVolumeRequest](w.driver)[0]
	if m := stage.GetVolumeCapability().GetMount(); m.GetFsType() != "ext4" || !slices.Equal(m.GetMountFlags(), []string{"noatime"}) || stage.GetVolumeContext()["k"] != "v" {
		t.Errorf("stage: %v", stage)
	}
	if mode := stage.GetVolumeCapability().GetAccessMode().GetMode(); mode != csiapi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER {
		t.Errorf("access mode %v", mode)
	}
}

// TestVolumesInUse: the node's status has the volumes that a controller attaches, and no others. Until the drivers are known it has all.
func TestVolumesInUse(t *testing.T) {
	const attached = "attached.example.com"
	w := newWorld(t, object(nil), &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: attached}})
	w.restart() // no driver registers, so no object of one is looked at
	w.inUse[volumeID{driverName, "a"}] = true
	for _, driver := range []string{attached, "unknown.example.com"} {
		w.want(&Request{Pod: pod("1"), Driver: driver, Handle: "b"})
	}
	if got := w.VolumesInUse(); len(got) != 3 {
		t.Errorf("before the drivers are known: %v", got)
	}
	if _, err := w.objects.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.VolumesInUse(); !slices.Equal(got, []corev1.UniqueVolumeName{"kubernetes.io/csi/attached.example.com^b", "kubernetes.io/csi/unknown.example.com^b"}) {
		t.Errorf("in use: %v", got)
	}
	if none := (*Manager)(nil).VolumesInUse(); len(none) > 0 {
		t.Errorf("without an apiserver: %v", none)
	}
}

// answers says that every file system answers.
func answers(string) error { return nil }

// TestRestart: a kubelet that starts again knows what is in use, and takes away what the one before it mounted.
func TestRestart(t *testing.T) {
	w := newWorld(t, object(nil))
	mounted := w.mount(Persistent(pod("1"), volume(corev1.ReadWriteOnce), false))
	w.restart()
	if got := w.used(); len(got) != 1 {
		t.Errorf("in use: %v", got)
	}
	if err := w.Unmount(t.Context(), filepath.Dir(mounted.Dir)); err == nil || !strings.Contains(err.Error(), "not found in the list of registered CSI drivers") {
		t.Errorf("before the driver is registered again: %v", err)
	}
	w.register()
	if err := w.Sweep(t.Context()); err != nil { // a pod has the volume
		t.Fatal(err)
	}
	w.mount(Persistent(pod("1"), volume(corev1.ReadWriteOnce), false))
	w.unmount(mounted, "1")
	w.wantCalls("Stage vol", "Publish vol", "Stage vol", "Publish vol", "Unpublish vol", "Unstage vol")
	w.wantNothingLeft()
}

// TestSweep: what could not be taken off the node is later.
func TestSweep(t *testing.T) {
	w := newWorld(t, object(nil))
	mounted := w.mount(Persistent(pod("1"), volume(corev1.ReadWriteOnce), false))
	w.driver.Fail("Unstage", status.Error(codes.Internal, "busy"))
	w.unmount(mounted, "1")
	if got := w.used(); len(got) != 1 {
		t.Errorf("in use: %v", got)
	}
	w.restart()
	w.register()
	w.driver.Fail("Unstage", nil)
	if err := w.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wantNothingLeft()
}

// TestFailures: after an error that is final nothing stays; after one that is not, the volume may yet be mounted, and
// what tells of it stays.
func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		method string
		code   codes.Code
		stays  bool
	}{
		{"Stage", codes.InvalidArgument, false}, {"Stage", codes.DeadlineExceeded, true},
		{"Publish", codes.Internal, false}, {"Publish", codes.Aborted, true},
	} {
		t.Run(tt.method+tt.code.String(), func(t *testing.T) {
			w := newWorld(t, object(nil))
			w.driver.Fail(tt.method, status.Error(tt.code, "no"))
			r := Persistent(pod("1"), volume(corev1.ReadWriteOnce), false)
			if _, err := w.Mount(t.Context(), r); err == nil || !strings.Contains(err.Error(), "desc = no") {
				t.Fatalf("the error is %v", err)
			}
			dir := filepath.Dir(w.target(r))
			if tt.method == "Stage" {
				dir = filepath.Dir(w.staging(r.id()))
			}
			if hasData(dir) != tt.stays {
				t.Errorf("what tells of the volume stays: %v, want %v", !tt.stays, tt.stays)
			}
			w.driver.Fail(tt.method, nil)
			if err := w.Unmount(t.Context(), filepath.Dir(w.target(r))); err != nil {
				t.Error(err)
			}
			w.Release(t.Context(), "1")
			w.wantNothingLeft()
		})
	}
}

// TestReadWriteOncePod: one pod alone.
func TestReadWriteOncePod(t *testing.T) {
	w := newWorld(t, object(nil))
	first := w.mount(Persistent(pod("1"), volume(corev1.ReadWriteOncePod), false))
	w.mount(Persistent(pod("1"), volume(corev1.ReadWriteOncePod), false))
	other := Persistent(pod("2"), volume(corev1.ReadWriteOncePod), false)
	if _, err := w.Mount(t.Context(), other); err == nil || !strings.Contains(err.Error(), "already in use by another pod") {
		t.Errorf("a second pod: %v", err)
	}
	w.unmount(first, "1")
	w.unmount(w.mount(other), "2")
	w.wantNothingLeft()
}

// TestAttach: a volume is mounted, or mapped, once the node's status says that it is in use and attached. It needs root.
func TestAttach(t *testing.T) {
	for _, r := range []*Request{Persistent(pod("1"), volume(corev1.ReadWriteOnce), false), block("1", false)} {
		r.Volume = "data"
		name := (&Manager{opts: Options{NodeName: "node"}}).attachmentName(r.id())
		w := newWorld(t, &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: storagev1.VolumeAttachmentStatus{
			Attached: true, AttachmentMetadata: map[string]string{"device": "sdx"},
		}}) // and no CSIDriver: it might need to be attached
		w.driver.Device = csitest.TestDevice(t, content)
		done := make(chan error)
		go func() { _, err := w.Mount(t.Context(), r); done <- err }()
		w.setNode(func(n *corev1.Node) { n.Status.VolumesAttached = []corev1.AttachedVolume{{Name: r.id().unique()}} })
		select {
		case err := <-done:
			t.Fatalf("mounted before the volume was in use: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		if got := w.Attaching("1"); !slices.Equal(got, []string{"data"}) {
			t.Errorf("the pod waits for %q to be attached", got)
		}
		w.setNode(func(n *corev1.Node) { n.Status.VolumesInUse = w.VolumesInUse() })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := w.Attaching("1"); len(got) > 0 {
			t.Errorf("the pod still waits for %q", got)
		}
		if got := csitest.Requests[*csiapi.NodeStageVolumeRequest](w.driver)[0].GetPublishContext()["device"]; got != "sdx" {
			t.Errorf("the driver is told of device %q", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w.setNode(func(n *corev1.Node) { n.Status.VolumesAttached = nil })
		if _, err := w.Mount(ctx, r); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled while it waits: %v", err)
		}
		if r.Block {
			w.unmap(Mounted{Device: w.blockLink("1", r.Name)})
			w.wantNoBlockLeft()
			continue
		}
		w.unmount(Mounted{Dir: w.target(r)}, "1")
		w.wantNothingLeft()
	}
}

// TestInlineWithoutDriver: that a driver is not on the node is told before it is asked what the cluster knows of it, as upstream.
func TestInlineWithoutDriver(t *testing.T) {
	w := newWorld(t)
	_, err := w.Mount(t.Context(), Inline(pod("1"), "v", &corev1.CSIVolumeSource{Driver: "no.such.driver"}))
	if err == nil || err.Error() != "kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: driver name no.such.driver not found in the list of registered CSI drivers" {
		t.Error(err)
	}
}

// TestInline: a volume for one pod alone, which gets to know the pod, its tokens and a secret, and is never staged.
func TestInline(t *testing.T) {
	source := &corev1.CSIVolumeSource{Driver: driverName, NodePublishSecretRef: &corev1.LocalObjectReference{Name: "s"}}
	w := newWorld(t, object(func(s *storagev1.CSIDriverSpec) {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}
		s.PodInfoOnMount, s.RequiresRepublish = new(true), new(true)
		s.TokenRequests = []storagev1.TokenRequest{{Audience: "aud"}}
	}), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Data: map[string][]byte{"user": []byte("me")}})
	mounted := w.mount(Inline(pod("1"), "data", source))
	if !mounted.Republish {
		t.Error("the driver is not asked again")
	}
	request := csitest.Requests[*csiapi.NodePublishVolumeRequest](w.driver)[0]
	attributes := request.GetVolumeContext()
	if attributes["csi.storage.k8s.io/pod.uid"] != "1" || attributes["csi.storage.k8s.io/ephemeral"] != "true" || request.GetSecrets()["user"] != "me" ||
		!strings.Contains(attributes["csi.storage.k8s.io/serviceAccount.tokens"], `"token":"token for aud"`) {
		t.Errorf("publish: %v", request)
	}
	w.unmount(mounted, "1")
	if calls := w.driver.Calls(); len(calls) != 2 || !strings.HasPrefix(calls[0], "Publish csi-") {
		t.Errorf("calls: %v", calls)
	}
	w.wantNothingLeft()
	if _, err := w.Mount(t.Context(), Persistent(pod("1"), volume(corev1.ReadWriteOnce), false)); err == nil || !strings.Contains(err.Error(), `only supports ["Ephemeral"]`) {
		t.Errorf("a volume of a kind that the driver has not: %v", err)
	}
}

func TestWantsOwnership(t *testing.T) {
	policy := func(p storagev1.FSGroupPolicy) *storagev1.CSIDriver {
		return object(func(s *storagev1.CSIDriverSpec) { s.FSGroupPolicy = &p })
	}
	mountGroup := capabilities{csiapi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP: true}
	for i, tt := range []struct {
		object *storagev1.CSIDriver
		can    capabilities
		change func(*Request)
		want   bool
	}{
		{nil, nil, nil, true}, {nil, mountGroup, nil, false},
		{nil, nil, func(r *Request) { r.FSType = "" }, false}, {nil, nil, func(r *Request) { r.FSGroup = nil }, false},
		{nil, nil, func(r *Request) { r.ReadOnly = true }, false},
		{nil, nil, func(r *Request) { r.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany} }, false},
		{policy(storagev1.NoneFSGroupPolicy), nil, nil, false},
		{policy(storagev1.FileFSGroupPolicy), nil, func(r *Request) { r.FSType = "" }, true},
	} {
		r := Persistent(pod("1"), volume(corev1.ReadWriteOnce), false)
		if tt.change != nil {
			tt.change(r)
		}
		if got := r.wantsOwnership(tt.object, tt.can); got != tt.want {
			t.Errorf("case %d: %v, want %v", i, got, tt.want)
		}
	}
	with := mountGroup.capability(Persistent(pod("1"), volume(corev1.ReadWriteOnce), false))
	if got := with.GetMount().GetVolumeMountGroup(); got != "42" {
		t.Errorf("the driver is told of group %q", got)
	}
}
