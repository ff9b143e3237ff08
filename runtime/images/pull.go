package images

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/cri"
)

// pull is one pull in flight, for all pods that want the same image with the same credentials. It is cancelled when the last of
// them no longer waits.
type pull struct {
	waiting int
	cancel  context.CancelFunc
	done    chan struct{}
	result  pullResult // once done
}

type pullResult struct {
	ref  string
	size uint64
	took time.Duration // without the wait for a slot
	err  error
}

// join waits for the pull of an image, having begun it if there is none.
func (m *Manager) join(ctx context.Context, r Request, image string, credentials []Credential) pullResult {
	key := flightKey(r.Image, credentials)
	m.mu.Lock()
	p := m.pulls[key]
	if p == nil {
		p = &pull{done: make(chan struct{})}
		detached, cancel := context.WithCancel(context.WithoutCancel(ctx))
		p.cancel = cancel
		m.pulls[key] = p
		go func() {
			defer cancel()
			p.result = m.pull(detached, r, image, credentials)
			m.mu.Lock()
			m.land(key, p)
			m.mu.Unlock()
			close(p.done)
		}()
	}
	p.waiting++
	m.mu.Unlock()
	select {
	case <-p.done:
		return p.result
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.waiting--; p.waiting == 0 {
		p.cancel()
		m.land(key, p) // a request from now on begins another pull
	}
	return pullResult{err: ctx.Err()}
}

// land takes a pull out of those in flight. Callers hold mu.
func (m *Manager) land(key string, p *pull) {
	if m.pulls[key] == p {
		delete(m.pulls, key)
	}
}

func flightKey(image string, credentials []Credential) string {
	var key strings.Builder
	key.WriteString(image)
	for _, c := range credentials {
		fmt.Fprintf(&key, "\n%v %x", c.Source, sha256.Sum256([]byte(c.Auth.GetUsername()+"\x00"+c.Auth.GetPassword())))
	}
	return key.String()
}

// pull waits for its turn and pulls.
//
// Upstream: pkg/kubelet/images/puller.go, pkg/kubelet/kuberuntime/kuberuntime_image.go PullImage
func (m *Manager) pull(ctx context.Context, r Request, image string, credentials []Credential) (result pullResult) {
	ctx, end := cri.Step(ctx, "pullImage", r.Pod, cri.Why(image+" is not here, or is asked for with each start"))
	defer func() { end(result.err) }()
	if m.slots != nil {
		select {
		case m.slots <- struct{}{}:
			defer func() { <-m.slots }()
		case <-ctx.Done():
			return pullResult{err: ctx.Err()}
		}
	}
	if err := m.limiter.Wait(ctx); err != nil {
		return pullResult{err: fmt.Errorf("wait for registryPullQPS: %w", err)}
	}
	var used *Credential
	if m.records != nil {
		if err := m.records.begin(r.Image); err != nil {
			return pullResult{err: fmt.Errorf("Failed to record image pull intent for container image %q: %w", r.Image, err)} //nolint:staticcheck // upstream's text
		}
		defer func() { m.records.end(ctx, r.Image, result, used) }()
	}
	start := time.Now()
	result.ref, used, result.err = m.try(ctx, r, image, credentials)
	if result.err == nil {
		// The size is for the event only.
		if answer, err := m.CRI.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: imageSpec(r.Pod, image)}); err == nil {
			result.size = answer.GetImage().GetSize()
		}
		if m.OnPulled != nil {
			m.OnPulled()
		}
	}
	result.took = time.Since(start)
	return result
}

// try pulls with one credential after the other, or with none if there are none.
func (m *Manager) try(ctx context.Context, r Request, image string, credentials []Credential) (ref string, used *Credential, err error) {
	if len(credentials) == 0 {
		ref, err = m.pullOnce(ctx, r, image, nil)
		return ref, nil, err
	}
	var errs []error
	for i := range credentials {
		ref, err := m.pullOnce(ctx, r, image, credentials[i].Auth)
		if err == nil {
			return ref, &credentials[i], nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return "", nil, errors.Join(errs...)
}

func (m *Manager) pullOnce(ctx context.Context, r Request, image string, auth *runtimeapi.AuthConfig) (string, error) {
	answer, err := m.CRI.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: imageSpec(r.Pod, image), Auth: auth, SandboxConfig: r.Sandbox})
	switch {
	case err != nil:
		klog.FromContext(ctx).V(2).Info("Pulling an image failed", "image", image, "withCredentials", auth != nil, "err", err)
		// A code that says nothing is left out, so that the names of known failures come first.
		if s := status.Convert(err); s.Code() == codes.Unknown {
			return "", errors.New(s.Message())
		}
		return "", err
	case answer.GetImageRef() == "":
		return "", fmt.Errorf("imageRef of image is not set: %q", image)
	}
	return answer.ImageRef, nil
}
