package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"minikubelet/e2e/stack"
)

// clientConcurrency is how many requests the benchmark has in flight: enough
// that the apiserver, not the client, sets the pace.
const clientConcurrency = 16

// label marks the pods of the benchmark.
const label = "bench"

func benchPod(node, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: "true"}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{
			Name: "app", Image: stack.PauseImage, ImagePullPolicy: corev1.PullIfNotPresent,
		}}},
	}
}

// measureKubelet runs n pods through a kubelet from creation to deletion. In the
// last round it idles between.
func (b *bench) measureKubelet(ctx context.Context, k *stack.Kubelet, n, round int) (result, error) {
	r := result{n: n}
	if _, err := b.s.WaitNodeReady(ctx); err != nil {
		return r, err
	}
	if _, _, err := b.createPods(ctx, "warm", 1); err != nil {
		return r, err
	}
	if _, err := b.deletePods(ctx); err != nil {
		return r, err
	}
	for repeat := range repeats(n) {
		start := time.Now()
		calls, err := b.criCalls(ctx)
		if err != nil {
			return r, err
		}
		if err := b.measureStart(ctx, k, &r, fmt.Sprintf("pod%d", repeat)); err != nil {
			return r, err
		}
		if repeat == repeats(n)-1 {
			if err := b.measureSteady(ctx, k, &r, start, calls, round == b.rounds-1); err != nil {
				return r, err
			}
		}
		if err := b.measureEnd(ctx, &r); err != nil {
			return r, err
		}
	}
	return r, nil
}

// measureStart creates the pods and waits for them.
func (b *bench) measureStart(ctx context.Context, k *stack.Kubelet, r *result, prefix string) error {
	cpu, err := cpuSeconds(k.Pid())
	if err != nil {
		return err
	}
	machine, err := b.metered(func() error {
		ready, last, err := b.createPods(ctx, prefix, r.n)
		r.ready = append(r.ready, ready...)
		r.wall += last
		return err
	})
	if err != nil {
		return err
	}
	r.machine += machine
	after, err := cpuSeconds(k.Pid())
	r.cpu += after - cpu
	return err
}

// measureEnd deletes the pods and waits until they are gone.
func (b *bench) measureEnd(ctx context.Context, r *result) error {
	start := time.Now()
	calls, err := b.criCalls(ctx)
	if err != nil {
		return err
	}
	machine, err := b.metered(func() error {
		gone, err := b.deletePods(ctx)
		r.deletion += gone
		return err
	})
	if err != nil {
		return err
	}
	r.undoing += machine
	r.ending, err = b.tallies(ctx, start, calls)
	return err
}

// measureSteady counts what it took to get here, and what it costs to stay.
func (b *bench) measureSteady(ctx context.Context, k *stack.Kubelet, r *result, start time.Time, calls tally, idle bool) error {
	err := sleep(ctx, b.settle)
	if err != nil {
		return err
	}
	if r.starting, err = b.tallies(ctx, start, calls); err != nil || !idle || r.n != b.largest() || b.idle == 0 {
		return err
	}
	cpu, err := cpuSeconds(k.Pid())
	if err != nil {
		return err
	}
	if calls, err = b.criCalls(ctx); err != nil {
		return err
	}
	from := time.Now()
	if err := sleep(ctx, b.idle); err != nil {
		return err
	}
	seconds := time.Since(from).Seconds()
	after, err := cpuSeconds(k.Pid())
	if err != nil {
		return err
	}
	t, err := b.tallies(ctx, from, calls)
	if err != nil {
		return err
	}
	r.idle = &idleResult{cores: (after - cpu) / seconds, criPerSecond: t.calls.sum() / seconds, apiPerMinute: t.requests.sum() * 60 / seconds}
	m, err := memoryOf(k.Pid())
	if err != nil {
		return err
	}
	r.idle.rssMiB, r.idle.pssMiB = m.rss, m.pss
	r.idle.anonMiB, err = rssAnonMiB(k.Pid())
	return err
}

// tallies is what was asked of the runtime and the apiserver since then.
func (b *bench) tallies(ctx context.Context, since time.Time, before tally) (tallies, error) {
	calls, err := b.criCalls(ctx)
	if err != nil {
		return tallies{}, err
	}
	requests, err := b.requests(since)
	return tallies{calls.since(before), requests}, err
}

