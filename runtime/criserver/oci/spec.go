// Package oci makes OCI runtime specifications. Generate is a pure function of what the CRI
// asks for, the image's configuration and what is known of the machine; its golden files are in
// testdata. What must be looked up on the machine first has functions of its own.
package oci

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Annotations of the specifications, by the names that other tools know.
const (
	AnnotationType      = "io.kubernetes.cri.container-type" // container or sandbox
	AnnotationSandboxID = "io.kubernetes.cri.sandbox-id"
	AnnotationName      = "io.kubernetes.cri.container-name"
	AnnotationImage     = "io.kubernetes.cri.image-name"
	// AnnotationRecord is the server's own record, by which it can find a container again.
	AnnotationRecord = "io.minikubelet.record"
)

// maxStrings bounds what images and pods can put into a specification.
const maxStrings = 64 << 10

// ErrInvalid marks what can never become a container.
var ErrInvalid = errors.New("invalid configuration")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

// Machine is what specifications need to know of the machine that they are for.
type Machine struct {
	CgroupV2 bool
	Hugetlb  bool // the controller is there
	Swap     bool // and is accounted for
	// MinOOMScoreAdj is the least that the server may ask for: it cannot go below its own without CAP_SYS_RESOURCE.
	MinOOMScoreAdj int
	// Capabilities are what "all" means: the server's own.
	Capabilities []string
	Seccomp      bool
	SELinux      bool
}

// Container is what Generate makes a specification of.
type Container struct {
	Config  *runtimeapi.ContainerConfig
	Image   v1.Config
	Sandbox *runtimeapi.PodSandboxConfig
	RootFS  string
	User    User
	// Namespaces that the container joins. Kinds that are missing here are the host's; one without a path is made.
	Namespaces []specs.LinuxNamespace
	// UIDMappings and GIDMappings are those of the user namespace, if Namespaces has one.
	UIDMappings, GIDMappings []specs.LinuxIDMapping
	// CgroupsPath is in the form that the cgroup driver wants.
	CgroupsPath string
	// Files of the sandbox, "" for those that the host's stand in for.
	Hostname, HostnameFile, ResolvConf, ShmDir string
	// Mounts are the image's anonymous volumes and image mounts; the config's own come from Config.
	Mounts []specs.Mount
	// Devices that Config.Devices and privilege mean on this machine.
	Devices []specs.LinuxDevice
	// DeviceAccess are the permissions of Devices, at the same index.
	DeviceAccess []string
	// SeccompProfile is the content of a localhost profile.
	SeccompProfile string
	// AppArmorProfile is the name of a profile that is loaded, "" for none.
	AppArmorProfile string
	Annotations     map[string]string
}

// Generate makes the specification of a container.
func Generate(c Container, m Machine) (*specs.Spec, error) {
	if err := validate(c); err != nil {
		return nil, err
	}
	process, err := processOf(c, m)
	if err != nil {
		return nil, err
	}
	mounts, propagation, err := mountsOf(c)
	if err != nil {
		return nil, err
	}
	security := c.Config.GetLinux().GetSecurityContext()
	resources := Resources(c.Config.GetLinux().GetResources(), m)
	resources.Devices = deviceRules(c)
	spec := &specs.Spec{
		Version:     specs.Version,
		Process:     process,
		Root:        &specs.Root{Path: c.RootFS, Readonly: security.GetReadonlyRootfs()},
		Mounts:      mounts,
		Annotations: c.Annotations,
		Linux: &specs.Linux{
			Namespaces:        c.Namespaces,
			Resources:         resources,
			CgroupsPath:       c.CgroupsPath,
			Devices:           c.Devices,
			RootfsPropagation: propagation,
		},
	}
	// UIDMappings and GIDMappings stay empty: the user namespace is joined and has its mappings already.
	if !security.GetPrivileged() {
		spec.Linux.MaskedPaths = security.GetMaskedPaths()
		spec.Linux.ReadonlyPaths = security.GetReadonlyPaths()
	}
	spec.Linux.Seccomp, err = seccompOf(c, m, spec)
	return spec, err
}

