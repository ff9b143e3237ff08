package objects

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// tokens caches service account tokens until they have lived most of their lives.
//
// Upstream: pkg/kubelet/token/token_manager.go Manager.
type tokens struct {
	opts Options
	mu   sync.Mutex
	pods map[types.UID]map[string]token
}

type token struct {
	answer  *authv1.TokenRequest
	refresh time.Time
}

const (
	maxTokenAge = 24 * time.Hour
	maxJitter   = 10 * time.Second
	tokenRetry  = 10 * time.Second // what is due and fails must not be due again at once
)

func newTokens(opts Options) *tokens {
	return &tokens{opts: opts, pods: map[types.UID]map[string]token{}}
}

// get returns a token, and requests one when there is none or the present one is due for replacement. If that fails, the
// present token is returned until it expires.
func (t *tokens) get(ctx context.Context, pod *corev1.Pod, request *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	if t.opts.CreateToken == nil {
		return nil, fmt.Errorf("fetch a service account token: %w", ErrStandalone)
	}
	id, err := json.Marshal(request.Spec)
	if err != nil {
		return nil, err
	}
	k := pod.Spec.ServiceAccountName + "\x00" + string(id)
	t.mu.Lock()
	cached, have := t.pods[pod.UID][k]
	t.mu.Unlock()
	now := t.opts.Clock.Now()
	if have && !due(cached.refresh, now) {
		return cached.answer, nil
	}
	answer, err := Patiently(ctx, func() (*authv1.TokenRequest, error) {
		return t.opts.CreateToken(ctx, pod.Namespace, pod.Spec.ServiceAccountName, request)
	})
	if err != nil {
		if have && now.Before(cached.answer.Status.ExpirationTimestamp.Time) {
			klog.FromContext(ctx).Error(err, "Service account token could not be renewed, the old one serves on")
			t.put(pod.UID, k, token{answer: cached.answer, refresh: now.Add(tokenRetry)})
			return cached.answer, nil
		}
		return nil, fmt.Errorf("failed to fetch token: %w", err)
	}
	t.put(pod.UID, k, token{answer: answer, refresh: refreshAt(now, answer)})
	return answer, nil
}

func (t *tokens) put(uid types.UID, k string, one token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pods[uid] == nil {
		t.pods[uid] = map[string]token{}
	}
	t.pods[uid][k] = one
}

// due tells whether a time has come, by the monotonic clock or by the wall clock: a suspended machine counts no time on the
// former.
func due(at, now time.Time) bool { return !now.Before(at) || !now.Round(0).Before(at.Round(0)) }

// refreshAt is when a token is to be replaced: after four fifths of its life, or a day, less a random part. The length of the
// life comes from the apiserver, so that a wrong clock here does not matter.
func refreshAt(now time.Time, answer *authv1.TokenRequest) time.Time {
	life := answer.Status.ExpirationTimestamp.Sub(now)
	if seconds := answer.Spec.ExpirationSeconds; seconds != nil {
		life = time.Duration(*seconds) * time.Second
	}
	at := min(life*4/5, maxTokenAge)
	return now.Add(at - min(rand.N(maxJitter), at/10))
}

func (t *tokens) forget(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.pods, uid)
}

// TokenRefresh returns when the first of the pod's tokens is to be replaced, zero for never.
func (m *Manager) TokenRefresh(uid types.UID) (first time.Time) {
	m.tokens.mu.Lock()
	defer m.tokens.mu.Unlock()
	for _, t := range m.tokens.pods[uid] {
		first = earlier(first, t.refresh)
	}
	return first
}
