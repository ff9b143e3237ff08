// Command conformance runs Kubernetes' own end-to-end suite against a cluster of one node of ours, or of upstream's
// for comparison, and prints what passed, what failed and what did not apply. `make conformance` is this command.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"minikubelet/e2e/progress"
	"minikubelet/e2e/stack"
)

// presets are the labels' short names. Serial, disruptive and flaky specs have no place beside others.
var presets = map[string]string{
	"node":        "NodeConformance && " + undisturbed,
	"conformance": "Conformance && " + undisturbed,
	"all":         "(NodeConformance || Conformance) && " + undisturbed,
}

const undisturbed = "!Serial && !Flaky && !Disruptive && (sig-node || sig-storage || sig-network)"

type flags struct {
	bin, suite, kubelet, runtime string
	label, focus, skip, known    string
	subset                       string
	procs, again                 int
	timeout                      time.Duration
	keep                         bool
}

func main() {
	var f flags
	flag.StringVar(&f.bin, "bin", "", "directory of the stack's programs (default $"+stack.BinEnv+")")
	flag.StringVar(&f.suite, "suite", "", "directory of the suite's programs: e2e.test, agnhost, ginkgo, kube-proxy")
	flag.StringVar(&f.kubelet, "kubelet", "minikubelet", "which kubelet: minikubelet or upstream")
	flag.StringVar(&f.runtime, "runtime", stack.Containerd, "CRI runtime to run pods with")
	flag.StringVar(&f.label, "label", "node", "specs to run: node, conformance, all (both), or a ginkgo label filter")
	flag.StringVar(&f.focus, "focus", "", "run only specs whose name matches")
	flag.StringVar(&f.subset, "subset", "", "run only the specs that this file names, one a line; their tags need not be named")
	flag.StringVar(&f.skip, "skip", "", "leave out specs whose name matches")
	flag.StringVar(&f.known, "known", "e2e/testdata/conformance-known.txt", "specs that fail here for every kubelet, one a line: NAME # REASON")
	flag.IntVar(&f.procs, "procs", 6, "how many specs run at once")
	flag.IntVar(&f.again, "again", 40, "run what failed once more, two at a time, if it is no more than this")
	flag.DurationVar(&f.timeout, "timeout", 2*time.Hour, "limit of the whole run")
	flag.BoolVar(&f.keep, "keep", false, "leave the stack's directory, with logs and report, behind")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	if err := run(ctx, f); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// run starts the cluster, runs the suite and reports. It fails when a spec failed that is not known to, and when
// something is left of the pods afterwards.
func run(ctx context.Context, f flags) (err error) {
	suite, err := listSpecs(ctx, filepath.Join(f.suite, "e2e.test"), f.choice()...)
	if err != nil {
		return err
	}
	p, err := planRun(suite, f.subset, f.known)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "starting a cluster for %d specs\n", len(p.names))
	s, err := stack.Start(ctx, stack.Options{BinDir: f.bin, Runtime: f.runtime, Scheduler: true, AllControllers: true, KeepDir: f.keep})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if f.keep {
		fmt.Println("logs and report:", s.Dir)
	}
	if err := pushImages(ctx, s, f.suite); err != nil {
		return err
	}
	k, err := s.StartKubelet(stack.KubeletOptions{Upstream: f.kubelet == "upstream"})
	if err != nil {
		return err
	}
	if _, err := s.WaitNodeReady(ctx); err != nil {
		return fmt.Errorf("%w; the kubelet's log ends:\n%s", err, k.LogTail(20))
	}
	proxy, err := startProxy(s, f.suite)
	if err != nil {
		return err
	}
	stopDNS, err := startDNS(ctx, s)
	if err != nil {
		return err
	}
	defer stopDNS()
	// Without a kubelet every spec would take its whole time to fail.
	alive, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() {
		<-k.Done()
		end(errors.New("the kubelet has ended"))
	}()
	if err := runAndReport(alive, s, f, p); err != nil {
		if ctx.Err() == nil && alive.Err() != nil {
			err = fmt.Errorf("%w: %w; its log ends:\n%s", context.Cause(alive), err, k.LogTail(60))
		}
		return err
	}
	return errors.Join(proxy.Stop(10*time.Second), k.Stop(30*time.Second))
}

