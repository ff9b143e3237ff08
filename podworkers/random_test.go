package podworkers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"minikubelet/e2e/crifake"
	"minikubelet/runtime/cri"
)

// randomNode is a kubelet whose pods come and go while calls fail and containers end.
type randomNode struct {
	*bench
	rand *rand.Rand
	pods map[types.UID]*corev1.Pod // what the apiserver has
	made map[types.UID]int         // containers that were made of a pod when it was to end
}

// TestRandomPods: whatever happens to them meanwhile, pods that are to end start nothing any more, and leave nothing.
func TestRandomPods(t *testing.T) {
	for seed := range uint64(25) {
		if t.Failed() {
			return
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &randomNode{bench: newBench(t), rand: rand.New(rand.NewPCG(seed, 1)), pods: map[types.UID]*corev1.Pod{}, made: map[types.UID]int{}}
				for _, method := range []string{"RunPodSandbox", "CreateContainer", "StartContainer"} {
					n.fake.Detach(method)
				}
				for step := range 80 {
					n.step(step)
					n.apiserver()
					n.allEvents()
				}
				n.end()
			})
		})
	}
}

var randomMethods = []string{
	"RunPodSandbox", "PodSandboxStatus", "CreateContainer", "StartContainer", "StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox",
	"ListContainers", "ListPodSandbox", "ContainerStatus",
}

func (n *randomNode) pick() types.UID {
	uids := slices.Sorted(maps.Keys(n.pods))
	if len(uids) == 0 {
		return ""
	}
	return uids[n.rand.IntN(len(uids))]
}

func (n *randomNode) step(step int) {
	uid := n.pick()
	switch chance := n.rand.IntN(100); {
	case chance < 20 && len(n.pods) < 3:
		pod := n.newPod(types.UID(fmt.Sprint("u", step)))
		n.pods[pod.UID] = pod
		n.update(Update{Pod: pod})
	case chance < 28 && uid != "":
		n.delete(uid)
	case chance < 33 && uid != "": // by force
		delete(n.pods, uid)
		n.Removed(uid)
		n.ends(uid)
	case chance < 48:
		if all := n.running(); len(all) > 0 {
			n.fake.SetExit(all[n.rand.IntN(len(all))], int32(n.rand.IntN(2)))
		}
	case chance < 53:
		if boxes := n.fake.SandboxIDs(); len(boxes) > 0 {
			n.fake.KillSandbox(boxes[n.rand.IntN(len(boxes))])
		}
	case chance < 59:
		n.fake.FailNext(randomMethods[n.rand.IntN(len(randomMethods))], errors.New("fails"))
	case chance < 65:
		n.fake.LoseNext(randomMethods[n.rand.IntN(len(randomMethods))])
	case chance < 70:
		n.fake.Delay(randomMethods[n.rand.IntN(len(randomMethods))], time.Duration(n.rand.IntN(20))*time.Second)
	case chance < 73:
		n.restart()
	case chance < 77:
		n.clean()
	case chance < 82 && uid != "":
		n.Kill(uid, Kill{})
		n.ends(uid)
	default:
		n.wait(time.Duration(n.rand.IntN(60000)) * time.Millisecond)
	}
}

func (n *randomNode) newPod(uid types.UID) *corev1.Pod {
	return testPod(uid, func(pod *corev1.Pod) {
		pod.Spec.RestartPolicy = []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}[n.rand.IntN(3)]
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		with := func(name string, policy *corev1.ContainerRestartPolicy) corev1.Container {
			c := pod.Spec.Containers[0]
			c.Name, c.RestartPolicy = name, policy
			return c
		}
		if n.rand.IntN(2) == 0 {
			pod.Spec.Containers = append(pod.Spec.Containers, with("b", nil))
		}
		if n.rand.IntN(2) == 0 {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, with("s", new(corev1.ContainerRestartPolicyAlways)))
		}
		if n.rand.IntN(3) == 0 {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, with("i", nil))
		}
		if n.rand.IntN(4) == 0 {
			pod.Spec.ActiveDeadlineSeconds = new(int64(n.rand.IntN(100) + 1))
		}
	})
}

func (n *randomNode) delete(uid types.UID) {
	pod := n.pods[uid].DeepCopy()
	if pod.DeletionTimestamp == nil {
		pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now()}, new(int64(30))
	} else {
		pod.DeletionGracePeriodSeconds = new(*pod.DeletionGracePeriodSeconds/2 + 1)
	}
	n.pods[uid] = pod
	n.update(Update{Pod: pod})
	n.ends(uid)
}

