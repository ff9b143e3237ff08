// Command conformance runs Kubernetes' own end-to-end suite against a cluster of one node of ours, or of upstream's
// for comparison, and prints what passed, what failed and what did not apply. `make conformance` is this command.
// With -node it runs Kubernetes' node suite, which starts the kubelet itself: `make e2e-node`.
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
	"slices"
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
	// Specs of the node suite that start the kubelet again: devices, PodResources, drop-ins, certificates.
	"restarts": "(Feature: containsAny {DevicePlugin, DeviceManager, PodResourcesAPI, KubeletConfigDropInDir} || NodeConformance && Serial) && !Feature: containsAny OffByDefault",
}

const undisturbed = "!Serial && !Flaky && !Disruptive && (sig-node || sig-storage || sig-network)"

type flags struct {
	bin, suite, kubelet, runtime string
	label, focus, skip, known    string
	subset                       string
	procs, again                 int
	timeout                      time.Duration
	keep, node                   bool
}

func main() {
	var f flags
	flag.StringVar(&f.bin, "bin", "", "directory of the stack's programs (default $"+stack.BinEnv+")")
	flag.StringVar(&f.suite, "suite", "", "directory of the suite's programs: e2e.test, agnhost, ginkgo, kube-proxy; or e2e_node.test, agnhost, ginkgo")
	flag.BoolVar(&f.node, "node", false, "run the node suite, which starts the kubelet and an apiserver itself")
	flag.StringVar(&f.kubelet, "kubelet", "minikubelet", "which kubelet: minikubelet or upstream")
	flag.StringVar(&f.runtime, "runtime", stack.Containerd, "CRI runtime to run pods with")
	flag.StringVar(&f.label, "label", "node", "specs to run: node, conformance, all (both), restarts (of the node suite), or a ginkgo label filter")
	flag.StringVar(&f.focus, "focus", "", "run only specs whose name matches")
	flag.StringVar(&f.subset, "subset", "", "run only the specs that this file names, one a line; their tags need not be named")
	flag.StringVar(&f.skip, "skip", "", "leave out specs whose name matches")
	flag.StringVar(&f.known, "known", "", "files of specs that are known to fail, with commas between, in them one a line: NAME # REASON (default those of e2e/testdata)")
	flag.IntVar(&f.procs, "procs", 6, "how many specs run at once")
	flag.IntVar(&f.again, "again", 40, "run what failed once more, two at a time, if it is no more than this")
	flag.DurationVar(&f.timeout, "timeout", 2*time.Hour, "limit of the whole run")
	flag.BoolVar(&f.keep, "keep", false, "leave the stack's directory, with logs and report, behind")
	flag.Parse()
	if f.kubelet != "minikubelet" && f.kubelet != "upstream" { // said before anything is built or started
		fmt.Fprintf(os.Stderr, "conformance: unknown kubelet %q: minikubelet or upstream\n", f.kubelet)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	do := run
	if f.node {
		do = runNode
	}
	if err := do(ctx, f); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// run starts the cluster, runs the suite and reports. It fails when a spec failed that is not known to, and when
// something is left of the pods afterwards.
func run(ctx context.Context, f flags) (err error) {
	specs, err := listSpecs(ctx, filepath.Join(f.suite, "e2e.test"), f.choice()...)
	if err != nil {
		return err
	}
	p, err := planRun(specs, f.subset, f.knownLists()...)
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
	if err := pushImages(ctx, s, f.suite, "e2e.test"); err != nil {
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

// knownLists are the files of specs that are known to fail: on the test machine, and for what this kubelet has not.
func (f flags) knownLists() []string {
	const dir = "e2e/testdata/"
	lists := []string{dir + "conformance-known.txt"}
	switch {
	case f.known != "":
		return strings.Split(f.known, ",")
	case f.node && f.kubelet == "upstream":
		return append(lists, dir+"e2e-node-known.txt")
	case f.node:
		return append(lists, dir+"e2e-node-known.txt", dir+"e2e-node-unbuilt.txt")
	}
	return lists
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
	results, err := suite{program: filepath.Join(f.suite, "e2e.test"), args: []string{
		"--kubeconfig=" + s.AdminKubeconfig, "--provider=local", "--kubectl-path=" + s.Program("kubectl"), "--minStartupPods=0",
		"--node-os-distro=custom", "--delete-namespace=true", "--report-dir=", "--container-runtime-process-name=containerd",
	}}.run(ctx, s, f, p)
	if err != nil {
		return err
	}
	results.print(os.Stdout, f.kubelet, p.known)
	return errors.Join(results.verdict(p.known), p.missing(results), checkLeaks(ctx, os.Stdout, s, before))
}

// suite is a program of specs and its own arguments.
type suite struct {
	command []string // runs ginkgo, if it is not run directly
	program string
	args    []string
}

// run runs the planned specs, and what failed once more.
func (t suite) run(ctx context.Context, s *stack.Stack, f flags, p plan) (*results, error) {
	if len(p.subset) > 0 {
		f.focus = exactly(p.subset)
	}
	results, err := t.runOnce(ctx, s, f, "suite", len(p.names))
	if err != nil {
		return nil, err
	}
	return results, t.runAgain(ctx, s, f, results, p.known)
}

// runAgain runs what failed once more, two at a time. Much waits for things to happen in time, which on a busy machine
// is no matter of the kubelet's; what only passes now is listed.
func (t suite) runAgain(ctx context.Context, s *stack.Stack, f flags, first *results, known map[string]string) error {
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
	second, err := t.runOnce(ctx, s, f, "again", len(names))
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

// runOnce runs so many specs in parallel processes and returns what came of them; that some fail is no error.
func (t suite) runOnce(ctx context.Context, s *stack.Stack, f flags, name string, count int) (*results, error) {
	report := filepath.Join(s.Dir, name+".json")
	args := append(slices.Clone(t.command), filepath.Join(f.suite, "ginkgo"),
		fmt.Sprintf("--procs=%d", f.procs), "--no-color", "--succinct", "--force-newlines", "--silence-skips",
		"--output-dir="+filepath.Dir(report), "--json-report="+filepath.Base(report), "--timeout="+(f.timeout-2*time.Minute).String(), "--keep-going")
	args = append(append(append(args, f.choice()...), t.program, "--"), t.args...)
	process, err := s.Spawn(name, args...)
	if err != nil {
		return nil, err
	}
	following, stop := context.WithCancel(ctx)
	var follower sync.WaitGroup
	follower.Go(func() { progress.FollowGinkgo(following, process.LogPath, progress.New(os.Stderr, name, count)) })
	err = process.Wait(ctx)
	stop()
	follower.Wait()
	if _, statErr := os.Stat(report); statErr != nil {
		return nil, fmt.Errorf("run the suite: %w; its log ends:\n%s", err, process.LogTail(40))
	}
	r, readErr := readReport(report)
	if readErr == nil && len(r.specs) == 0 {
		readErr = fmt.Errorf("no spec ran: %w; the suite's log ends:\n%s", err, process.LogTail(40))
	}
	return r, readErr
}
