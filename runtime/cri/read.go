package cri

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	kubelettypes "k8s.io/kubelet/pkg/types"
)

// ReadPod reads everything the runtime has of one pod: two lists, and one status call for the newest sandbox and for each
// container. What can no longer have changed is taken from known, an earlier reading, so that mostly the two lists are all it
// costs; it may be nil or shallow. A pod that the runtime does not know has an empty status.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go GetPodStatus
func ReadPod(ctx context.Context, client *Client, uid types.UID, known *PodStatus) (*PodStatus, error) {
	at := time.Now()
	selector := map[string]string{kubelettypes.KubernetesPodUIDLabel: string(uid)}
	listed, err := list(ctx, client, &runtimeapi.PodSandboxFilter{LabelSelector: selector}, &runtimeapi.ContainerFilter{LabelSelector: selector}, at)
	if err != nil {
		return nil, fmt.Errorf("read pod %s: %w", uid, err)
	}
	if listed[uid] != nil {
		return fill(ctx, client, listed[uid], known)
	}
	pod := &PodStatus{UID: uid, ObservedAt: at}
	if known != nil {
		pod.Namespace, pod.Name = known.Namespace, known.Name
	}
	return pod, nil
}

// ReadContainer reads one container, in one call. sandboxID goes into the result.
func ReadContainer(ctx context.Context, client *Client, id, sandboxID string) (*ContainerStatus, error) {
	answer, err := client.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return nil, fmt.Errorf("read container %s: %w", id, err)
	}
	out, err := newContainerStatus(answer.Status, sandboxID)
	if err != nil {
		return nil, fmt.Errorf("read container %s: %w", id, err)
	}
	return out, nil
}

// FromEvent returns the sandbox and its containers as an event carries them, nil if it does not, which is so for the
// last event of a sandbox. ObservedAt is when the runtime had read them: unlike with other readings something may have
// changed between.
func FromEvent(event *runtimeapi.ContainerEventResponse) *PodStatus {
	sandbox := event.GetPodSandboxStatus()
	pod, err := podOfSandbox(sandbox)
	if err != nil {
		return nil
	}
	for _, s := range event.ContainersStatuses {
		c, err := newContainerStatus(s, sandbox.Id)
		if err != nil {
			passOver(context.Background(), err)
			continue
		}
		pod.Containers = append(pod.Containers, c)
	}
	return pod.With([]*runtimeapi.PodSandboxStatus{sandbox}, pod.Containers, nanoTime(event.CreatedAt))
}

// ListPods reads the states of all pods in two calls. The result is shallow (see PodStatus.Shallow).
func ListPods(ctx context.Context, client *Client) (map[types.UID]*PodStatus, error) {
	pods, err := list(ctx, client, nil, nil, time.Now())
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return pods, nil
}

// list makes the two list calls. Containers come first: the sandbox of each is then in the other list, unless it was
// removed between, and with it the container.
func list(ctx context.Context, client *Client, sandboxes *runtimeapi.PodSandboxFilter, containers *runtimeapi.ContainerFilter, at time.Time) (map[types.UID]*PodStatus, error) {
	containerAnswer, err := client.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: containers})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	sandboxAnswer, err := client.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: sandboxes})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	pods := map[types.UID]*PodStatus{}
	known := func(pod *PodStatus) *PodStatus {
		if pods[pod.UID] == nil {
			pods[pod.UID] = pod
		}
		return pods[pod.UID]
	}
	for _, s := range sandboxAnswer.Items {
		sandbox := &runtimeapi.PodSandboxStatus{
			Id: s.GetId(), Metadata: s.GetMetadata(), State: s.GetState(), CreatedAt: s.GetCreatedAt(),
			Labels: s.GetLabels(), Annotations: s.GetAnnotations(), RuntimeHandler: s.GetRuntimeHandler(),
		}
		pod, err := podOfSandbox(sandbox)
		if err != nil {
			passOver(ctx, err)
			continue
		}
		pod = known(pod)
		pod.Sandboxes = append(pod.Sandboxes, sandbox)
	}
	for _, c := range containerAnswer.Containers {
		pod, err := podOf(c.GetLabels())
		if err != nil {
			passOver(ctx, fmt.Errorf("container %q: %w", c.GetId(), err))
			continue
		}
		container, err := newListedContainer(c)
		if err != nil {
			passOver(ctx, err)
			continue
		}
		pod = known(pod)
		pod.Containers = append(pod.Containers, container)
	}
	for uid, pod := range pods {
		pods[uid] = pod.At(at)
	}
	return pods, nil
}

// fill replaces the shallow entries of pod by full ones, from known where they cannot have changed. A sandbox that is
// not the newest, or no longer ready, stays as it was listed: its status would only add an IP that it no longer has.
func fill(ctx context.Context, client *Client, pod, known *PodStatus) (*PodStatus, error) {
	sandboxes, containers := slices.Clone(pod.Sandboxes), make([]*ContainerStatus, 0, len(pod.Containers))
	if ready := pod.ReadySandbox(); ready != nil {
		old := known.Sandbox(ready.Id)
		if old == nil || old.State != ready.State || known.Shallow() {
			answer, err := client.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: ready.Id})
			switch {
			case IsNotFound(err):
				sandboxes = sandboxes[1:]
			case err != nil:
				return nil, fmt.Errorf("read pod %s: sandbox %s: %w", pod.UID, ready.Id, err)
			default:
				if _, err := podOfSandbox(answer.Status); err != nil {
					return nil, fmt.Errorf("read pod %s: %w", pod.UID, err)
				}
				sandboxes[0] = answer.Status
			}
		} else {
			sandboxes[0] = old
		}
	}
	for _, listed := range pod.Containers {
		if old := known.ContainerByID(listed.ID); old != nil && !old.shallow && final(old, listed) {
			containers = append(containers, old)
			continue
		}
		full, err := ReadContainer(ctx, client, listed.ID, listed.SandboxID)
		if IsNotFound(err) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, fmt.Errorf("read pod %s: %w", pod.UID, err)
		}
		containers = append(containers, full)
	}
	return pod.With(sandboxes, containers, pod.ObservedAt), nil
}

// final reports that nothing about the container can have changed since old was read.
func final(old, listed *ContainerStatus) bool {
	return old.State == Exited && listed.State == old.State && !old.FinishedAt.IsZero()
}

// passOver logs an entry that cannot be used: as an error, or only verbosely if no kubelet made it.
func passOver(ctx context.Context, err error) {
	log := klog.FromContext(ctx)
	if errors.Is(err, errNotOurs) {
		log.V(5).Info("Passing over what is no pod's", "reason", err)
		return
	}
	log.Error(err, "Passing over a malformed answer of the container runtime")
}
