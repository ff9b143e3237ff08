package criserver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/oci"
)

const (
	maxResolvConf = 10 << 20 // as much as kubelets read
	shmSize       = 64 << 20 // the size in other runtimes
)

func (sb *sandbox) hostnameFile() string { return filepath.Join(sb.Dir(), "hostname") }
func (sb *sandbox) resolvConf() string   { return filepath.Join(sb.Dir(), "resolv.conf") }

// writeFiles makes the files that the pod's containers have in common.
func (sb *sandbox) writeFiles() error {
	if err := os.WriteFile(sb.hostnameFile(), []byte(sb.hostname()+"\n"), 0o644); err != nil {
		return fmt.Errorf("write hostname: %w", err)
	}
	content, err := resolvConf(sb.Config.Config.GetDnsConfig())
	if err != nil {
		return err
	}
	if err := os.WriteFile(sb.resolvConf(), content, 0o644); err != nil {
		return fmt.Errorf("write resolv.conf: %w", err)
	}
	return errors.Join(sb.giveToPod(sb.hostnameFile()), sb.giveToPod(sb.resolvConf()))
}

// resolvConf is what the pod asks for, or else the machine's own.
func resolvConf(dns *runtimeapi.DNSConfig) ([]byte, error) {
	if len(dns.GetServers())+len(dns.GetSearches())+len(dns.GetOptions()) == 0 {
		content, err := bounded.ReadFile("/etc/resolv.conf", maxResolvConf)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the machine's resolv.conf: %w", err)
		}
		return content, nil
	}
	var content strings.Builder
	line := func(keyword string, values ...string) {
		if len(values) > 0 {
			fmt.Fprintf(&content, "%s %s\n", keyword, strings.Join(values, " "))
		}
	}
	line("search", dns.GetSearches()...)
	for _, server := range dns.GetServers() {
		line("nameserver", server)
	}
	line("options", dns.GetOptions()...)
	for _, value := range slices.Concat(dns.GetSearches(), dns.GetServers(), dns.GetOptions()) {
		if strings.ContainsAny(value, "\n\r\x00") || value == "" {
			return nil, fmt.Errorf("%w: DNS configuration contains %q", oci.ErrInvalid, value)
		}
	}
	if content.Len() > maxResolvConf {
		return nil, fmt.Errorf("%w: DNS configuration of %d bytes", oci.ErrInvalid, content.Len())
	}
	return []byte(content.String()), nil
}

// mountShm makes the memory that the pod's containers share. A pod in the host's IPC namespace has the host's.
func (sb *sandbox) mountShm() error {
	if sb.hostIPC() {
		return nil
	}
	if err := os.MkdirAll(sb.shmDir(), 0o700); err != nil {
		return fmt.Errorf("make /dev/shm: %w", err)
	}
	flags := uintptr(unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV)
	if err := unix.Mount("shm", sb.shmDir(), "tmpfs", flags, fmt.Sprintf("mode=1777,size=%d", shmSize)); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	return sb.giveToPod(sb.shmDir())
}

// shm is what to mount at /dev/shm of the pod's containers.
func (sb *sandbox) shm() string {
	if sb.hostIPC() {
		return "/dev/shm"
	}
	return sb.shmDir()
}