func (b *bench) largest() int {
	largest := 0
	for _, n := range b.counts {
		largest = max(largest, n)
	}
	return largest
}

// createPods creates n pods and returns, for each, the time from the request to
// Ready as a watch saw it, and the time until the last one was.
func (b *bench) createPods(ctx context.Context, prefix string, n int) (ready []time.Duration, last time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.timeout, fmt.Errorf("not all pods are Ready after %v", b.timeout))
	defer cancel()
	created := make([]time.Time, n)
	index := make(map[string]int, n)
	for i := range n {
		index[fmt.Sprintf("%s-%d", prefix, i)] = i
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(clientConcurrency)
	seen := make(map[string]time.Time, n)
	note := func(pod *corev1.Pod) {
		if stack.PodReady(pod) && seen[pod.Name].IsZero() {
			seen[pod.Name] = time.Now()
		}
	}
	var start time.Time
	begin := sync.OnceFunc(func() {
		start = time.Now()
		go func() {
			for name, i := range index {
				group.Go(func() error {
					created[i] = time.Now()
					_, err := b.pods().Create(groupCtx, benchPod(b.s.NodeName, name), metav1.CreateOptions{})
					return err
				})
			}
		}()
	})
	err = b.follow(ctx, func(pods []corev1.Pod) bool {
		for i := range pods {
			note(&pods[i])
		}
		return len(seen) == n
	}, begin, func(_ watch.EventType, pod *corev1.Pod) bool {
		note(pod)
		return len(seen) == n
	})
	if err != nil {
		return nil, 0, fmt.Errorf("wait for pods, %d of %d are Ready: %w", len(seen), n, err)
	}
	last = time.Since(start)
	if err := group.Wait(); err != nil {
		return nil, 0, err
	}
	for name, at := range seen {
		ready = append(ready, at.Sub(created[index[name]]))
	}
	return ready, last, nil
}

// deletePods deletes the benchmark's pods and returns the time until the last
// one is gone from the apiserver.
func (b *bench) deletePods(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.timeout, fmt.Errorf("not all pods are gone after %v", b.timeout))
	defer cancel()
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(clientConcurrency)
	left := map[string]bool{}
	var start time.Time
	begin := sync.OnceFunc(func() {
		start = time.Now()
		names := slices.Collect(maps.Keys(left))
		go func() { // events are read meanwhile: the apiserver drops a watcher that does not keep up
			for _, name := range names {
				group.Go(func() error { return b.pods().Delete(groupCtx, name, metav1.DeleteOptions{}) })
			}
		}()
	})
	err := b.follow(ctx, func(pods []corev1.Pod) bool {
		clear(left)
		for i := range pods {
			left[pods[i].Name] = true
		}
		return len(left) == 0
	}, begin, func(kind watch.EventType, pod *corev1.Pod) bool {
		if kind == watch.Deleted {
			delete(left, pod.Name)
		}
		return len(left) == 0
	})
	if err != nil {
		return 0, fmt.Errorf("wait for pods to go, %d are left: %w", len(left), err)
	}
	return time.Since(start), group.Wait()
}

func (b *bench) pods() typedcorev1.PodInterface {
	return b.s.Client.CoreV1().Pods(corev1.NamespaceDefault)
}

// follow lists the benchmark's pods and then follows them until one of the functions is satisfied. A watch that ends,
// as the apiserver ends one that does not keep up, is followed by another list. watching is called when the first watch
// is open.
func (b *bench) follow(ctx context.Context, listed func([]corev1.Pod) bool, watching func(), changed func(watch.EventType, *corev1.Pod) bool) error {
	for {
		list, err := b.pods().List(ctx, metav1.ListOptions{LabelSelector: label})
		if err != nil {
			return err
		}
		if listed(list.Items) {
			return nil
		}
		w, err := b.pods().Watch(ctx, metav1.ListOptions{LabelSelector: label, ResourceVersion: list.ResourceVersion})
		if err != nil {
			return err
		}
		watching()
		satisfied := false
		for e := range w.ResultChan() {
			if pod, ok := e.Object.(*corev1.Pod); ok {
				if satisfied = changed(e.Type, pod); satisfied {
					break
				}
			}
		}
		w.Stop()
		if satisfied || ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
