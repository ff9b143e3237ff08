package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	critestImages = "k8s-staging-cri-tools/"
	e2eImages     = "e2e-test-images/"
)

// PushCritestImages makes stand-ins for the images of critest, by the names that it asks for,
// and returns the file for its --test-images-file. An image that is asked for by digest has none.
func (s *Stack) PushCritestImages(ctx context.Context) (string, error) {
	busybox, err := BusyboxFiles(ctx)
	if err != nil {
		return "", err
	}
	program, err := s.BuildProgram(ctx, programs+"standin")
	if err != nil {
		return "", err
	}
	busybox = slices.DeleteFunc(busybox, func(f File) bool {

		// A mask over the link would be one over busybox itself.
		return f.Path == "/etc/passwd" || f.Path == "/etc/group" || f.Path == "/bin/ls"
	})
	busybox = append(busybox,
		File{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/:/bin/sh\ndefault-user:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\nuser:x:1002:1002::/:/bin/sh\n")},
		File{Path: "/etc/group", Mode: 0o644, Data: []byte("root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")},
		File{Path: "/var", Dir: true, Mode: 0o755}, File{Path: "/var/run", Dir: true, Mode: 0o755}, File{Path: "/home", Dir: true, Mode: 0o755},
		File{Path: "/bin/ls", Data: busybox[slices.IndexFunc(busybox, func(f File) bool { return f.Path == "/bin/busybox" })].Data, Mode: 0o755},
		File{Path: "/bin/pgrep", Link: "/standin", Mode: 0o777}, File{Path: "/bin/ipcs", Link: "/standin", Mode: 0o777}, File{Path: "/bin/nginx", Data: program, Mode: 0o755}, File{Path: "/pause", Link: "/standin", Mode: 0o777},
		File{Path: "/standin", Data: program, Mode: 0o755})
	shell := v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}}
	web := func(address string) v1.Config {
		return v1.Config{Entrypoint: []string{"/bin/nginx", "web", address, "nginx: master process"}, Env: []string{"PATH=/bin"}}
	}
	images := map[string]v1.Config{
		e2eImages + "busybox:1.29-2": shell, e2eImages + "nginx:1.14-2": web(":80"), e2eImages + "httpd:2.4.39-4": web(":80"),
		critestImages + "hostnet-nginx-" + runtimeArch + ":latest": web(":12003"),
		critestImages + "test-image-latest:latest":                 shell, critestImages + "test-image-tag:test": shell, critestImages + "test-image-tag:all": shell,
		"pause:3.9": {Entrypoint: []string{"/pause"}},
	}
	for name, user := range map[string]string{
		"user-uid": "1002", "user-username": "www-data", "user-uid-group": "1003:users", "user-username-group": "www-data:100", "predefined-group": "1000",
	} {
		images[critestImages+"test-image-"+name+":latest"] = v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}, User: user}
	}
	for i := 1; i <= 3; i++ {
		images[fmt.Sprintf("%stest-image-%d:latest", critestImages, i)] = shell
		images[fmt.Sprintf("%stest-image-tags:%d", critestImages, i)] = shell
	}
	for reference, config := range images {
		name := reference
		if strings.HasPrefix(reference, critestImages+"test-image-tags:") {
			name = "tags" // one image with several tags
		}
		if err := s.pushStandIn(ctx, reference, name, busybox, config); err != nil {
			return "", err
		}
	}
	setuid := slices.Clone(busybox)
	setuid[len(setuid)-1].Mode = 0o4755
	if err := s.pushStandIn(ctx, e2eImages+"nonewprivs:1.3", "nonewprivs", setuid, v1.Config{Entrypoint: []string{"/standin", "euid"}}); err != nil {
		return "", err
	}
	list := filepath.Join(s.Dir, "critest-images.yaml")
	text := fmt.Sprintf("defaultTestContainerImage: images.test/%sbusybox:1.29-2\nwebServerTestImage: images.test/%snginx:1.14-2\n", e2eImages, e2eImages)
	return list, os.WriteFile(list, []byte(text), 0o644)
}

// pushStandIn pushes an image that differs from those of other names.
func (s *Stack) pushStandIn(ctx context.Context, reference, name string, files []File, config v1.Config) error {
	image, err := BuildImage(append(slices.Clone(files), File{Path: "/name", Mode: 0o644, Data: []byte(name)}), config)
	if err != nil {
		return fmt.Errorf("build stand-in for %s: %w", reference, err)
	}
	return s.Registry.Push(ctx, reference, image)
}
