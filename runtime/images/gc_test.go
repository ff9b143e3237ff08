package images

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/crifake"
)

// disk is a filesystem of 100 images with things of others on it.
type disk struct {
	fake   *crifake.Server
	others int
}

func (d *disk) space(string) (capacity, available int64, err error) {
	const image = 1 << 20
	return 100 * image, int64(100-d.others-len(names(d.fake))) * image, nil
}

func names(fake *crifake.Server) (out []string) {
	answer, err := fake.ListImages(context.Background(), &runtimeapi.ListImagesRequest{})
	if err != nil {
		return []string{err.Error()}
	}
	for _, image := range answer.Images {
		out = append(out, strings.TrimSuffix(image.Spec.Image, ":1"))
	}
	return out
}

func newCollector(change func(*CollectorOptions)) (*Collector, *crifake.Server, *disk, *recorder) {
	fake, events := crifake.New(), &recorder{}
	d := &disk{fake: fake}
	o := CollectorOptions{
		CRI: fake.Direct(), Events: events, Node: func() *corev1.ObjectReference { return &corev1.ObjectReference{Kind: "Node", Name: "n"} },
		Limits: Limits{HighThresholdPercent: 85, LowThresholdPercent: 80, MinAge: 2 * time.Minute}, DiskSpace: d.space,
	}
	if change != nil {
		change(&o)
	}
	return NewCollector(o), fake, d, events
}

// container makes a container of an image, with other images as volumes.
func container(t *testing.T, c *Collector, image string, volumes ...string) (id string) {
	t.Helper()
	box := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: image, Uid: image}}
	sandbox, err := c.CRI.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: box})
	if err != nil {
		t.Fatal(err)
	}
	config := &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: image}, Image: &runtimeapi.ImageSpec{Image: image + ":1"}}
	for _, v := range volumes {
		config.Mounts = append(config.Mounts, &runtimeapi.Mount{Image: &runtimeapi.ImageSpec{Image: v}})
	}
	made, err := c.CRI.Runtime.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox.PodSandboxId, SandboxConfig: box, Config: config})
	if err != nil {
		t.Fatal(err)
	}
	return made.ContainerId
}

func wantImages(t *testing.T, fake *crifake.Server, want string) {
	t.Helper()
	if got := strings.Join(names(fake), " "); got != want {
		t.Errorf("images are %q, want %q", got, want)
	}
}

// TestGarbageCollect: above the high threshold images go until the low one is reached, longest unused first; those in
// use, mounted, pinned or young stay.
func TestGarbageCollect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, fake, d, events := newCollector(func(o *CollectorOptions) { o.LowThresholdPercent = 83 })
		ids := map[string]string{}
		for _, name := range []string{"a", "b", "c", "mounted", "pinned", "used"} {
			ids[name] = fake.AddImage(name + ":1")
		}
		fake.PinImage(ids["pinned"])
		container(t, c, "used", ids["mounted"])
		last := container(t, c, "a")
		collect := func(others int, want string) error {
			t.Helper()
			d.others = others
			err := c.GarbageCollect(t.Context())
			wantImages(t, fake, want)
			return err
		}
		all := "a b c mounted pinned used"
		if err := collect(78, all); err != nil {
			t.Errorf("at 84%%: %v", err)
		}
		if err := collect(80, all); err == nil || !strings.Contains(err.Error(), "freed 0 bytes") {
			t.Errorf("too young: %v", err)
		}
		events.want(t, "Warning FreeDiskSpaceFailed : Insufficient free disk space on the node's image filesystem (86% of 100.0 MiB used). "+
			"Failed to free sufficient space by deleting unused images (freed 0 bytes). "+
			"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.")
		time.Sleep(3 * time.Minute)
		fake.AddImage("young:1")
		if err := collect(70, all+" young"); err != nil { // a is noted as used now
			t.Errorf("at 77%%: %v", err)
		}
		if _, err := c.CRI.Runtime.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: last}); err != nil {
			t.Fatal(err)
		}
		if err := collect(78, "a mounted pinned used young"); err != nil {
			t.Errorf("from 85%% down to 83%%: %v", err)
		}
	})
}

func TestCollectErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, fake, d, events := newCollector(func(o *CollectorOptions) { o.MinAge = 0 })
		fake.AddImage("a:1")
		fake.AddImage("b:1")
		d.others = 90
		fake.FailNext("RemoveImage", errors.New("read-only"))
		if err := c.GarbageCollect(t.Context()); err == nil || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("the error is %v", err)
		}
		wantImages(t, fake, "a") // the other image's turn came all the same, whichever is first by ID
		for _, method := range []string{"ListImages", "ListContainers", "ImageFsInfo"} {
			fake.FailNext(method, errors.New("away"))
			if err := c.GarbageCollect(t.Context()); err == nil || !strings.Contains(err.Error(), "away") {
				t.Errorf("%s: the error is %v", method, err)
			}
		}
		c.DiskSpace = func(string) (int64, int64, error) { return 0, 0, nil }
		if err := c.GarbageCollect(t.Context()); err == nil {
			t.Error("a disk of no size is fine")
		}
		events.want(t, "Warning InvalidDiskCapacity : invalid capacity 0 on image filesystem")
	})
}

// TestCollectOldImages: from MaxAge after the start on, images that nothing used for so long go, whatever the disk.
func TestCollectOldImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, fake, _, _ := newCollector(func(o *CollectorOptions) { o.MaxAge, o.HighThresholdPercent = time.Hour, 100 })
		for _, name := range []string{"old", "pinned", "used"} {
			if id := fake.AddImage(name + ":1"); name == "pinned" {
				fake.PinImage(id)
			}
		}
		id := container(t, c, "used")
		go c.Run(t.Context())
		time.Sleep(59 * time.Minute)
		fake.AddImage("new:1")
		wantImages(t, fake, "new old pinned used")
		time.Sleep(10 * time.Minute)
		wantImages(t, fake, "new pinned used")
		if _, err := c.CRI.Runtime.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(40 * time.Minute)
		wantImages(t, fake, "new pinned used")
		time.Sleep(30 * time.Minute)
		wantImages(t, fake, "pinned")
	})
}

// TestCollectAfterPull: a pull has the disk looked at, and only failures in a row make events.
func TestCollectAfterPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pulled := make(chan struct{}, 1)
		c, fake, d, events := newCollector(func(o *CollectorOptions) { o.MinAge, o.Pulled = time.Second, pulled })
		fake.AddImage("a:1")
		fake.FailNext("ListImages", errors.New("away"))
		go c.Run(t.Context())
		synctest.Wait()
		events.want(t)
		fake.FailNext("ListImages", errors.New("away"))
		pulled <- struct{}{}
		synctest.Wait()
		events.want(t, "Warning ImageGCFailed : list images: rpc error: code = Unknown desc = away")
		pulled <- struct{}{}
		synctest.Wait()
		d.others = 84
		time.Sleep(2 * time.Second)
		pulled <- struct{}{}
		synctest.Wait()
		wantImages(t, fake, "")
	})
}

// TestCollectorOff: without thresholds nothing goes by itself, but a node in need gets all that is unused.
func TestCollectorOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, fake, d, _ := newCollector(func(o *CollectorOptions) { o.HighThresholdPercent = 100 })
		fake.AddImage("a:1")
		fake.AddImage("used:1")
		container(t, c, "used")
		d.others = 98
		go c.Run(t.Context())
		time.Sleep(time.Hour)
		wantImages(t, fake, "a used")
		if err := c.DeleteUnusedImages(t.Context()); err != nil {
			t.Error(err)
		}
		wantImages(t, fake, "used")
	})
}

func TestFormatSize(t *testing.T) {
	for bytes, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 5 << 20: "5.0 MiB", 3 << 30: "3.0 GiB", 1 << 50: "1024.0 TiB"} {
		if got := formatSize(bytes); got != want {
			t.Errorf("%d is %q, want %q", bytes, got, want)
		}
	}
}
