package criserver

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/store"
)

// startPause starts the process that is the first in the pod's own PID namespace.
func (s *Server) startPause(ctx context.Context, sb *sandbox) error {
	s.step(ctx, "startPause: mount")
	err := makePauseRoot(sb.pauseRoot())
	if err == nil {
		err = sb.letPodPass(sb.pauseDir())
	}
	if err != nil {
		return err
	}
	runtime := s.runtimeOf(sb)
	container := oci.Pause(sb.Config.Config, s.machine)
	container.RootFS, container.Hostname = sb.pauseRoot(), sb.hostname()
	container.Namespaces = append(container.Namespaces, sb.joined()...)
	container.Annotations = map[string]string{oci.AnnotationType: "sandbox", oci.AnnotationSandboxID: sb.ID}
	if container.AppArmorProfile, err = s.appArmor.Profile(ctx, nil, false); err != nil {
		return err
	}
	if container.CgroupsPath, err = oci.CgroupsPath(s.cgroupParent(sb), sb.ID, runtime.Systemd); err != nil {
		return err
	}
	container.UIDMappings, container.GIDMappings = sb.mappings()
	spec, err := oci.Generate(container, s.machine)
	if err != nil {
		return err
	}
	if err := writeSpec(sb.pauseDir(), spec); err != nil {
		return err
	}
	s.step(ctx, "startPause: create")
	sb.pause = newTask(sb.ID, sb.pauseDir(), runtime, true)
	process, err := sb.pause.create(ctx, s.conmon, monitor.Container{})
	if err != nil {
		return err
	}
	s.step(ctx, "startPause: start")
	if err := runtime.Start(ctx, sb.ID, sb.pause.init); err != nil {
		return err
	}
	// Recorded last: the server's next start takes back a pause process that is not recorded.
	s.step(ctx, "startPause: record")
	return sb.Update(func(state *store.SandboxState) { state.Pause = process })
}

// watchPause makes the sandbox not ready when its pause process ends.
func (s *Server) watchPause(sb *sandbox) {
	s.watch(sb.pause, func(monitor.Exit) {
		if !sb.ready() {
			return
		}
		klog.FromContext(s.stopped).Info("The pause process of a sandbox ended", "sandbox", sb.ID)
		tryUpdate(s.stopped, sb.Record, func(state *store.SandboxState) { state.Phase = store.SandboxStopped })
		s.emit(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, sb.ID, sb.ID)
	})
}

// ensurePause gives a sandbox that was made without one a pause process, for the first container
// that is to share a PID namespace.
func (s *Server) ensurePause(ctx context.Context, sb *sandbox) (err error) {
	sb.ops.Lock()
	defer sb.ops.Unlock()
	if sb.pause != nil && sb.pause.watched.Load() {
		return nil
	}
	if err := s.destroyPause(ctx, sb); err != nil { // what an earlier try could not undo
		return err
	}
	if err := s.startPause(ctx, sb); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return errors.Join(err, s.destroyPause(ctx, sb))
	}
	s.watchPause(sb)
	return nil
}

