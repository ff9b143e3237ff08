package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/progress"
	"minikubelet/e2e/stack"
)

// steps of a pod's life, as a kubelet asks for them.
const (
	runSandbox = iota
	createContainer
	startContainer
	stopContainer
	stopSandbox
	removeSandbox
	stepCount
)

var stepNames = [stepCount]string{"RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "StopPodSandbox", "RemovePodSandbox"}

// contestant is a CRI runtime in a stack of its own. All are up at the same time and take turns, so that what else
// the machine has to do slows each of them down alike.
type contestant struct {
	name string
	s    *stack.Stack

	startRate, removeRate map[int][]float64 // pods a second, by how many at once; one value a round
	startCPU, removeCPU   []float64         // seconds of the whole stack's CPU a pod, with many at once
	steps                 [stepCount][]time.Duration
	whole                 []time.Duration // from RunPodSandbox to the answer of StartContainer, one at once
	empty, full           memory          // of the runtime's own processes, without and with pods
	idle                  float64         // cores, with pods
}

// compareRuntimes measures CRI runtimes side by side, without a kubelet.
func compareRuntimes(ctx context.Context, f flags) (contestants []*contestant, err error) {
	defer func() {
		for _, c := range contestants {
			err = errors.Join(err, c.s.Close())
		}
	}()
	for _, name := range f.runtimes {
		s, err := stack.Start(ctx, stack.Options{BinDir: f.bin, Runtime: name, NoControlPlane: true})
		if err != nil {
			return contestants, fmt.Errorf("start %s: %w", name, err)
		}
		contestants = append(contestants, &contestant{name: name, s: s, startRate: map[int][]float64{}, removeRate: map[int][]float64{}})
	}
	if err := eachOf(contestants, func(c *contestant) error { return c.warmUp(ctx) }); err != nil {
		return contestants, err
	}
	meter := progress.New(os.Stderr, "runtimes", 2*f.runtimeRounds)
	for round := range f.runtimeRounds {
		for _, atOnce := range []int{1, f.concurrency} {
			fmt.Fprintf(os.Stderr, "runtimes, round %d, %d at once\n", round+1, atOnce)
			if err := eachOf(contestants, func(c *contestant) error { return c.round(ctx, f, round, atOnce) }); err != nil {
				return contestants, err
			}
			meter.Done(false, "")
		}
	}
	return contestants, measureIdle(ctx, f, contestants)
}

func eachOf(contestants []*contestant, do func(*contestant) error) error {
	for _, c := range contestants {
		if err := do(c); err != nil {
			return fmt.Errorf("measure %s: %w", c.name, err)
		}
	}
	return nil
}

// warmUp pulls the image and runs a pod, and then looks at what the runtime takes without pods.
func (c *contestant) warmUp(ctx context.Context) error {
	image := &runtimeapi.ImageSpec{Image: stack.PauseImage}
	if _, err := runtimeapi.NewImageServiceClient(c.s.CRI).PullImage(ctx, &runtimeapi.PullImageRequest{Image: image}); err != nil {
		return err
	}
	pod := &timedPod{floorPod: floorPod{config: sandboxConfig(c.s, "warm")}}
	if err := pod.start(ctx, c.s); err != nil {
		return err
	}
	if err := pod.listens(ctx, c.s); err != nil {
		return err
	}
	if err := pod.remove(ctx, c.s); err != nil {
		return err
	}
	var err error
	c.empty, err = c.memory()
	return err
}

// round starts some pods and removes them again.
func (c *contestant) round(ctx context.Context, f flags, round, atOnce int) error {
	pods := c.pods(f.runtimePods, fmt.Sprintf("r%d-%d", round, atOnce))
	cpu, err := c.s.CPUSeconds()
	if err != nil {
		return err
	}
	took, err := inParallel(ctx, pods, atOnce, func(ctx context.Context, p *timedPod) error { return p.start(ctx, c.s) })
	if err != nil {
		return err
	}
	middle, err := c.s.CPUSeconds()
	if err != nil {
		return err
	}
	c.startRate[atOnce] = append(c.startRate[atOnce], float64(len(pods))/took.Seconds())
	if _, err := inParallel(ctx, pods, atOnce, func(ctx context.Context, p *timedPod) error { return p.listens(ctx, c.s) }); err != nil {
		return err
	}
	if took, err = inParallel(ctx, pods, atOnce, func(ctx context.Context, p *timedPod) error { return p.remove(ctx, c.s) }); err != nil {
		return err
	}
	c.removeRate[atOnce] = append(c.removeRate[atOnce], float64(len(pods))/took.Seconds())
	end, err := c.s.CPUSeconds()
	if err != nil {
		return err
	}
	if atOnce > 1 {
		c.startCPU = append(c.startCPU, (middle-cpu)/float64(len(pods)))
		c.removeCPU = append(c.removeCPU, (end-middle)/float64(len(pods)))
		return nil
	}
	for _, p := range pods {
		c.whole = append(c.whole, p.took[runSandbox]+p.took[createContainer]+p.took[startContainer])
		for step := range c.steps {
			c.steps[step] = append(c.steps[step], p.took[step])
		}
	}
	return nil
}

func (c *contestant) pods(n int, prefix string) []*timedPod {
	pods := make([]*timedPod, n)
	for i := range pods {
		pods[i] = &timedPod{floorPod: floorPod{config: sandboxConfig(c.s, fmt.Sprintf("%s-%d", prefix, i))}}
	}
	return pods
}

// measureIdle leaves pods alone on all runtimes at once, and looks at what that takes.
func measureIdle(ctx context.Context, f flags, contestants []*contestant) error {
	pods := map[*contestant][]*timedPod{}
	before := map[*contestant]float64{}
	err := eachOf(contestants, func(c *contestant) error {
		pods[c] = c.pods(f.runtimePods, "idle")
		_, err := inParallel(ctx, pods[c], f.concurrency, func(ctx context.Context, p *timedPod) error { return p.start(ctx, c.s) })
		return err
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "runtimes, idle")
	if err := sleep(ctx, f.settle); err != nil {
		return err
	}
	if err := eachOf(contestants, func(c *contestant) (err error) { before[c], err = c.ownCPU(); return err }); err != nil {
		return err
	}
	start := time.Now()
	if err := sleep(ctx, f.idle); err != nil {
		return err
	}
	return eachOf(contestants, func(c *contestant) error {
		after, err := c.ownCPU()
		if err != nil {
			return err
		}
		c.idle = (after - before[c]) / time.Since(start).Seconds()
		if c.full, err = c.memory(); err != nil {
			return err
		}
		_, err = inParallel(ctx, pods[c], f.concurrency, func(ctx context.Context, p *timedPod) error { return p.remove(ctx, c.s) })
		return err
	})
}

// timedPod is a pod made without a kubelet, with the time each of its steps took.
type timedPod struct {
	floorPod
	took [stepCount]time.Duration
}

func (p *timedPod) step(step int, call func() error) error {
	start := time.Now()
	err := call()
	p.took[step] = time.Since(start)
	if err != nil {
		return fmt.Errorf("%s: %w", stepNames[step], err)
	}
	return nil
}

func (p *timedPod) start(ctx context.Context, s *stack.Stack) error {
	client := runtimeapi.NewRuntimeServiceClient(s.CRI)
	err := p.step(runSandbox, func() error {
		made, err := client.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: p.config})
		p.sandbox = made.GetPodSandboxId()
		return err
	})
	if err != nil {
		return err
	}
	err = p.step(createContainer, func() error {
		made, err := client.CreateContainer(ctx, containerRequest(p.sandbox, p.config))
		p.container = made.GetContainerId()
		return err
	})
	if err != nil {
		return err
	}
	return p.step(startContainer, func() error {
		_, err := client.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: p.container})
		return err
	})
}

func (p *timedPod) remove(ctx context.Context, s *stack.Stack) error {
	client := runtimeapi.NewRuntimeServiceClient(s.CRI)
	err := p.step(stopContainer, func() error {
		_, err := client.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: p.container, Timeout: 30})
		return err
	})
	if err != nil {
		return err
	}
	err = p.step(stopSandbox, func() error {
		_, err := client.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.sandbox})
		return err
	})
	if err != nil {
		return err
	}
	return p.step(removeSandbox, func() error {
		_, err := client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.sandbox})
		return err
	})
}

// inParallel does something for pods, a number of them at once, and returns the time it took.
func inParallel[P any](ctx context.Context, pods []P, atOnce int, do func(context.Context, P) error) (time.Duration, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	start := time.Now()
	for _, p := range pods {
		group.Go(func() error { return do(ctx, p) })
	}
	err := group.Wait()
	return time.Since(start), err
}

// median is the middle one of some values; 0 of none.
func median[V float64 | time.Duration](values []V) V {
	if len(values) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(values))[len(values)/2]
}
