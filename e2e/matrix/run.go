// Package matrix injects faults into a running node and looks whether it heals: every kind of fault into every call that the
// kubelet makes to its runtime, into its requests to the apiserver, and into the machine below it, while other pods start,
// run, crash, are probed and end. It prints one line a fault.
//
// Faults that concern one pod are injected all at once, each into a pod of its own; those that concern the node follow
// each other. After each of them, within a bound, the node is Ready and /healthz says ok, pods that are probed are Ready,
// containers that end are started again, and new pods start and go. While it lasts, and after, no container runs twice,
// none is started again without an event that says why, and no untouched pod stops being Ready. In the end nothing is left.
package matrix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"minikubelet/e2e/progress"
	"minikubelet/e2e/stack"
)

// Options say what to run. Only chooses rows by a regular expression.
type Options struct {
	Bin, Runtime, Kubelet string
	Long                  bool
	Only                  *regexp.Regexp
	KeepDir               bool
	Progress              io.Writer
	Title                 string // of the run, in what it says of its progress
}

// Row is a fault and what came of it: no problems is well.
type Row struct {
	Fault    string
	Took     time.Duration
	Problems []string
}

// run is one run of the matrix, on one stack.
type run struct {
	Options
	s     *stack.Stack
	cri   *CRIProxy // nil if the runtime is in the kubelet
	api   *APIProxy
	k     *stack.Kubelet
	o     *observer
	crowd *population
	bound time.Duration // in which the node must have healed
	empty footprint     // before there were pods

	testapp       []stack.File
	testappConfig v1.Config
	counting      bool            // the stages run only to count their rows
	meter         *progress.Meter // of rows
	lifeMeter     *progress.Meter // of pods, where the rows are few and long

	mu     sync.Mutex // guards what follows
	rows   []Row
	number int
	count  int // of rows, while counting
}

const (
	requestTimeout = 10 * time.Second // of the kubelet's calls to the runtime
	logLimitKiB    = 32
	diskMiB        = 256
)

// Run runs the matrix. The error is one of the run itself, not of a fault.
func Run(ctx context.Context, o Options) (rows []Row, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // what watches the stack ends with it
	s, err := stack.Start(ctx, stack.Options{BinDir: o.Bin, Runtime: o.Runtime, KubeletBinary: o.Kubelet, KubeletDiskMiB: diskMiB, KeepDir: o.KeepDir})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if o.Long { // the apiserver is away for longer than the controller waits before it says of a node's pods that they are not ready
		if err := s.Reflag(ctx, stack.ControllerManager, "--node-monitor-grace-period=10m"); err != nil {
			return nil, err
		}
	}
	r := &run{Options: o, s: s, bound: 2 * time.Minute}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.plan(ctx); err != nil {
		return nil, err
	}
	for _, stage := range r.stages() {
		if err := ctx.Err(); err != nil {
			return r.rows, context.Cause(ctx)
		}
		if err := stage(ctx); err != nil {
			return r.rows, fmt.Errorf("%w\nthe kubelet's log ends:\n%s", err, r.k.LogTail(30))
		}
	}
	if o.Only != nil && len(r.rows) == 1 { // what is left is always looked for
		return r.rows, fmt.Errorf("-only %q: there is no fault of such a name", o.Only)
	}
	return r.rows, nil
}

