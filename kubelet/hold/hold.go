// Package hold keeps a node alive in its cluster while a debugger holds its kubelet: a process of its own, which the
// debugger does not hold, renews the node's lease whenever the kubelet does not. From the lease alone the cluster judges
// whether a node lives.
package hold

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/client"
	"minikubelet/kubelet/node"
)

// Command is the first argument of the kubelet's program when it is the helper.
const Command = "hold-lease"

// Options say whose lease is renewed.
type Options struct {
	Kubeconfig, Node string
	Duration         time.Duration // of the lease
}

// Start starts the helper, which is there when Start returns: a debugger may hold this process from then on. The helper ends with
// ctx or with this process. wait says so when it has ended before ctx did.
func Start(ctx context.Context, o Options) (wait func(context.Context), err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	helper := exec.CommandContext(ctx, program, Command)
	helper.Stderr = os.Stderr
	// Its input says what to do, and ends with this process, however that ends, and the helper with it.
	input, err := helper.StdinPipe()
	if err == nil {
		err = helper.Start()
	}
	if err == nil {
		err = json.NewEncoder(input).Encode(o)
	}
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) {
		if err := helper.Wait(); ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "What renews the node's lease while a debugger holds the kubelet has ended")
		}
	}, nil
}

// Main is the helper: it renews the lease until its input ends.
func Main(input io.Reader) error {
	var o Options
	if err := json.NewDecoder(input).Decode(&o); err != nil || o.Duration <= 0 {
		return fmt.Errorf("%s is for the kubelet itself, which says on its input whose lease it means: %w", Command, cmp.Or(err, errors.New("no duration")))
	}
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return fmt.Errorf("%s: %w", Command, err)
	}
	config.Timeout = o.Duration / 4
	c, err := client.New(config)
	if err != nil {
		return fmt.Errorf("%s: %w", Command, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, input)
	}()
	Keep(ctx, c.Leases(corev1.NamespaceNodeLease), o)
	return nil
}

// Keep renews the lease whenever it has not been for half of its duration, which a kubelet that runs never lets happen:
// it renews it four times in its duration. It makes no lease: the kubelet does that.
func Keep(ctx context.Context, leases node.LeaseClient, o Options) {
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		logger := klog.FromContext(ctx)
		lease, err := leases.Get(ctx, o.Node, metav1.GetOptions{})
		if err == nil && (lease.Spec.RenewTime == nil || time.Since(lease.Spec.RenewTime.Time) >= o.Duration/2) {
			lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
			if _, err = leases.Update(ctx, lease, metav1.UpdateOptions{}); err == nil {
				logger.Info("Renewed the node's lease, since the kubelet does not: a debugger holds it", "node", o.Node)
			}
		}
		if err != nil && ctx.Err() == nil {
			logger.V(2).Info("The node's lease could not be renewed, will be retried", "err", err)
		}
	}, o.Duration/4)
}
