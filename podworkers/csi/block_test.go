package csi

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"minikubelet/e2e/csitest"
)

const content = "the content of the device"

// newBlockWorld is a world whose driver has a device.
func newBlockWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, object(nil))
	w.driver.Device = csitest.TestDevice(t, content)
	return w
}

// block is a pod's request for a block volume that it calls data.
func block(uid string, readOnly bool) *Request {
	pv := volume(corev1.ReadWriteMany)
	pv.Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
	r := Persistent(pod(uid), pv, readOnly)
	r.Volume = "data"
	return r
}

func (w *world) unmap(mounted Mounted) {
	w.t.Helper()
	if err := w.Unmap(w.t.Context(), mounted.Device); err != nil {
		w.t.Fatal(err)
	}
	pod, _ := ofLink(mounted.Device)
	w.Release(w.t.Context(), block(pod, false).Pod.UID)
}

func (w *world) wantNoBlockLeft() {
	w.t.Helper()
	for _, pattern := range []string{"volumeDevices/publish/*", "volumeDevices/staging/*", "volumeDevices/pv*"} {
		if left, err := filepath.Glob(filepath.Join(w.pluginDir(), pattern)); err != nil || len(left) > 0 {
			w.t.Errorf("left over: %v (%v)", left, err)
		}
	}
	if left, err := filepath.Glob(w.blockLink("*", "*")); err != nil || len(left) > 0 {
		w.t.Errorf("left over: %v (%v)", left, err)
	}
	if names := w.used(); len(names) > 0 {
		w.t.Errorf("still in use: %v", names)
	}
}

func wantContent(t *testing.T, device string) {
	t.Helper()
	file, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got := make([]byte, len(content))
	if _, err := file.Read(got); err != nil || string(got) != content {
		t.Errorf("the device holds %q, %v", got, err)
	}
}

// TestBlockVolume needs root. Two pods have a device; the first stages it, the last takes it off the node.
func TestBlockVolume(t *testing.T) {
	w := newBlockWorld(t)
	first, second := w.mount(block("1", false)), w.mount(block("2", true))
	for _, m := range []Mounted{first, second} {
		if m.Dir != "" || m.Ownership {
			t.Errorf("it has files: %+v", m)
		}
		wantContent(t, m.Device)
	}
	if want := w.opts.RootDir + "/pods/2/volumeDevices/kubernetes.io~csi/pv"; second.Device != want || !second.ReadOnly || first.ReadOnly {
		t.Errorf("got %+v, want device %s", second, want)
	}
	if to, err := os.Readlink(second.Device); err != nil || to != w.opts.RootDir+"/plugins/kubernetes.io/csi/volumeDevices/publish/pv/2" {
		t.Errorf("it leads to %q, %v", to, err)
	}
	if d, err := parse(w.opts.RootDir + "/plugins/kubernetes.io/csi/volumeDevices/pv/data"); err != nil || d.SpecVolumeID != "pv" || d.Handle != "vol" || d.Volume != "" {
		t.Errorf("upstream's record: %+v, %v", d, err)
	}
	stage := csitest.Requests[*csiapi.NodeStageVolumeRequest](w.driver)[0]
	if stage.GetVolumeCapability().GetBlock() == nil || stage.GetStagingTargetPath() != w.opts.RootDir+"/plugins/kubernetes.io/csi/volumeDevices/staging/pv" {
		t.Errorf("stage: %v", stage)
	}
	if p := csitest.Requests[*csiapi.NodePublishVolumeRequest](w.driver)[1]; !p.GetReadonly() || p.GetStagingTargetPath() != stage.GetStagingTargetPath() {
		t.Errorf("publish: %v", p)
	}
	w.unmap(first)
	w.wantCalls("Stage vol", "Publish vol", "Publish vol", "Unpublish vol")
	wantContent(t, second.Device)
	w.unmap(second)
	w.wantCalls("Stage vol", "Publish vol", "Publish vol", "Unpublish vol", "Unpublish vol", "Unstage vol")
	w.wantNoBlockLeft()
}

// TestBlockOfDriverWithoutStages needs root: what tells of the volume goes when no pod has it.
func TestBlockOfDriverWithoutStages(t *testing.T) {
	w := newBlockWorld(t)
	w.driver.Capabilities = nil
	w.unmap(w.mount(block("1", false)))
	w.wantCalls("Publish vol", "Unpublish vol")
	w.wantNoBlockLeft()
}