// pauseCode is the pause process by processor: it ignores SIGCHLD, so that the kernel takes note of the ends of the
// processes that became its children, and waits for ever. As the first process of its PID namespace it gets no signal
// from inside that it has no handler for, and SIGKILL from outside. Each ends with the struct sigaction, {SIG_IGN}.
//
//	rt_sigaction(SIGCHLD, &{SIG_IGN, 0, 0, 0}, NULL, 8); for (;;) pause();
var pauseCode = map[string]struct {
	machine elf.Machine
	code    []byte
}{
	"amd64": {elf.EM_X86_64, []byte{
		0xbf, 17, 0, 0, 0, // mov edi, SIGCHLD
		0x48, 0x8d, 0x35, 0x1c, 0, 0, 0, // lea rsi, [rip+28]: the last four words
		0x31, 0xd2, // xor edx, edx
		0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
		0xb8, 13, 0, 0, 0, // mov eax, rt_sigaction
		0x0f, 0x05, // syscall
		0xb8, 34, 0, 0, 0, // again: mov eax, pause
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp again
		0x0f, 0x1f, 0x40, 0, // nop
		1, 0, 0, 0, 0, 0, 0, 0, // SIG_IGN
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	}},
	"arm64": {elf.EM_AARCH64, []byte{
		0x20, 0x02, 0x80, 0xd2, // mov x0, SIGCHLD
		0xa1, 0x01, 0x00, 0x10, // adr x1, the last four words
		0x02, 0x00, 0x80, 0xd2, // mov x2, 0
		0x03, 0x01, 0x80, 0xd2, // mov x3, 8
		0xc8, 0x10, 0x80, 0xd2, // mov x8, rt_sigaction
		0x01, 0x00, 0x00, 0xd4, // svc 0
		0x00, 0x00, 0x80, 0xd2, // again: mov x0, 0
		0x01, 0x00, 0x80, 0xd2, // mov x1, 0
		0x02, 0x00, 0x80, 0xd2, // mov x2, 0
		0x03, 0x00, 0x80, 0xd2, // mov x3, 0
		0x28, 0x09, 0x80, 0xd2, // mov x8, ppoll: there is no pause
		0x01, 0x00, 0x00, 0xd4, // svc 0
		0xfa, 0xff, 0xff, 0x17, // b again
		0x1f, 0x20, 0x03, 0xd5, // nop
		1, 0, 0, 0, 0, 0, 0, 0, // SIG_IGN
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	}},
}

// pauseAddress is where the program is loaded, as static programs are.
const pauseAddress = 0x400000

// pauseProgram is the pause process as an executable file.
func pauseProgram(arch string) ([]byte, error) {
	p, ok := pauseCode[arch]
	if !ok {
		return nil, fmt.Errorf("make pause process: there is no program for %s: %w", arch, errors.ErrUnsupported)
	}
	var header elf.Header64
	var segment elf.Prog64
	headers := binary.Size(header) + 2*binary.Size(segment)
	header = elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(p.machine), Version: uint32(elf.EV_CURRENT), Entry: pauseAddress + uint64(headers),
		Phoff: uint64(binary.Size(header)), Ehsize: uint16(binary.Size(header)), Phentsize: uint16(binary.Size(segment)), Phnum: 2,
	}
	size := uint64(headers + len(p.code))
	segment = elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: pauseAddress, Paddr: pauseAddress,
		Filesz: size, Memsz: size, Align: 0x10000,
	}
	stack := elf.Prog64{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16}
	var file []byte
	for _, part := range []any{header, segment, stack, p.code} {
		file, _ = binary.Append(file, binary.LittleEndian, part) // their sizes are fixed
	}
	return file, nil
}

// makePauseRoot makes the root file system of a pause process: a file system of its own, since the one below may forbid
// the execution of programs, with the program and the places of mounts, read-only.
func makePauseRoot(dir string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make root directory of pause process: %w", err)
		}
	}()
	program, err := pauseProgram(runtime.GOARCH)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("pause", dir, "tmpfs", flags, "mode=755,size=64k,nr_inodes=16"); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	for _, name := range []string{"dev", "proc", "sys"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	// The kernel keeps processes that execute what they may not read from being looked into by others: containers get into
	// neither memory nor root directory of the pause process with the same user, nor with capabilities in a user namespace.
	path := filepath.Join(dir, "pause")
	// A process that is started while the file is open has a copy of its descriptor until it executes its program, and as
	// long as that is open for writing the file system cannot be made read-only.
	syscall.ForkLock.RLock()
	err = os.WriteFile(path, program, 0o700)
	syscall.ForkLock.RUnlock()
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o111); err != nil {
		return err
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY|flags, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", dir, err)
	}
	return nil
}
