// Command bench measures this kubelet and an upstream kubelet in turn on the
// same stack, node and images, and the floor below both: the same pods driven
// straight through the CRI. Then it measures CRI runtimes without a kubelet, in
// turn. `make bench` is this command.
//
// A pod has one container and, by kubelets, a service account token;
// spec.nodeName is set, so that no scheduler is measured. Each kubelet is
// started anew for every number of pods, with an empty runtime and one pod run
// before as a warm-up. All take turns for several rounds, and medians are
// printed, those of the rounds' ratios too: a machine is not as fast in one
// minute as in the next.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"minikubelet/e2e/progress"
	"minikubelet/e2e/stack"
)

// The contenders' names in flags and in the report.
const (
	ours     = "minikubelet"
	upstream = "upstream"
	floor    = "floor"
	other    = "other" // another build of this kubelet
)

type flags struct {
	counts      []int
	contenders  []string
	idle        time.Duration
	settle      time.Duration
	bin         string
	other       string // another build of this kubelet, to compare with
	otherArgs   string // what the other is started with besides
	runtime     string
	concurrency int
	burst       int // so many pods at once, on both runtimes
	burstRounds int
	rounds      int
	timeout     time.Duration

	runtimes                   []string // to compare without a kubelet
	runtimePods, runtimeRounds int
}

func main() {
	var f flags
	counts := flag.String("n", "1,20,50,100", "numbers of pods")
	contenders := flag.String("kubelets", strings.Join([]string{floor, upstream, ours}, ","), "what to measure, in this order; empty for nothing")
	runtimes := flag.String("runtimes", strings.Join([]string{stack.Containerd, stack.Crid}, ","), "CRI runtimes to compare without a kubelet; empty for none")
	flag.IntVar(&f.runtimePods, "runtime-pods", 32, "how many pods a round of the comparison of runtimes has")
	flag.IntVar(&f.runtimeRounds, "runtime-rounds", 3, "rounds of the comparison of runtimes")
	flag.DurationVar(&f.idle, "idle", time.Minute, "how long to watch the kubelet idle, with the largest number of pods")
	flag.DurationVar(&f.settle, "settle", 10*time.Second, "how long to wait after the last pod is Ready before counting status writes and idling")
	flag.StringVar(&f.bin, "bin", "", "directory of the stack's programs (default $"+stack.BinEnv+")")
	flag.StringVar(&f.other, "other", "", "another build of this kubelet, a program: it is measured too, right before this one")
	flag.StringVar(&f.otherArgs, "other-args", "", "flags of the other, as in --timeline; without -other the other is this build with them")
	flag.StringVar(&f.runtime, "runtime", stack.Containerd, "CRI server below the kubelets: containerd, or embedded for this kubelet alone")
	flag.IntVar(&f.concurrency, "concurrency", 16, "how many pods the floor starts at once")
	flag.IntVar(&f.burst, "burst", 500, "measure the start and the deletion of so many pods at once too, on containerd and on the embedded runtime; 0 for not")
	flag.IntVar(&f.burstRounds, "burst-rounds", 1, "how often that is measured")
	flag.IntVar(&f.rounds, "rounds", 3, "how often each is measured with each number of pods")
	flag.DurationVar(&f.timeout, "timeout", 5*time.Minute, "limit for one number of pods to become Ready, and to go")
	flag.Parse()
	for field := range strings.SplitSeq(*counts, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			fmt.Fprintf(os.Stderr, "bench: -n: %q is no number of pods\n", field)
			os.Exit(2)
		}
		f.counts = append(f.counts, n)
	}
	if f.rounds < 1 || f.burstRounds < 1 {
		fmt.Fprintf(os.Stderr, "bench: -rounds %d, -burst-rounds %d: both must be positive\n", f.rounds, f.burstRounds)
		os.Exit(2)
	}
	f.contenders, f.runtimes = f.withOther(list(*contenders)), list(*runtimes)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, f); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (f flags) hasOther() bool { return f.other != "" || f.otherArgs != "" }

// withOther has the other build take its turn before this one, where there is one.
func (f flags) withOther(contenders []string) []string {
	i := slices.Index(contenders, ours)
	if !f.hasOther() || i < 0 {
		return contenders
	}
	return slices.Insert(contenders, i, other)
}

// list is a flag's comma-separated values.
func list(value string) []string {
	return slices.DeleteFunc(strings.Split(value, ","), func(one string) bool { return one == "" })
}

// bench is one run of the command.
type bench struct {
	flags
	s *stack.Stack
}