// plan counts the rows that the stages will have, but for those that depend on what files there will be.
func (r *run) plan(ctx context.Context) error {
	r.counting = true
	defer func() { r.counting = false }()
	for _, stage := range r.stages() {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	r.meter = progress.New(r.Progress, r.Title, r.count)
	return nil
}

// counted tells whether the stages run only to count their rows, and counts one.
func (r *run) counted() bool {
	if r.counting {
		r.count++
	}
	return r.counting
}

// stages are the parts of the matrix, in an order that has those that start the kubelet anew before the rest, so that
// what a kubelet leaks adds up.
func (r *run) stages() []func(context.Context) error {
	stages := []func(context.Context) error{r.kills, r.machine}
	if r.cri != nil {
		stages = append(stages, r.podCalls, r.nodeCalls)
	}
	return append(stages, r.requests, r.clocks, r.leaks)
}

// prepare starts the proxies, the kubelet and the pods.
func (r *run) prepare(ctx context.Context) (err error) {
	if r.testapp, r.testappConfig, err = r.s.TestappFiles(ctx); err != nil {
		return err
	}
	if r.s.RuntimeIsProgram() {
		if r.cri, err = StartCRIProxy(filepath.Join(r.s.Dir, "cri-proxy.sock"), r.s.RuntimeSocket); err != nil {
			return err
		}
	}
	if r.api, err = StartAPIProxy(r.s, 6444); err != nil {
		return err
	}
	r.o = observe(ctx, r.s)
	if err := r.startKubelet(ctx); err != nil {
		return err
	}
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	if r.crowd, err = populate(ctx, r.s, r.o, r.bound); err != nil {
		return err
	}
	err = r.settle(ctx, r.bound)
	r.o.verdict(ctx) // starts that a slow machine made fail are no faults yet
	return err
}

func (r *run) close() {
	if r.crowd != nil {
		r.crowd.stop()
	}
	if r.k != nil {
		_ = r.k.Stop(20 * time.Second)
	}
	r.api.Close()
	if r.cri != nil {
		r.cri.Close()
	}
}

// startKubelet starts a kubelet between the proxies. Its time limits are short, so that what hangs is noticed soon.
func (r *run) startKubelet(context.Context) error {
	kubeconfig, err := r.s.NodeKubeconfigAt("matrix", r.api.Address)
	if err != nil {
		return err
	}
	args := []string{"--kubeconfig=" + kubeconfig}
	if r.cri != nil {
		args = append(args, "--container-runtime-endpoint=unix://"+r.cri.Socket)
	}
	r.k, err = r.s.StartKubelet(stack.KubeletOptions{Args: args, Config: map[string]any{
		"runtimeRequestTimeout":       requestTimeout.String(),
		"crashLoopBackOff":            map[string]any{"maxContainerRestartPeriod": "1s"},
		"featureGates":                map[string]bool{"KubeletCrashLoopBackOffMax": true},
		"containerLogMaxSize":         fmt.Sprintf("%dKi", logLimitKiB),
		"containerLogMonitorInterval": "3s",
		"maxPods":                     1100,
	}})
	return err
}

// restartKubelet kills the kubelet and starts another one.
func (r *run) restartKubelet(ctx context.Context, between func() error) error {
	if r.counting {
		return nil
	}
	if err := r.k.Kill(); err != nil {
		return err
	}
	r.o.killed()
	if between != nil {
		if err := between(); err != nil {
			return err
		}
	}
	return r.startKubelet(ctx)
}

// wanted tells whether a row was asked for.
func (r *run) wanted(fault string) bool { return r.Only == nil || r.Only.MatchString(fault) }

// report adds a row.
func (r *run) report(fault string, since time.Time, problems ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	row := Row{Fault: fault, Took: time.Since(since), Problems: problems}
	r.rows = append(r.rows, row)
	fmt.Fprintf(r.Progress, "%s  %s  %.1fs\n", verdict(row), fault, row.Took.Seconds())
	for _, problem := range problems {
		fmt.Fprintf(r.Progress, "    %s\n", problem)
	}
	r.meter.Done(len(problems) > 0, fault)
}

// during injects a fault that concerns the node, lets the pods live with it for a while, heals it and waits until all
// is well.
func (r *run) during(ctx context.Context, fault string, hold time.Duration, inject func() (heal func(), err error)) error {
	if !r.wanted(fault) || r.counted() {
		return nil
	}
	start := time.Now()
	heal, err := inject()
	if err != nil {
		return fmt.Errorf("%s: %w", fault, err)
	}
	if err := sleep(ctx, hold); err != nil {
		return err
	}
	heal()
	return r.judge(ctx, fault, start)
}

// judge waits until all is well and reports the fault.
func (r *run) judge(ctx context.Context, fault string, start time.Time) error {
	if r.counted() {
		return nil
	}
	err := r.settle(ctx, r.bound)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	problems := r.o.verdict(ctx)
	if err != nil {
		problems = append(problems, err.Error())
	}
	r.report(fault, start, problems...)
	return context.Cause(ctx)
}

// settle waits until all is well, and says what is not when the bound is over.
func (r *run) settle(ctx context.Context, bound time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	before := r.crowd.progress()
	var ill []string
	for {
		if ill = r.ill(ctx, before); len(ill) == 0 {
			r.o.endExcuse()
			return nil
		}
		if sleep(ctx, 200*time.Millisecond) != nil {
			return fmt.Errorf("not well after %v: %s", bound, strings.Join(ill, "; "))
		}
	}
}

// ill is what is not well yet.
func (r *run) ill(ctx context.Context, before map[string]int64) (ill []string) {
	if _, err := r.s.Get(ctx, "http://127.0.0.1:10248/healthz"); err != nil {
		ill = append(ill, err.Error())
	}
	if node := r.o.currentNode(); node == nil || !stack.NodeReady(node) {
		ill = append(ill, "the node is not Ready")
	}
	for _, pod := range r.o.all() {
		if pod.Labels[roleLabel] == steady && !stack.PodReady(pod) {
			ill = append(ill, pod.Name+" is not ready: "+condition(pod))
		}
	}
	for who, step := range r.crowd.progress() {
		least := before[who] + 1
		if strings.HasPrefix(who, "pods") {
			least++ // one whole life since then
		}
		if step < least {
			ill = append(ill, who+" stands still")
		}
	}
	slices.Sort(ill)
	return ill
}

// eventually waits for what no watch announces.
func (r *run) eventually(ctx context.Context, what string, done func() bool) error {
	for !done() {
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("never came true: %s: %w", what, err)
		}
	}
	return nil
}

func (r *run) rotated(pod *corev1.Pod) bool {
	files, _ := filepath.Glob(fmt.Sprintf("%s/*_%s/app/*.log.*", r.s.PodLogsDir(), pod.UID))
	return len(files) > 0
}

func milli(n int64) *resource.Quantity { return resource.NewMilliQuantity(n, resource.DecimalSI) }

func verdict(row Row) string {
	if len(row.Problems) > 0 {
		return "FAULT"
	}
	return "ok   "
}

// Print writes the table and tells whether all is well.
func Print(w io.Writer, rows []Row) bool {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "fault\tverdict\tseconds\n")
	well := true
	for _, row := range rows {
		fmt.Fprintf(t, "%s\t%s\t%.1f\n", row.Fault, strings.TrimSpace(verdict(row)), row.Took.Seconds())
		well = well && len(row.Problems) == 0
	}
	_ = t.Flush()
	for _, row := range rows {
		for _, problem := range row.Problems {
			fmt.Fprintf(w, "%s: %s\n", row.Fault, problem)
		}
	}
	return well
}
