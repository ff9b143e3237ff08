package matrix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// unique are the parts of names that another pod or container has otherwise.
var unique = regexp.MustCompile(strings.Join([]string{
	`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`, `[0-9a-f]{64}`, `[0-9a-f]{32}`, `\b[0-9a-f]{8}\b`, `kube-api-access-[a-z0-9]{5}`, `\.\.data_[0-9]+`, `[a-z]+-[0-9]+(-[0-9]+)*\b`,
}, "|"))

// footprint is what a node without pods holds.
type footprint struct {
	resources, things       []string // of the machine; of pods
	goroutines, descriptors float64
}

// warmUp runs a pod of each QoS class that others have, for what stays for good after the first one, such as the class'
// cgroup, and looks at what the node holds then.
func (r *run) warmUp(ctx context.Context) error {
	if _, err := r.s.WaitNodeReady(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, r.k.LogTail(40))
	}
	p := population{s: r.s, o: r.o, bound: r.bound}
	burstable := newPod(r.s, churned, "warm-up-burstable")
	if err := resources(ctx, r, burstable); err != nil {
		return err
	}
	for _, pod := range []*corev1.Pod{newPod(r.s, churned, "warm-up"), burstable} {
		if err := p.life(ctx, pod); err != nil {
			return err
		}
	}
	if err := sleep(ctx, time.Second); err != nil { // what a deletion leaves to be done behind the scenes
		return err
	}
	var err error
	r.empty, err = r.holds(ctx)
	return err
}

// holds looks at what the node holds.
func (r *run) holds(ctx context.Context) (f footprint, err error) {
	if f.resources, err = r.s.Resources(); err != nil {
		return f, err
	}
	addresses, err := r.s.Addresses()
	if err != nil {
		return f, err
	}
	directories, err := r.s.PodDirectories()
	if err != nil {
		return f, err
	}
	for _, address := range addresses {
		f.things = append(f.things, "address "+address)
	}
	for _, directory := range directories {
		f.things = append(f.things, "directory of pod "+directory)
	}
	client := runtimeapi.NewRuntimeServiceClient(r.s.CRI)
	sandboxes, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return f, err
	}
	for _, p := range sandboxes.GetItems() {
		f.things = append(f.things, "sandbox of "+p.GetMetadata().GetName())
	}
	metrics, err := r.metrics(ctx)
	if err != nil {
		return f, err
	}
	for name, value := range map[string]*float64{"\ngo_goroutines %g": &f.goroutines, "\nprocess_open_fds %g": &f.descriptors} {
		if i := strings.Index(metrics, strings.TrimSuffix(name, "%g")); i >= 0 {
			_, _ = fmt.Sscanf(metrics[i:], name, value)
		}
	}
	return f, nil
}

func (r *run) metrics(ctx context.Context) (string, error) {
	client, err := r.s.KubeletClient("matrix", "system:masters")
	if err != nil {
		return "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.s.KubeletURL()+"/metrics", nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	return string(data), err
}

// slack is by how many goroutines and descriptors a kubelet may differ between two idle moments: connections to the
// apiserver and clients of its server come and go.
const slack = 20

// leaks deletes all pods and looks whether the node is as it was before there were any.
func (r *run) leaks(ctx context.Context) error {
	if r.counted() {
		return nil
	}
	start := time.Now()
	r.crowd.stop()
	pods := r.s.Client.CoreV1().Pods(corev1.NamespaceDefault)
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return err
	}
	left := r.left(ctx)
	if r.containerdsOwn(ctx, left) {
		err := errors.Join(r.s.StopComponent(ctx, stack.Containerd, syscall.SIGTERM), r.s.StartComponent(ctx, stack.Containerd))
		if err != nil {
			return err
		}
		left = r.left(ctx)
	}
	r.report("nothing is left of all that", start, left...)
	return nil
}

// left waits until the node is as it was before there were any pods, and returns what is left when the bound is over.
func (r *run) left(ctx context.Context) []string {
	limited, cancel := context.WithTimeout(ctx, r.bound)
	defer cancel()
	left := []string{"not looked at"}
	for len(left) > 0 && sleep(limited, 500*time.Millisecond) == nil {
		now, err := r.holds(limited)
		if err != nil {
			left = []string{err.Error()}
			continue
		}
		left = now.over(r.empty)
		if list, err := r.s.Client.CoreV1().Pods(corev1.NamespaceDefault).List(limited, metav1.ListOptions{}); err == nil {
			for _, pod := range list.Items {
				left = append(left, "pod "+pod.Name)
			}
		}
	}
	return left
}

// containerdsOwn tells whether something is left, and all of it is what containerd keeps of starts that were cancelled: sandboxes that it
// refuses to remove, and mounts of containers whose shims it has forgotten. It clears both away when it is started again, and
// then the kubelet must clear away what it could not before.
func (r *run) containerdsOwn(ctx context.Context, left []string) bool {
	sandboxes := false
	for _, l := range left {
		if strings.HasPrefix(l, "sandbox of ") {
			sandboxes = true
		} else if !strings.HasPrefix(l, "mount ") || !strings.Contains(l, "/io.containerd.runtime.v2.task/") {
			return false
		}
	}
	return len(left) > 0 && (!sandboxes || r.refuses(ctx, nil))
}

// over is what is held beyond what was before.
func (f footprint) over(before footprint) []string {
	left := append(stack.Leaked(anonymous(before.resources), anonymous(f.resources)), f.things...)
	left = slices.DeleteFunc(left, func(l string) bool { return strings.HasPrefix(l, "process "+shim) })
	if f.goroutines > before.goroutines+slack {
		left = append(left, fmt.Sprintf("%.0f goroutines, %.0f before", f.goroutines, before.goroutines))
	}
	if f.descriptors > before.descriptors+slack {
		left = append(left, fmt.Sprintf("%.0f descriptors, %.0f before", f.descriptors, before.descriptors))
	}
	return left
}

// shim is the program of which containerd forgets one now and then when a start was cancelled: no kubelet can find it again.
const shim = "containerd-shim"

var processID = regexp.MustCompile(`^process \d+`)

// anonymous numbers processes of a name, instead of telling their ids: a kubelet that was started again is as good as the
// one before.
func anonymous(resources []string) []string {
	count := map[string]int{}
	named := make([]string, 0, len(resources))
	for _, resource := range resources {
		if processID.MatchString(resource) {
			name := processID.ReplaceAllString(resource, "process")
			count[name]++
			resource = fmt.Sprintf("%s, number %d", name, count[name])
		}
		named = append(named, resource)
	}
	return named
}
