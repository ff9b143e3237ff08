package matrix

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/progress"
	"minikubelet/e2e/stack"
)

// Crowds are many pods at once, without injected faults: what they break is broken by their number.
type Crowds struct {
	AtOnce, Rounds int // so many are created at the same time, and then deleted, so often
	Churned        int // so many live one after the other, churners of them at a time
}

const churners = 40

// Run takes the crowds through their lives on one stack.
func (c Crowds) Run(ctx context.Context, o Options) (rows []Row, err error) {
	s, err := stack.Start(ctx, stack.Options{BinDir: o.Bin, Runtime: o.Runtime, KubeletBinary: o.Kubelet, KeepDir: o.KeepDir})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r := &run{Options: o, s: s, bound: 10 * time.Minute}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.o = observe(ctx, s)
	if r.k, err = s.StartKubelet(stack.KubeletOptions{Config: map[string]any{"maxPods": c.AtOnce + churners + 20}}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.k.Stop(30*time.Second)) }()
	if err := r.warmUp(ctx); err != nil {
		return nil, err
	}
	r.lifeMeter = progress.New(o.Progress, o.Title+", pods", c.AtOnce*c.Rounds+c.Churned)
	for round := range c.Rounds {
		start := time.Now()
		names := make([]string, c.AtOnce)
		for i := range names {
			names[i] = fmt.Sprintf("churned-%d-%04d", round, i)
		}
		r.report(fmt.Sprintf("%d pods at once, round %d", c.AtOnce, round+1), start, append(r.lives(ctx, names, c.AtOnce), r.o.verdict(ctx)...)...)
	}
	if c.Churned > 0 {
		start := time.Now()
		names := make([]string, c.Churned)
		for i := range names {
			names[i] = fmt.Sprintf("churned-%04d", i)
		}
		r.report(fmt.Sprintf("%d pods one after the other, %d at a time", c.Churned, churners), start, append(r.lives(ctx, names, churners), r.o.verdict(ctx)...)...)
	}
	r.crowd = &population{s: s, o: r.o, cancel: func() {}}
	return r.rows, r.leaks(ctx)
}

// lives takes pods through their lives, a number of them at a time. Those that live at once are deleted when all of them
// are ready.
func (r *run) lives(ctx context.Context, names []string, atOnce int) []string {
	var all sync.WaitGroup
	var mu sync.Mutex
	var problems []string
	free := make(chan struct{}, atOnce)
	ready := make(chan struct{})
	p := population{s: r.s, o: r.o, bound: r.bound}
	left := len(names)
	for _, name := range names {
		free <- struct{}{}
		all.Go(func() {
			defer func() { <-free }()
			err := p.lifeUntil(ctx, r.pause(name), func() {
				if atOnce < len(names) {
					return
				}
				mu.Lock()
				if left--; left == 0 {
					close(ready)
				}
				mu.Unlock()
				select {
				case <-ready:
				case <-ctx.Done():
				case <-time.After(r.bound):
				}
			})
			r.lifeMeter.Done(err != nil, name)
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				problems = append(problems, err.Error())
			}
		})
	}
	all.Wait()
	return problems
}

// pause is the smallest pod there is: hundreds of them are more than machines for tests have memory for otherwise.
func (r *run) pause(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceDefault, Labels: map[string]string{roleLabel: churned}},
		Spec: corev1.PodSpec{NodeName: r.s.NodeName, TerminationGracePeriodSeconds: new(int64(2)), Containers: []corev1.Container{{
			Name: "app", Image: stack.PauseImage, ImagePullPolicy: corev1.PullIfNotPresent,
		}}},
	}
}