// TestBlockExclusive needs root: ReadWriteOncePod is for one pod alone.
func TestBlockExclusive(t *testing.T) {
	w := newBlockWorld(t)
	mounted := w.mount(block("1", false))
	second := block("2", false)
	second.AccessMode = corev1.ReadWriteOncePod
	if _, err := w.Mount(t.Context(), second); err == nil || !strings.Contains(err.Error(), "already in use by another pod") {
		t.Errorf("the second pod: %v", err)
	}
	w.Release(t.Context(), "2")
	w.unmap(mounted)
	w.wantNoBlockLeft()
}

// TestBrokenRecordsOfBlocks needs root. A kubelet starts with whatever is left of its records: the pod goes on with its device,
// which stays staged, and all is taken away in the end.
func TestBrokenRecordsOfBlocks(t *testing.T) {
	ofVolume, ofPod := "plugins/kubernetes.io/csi/volumeDevices/pv/data/"+dataFile, "plugins/kubernetes.io/csi/volumeDevices/pv/data/1/"+dataFile
	for _, name := range []string{"truncated", "missing"} { // the others are read as the records of file systems are
		damage := damages[name]
		for which, files := range map[string][]string{"volume": {ofVolume}, "pod": {ofPod}, "both": {ofVolume, ofPod}} {
			for _, again := range []bool{true, false} {
				t.Run(name+" "+which+map[bool]string{true: " mounted again"}[again], func(t *testing.T) {
					w := newBlockWorld(t)
					mounted := w.mount(block("1", true))
					for _, file := range files {
						if err := damage(filepath.Join(w.opts.RootDir, file)); err != nil {
							t.Fatal(err)
						}
					}
					w.restart()
					w.register()
					if got := w.used(); len(got) != 1 && which != "both" {
						t.Errorf("in use: %v", got)
					}
					if err := w.Sweep(t.Context()); err != nil {
						t.Fatal(err)
					}
					w.wantCalls("Stage vol", "Publish vol")
					if got, ok := w.Standing("1", "data", answers); ok != (which == "volume") || ok && (got.Device != mounted.Device || !got.ReadOnly) {
						t.Errorf("the volume stands: %v, %+v", ok, got)
					}
					if again {
						w.mount(block("1", true))
						if _, ok := w.Standing("1", "data", answers); !ok {
							t.Error("the volume does not stand")
						}
					}
					w.unmap(mounted)
					if which == "both" && !again { // another pod tells what it is
						w.unmap(w.mount(block("2", false)))
					}
					w.wantNoBlockLeft()
					if calls := w.driver.Calls(); calls[len(calls)-1] != "Unstage vol" {
						t.Errorf("calls: %v", calls)
					}
				})
			}
		}
	}
}

// TestRecordsOfBlocksLost needs root. The kubelet that staged a volume knows that, also when its records break meanwhile.
func TestRecordsOfBlocksLost(t *testing.T) {
	w := newBlockWorld(t)
	mounted := w.mount(block("1", false))
	if err := os.RemoveAll(w.blockDir("pv")); err != nil {
		t.Fatal(err)
	}
	if err := w.Sweep(t.Context()); err != nil { // a pod may have it
		t.Fatal(err)
	}
	w.unmap(mounted)
	w.wantCalls("Stage vol", "Publish vol", "Unstage vol")
	w.wantNoBlockLeft()
}

// TestBlockFailures needs root: after an error that is final nothing stays; after one that is not, the device may yet be there,
// and what tells of it stays.
func TestBlockFailures(t *testing.T) {
	for _, tt := range []struct {
		method       string
		code         codes.Code
		record, link bool
	}{
		{"Stage", codes.InvalidArgument, false, false}, {"Stage", codes.DeadlineExceeded, true, false},
		{"Publish", codes.Internal, true, false}, {"Publish", codes.Aborted, true, true},
	} {
		t.Run(tt.method+tt.code.String(), func(t *testing.T) {
			w := newBlockWorld(t)
			w.driver.Fail(tt.method, status.Error(tt.code, "no"))
			r := block("1", false)
			if _, err := w.Mount(t.Context(), r); err == nil || !strings.Contains(err.Error(), "desc = no") {
				t.Fatalf("the error is %v", err)
			}
			link := w.blockLink("1", "pv")
			if _, err := os.Lstat(link); (err == nil) != tt.link || hasData(w.blockDir("pv", "data")) != tt.record {
				t.Errorf("the link: %v, the record stays: %v", err, !tt.record)
			}
			w.driver.Fail(tt.method, nil)
			if tt.link {
				if err := w.Unmap(t.Context(), link); err != nil {
					t.Error(err)
				}
			}
			w.Release(t.Context(), "1")
			if err := w.Sweep(t.Context()); err != nil {
				t.Error(err)
			}
			w.wantNoBlockLeft()
		})
	}
}

