package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// volumesImage declares volumes of every kind: with content and an owner, behind links, and not there.
func volumesImage(t *testing.T, c *criServer, name, outside string) string {
	t.Helper()
	files, err := stack.BusyboxFiles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	files = append(files,
		stack.File{Path: "/data", Dir: true, Mode: 0o750, UID: 999, GID: 998},
		stack.File{Path: "/data/file", Data: []byte("content"), Mode: 0o640, UID: 999, GID: 998},
		stack.File{Path: "/real", Dir: true, Mode: 0o755}, stack.File{Path: "/real/inside", Mode: 0o644},
		stack.File{Path: "/link", Link: "real"}, stack.File{Path: "/out", Link: outside},
		stack.File{Path: strings.TrimPrefix(outside, "/"), Dir: true, Mode: 0o755}, // what the link means inside
	)
	image, err := stack.BuildImage(files, v1.Config{Env: []string{"PATH=/bin"}, Volumes: map[string]struct{}{
		"/data": {}, "/link": {}, "/out": {}, "/new/deep": {}, "/taken": {}, "/dev": {}, "/proc/sys": {},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.s.Publish(t.Context(), name, image); err != nil {
		t.Fatal(err)
	}
	if _, err := c.images.PullImage(limited(t), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}}); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestCridDeclaredVolumes: the volumes that an image declares have what the image has there, with owner and mode, can be
// written even if the container's root cannot, count as the container's, and lead nowhere.
func TestCridDeclaredVolumes(t *testing.T) {
	c := crid(t)
	outside := t.TempDir()
	write(t, filepath.Join(outside, "secret"), "secret")
	image := volumesImage(t, c, "volumes:1", outside)
	for name, users := range map[string]*runtimeapi.UserNamespace{"machine": nil, "shifted": shifted()} {
		t.Run(name, func(t *testing.T) {
			if users != nil && !c.hasUserNamespaces(t) {
				t.Skip("no user namespaces here")
			}
			sandbox := c.sandboxConfig(t)
			sandbox.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
			p := c.run(t, sandbox)
			taken := t.TempDir()
			config := script("app", forever)
			config.Image.Image = image
			config.Linux.SecurityContext.ReadonlyRootfs = true
			config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
			config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/taken", HostPath: taken}}
			id := p.start(t, config)
			for what, want := range map[string]string{
				"stat -c '%u:%g %a' /data /data/file": "999:998 750\n999:998 640", "cat /data/file": "content",
				"test -e /link/inside && echo yes": "yes", "test -e /out/secret || echo no": "no", "stat -c '%u:%g %a' /new/deep": "0:0 755",
				"touch /data/x /link/x /out/x /new/deep/x && echo yes": "yes", "touch /x /real/x 2>/dev/null || echo no": "no",
				"grep -c ' /taken ' /proc/mounts": "1", "test -c /dev/null && echo yes": "yes", "test -e /proc/sys/kernel && echo yes": "yes",
			} {
				if got := c.sh(t, id, what); got != want {
					t.Errorf("%s: %q, want %q", what, got, want)
				}
			}
			if got := read(t, filepath.Join(outside, "secret")); got != "secret" {
				t.Errorf("outside is %q", got)
			}
			c.sh(t, id, "head -c 3000000 /dev/zero >/data/large")
			eventually(limited(t), t, "the volume's content counts", func() bool {
				r, err := c.ContainerStats(limited(t), &runtimeapi.ContainerStatsRequest{ContainerId: id})
				return err == nil && r.GetStats().GetWritableLayer().GetUsedBytes().GetValue() >= 3_000_000
			})
		})
	}
}
