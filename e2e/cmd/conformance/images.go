package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"minikubelet/e2e/stack"
)

// content makes an image of the suite from what this machine has. The suite's programs come from the module that
// its specs come from; what else its images carry is stood in for by busybox.
type content func(p parts) ([]stack.File, v1.Config)

// parts are what images are made from: busybox's files, the machine's clients, the suite's agnhost, and nnp and dig of
// the stack's own programs.
type parts struct {
	base         []stack.File
	clients      []stack.File // curl, getent, nc and dig
	certificate  []stack.File
	agnhost, nnp []byte
	devices      []byte // the suite's sample device plugin, which the node suite has
}

// images are the suite's images by the last part of their names.
var images = map[string]content{
	"agnhost":   withAgnhost(v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: path}),
	"busybox":   plain(v1.Config{Cmd: []string{"sh"}, Env: path}),
	"nginx":     withAgnhost(v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver"}, Env: path}),
	"nonroot":   plain(v1.Config{Cmd: []string{"sh"}, User: "1234", Env: path}),
	"ipc-utils": plain(v1.Config{Cmd: []string{"sh"}, Env: path}),
	"pause":     withAgnhost(v1.Config{Entrypoint: []string{"/agnhost", "pause"}, Env: path}),
	"perl":      plain(v1.Config{Cmd: []string{"sh"}, Env: path}),
	"glibc-dns-testing": func(p parts) ([]stack.File, v1.Config) {
		return p.withClients(), v1.Config{Cmd: []string{"sh"}, Env: path}
	},
	"sample-device-plugin": func(p parts) ([]stack.File, v1.Config) {
		plugin := stack.File{Path: "/sample-device-plugin", Data: p.devices, Mode: 0o755}
		return append(slices.Clone(p.base), plugin), v1.Config{Entrypoint: []string{"/sample-device-plugin"}, Env: path}
	},
	// An image volume, and what its spec looks for in it.
	"kitten": func(p parts) ([]stack.File, v1.Config) {
		return append(slices.Clone(p.base), stack.File{Path: "/data.json", Data: []byte(`{"image": "kitten.jpg"}`), Mode: 0o644},
			stack.File{Path: "/etc/os-release", Data: []byte("NAME=\"no Alpine Linux\"\n"), Mode: 0o644}), v1.Config{Env: path}
	},
	"nonewprivs": func(p parts) ([]stack.File, v1.Config) {
		dirs := []stack.File{{Path: "/usr", Dir: true, Mode: 0o755}, {Path: "/usr/local", Dir: true, Mode: 0o755}, {Path: "/usr/local/bin", Dir: true, Mode: 0o755}}
		nnp := stack.File{Path: "/usr/local/bin/nnp", Data: p.nnp, Mode: 0o4755}
		return append(append(dirs, nnp), p.base...), v1.Config{Cmd: []string{"nnp"}, Env: path}
	},
}

var path = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

func plain(c v1.Config) content {
	return func(p parts) ([]stack.File, v1.Config) { return p.base, c }
}