func run(ctx context.Context, f flags) error {
	if len(f.contenders) > 0 {
		if err := compareKubelets(ctx, f); err != nil {
			return err
		}
	}
	if f.burst > 0 {
		if err := compareBursts(ctx, f); err != nil {
			return err
		}
	}
	if len(f.runtimes) == 0 {
		return nil
	}
	contestants, err := compareRuntimes(ctx, f)
	if err == nil {
		reportRuntimes(os.Stdout, f, contestants)
	}
	return err
}

// compareBursts measures many pods at once on each runtime. Upstream's kubelet has no embedded one.
func compareBursts(ctx context.Context, f flags) error {
	f.counts, f.rounds, f.timeout = []int{f.burst}, f.burstRounds, max(f.timeout, 15*time.Minute)
	for runtime, contenders := range map[string][]string{stack.Containerd: {upstream, ours}, stack.Embedded: {ours}} {
		f.runtime, f.contenders = runtime, f.withOther(contenders)
		if err := compareKubelets(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// compareKubelets measures kubelets, and the floor below them.
func compareKubelets(ctx context.Context, f flags) error {
	for _, c := range f.contenders {
		if !slices.Contains([]string{ours, upstream, floor, other}, c) || c == other && !f.hasOther() {
			return fmt.Errorf("-kubelets: unknown %q", c)
		}
	}
	s, err := stack.Start(ctx, stack.Options{BinDir: f.bin, Runtime: f.runtime, NoControlPlane: slices.Equal(f.contenders, []string{floor})})
	if err != nil {
		return err
	}
	b := bench{flags: f, s: s}
	results := results{}
	meter := b.meter()
	for _, n := range f.counts {
		for round := range f.rounds {
			for _, contender := range f.contenders {
				fmt.Fprintf(os.Stderr, "%d pods, round %d of %d: %s\n", n, round+1, f.rounds, contender)
				r, err := b.measure(ctx, contender, n, round)
				if err != nil {
					_ = s.Close()
					return fmt.Errorf("measure %s with %d pods: %w", contender, n, err)
				}
				results.add(n, contender, r)
				meter.DoneOf(b.work(n, round), false, "")
			}
		}
	}
	report(os.Stdout, f, results)
	return s.Close()
}

// work is about how many seconds one measurement of so many pods takes, to tell how much is left.
func (b *bench) work(n, round int) float64 {
	seconds := 8 + b.settle.Seconds() + float64(n*repeats(n))/4
	if n == b.largest() && round == b.rounds-1 {
		seconds += b.idle.Seconds()
	}
	return seconds
}

// meter tells how many of the measurements of kubelets are done.
func (b *bench) meter() *progress.Meter {
	var work float64
	for _, n := range b.counts {
		for round := range b.rounds {
			work += float64(len(b.contenders)) * b.work(n, round)
		}
	}
	return progress.New(os.Stderr, "kubelets on "+b.runtime, len(b.counts)*b.rounds*len(b.contenders)).Work(work)
}

// repeats is how often a number of pods is measured in one round: a single pod's
// time says little, and costs little.
func repeats(n int) int {
	if n == 1 {
		return 5
	}
	return 1
}

func (b *bench) measure(ctx context.Context, contender string, n, round int) (result, error) {
	if contender == floor {
		return b.measureFloor(ctx, n)
	}
	o := stack.KubeletOptions{Upstream: contender == upstream, Config: map[string]any{"maxPods": max(250, n+10)}}
	if contender == other {
		o.Args = strings.Fields(b.otherArgs)
	}
	if contender == other && b.other != "" {
		o.Wrap = func(args []string) []string { return append([]string{b.other}, args[1:]...) }
	}
	k, err := b.s.StartKubelet(o)
	if err != nil {
		return result{}, err
	}
	watched, ended := context.WithCancelCause(ctx)
	go func() {
		<-k.Done()
		ended(errors.New("the kubelet ended"))
	}()
	r, err := b.measureKubelet(watched, k, n, round)
	if err != nil {
		err = cmp.Or(context.Cause(watched), err)
		err = fmt.Errorf("%w\nits log ends:\n%s", err, k.LogTail(20))
	}
	if stop := k.Stop(20 * time.Second); err == nil {
		err = stop
	}
	if err == nil && b.runtime != stack.Embedded { // which has ended with the kubelet
		err = b.emptyRuntime(ctx)
	}
	if info, statErr := os.Stat(k.Args[0]); statErr == nil {
		r.binaryMB = float64(info.Size()) / 1e6
	}
	return r, err
}
