package matrix

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// observer watches apiserver and runtime, past the proxies, for what must never be: an untouched pod that is not ready
// any more, a container that was started again for no reason that an event names, two of which one should run.
type observer struct {
	s *stack.Stack

	mu         sync.Mutex // guards what follows
	pods       map[types.UID]*corev1.Pod
	ready      map[types.UID]bool
	allowed    map[types.UID]int32 // restarts that the test itself caused
	restarted  map[types.UID]*corev1.Pod
	excused    bool // untouched pods may stop being ready
	unsaid     bool // events that the kubelet had not sent yet when it was killed are lost
	node       *corev1.Node
	doubles    []string // of the last look at the runtime
	complaints []string
}

// observe starts to watch.
func observe(ctx context.Context, s *stack.Stack) *observer {
	o := &observer{
		s: s, pods: map[types.UID]*corev1.Pod{}, ready: map[types.UID]bool{},
		allowed: map[types.UID]int32{}, restarted: map[types.UID]*corev1.Pod{},
	}
	pods := cache.NewListWatchFromClient(s.Client.CoreV1().RESTClient(), "pods", corev1.NamespaceDefault, fields.Everything())
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{ListerWatcher: pods, ObjectType: &corev1.Pod{}, Handler: cache.ResourceEventHandlerFuncs{
		AddFunc:    func(pod any) { o.changed(pod.(*corev1.Pod)) },
		UpdateFunc: func(_, pod any) { o.changed(pod.(*corev1.Pod)) },
		DeleteFunc: func(object any) {
			if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = last.Obj
			}
			o.forget(object.(*corev1.Pod).UID)
		},
	}})
	go informer.RunWithContext(ctx)
	nodes := cache.NewListWatchFromClient(s.Client.CoreV1().RESTClient(), "nodes", "", fields.Everything())
	_, nodeInformer := cache.NewInformerWithOptions(cache.InformerOptions{ListerWatcher: nodes, ObjectType: &corev1.Node{}, Handler: cache.ResourceEventHandlerFuncs{
		AddFunc:    func(node any) { o.setNode(node.(*corev1.Node)) },
		UpdateFunc: func(_, node any) { o.setNode(node.(*corev1.Node)) },
	}})
	go nodeInformer.RunWithContext(ctx)
	go o.watchRuntime(ctx)
	return o
}

func (o *observer) complain(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.complaints = append(o.complaints, fmt.Sprintf(format, args...))
}

// changed takes note of a pod's new state.
func (o *observer) changed(pod *corev1.Pod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pods[pod.UID] = pod
	if pod.DeletionTimestamp != nil {
		return
	}
	role := pod.Labels[roleLabel]
	if ready := stack.PodReady(pod); role == steady && o.ready[pod.UID] && !ready && !o.excused {
		o.complaints = append(o.complaints, fmt.Sprintf("%s was ready and is not: %s", pod.Name, condition(pod)))
	} else if ready {
		o.ready[pod.UID] = true
	}
	if role != crasher && restarts(pod) > o.allowed[pod.UID] {
		o.restarted[pod.UID] = pod
	}
}

func (o *observer) forget(uid types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.pods, uid)
	delete(o.ready, uid)
}

// allow has a container's end that the test causes be no surprise.
func (o *observer) allow(uid types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.allowed[uid]++
}

// excuse allows the steady pods not to be ready, and one restart of each pod, because of something that must end them.
func (o *observer) excuse() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.excused = true
	for uid, pod := range o.pods {
		o.allowed[uid] = restarts(pod) + 1
	}
}

// killed takes note that the kubelet was killed, and with it the events that it had not sent.
func (o *observer) killed() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unsaid = true
}

// endExcuse ends excuse, when all is well again.
func (o *observer) endExcuse() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.excused = false
}

func (o *observer) setNode(node *corev1.Node) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.node = node
}

func (o *observer) currentNode() *corev1.Node {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.node
}

// all are the pods as they are.
func (o *observer) all() []*corev1.Pod {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Values(o.pods))
}