// TestBlockKilled needs root. Whatever of the pod's is missing when a kubelet was killed, or the machine was, the next one takes
// the rest away.
func TestBlockKilled(t *testing.T) {
	for name, undo := range map[string]func(w *world) error{
		"nothing":        func(*world) error { return nil },
		"no link":        func(w *world) error { return os.Remove(w.blockLink("1", "pv")) },
		"no device":      func(w *world) error { return unix.Unmount(w.blockDir("publish", "pv", "1"), 0) },
		"link of before": func(w *world) error { return Link("/dev/gone", w.blockLink("1", "pv")) },
		"unfinished records": func(w *world) error {
			return os.WriteFile(w.blockDir("pv", "data", "1", "."+dataFile+"12"), nil, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newBlockWorld(t)
			mounted := w.mount(block("1", false))
			if err := undo(w); err != nil {
				t.Fatal(err)
			}
			w.restart()
			w.register()
			if _, ok := w.Standing("1", "data", answers); ok != (name == "nothing" || name == "unfinished records") {
				t.Errorf("the volume stands: %v", ok)
			}
			if name != "no link" {
				w.mount(block("1", false))
				wantContent(t, mounted.Device)
				if err := undo(w); err != nil {
					t.Fatal(err)
				}
				w.unmap(mounted)
			}
			if err := w.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.wantNoBlockLeft()
			if calls := w.driver.Calls(); !slices.Equal(calls[len(calls)-2:], []string{"Unpublish vol", "Unstage vol"}) {
				t.Errorf("calls: %v", calls)
			}
		})
	}
}

// TestBlockStillThere needs root. While a driver leaves something mounted nothing is removed; the record tells of it.
func TestBlockStillThere(t *testing.T) {
	w := newBlockWorld(t)
	mounted := w.mount(block("1", false))
	inside := filepath.Join(w.blockDir("staging", "pv"), "inside")
	if err := os.Mkdir(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", inside, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(inside+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The test's driver cannot remove the directory either.
	if err := w.Unmap(t.Context(), mounted.Device); err != nil {
		t.Fatal(err)
	}
	w.Release(t.Context(), "1")
	if err := w.forgetBlock("pv"); err == nil || !strings.Contains(err.Error(), inside+" is still mounted") {
		t.Errorf("the error is %v", err)
	}
	if _, err := os.Stat(inside + "/file"); err != nil || !hasData(w.blockDir("pv", "data")) || len(w.used()) != 1 {
		t.Errorf("what is mounted was touched: %v", err)
	}
	for _, err := range []error{unix.Unmount(inside, 0), os.Remove(inside), w.Sweep(t.Context())} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w.wantNoBlockLeft()
}

// TestBlockOfUpstream needs root. Upstream's kubelet mounts the device once more and has a loop device keep it open, and has no
// record of the pod.
func TestBlockOfUpstream(t *testing.T) {
	w := newBlockWorld(t)
	mounted := w.mount(block("1", false))
	mapped := w.blockDir("pv", "dev", "1")
	for _, err := range []error{
		os.RemoveAll(w.blockDir("pv", "data", "1")), os.Mkdir(w.blockDir("pv", "dev"), 0o750), os.WriteFile(mapped, nil, 0o640),
		unix.Mount(w.blockDir("publish", "pv", "1"), mapped, "", unix.MS_BIND, ""),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	loop, _, err := csitest.NewDevice(mapped)
	if err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.register()
	if got := w.used(); len(got) != 1 {
		t.Errorf("in use: %v", got)
	}
	w.unmap(mounted)
	if backing, err := os.ReadFile("/sys/block/" + filepath.Base(loop) + "/loop/backing_file"); err == nil && strings.TrimSpace(string(backing)) == mapped {
		t.Errorf("%s is left", loop)
	}
	w.wantCalls("Stage vol", "Publish vol", "Unpublish vol", "Unstage vol")
	w.wantNoBlockLeft()
}

// TestExpandBlock needs root: the driver is told where the device is.
func TestExpandBlock(t *testing.T) {
	w := newBlockWorld(t)
	w.driver.Capabilities = append(w.driver.Capabilities, csiapi.NodeServiceCapability_RPC_EXPAND_VOLUME)
	mounted := w.mount(block("1", false))
	if !mounted.Expands {
		t.Error("the driver can grow it")
	}
	if err := w.Expand(t.Context(), block("1", false), 1<<20); err != nil {
		t.Fatal(err)
	}
	r := csitest.Requests[*csiapi.NodeExpandVolumeRequest](w.driver)[0]
	if r.GetVolumePath() != w.blockDir("publish", "pv", "1") || r.GetStagingTargetPath() != w.blockDir("staging", "pv") || r.GetVolumeCapability().GetBlock() == nil {
		t.Errorf("the driver was asked: %v", r)
	}
	w.unmap(mounted)
	w.wantNoBlockLeft()
}