func withAgnhost(c v1.Config) content {
	return func(p parts) ([]stack.File, v1.Config) {
		files := append([]stack.File{
			{Path: "/agnhost", Data: p.agnhost, Mode: 0o755}, {Path: "/agnhost-2", Link: "agnhost", Mode: 0o777},
			{Path: "/uploads", Dir: true, Mode: 0o755},
		}, slices.Concat(p.withClients(), p.certificate)...)
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

// devicePlugin is an image that the node suite does not list, as it stands in a manifest of it.
//
// Upstream: test/e2e/testing-manifests/sample-device-plugin/sample-device-plugin.yaml
const devicePlugin = "registry.k8s.io/e2e-test-images/sample-device-plugin:1.8.0"

// pushImages gives the stack's registry the images that the suite says it uses. Others cannot be had here, and the
// specs that need them fail.
func pushImages(ctx context.Context, s *stack.Stack, suite, program string) error {
	agnhost, err := os.ReadFile(filepath.Join(suite, "agnhost"))
	if err != nil {
		return fmt.Errorf("read the suite's agnhost (make conformance builds it): %w", err)
	}
	p := parts{agnhost: agnhost}
	if p.base, err = stack.BusyboxFiles(ctx); err != nil {
		return err
	}
	if err := p.addShell(); err != nil {
		return err
	}
	if p.clients, err = clientFiles(ctx, "curl", "getent", "nc"); err != nil {
		return err
	}
	dig, err := s.BuildProgram(ctx, "e2e/stack/images/dig")
	if err != nil {
		return err
	}
	p.clients = append(p.clients, stack.File{Path: "/bin/dig", Data: dig, Mode: 0o755})
	for _, name := range []string{"localhost.crt", "localhost.key"} {
		data, err := os.ReadFile(filepath.Join(suite, name))
		if err != nil {
			return fmt.Errorf("read the certificate of the suite's agnhost: %w", err)
		}
		p.certificate = append(p.certificate, stack.File{Path: "/" + name, Data: data, Mode: 0o644})
	}
	if p.nnp, err = s.BuildProgram(ctx, "e2e/stack/images/nnp"); err != nil {
		return err
	}
	if p.devices, err = os.ReadFile(filepath.Join(suite, "sample-device-plugin")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the suite's device plugin: %w", err)
	}
	list, err := s.Exec(ctx, filepath.Join(suite, program), "--list-images")
	if err != nil {
		return fmt.Errorf("ask the suite for its images: %w", err)
	}
	if p.devices != nil {
		list += " " + devicePlugin
	}
	for reference := range strings.FieldsSeq(list) {
		_, repository, found := strings.Cut(reference, "/") // runtimes ask the stack's registry for every other's images
		name, _, tagged := strings.Cut(filepath.Base(repository), ":")
		make, known := images[name]
		if !found || !tagged || !known {
			continue
		}
		files, config := make(p)
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

// nmeter stands in for busybox's applet of that name, which Debian's has not: the node suite asks it for the time of day,
// with milliseconds.
const nmeter = `#!/bin/bash
now=$EPOCHREALTIME
TZ=UTC printf '%(%H:%M:%S)T.%s\n' "${now%.*}" "${now: -6:3}"
`

// addShell adds bash, which "sh" means. Busybox's shell drops environment variables with names that are none in shells, and
// runs busybox's own programs whatever stands in PATH; but a spec waits for its words about a read-only file system, so
// that /bin/sh stays what it is.
func (p *parts) addShell() error {
	bash, err := exec.LookPath("bash-static")
	if err != nil {
		return fmt.Errorf("find bash-static, which the suite's images need (make deps installs it): %w", err)
	}
	data, err := os.ReadFile(bash)
	if err != nil {
		return fmt.Errorf("read the shell of the suite's images: %w", err)
	}
	p.base = append(p.base, stack.File{Path: "/bin/bash", Data: data, Mode: 0o755}, stack.File{Path: "/bin/nmeter", Data: []byte(nmeter), Mode: 0o755},
		stack.File{Path: "/sbin", Dir: true, Mode: 0o755}, stack.File{Path: "/sbin/sh", Link: "/bin/bash", Mode: 0o777})
	return nil
}

// withClients has the machine's nc in the place of busybox's, which knows too few options, and a shell that finds it.
func (p parts) withClients() []stack.File {
	base := slices.DeleteFunc(slices.Clone(p.base), func(f stack.File) bool { return f.Path == "/bin/nc" || f.Path == "/bin/sh" })
	return append(append(base, stack.File{Path: "/bin/sh", Link: "bash", Mode: 0o777}), p.clients...)
}

// clientFiles are programs of the machine, which many specs run in a container, and the libraries that they are linked with.
func clientFiles(ctx context.Context, programs ...string) ([]stack.File, error) {
	paths := map[string]string{} // where to, where from
	for _, name := range programs {
		program, err := exec.LookPath(name)
		if err != nil {
			return nil, fmt.Errorf("find %s, which the suite's images need (make deps installs it): %w", name, err)
		}
		list, err := exec.CommandContext(ctx, "ldd", program).Output()
		if err != nil {
			return nil, fmt.Errorf("list the libraries of %s: %w", name, err)
		}
		paths["/bin/"+name] = program
		for field := range strings.FieldsSeq(string(list)) {
			if strings.HasPrefix(field, "/") {
				paths[field] = field
			}
		}
	}
	var files []stack.File
	for _, to := range slices.Sorted(maps.Keys(paths)) {
		data, err := os.ReadFile(paths[to])
		if err != nil {
			return nil, fmt.Errorf("read a part of the suite's images: %w", err)
		}
		files = append(files, stack.File{Path: to, Data: data, Mode: 0o755})
	}
	return files, nil
}
