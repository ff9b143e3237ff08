package runtime

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/config/pod/podtest"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/pleg"
)

// life is a pod's, with what has to be true of it. It sees the calls that make and start containers.
type life struct {
	runtimeapi.RuntimeServiceClient
	*bench
	t    *testing.T
	rand *rand.Rand
	pod  *corev1.Pod
	made map[string]*runtimeapi.CreateContainerRequest // by container ID
	next map[string]uint32                             // the least attempt that may come, by name
	over map[string]bool                               // regular containers that ended by themselves and are not to run again
	done map[[2]string]bool                            // sandbox ID and name of init containers that are done in it
}

// TestRandomLives: whatever calls fail or lose their answer and whatever ends, no attempt comes twice, nothing runs twice, init
// containers come first, what is over stays over, and in the end all that is not over runs.
func TestRandomLives(t *testing.T) {
	for seed := range uint64(20) {
		for _, line := range []string{"c:a c:b", "i:i c:a", "i:i s:s i:j c:a c:b"} {
			for _, policy := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever} {
				t.Run(fmt.Sprint(line, " ", policy, " ", seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { randomLife(t, seed, podtest.Pod(line, policy)) })
				})
			}
		}
	}
}

func randomLife(t *testing.T, seed uint64, pod *corev1.Pod) {
	l := &life{
		t: t, rand: rand.New(rand.NewPCG(seed, 1)), pod: pod, made: map[string]*runtimeapi.CreateContainerRequest{},
		next: map[string]uint32{}, over: map[string]bool{}, done: map[[2]string]bool{},
	}
	l.bench = newBench(t, func(o *Options) {
		l.RuntimeServiceClient = o.CRI.Runtime
		o.CRI = &cri.Client{Runtime: l, Images: o.CRI.Images}
		o.Cache = pleg.NewCache(o.CRI)
	})
	for range 60 {
		l.step()
	}
	var err error
	for range 30 {
		for _, c := range l.running() {
			if container := podinfo.Container(pod, c.Name); podinfo.IsInit(pod, c.Name) && !podinfo.IsSidecar(container) {
				l.exit(c, 0)
			}
		}
		time.Sleep(6 * time.Minute) // longer than any back-off
		err = l.again(inputs{})     // faults may be left
	}
	if err != nil {
		t.Errorf("without faults: %v", err)
	}
	for i := range pod.Spec.Containers {
		name := pod.Spec.Containers[i].Name
		if c := l.seen(pod).Container(name); pod.Spec.RestartPolicy == corev1.RestartPolicyAlways && (c == nil || c.State != cri.Running) {
			t.Errorf("in the end %s does not run: %s", name, state(l.seen(pod)))
		}
	}
}

var randomMethods = []string{
	"RunPodSandbox", "PodSandboxStatus", "ListContainers", "ListPodSandbox", "CreateContainer", "StartContainer", "ContainerStatus", "StopContainer",
	"RemoveContainer", "StopPodSandbox",
}

func (l *life) step() {
	switch n := l.rand.IntN(100); {
	case n < 20:
		if all := l.running(); len(all) > 0 {
			l.exit(all[l.rand.IntN(len(all))], int32(l.rand.IntN(2)))
		}
	case n < 25:
		if boxes := l.fake.SandboxIDs(); len(boxes) > 0 {
			l.fake.KillSandbox(boxes[len(boxes)-1])
		}
	case n < 35:
		_ = l.GarbageCollect(l.t.Context(), func(types.UID) bool { return true })
	case n < 40: // the kubelet starts anew
		options := l.opts
		options.Cache, options.Allocation = pleg.NewCache(options.CRI), nil
		l.Runtime = New(options)
	case n < 50:
		l.fake.FailNext(randomMethods[l.rand.IntN(len(randomMethods))], errors.New("fails"))
	case n < 60:
		l.fake.LoseNext(randomMethods[l.rand.IntN(len(randomMethods))])
	case n < 65:
		time.Sleep(6 * time.Minute)
	case n < 70:
		_ = l.again(inputs{verdicts: verdicts{"*": "L"}})
	default:
		_ = l.again(inputs{})
	}
}

func (l *life) again(in inputs) error {
	l.opts.Cache.Acted(l.pod.UID)
	time.Sleep(time.Millisecond)
	_, err := l.SyncPod(l.t.Context(), l.pod, in)
	times := map[string]int{}
	for _, c := range l.running() {
		if times[c.Name]++; times[c.Name] > 1 && err == nil {
			l.t.Errorf("%s runs more than once", c.Name)
		}
	}
	return err
}

// running is asked of the runtime past all faults.
func (l *life) running() []*cri.ContainerStatus {
	all, err := l.fake.ListContainers(l.t.Context(), &runtimeapi.ListContainersRequest{})
	if err != nil {
		l.t.Fatal(err)
	}
	var running []*cri.ContainerStatus
	for _, c := range all.Containers {
		if c.State == cri.Running {
			running = append(running, &cri.ContainerStatus{ID: c.Id, SandboxID: c.PodSandboxId, Name: c.Metadata.Name})
		}
	}
	return running
}

// exit ends a container by itself.
func (l *life) exit(c *cri.ContainerStatus, code int32) {
	l.fake.SetExit(c.ID, code)
	container, newest := podinfo.Container(l.pod, c.Name), c.ID == l.fake.ContainerID(c.Name)
	switch {
	case podinfo.IsRegular(l.pod, c.Name) && newest:
		l.over[c.Name] = !podinfo.Restarts(l.pod, container, code)
	case code == 0 && !podinfo.IsSidecar(container):
		l.done[[2]string{c.SandboxID, c.Name}] = true
	}
}

// CreateContainer checks whether the container may be made.
func (l *life) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest, _ ...grpc.CallOption) (*runtimeapi.CreateContainerResponse, error) {
	name, attempt := r.Config.Metadata.Name, r.Config.Metadata.Attempt
	if attempt < l.next[name] {
		l.t.Errorf("attempt %d of %s is made after attempt %d has run", attempt, name, l.next[name]-1)
	}
	if l.over[name] {
		l.t.Errorf("%s is made again after it was over", name)
	}
	for i := range l.pod.Spec.InitContainers {
		if init := l.pod.Spec.InitContainers[i].Name; podinfo.IsRegular(l.pod, name) && !l.done[[2]string{r.PodSandboxId, init}] {
			l.t.Errorf("%s is made before init container %s is done in its sandbox", name, init)
		}
	}
	answer, err := l.RuntimeServiceClient.CreateContainer(ctx, r)
	l.made[l.fake.ContainerID(name)] = r
	return answer, err
}

// StartContainer notes what was started, also if the answer is lost. The runtime makes the log then.
func (l *life) StartContainer(ctx context.Context, r *runtimeapi.StartContainerRequest, _ ...grpc.CallOption) (*runtimeapi.StartContainerResponse, error) {
	answer, err := l.RuntimeServiceClient.StartContainer(ctx, r)
	made, now := l.made[r.ContainerId], l.running()
	for _, c := range now {
		if c.ID != r.ContainerId {
			continue
		}
		touch(l.t, filepath.Join(made.SandboxConfig.LogDirectory, made.Config.LogPath))
		l.next[c.Name] = made.Config.Metadata.Attempt + 1
		if podinfo.IsInit(l.pod, c.Name) && podinfo.IsSidecar(podinfo.Container(l.pod, c.Name)) {
			l.done[[2]string{c.SandboxID, c.Name}] = true
		}
	}
	return answer, err
}
