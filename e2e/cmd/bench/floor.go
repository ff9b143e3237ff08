package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// floorPod is a pod made without a kubelet.
type floorPod struct {
	config             *runtimeapi.PodSandboxConfig
	sandbox, container string
	mounts             []*runtimeapi.Mount
}

// measureFloor drives pods straight through the CRI: what no kubelet can beat
// on this runtime without starting pods smarter.
func (b *bench) measureFloor(ctx context.Context, n int) (result, error) {
	r := result{n: n}
	images := runtimeapi.NewImageServiceClient(b.s.CRI)
	image := &runtimeapi.ImageSpec{Image: stack.PauseImage}
	if _, err := images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: image}); err != nil {
		return r, err
	}
	for round := range repeats(n) + 1 {
		count := n
		if round == 0 {
			count = 1 // warm-up
		}
		one, err := b.floorRound(ctx, round, count)
		if err != nil {
			return r, err
		}
		if round > 0 {
			r.machine += one.machine
			r.undoing += one.undoing
			r.ready = append(r.ready, one.ready...)
			r.wall += one.wall
			r.deletion += one.deletion
		}
	}
	return r, b.emptyRuntime(ctx)
}

// floorRound starts and removes n pods.
func (b *bench) floorRound(ctx context.Context, round, n int) (r result, err error) {
	pods := make([]*floorPod, n)
	for i := range pods {
		name := fmt.Sprintf("floor%d-%d", round, i)
		pods[i] = &floorPod{config: sandboxConfig(b.s, name)}
		if err := pods[i].prepare(filepath.Join(b.s.Dir, "floor", name)); err != nil {
			return r, err
		}
	}
	var mu sync.Mutex
	start := time.Now() // waiting for a turn counts, as it does behind a kubelet's gate
	r.wall, r.machine, err = b.inParallel(ctx, pods, func(ctx context.Context, p *floorPod) error {
		err := b.startFloorPod(ctx, p)
		mu.Lock()
		defer mu.Unlock()
		r.ready = append(r.ready, time.Since(start))
		return err
	})
	if err != nil {
		return r, err
	}
	if _, _, err = b.inParallel(ctx, pods, func(ctx context.Context, p *floorPod) error { return p.listens(ctx, b.s) }); err != nil {
		return r, err
	}
	r.deletion, r.undoing, err = b.inParallel(ctx, pods, b.stopFloorPod)
	return r, err
}

// inParallel does something with all pods, a number at once, and returns how long that took, and how much CPU time.
func (b *bench) inParallel(ctx context.Context, pods []*floorPod, do func(context.Context, *floorPod) error) (took time.Duration, cpu float64, err error) {
	cpu, err = b.metered(func() (err error) {
		took, err = inParallel(ctx, pods, b.concurrency, do)
		return err
	})
	return took, cpu, err
}

// sandboxConfig asks for what a kubelet would ask for.
func sandboxConfig(s *stack.Stack, name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name},
		Hostname:     name,
		LogDirectory: filepath.Join(s.PodLogsDir(), name),
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"default.svc.cluster.local"}},
		Labels:       map[string]string{"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": name},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: "/" + s.CgroupName() + "/floor/" + name,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
		},
	}
}

// containerRequest asks for a container that does nothing until it is stopped.
func containerRequest(sandbox string, config *runtimeapi.PodSandboxConfig) *runtimeapi.CreateContainerRequest {
	return &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandbox, SandboxConfig: config,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "app"},
			Image:    &runtimeapi.ImageSpec{Image: stack.PauseImage},
			LogPath:  "app/0.log",
			Linux: &runtimeapi.LinuxContainerConfig{
				Resources: &runtimeapi.LinuxContainerResources{CpuShares: 2, OomScoreAdj: 1000},
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
					NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
					Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
				},
			},
		},
	}
}

func (b *bench) startFloorPod(ctx context.Context, p *floorPod) error {
	client := runtimeapi.NewRuntimeServiceClient(b.s.CRI)
	sandbox, err := client.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: p.config})
	if err != nil {
		return err
	}
	p.sandbox = sandbox.PodSandboxId
	request := containerRequest(p.sandbox, p.config)
	asKubelet(request.Config, p)
	container, err := client.CreateContainer(ctx, request)
	if err != nil {
		return err
	}
	p.container = container.ContainerId
	_, err = client.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: p.container})
	return err
}

func (b *bench) stopFloorPod(ctx context.Context, p *floorPod) error {
	client := runtimeapi.NewRuntimeServiceClient(b.s.CRI)
	if _, err := client.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: p.container, Timeout: 30}); err != nil {
		return err
	}
	if _, err := client.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.sandbox}); err != nil {
		return err
	}
	_, err := client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.sandbox})
	return err
}

// emptyRuntime removes what a contender left in the runtime, so that the next
// one starts like the first.
func (b *bench) emptyRuntime(ctx context.Context) error {
	client := runtimeapi.NewRuntimeServiceClient(b.s.CRI)
	list, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(b.concurrency)
	for _, sandbox := range list.Items {
		group.Go(func() error {
			if _, err := client.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandbox.Id}); err != nil {
				return err
			}
			_, err := client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox.Id})
			return err
		})
	}
	return group.Wait()
}
