// Command critest runs cri-tools' validation suite of CRI runtimes against crid or containerd,
// in a network namespace of its own, with images that stand in for the suite's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"minikubelet/e2e/stack"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
		os.Exit(1)
	}
}

// skipped are the specs that cannot pass here: docs/critest.md says why.
const skipped = "AppArmor|SELinux|NRI|public image with digest|MaskedPaths"

func run() (err error) {
	bin := flag.String("bin", os.Getenv(stack.BinEnv), "directory of the stack's programs")
	program := flag.String("critest", "", "the critest program")
	runtime := flag.String("runtime", stack.Crid, "CRI server to test")
	keep := flag.Bool("keep", false, "leave the directory with the logs")
	flag.Parse()
	if *runtime != stack.Crid && *runtime != stack.Containerd { // the embedded one is a kubelet's
		return fmt.Errorf("unknown runtime %q: %s or %s", *runtime, stack.Crid, stack.Containerd)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	start, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	s, err := stack.Start(start, stack.Options{BinDir: *bin, Runtime: *runtime, NoControlPlane: true, KeepDir: *keep})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	images, err := s.PushCritestImages(start)
	if err != nil {
		return err
	}
	args := []string{
		"--net=" + s.NetnsPath(), "--", *program,
		"-runtime-endpoint=unix://" + s.RuntimeSocket, "-image-endpoint=unix://" + s.RuntimeSocket, "-test-images-file=" + images,
		"-ginkgo.no-color", "-ginkgo.skip=" + skipped,
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(args, flag.Args()...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w; the log of %s ends:\n%s", err, *runtime, s.Component(*runtime).LogTail(60))
	}
	return nil
}
