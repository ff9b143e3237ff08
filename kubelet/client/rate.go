package client

import (
	"context"

	"golang.org/x/time/rate"
	"k8s.io/client-go/rest"
)

// limiter limits the requests of a client. Its rate can change.
type limiter struct{ *rate.Limiter }

// newLimiter limits to qps requests in a second, burst at once: negative is no limit, 0 is client-go's default.
func newLimiter(qps float32, burst int) limiter {
	limit, burst := limits(qps, burst)
	return limiter{rate.NewLimiter(limit, burst)}
}

func limits(qps float32, burst int) (rate.Limit, int) {
	if burst == 0 {
		burst = rest.DefaultBurst
	}
	switch {
	case qps < 0:
		return rate.Inf, burst
	case qps == 0:
		return rate.Limit(rest.DefaultQPS), burst
	}
	return rate.Limit(qps), burst
}

// TryAccept, Accept, Stop and QPS are what client-go wants of a limiter besides Wait.
func (l limiter) TryAccept() bool { return l.Allow() }

func (l limiter) Accept() { _ = l.Wait(context.Background()) }

func (l limiter) Stop() {}

func (l limiter) QPS() float32 { return float32(l.Limit()) }

// SetRate changes how many requests there may be in a second, and at once, as QPS and Burst of New's config say it.
func (c *Client) SetRate(qps float32, burst int) {
	limit, burst := limits(qps, burst)
	c.limiter.SetLimit(limit)
	c.limiter.SetBurst(burst)
}
