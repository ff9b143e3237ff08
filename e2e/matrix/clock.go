package matrix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/stack"
)

// clocks sets the node's clock an hour forth and back, from the right time and from a wrong one. Timers go on as always.
// The pods that run, are probed, crash and end are those beside.
func (r *run) clocks(ctx context.Context) error {
	if !stack.CanSetClock {
		return nil
	}
	for _, step := range []struct {
		fault string
		off   time.Duration
	}{
		{"clock an hour ahead", time.Hour}, {"clock right again, an hour back", 0},
		{"clock an hour behind", -time.Hour}, {"clock right again, an hour forth", 0},
	} {
		if !r.wanted(step.fault) || r.counted() {
			continue
		}
		if err := r.clock(ctx, step.fault, step.off); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) clock(ctx context.Context, fault string, off time.Duration) error {
	start := time.Now()
	lease, err := r.lease(ctx)
	if err != nil {
		return err
	}
	if err := r.s.SetClocks(off); err != nil {
		return err
	}
	// Programs that start, for a container each, come with the machine's clock.
	set, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for sleep(set, 100*time.Millisecond) == nil {
			if err := r.s.SetClocks(off); err != nil && set.Err() == nil {
				r.o.complain("%v", err)
			}
		}
	}()
	limited, cancel := context.WithTimeout(ctx, r.bound)
	defer cancel()
	err = r.eventually(limited, "the lease is renewed", func() bool {
		now, err := r.lease(limited)
		return err == nil && now != lease
	})
	if err = errors.Join(err, r.tokens(limited)); err != nil {
		r.o.complain("%v", err)
	}
	return r.judge(ctx, fault, start)
}

// lease is the version of the node's lease.
func (r *run) lease(ctx context.Context) (string, error) {
	lease, err := r.s.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, r.s.NodeName, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read the node's lease: %w", err)
	}
	return lease.ResourceVersion, nil
}

// tokens looks whether the apiserver takes the tokens that the steady pods have.
func (r *run) tokens(ctx context.Context) error {
	for _, pod := range r.o.all() {
		if pod.Labels[roleLabel] != steady {
			continue
		}
		files, _ := filepath.Glob(filepath.Join(r.s.RootDir(), "pods", string(pod.UID), "volumes/kubernetes.io~projected/*/token"))
		if len(files) != 1 {
			return fmt.Errorf("%s has %d tokens", pod.Name, len(files))
		}
		data, err := os.ReadFile(files[0])
		if err != nil {
			return err
		}
		review := &authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: string(data)}}
		if review, err = r.s.Client.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{}); err != nil {
			return err
		}
		if !review.Status.Authenticated {
			return fmt.Errorf("the token of %s does not count: %s", pod.Name, review.Status.Error)
		}
	}
	return nil
}
