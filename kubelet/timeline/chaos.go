package timeline

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
)

// Chaos makes calls to the runtime fail, wait or hang, some of them.
type Chaos struct {
	text   string
	rules  []chaosRule
	random func() float64
}

type chaosRule struct {
	method      string // * for all
	kind        string // error, delay or hang
	delay       time.Duration
	probability float64
}

const chaosForm = "want METHOD=KIND:PROBABILITY, where METHOD is a CRI method or *, KIND is error, delay(DURATION) or hang, and PROBABILITY is above 0 and at most 1, as in RunPodSandbox=error:0.3"

// ParseChaos reads --chaos: rules separated by commas. It returns nil for "".
func ParseChaos(text string) (*Chaos, error) {
	if text == "" {
		return nil, nil
	}
	c := &Chaos{text: text, random: rand.Float64}
	for word := range strings.SplitSeq(text, ",") {
		rule, err := parseChaos(strings.TrimSpace(word))
		if err != nil {
			return nil, fmt.Errorf("--chaos: %q: %w", word, err)
		}
		c.rules = append(c.rules, rule)
	}
	return c, nil
}

func parseChaos(word string) (rule chaosRule, err error) {
	method, rest, _ := strings.Cut(word, "=")
	kind, probability, _ := strings.Cut(rest, ":")
	kind, argument, has := strings.Cut(kind, "(")
	rule = chaosRule{method: method, kind: kind}
	if rule.probability, err = strconv.ParseFloat(probability, 64); err != nil || !(rule.probability > 0 && rule.probability <= 1) {
		return rule, fmt.Errorf("the probability is %q: %s", probability, chaosForm)
	}
	if method != "*" && !isMethod(method) {
		return rule, fmt.Errorf("%q is no CRI method: %s", method, chaosForm)
	}
	switch {
	case kind == "delay":
		if rule.delay, err = time.ParseDuration(strings.TrimSuffix(argument, ")")); err != nil || rule.delay <= 0 || !strings.HasSuffix(argument, ")") {
			return rule, fmt.Errorf("the delay is %q: want a duration, as in delay(2s)", argument)
		}
	case kind != "error" && kind != "hang" || has:
		return rule, fmt.Errorf("the kind is %q: %s", rest, chaosForm)
	}
	return rule, nil
}

// String is what --chaos was given.
func (c *Chaos) String() string { return c.text }

// Warn says in the log what is going to happen.
func (c *Chaos) Warn(ctx context.Context) {
	klog.FromContext(ctx).Info("CHAOS: calls to the container runtime are made to fail, wait or hang", "chaos", c.text)
}

// Unary does to a call what the rules say. A call that hangs does so until its deadline.
func (c *Chaos) Unary(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	name := path.Base(method)
	for _, rule := range c.rules {
		if rule.method != "*" && rule.method != name || c.random() >= rule.probability {
			continue
		}
		klog.FromContext(ctx).Info("CHAOS: a call is tampered with", "method", name, "how", rule.kind, "delay", rule.delay)
		trace.SpanFromContext(ctx).AddEvent("chaos: " + name + ": " + rule.kind)
		if rule.kind == "error" {
			return status.Errorf(codes.Internal, "chaos: %s was made to fail", name)
		}
		var over <-chan time.Time // never, for one that hangs
		if rule.kind == "delay" {
			over = time.After(rule.delay)
		}
		select {
		case <-over:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	return invoke(ctx, method, request, reply, conn, options...)
}