// choice are ginkgo's arguments that choose specs.
func (f flags) choice() []string {
	label := f.label
	if preset, ok := presets[label]; ok {
		label = preset
	}
	args := []string{"--label-filter=" + label}
	if f.focus != "" {
		args = append(args, "--focus="+f.focus)
	}
	if f.skip != "" {
		args = append(args, "--skip="+f.skip)
	}
	return args
}

// runAndReport runs the suite on the cluster, and prints what came of it and what is left of it.
func runAndReport(ctx context.Context, s *stack.Stack, f flags, p plan) error {
	if err := warmUp(ctx, s); err != nil {
		return err
	}
	before, err := takeStock(ctx, s)
	if err != nil {
		return err
	}
	if len(p.subset) > 0 {
		f.focus = exactly(p.subset)
	}
	results, err := runSuite(ctx, s, f, "suite", len(p.names))
	if err != nil {
		return err
	}
	if err := runAgain(ctx, s, f, results, p.known); err != nil {
		return err
	}
	results.print(os.Stdout, f.kubelet, p.known)
	return errors.Join(results.verdict(p.known), p.missing(results), checkLeaks(ctx, os.Stdout, s, before))
}

// runAgain runs what failed once more, two at a time. Much waits for things to happen in time, which on a busy machine
// is no matter of the kubelet's; what only passes now is listed.
func runAgain(ctx context.Context, s *stack.Stack, f flags, first *results, known map[string]string) error {
	var names []string
	for _, spec := range first.specs {
		if spec.failed() && known[spec.name] == "" {
			names = append(names, spec.name)
		}
	}
	if len(names) == 0 || len(names) > f.again {
		return nil
	}
	f.focus, f.procs = exactly(names), 2
	second, err := runSuite(ctx, s, f, "again", len(names))
	if err != nil {
		return fmt.Errorf("run again what failed: %w", err)
	}
	first.replace(second)
	return nil
}

// exactly is an expression for names that end so: many a name begins like another.
func exactly(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = regexp.QuoteMeta(name)
	}
	return "(?:" + strings.Join(quoted, "|") + ")$"
}

// runSuite runs so many specs in parallel processes and returns what came of them; that some fail is no error.
func runSuite(ctx context.Context, s *stack.Stack, f flags, name string, count int) (*results, error) {
	report := filepath.Join(s.Dir, name+".json")
	args := append([]string{
		filepath.Join(f.suite, "ginkgo"), fmt.Sprintf("--procs=%d", f.procs), "--no-color", "--succinct", "--force-newlines", "--silence-skips",
		"--output-dir=" + filepath.Dir(report), "--json-report=" + filepath.Base(report), "--timeout=" + (f.timeout - 2*time.Minute).String(), "--keep-going",
	}, f.choice()...)
	args = append(args, filepath.Join(f.suite, "e2e.test"), "--",
		"--kubeconfig="+s.AdminKubeconfig, "--provider=local", "--kubectl-path="+s.Program("kubectl"), "--minStartupPods=0",
		"--node-os-distro=custom", "--delete-namespace=true", "--report-dir=", "--container-runtime-process-name=containerd",
	)
	suite, err := s.Spawn(name, args...)
	if err != nil {
		return nil, err
	}
	following, stop := context.WithCancel(ctx)
	var follower sync.WaitGroup
	follower.Go(func() { progress.FollowGinkgo(following, suite.LogPath, progress.New(os.Stderr, name, count)) })
	err = suite.Wait(ctx)
	stop()
	follower.Wait()
	if _, statErr := os.Stat(report); statErr != nil {
		return nil, fmt.Errorf("run the suite: %w; its log ends:\n%s", err, suite.LogTail(40))
	}
	return readReport(report)
}