// ends notes that nothing more may be made of a pod.
func (n *randomNode) ends(uid types.UID) {
	n.wait(time.Millisecond)
	if _, known := n.made[uid]; !known {
		n.made[uid] = n.count(uid)
	}
}

func (n *randomNode) count(uid types.UID) (made int) {
	for _, r := range crifake.Requests[*runtimeapi.CreateContainerRequest](n.fake) {
		if r.GetConfig().GetLabels()[kubelettypes.KubernetesPodUIDLabel] == string(uid) {
			made++
		}
	}
	return made
}

func (n *randomNode) running() (ids []string) {
	pods, err := cri.ListPods(context.Background(), n.fake.Direct())
	for _, uid := range slices.Sorted(maps.Keys(pods)) {
		for _, c := range pods[uid].Running() {
			ids = append(ids, c.ID)
		}
	}
	if err != nil {
		return nil
	}
	return ids
}

func (n *randomNode) restart() {
	n.stop()
	n.allEvents()
	n.bench = newBenchOver(n.t, n.fake, n.dir)
	for _, uid := range slices.Sorted(maps.Keys(n.pods)) {
		u := Update{Pod: n.pods[uid]}
		if _, ends := n.made[uid]; ends && u.Pod.DeletionTimestamp == nil {
			u.Kill = &Kill{} // as the status of a pod that the node ended says
		}
		n.update(u)
	}
}

// clean collects what ended pods left, as the loop has it done.
func (n *randomNode) clean() {
	known := func(uid types.UID) bool {
		_, working := n.Phase(uid)
		return working || n.pods[uid] != nil
	}
	_ = n.opts.Runtime.GarbageCollect(n.ctx, known)
	_ = n.opts.Volumes.RemoveOrphans(n.ctx, func(uid types.UID) bool {
		_, here := n.opts.Cache.Get(uid)
		return known(uid) || here
	})
}

// apiserver lets go of deleted pods of which nothing is left, and has orphans ended, as the loop does.
func (n *randomNode) apiserver() {
	for _, uid := range slices.Sorted(maps.Keys(n.pods)) {
		if phase, known := n.Phase(uid); n.pods[uid].DeletionTimestamp != nil && known && phase == Finished {
			delete(n.pods, uid)
			n.Removed(uid)
		}
	}
	for _, uid := range n.opts.Cache.UIDs() {
		phase, known := n.Phase(uid)
		if !known && n.pods[uid] == nil {
			n.EndOrphan(n.ctx, uid)
		}
		if observed, _ := n.opts.Cache.Get(uid); known && phase == Finished && !observed.Gone() {
			n.Poke(uid, "test")
		}
	}
	for uid, before := range n.made {
		if now := n.count(uid); now > before {
			n.t.Errorf("%d containers of pod %s were made after it was to end", now-before, uid)
			delete(n.made, uid)
		}
	}
}

func (n *randomNode) end() {
	for _, method := range randomMethods {
		n.fake.Delay(method, 0)
	}
	n.fake.Delay("StopContainer", time.Millisecond)
	for range 10 {
		n.wait(20 * time.Second)
		n.apiserver()
	}
	for _, uid := range slices.Sorted(maps.Keys(n.pods)) {
		observed, err := cri.ReadPod(n.ctx, n.fake.Direct(), uid, nil)
		if phase, _ := n.Phase(uid); err == nil && phase == Finished && !observed.Gone() {
			n.t.Errorf("something of pod %s, which is finished, runs", uid)
		}
		n.delete(uid)
	}
	for range 60 {
		n.wait(20 * time.Second)
		n.apiserver()
		n.clean()
		n.allEvents()
	}
	for _, uid := range n.UIDs() {
		phase, _ := n.Phase(uid)
		n.t.Errorf("pod %s has a worker in the end, %v", uid, phase)
	}
	if boxes := n.fake.SandboxIDs(); len(boxes) > 0 {
		n.t.Errorf("%d sandboxes are left", len(boxes))
	}
	if entries, err := os.ReadDir(filepath.Join(n.dir, "pods")); err == nil && len(entries) > 0 {
		n.t.Errorf("directories of pods are left: %v", entries)
	}
}