// watchRuntime looks at what runs, as there is no event for what should not be there.
func (o *observer) watchRuntime(ctx context.Context) {
	for tick := time.NewTicker(700 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		doubles, err := doubles(ctx, o.s)
		if err != nil {
			continue // the runtime is away
		}
		o.mu.Lock()
		for _, double := range doubles { // a list is not of one moment
			if slices.Contains(o.doubles, double) && !slices.Contains(o.complaints, double) {
				o.complaints = append(o.complaints, double)
			}
		}
		o.doubles = doubles
		o.mu.Unlock()
	}
}

// doubles names the containers and sandboxes that run more than once.
func doubles(ctx context.Context, s *stack.Stack) ([]string, error) {
	client := runtimeapi.NewRuntimeServiceClient(s.CRI)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	containers, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return nil, err
	}
	sandboxes, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		return nil, err
	}
	running := map[string][]string{}
	for _, c := range containers.GetContainers() {
		name := "container " + c.GetLabels()["io.kubernetes.pod.name"] + "/" + c.GetMetadata().GetName() + " of " + c.GetLabels()["io.kubernetes.pod.uid"]
		running[name] = append(running[name], c.GetId()[:12])
	}
	for _, p := range sandboxes.GetItems() {
		name := "sandbox " + p.GetMetadata().GetName() + " of " + p.GetMetadata().GetUid()
		running[name] = append(running[name], p.GetId()[:12])
	}
	var doubles []string
	for name, all := range running {
		if len(all) > 1 {
			slices.Sort(all)
			doubles = append(doubles, fmt.Sprintf("%s runs %d times: %s", name, len(all), strings.Join(all, " ")))
		}
	}
	return doubles, nil
}

// reasons are those of events that say why a container was started again.
var reasons = []string{"Killing", "Unhealthy", "SandboxChanged", "Failed", "FailedPostStartHook", "BackOff", "FailedCreatePodSandBox", "FailedSync"}

// verdict returns the complaints since the last one.
func (o *observer) verdict(ctx context.Context) []string {
	o.mu.Lock()
	restarted := o.restarted
	o.restarted = map[types.UID]*corev1.Pod{}
	for uid, pod := range restarted {
		if restarts(pod) <= o.allowed[uid] {
			delete(restarted, uid)
		}
		o.allowed[uid] = max(o.allowed[uid], restarts(pod))
	}
	complaints, unsaid := o.complaints, o.unsaid
	o.complaints, o.unsaid = nil, false
	o.mu.Unlock()
	for _, pod := range restarted {
		why := reasonOf(ctx, o.s, pod)
		switch {
		case pod.Labels[roleLabel] == steady:
			complaints = append(complaints, fmt.Sprintf("%s restarted, though untouched: %s", pod.Name, why))
		case why == "" && !unsaid:
			complaints = append(complaints, fmt.Sprintf("%s restarted %d times and no event says why", pod.Name, restarts(pod)))
		}
	}
	return complaints
}

// reasonOf is what an event says of a pod's restart. Events that all went well are sent later than what went wrong.
func reasonOf(ctx context.Context, s *stack.Stack, pod *corev1.Pod) string {
	for range 20 {
		events, err := s.Client.CoreV1().Events(pod.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(pod.UID)})
		if err != nil {
			return ""
		}
		for _, e := range events.Items {
			if slices.Contains(reasons, e.Reason) {
				return e.Reason + ": " + e.Message
			}
		}
		if sleep(ctx, 100*time.Millisecond) != nil {
			return ""
		}
	}
	return ""
}

// restarts is how often the pod's containers were started again.
func restarts(pod *corev1.Pod) int32 {
	var n int32
	for _, c := range pod.Status.ContainerStatuses {
		n += c.RestartCount
	}
	return n
}

// condition is what the pod's Ready condition and its containers say.
func condition(pod *corev1.Pod) string {
	var says []string
	for _, c := range pod.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			says = append(says, fmt.Sprintf("%s=%s %s %s", c.Type, c.Status, c.Reason, c.Message))
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		switch {
		case c.State.Waiting != nil:
			says = append(says, "waiting: "+c.State.Waiting.Reason+" "+c.State.Waiting.Message)
		case c.State.Terminated != nil:
			says = append(says, fmt.Sprintf("ended: %s %d", c.State.Terminated.Reason, c.State.Terminated.ExitCode))
		}
	}
	return string(pod.Status.Phase) + " " + strings.Join(says, "; ")
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
