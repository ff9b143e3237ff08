package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"minikubelet/e2e/stack"
)

// content makes an image of the suite from what this machine has. The suite's programs come from the module that
// its specs come from; what else its images carry is stood in for by busybox.
type content func(base []stack.File, agnhost []byte) ([]stack.File, v1.Config)

// images are the suite's images by the last part of their names.
var images = map[string]content{
	"agnhost":   withAgnhost(v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: path}),
	"busybox":   plain(v1.Config{Cmd: []string{"sh"}, Env: path}),
	"nginx":     withAgnhost(v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver"}, Env: path}),
	"nonroot":   plain(v1.Config{Cmd: []string{"sh"}, User: "1234", Env: path}),
	"ipc-utils": plain(v1.Config{Cmd: []string{"sh"}, Env: path}),
	"pause":     withAgnhost(v1.Config{Entrypoint: []string{"/agnhost", "pause"}, Env: path}),
	"perl":      plain(v1.Config{Cmd: []string{"sh"}, Env: path}),
}

var path = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

func plain(c v1.Config) content {
	return func(base []stack.File, _ []byte) ([]stack.File, v1.Config) { return base, c }
}

func withAgnhost(c v1.Config) content {
	return func(base []stack.File, agnhost []byte) ([]stack.File, v1.Config) {
		files := append([]stack.File{
			{Path: "/agnhost", Data: agnhost, Mode: 0o755}, {Path: "/agnhost-2", Link: "agnhost", Mode: 0o777},
			{Path: "/uploads", Dir: true, Mode: 0o755},
		}, base...)
		for i := range files { // a user whom only the image knows, for supplemental groups
			switch files[i].Path {
			case "/etc/passwd":
				files[i].Data = []byte("root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/:/bin/sh\n")
			case "/etc/group":
				files[i].Data = []byte("root:x:0:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n")
			}
		}
		return files, c
	}
}

// pushImages gives the stack's registry the images that the suite says it uses. Others cannot be had here, and the
// specs that need them fail.
func pushImages(ctx context.Context, s *stack.Stack, suite string) error {
	agnhost, err := os.ReadFile(filepath.Join(suite, "agnhost"))
	if err != nil {
		return fmt.Errorf("read the suite's agnhost (make conformance builds it): %w", err)
	}
	base, err := stack.BusyboxFiles(ctx)
	if err != nil {
		return err
	}
	list, err := s.Exec(ctx, filepath.Join(suite, "e2e.test"), "--list-images")
	if err != nil {
		return fmt.Errorf("ask the suite for its images: %w", err)
	}
	for reference := range strings.FieldsSeq(list) {
		_, repository, found := strings.Cut(reference, "/") // runtimes ask the stack's registry for every other's images
		name, _, tagged := strings.Cut(filepath.Base(repository), ":")
		make, known := images[name]
		if !found || !tagged || !known {
			continue
		}
		files, config := make(base, agnhost)
		image, err := stack.BuildImage(files, config)
		if err != nil {
			return fmt.Errorf("build image %s: %w", repository, err)
		}
		if err := s.Registry.Push(ctx, "/"+repository, image); err != nil {
			return err
		}
	}
	return nil
}