// validate refuses what is too large or not supported at all.
func validate(c Container) error {
	config, image := c.Config, c.Image
	if count := len(config.GetCommand()) + len(config.GetArgs()) + len(config.GetEnvs()) + len(config.GetMounts()) + len(c.Devices) +
		len(config.GetCDIDevices()) + len(image.Env) + len(image.Entrypoint) + len(image.Cmd); count > maxStrings {
		return invalid("%d arguments, variables, mounts and devices are too many", count)
	}
	if c.Config.GetLinux().GetSecurityContext().GetPrivileged() && !c.Sandbox.GetLinux().GetSecurityContext().GetPrivileged() {
		return invalid("a privileged container needs a privileged sandbox")
	}
	return nil
}

// processOf is what runs in the container.
func processOf(c Container, m Machine) (*specs.Process, error) {
	args, err := command(c.Config, c.Image)
	if err != nil {
		return nil, err
	}
	env, err := environment(c)
	if err != nil {
		return nil, err
	}
	security := c.Config.GetLinux().GetSecurityContext()
	capabilities, err := capabilitiesOf(security, m)
	if err != nil {
		return nil, err
	}
	adjust := max(int(c.Config.GetLinux().GetResources().GetOomScoreAdj()), m.MinOOMScoreAdj)
	process := &specs.Process{
		Terminal: c.Config.GetTty(), Args: args, Env: env, Cwd: path.Join("/", cmp.Or(c.Config.GetWorkingDir(), c.Image.WorkingDir)),
		User:            specs.User{UID: c.User.UID, GID: c.User.GID, AdditionalGids: c.User.Groups},
		Capabilities:    capabilities,
		NoNewPrivileges: security.GetNoNewPrivs(), ApparmorProfile: c.AppArmorProfile, OOMScoreAdj: &adjust,
	}
	process.SelinuxLabel, err = seLinuxLabel(security, m)
	return process, err
}

// command is what to execute: a command replaces the image's entrypoint and its arguments, args only the latter.
func command(config *runtimeapi.ContainerConfig, image v1.Config) ([]string, error) {
	entrypoint, args := config.GetCommand(), config.GetArgs()
	if len(entrypoint) == 0 {
		if entrypoint = image.Entrypoint; slices.Equal(entrypoint, []string{""}) { // how a Dockerfile takes that of its base away
			entrypoint = nil
		}
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	all := slices.Concat(entrypoint, args)
	if len(all) == 0 || all[0] == "" {
		return nil, invalid("neither the container nor its image says what to run")
	}
	for _, arg := range all {
		if strings.ContainsRune(arg, 0) {
			return nil, invalid("an argument contains a null byte")
		}
	}
	return all, nil
}

// environment is the image's, changed by the container's. Of each variable there is one, where it was first set.
func environment(c Container) ([]string, error) {
	var env []string
	index := map[string]int{}
	set := func(key, entry string) {
		if i, ok := index[key]; ok {
			env[i] = entry
			return
		}
		index[key] = len(env)
		env = append(env, entry)
	}
	set("PATH", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	if c.Config.GetTty() {
		set("TERM", "TERM=xterm")
	}
	if c.Hostname != "" {
		set("HOSTNAME", "HOSTNAME="+c.Hostname)
	}
	for _, entry := range c.Image.Env {
		if key, _, ok := strings.Cut(entry, "="); ok && key != "" && !strings.ContainsRune(entry, 0) {
			set(key, entry)
		}
	}
	for _, kv := range c.Config.GetEnvs() {
		if kv.GetKey() == "" || strings.ContainsAny(kv.GetKey(), "=\x00") || bytes.IndexByte(kv.GetValue(), 0) >= 0 {
			return nil, invalid("environment variable %q is none", kv.GetKey())
		}
		set(kv.GetKey(), kv.GetKey()+"="+string(kv.GetValue()))
	}
	return env, nil
}
