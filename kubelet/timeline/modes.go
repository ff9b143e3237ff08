package timeline

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// holdable are the steps that --step can hold besides CRI methods: those of a pod's own goroutine. The loop's hold up all pods.
var holdable = []string{"syncPod", "mountVolumes", "createPodSandbox", "startContainer", "pullImage", "postStart", "preStop", "killContainer", "syncTerminatingPod", "syncTerminatedPod", "finishPod"}

// StepMode holds chosen steps until they are released: a breakpoint without a debugger. Its methods do nothing on nil.
type StepMode struct {
	text     string
	rules    []holdRule
	recorder *Recorder
	node     string
	logger   klog.Logger
	mu       sync.Mutex
	last     int
	held     map[int]*Held
}

// holdRule is one of --step: what, and of which pod ("" for all).
type holdRule struct{ name, pod string }

// Held is a step that waits to be released, since its Start.
type Held struct {
	Step
	ID int `json:"id"` // what it is released by
	// Request is what is about to be sent to the runtime, as JSON, without credentials.
	Request string `json:"request,omitempty"`
	// Edit is what of it can be changed; nil for nothing.
	Edit *Edit `json:"edit,omitempty"`

	released chan *Edit // given what to send instead, nil for the request as it is
}

// Edit is what a container is created with. When it changes a request, what is nil stays as it is.
type Edit struct {
	Command []string `json:"command"`
	Args    []string `json:"args"`
	Env     []string `json:"env"` // NAME=VALUE
}

// ParseStep reads --step: NAME or NAME@POD or NAME@NAMESPACE/POD, separated by commas, where NAME is a step's or a CRI method's.
// It returns nil for "".
func ParseStep(text string) (*StepMode, error) {
	if text == "" {
		return nil, nil
	}
	s := &StepMode{text: strings.ReplaceAll(text, " ", ""), held: map[int]*Held{}}
	for word := range strings.SplitSeq(s.text, ",") {
		name, pod, at := strings.Cut(word, "@")
		if name == "" || at && pod == "" || strings.Count(pod, "/") > 1 {
			return nil, fmt.Errorf("--step: %q: want STEP, STEP@POD or STEP@NAMESPACE/POD, as in CreateContainer@default/web", word)
		}
		if !slices.Contains(holdable, name) && !isMethod(name) {
			return nil, fmt.Errorf("--step: %q is neither a CRI method such as RunPodSandbox nor one of %s", name, strings.Join(holdable, ", "))
		}
		s.rules = append(s.rules, holdRule{name, pod})
	}
	return s, nil
}

// isMethod tells whether the CRI has a method of this name that is one call and one answer.
func isMethod(name string) bool {
	is := func(m grpc.MethodDesc) bool { return m.MethodName == name }
	return slices.ContainsFunc(runtimeapi.RuntimeService_ServiceDesc.Methods, is) || slices.ContainsFunc(runtimeapi.ImageService_ServiceDesc.Methods, is)
}

// Use has the steps of the recorder held from now on. The names of static pods end with the node's.
func (s *StepMode) Use(ctx context.Context, recorder *Recorder, node string) {
	s.recorder, s.node, s.logger = recorder, node, klog.FromContext(ctx)
	recorder.hold = s.holdStep
	s.logger.Info("STEP MODE: steps wait until they are released, on the timeline's page, or with Enter (the first), a number (that one) or all, if the kubelet's input is a terminal", "step", s.text)
}

// wants tells whether a step of a pod, NAMESPACE/NAME, is held. A static pod has the name of its manifest too.
func (s *StepMode) wants(name, pod string) bool {
	names := []string{"", pod, path.Base(pod), strings.TrimSuffix(pod, "-"+s.node), strings.TrimSuffix(path.Base(pod), "-"+s.node)}
	return slices.ContainsFunc(s.rules, func(rule holdRule) bool { return rule.name == name && slices.Contains(names, rule.pod) })
}

// holdStep holds a step that begins; calls are held by Unary, which has the request.
func (s *StepMode) holdStep(ctx context.Context, step Step) {
	if step.Method == "" && s.wants(step.Name, step.PodName) {
		_, _ = s.wait(ctx, Held{Step: step})
	}
}

// Unary holds calls to the runtime. It comes before the call's deadline begins.
func (s *StepMode) Unary(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	name := path.Base(method)
	held := Held{Step: s.recorder.of(trace.SpanContextFromContext(ctx).SpanID())}
	if !s.wants(name, held.PodName) {
		return invoke(ctx, method, request, reply, conn, options...)
	}
	held.Name, held.Request = name, show(request)
	create, is := request.(*runtimeapi.CreateContainerRequest)
	if is {
		held.Edit = editable(create.GetConfig())
	}
	edit, err := s.wait(ctx, held)
	if err != nil {
		return err
	}
	if edit != nil {
		create = proto.CloneOf(create)
		_ = edit.apply(create.Config) // Release has tried it
		trace.SpanFromContext(ctx).AddEvent("step mode: the request was changed")
		request = create
	}
	return invoke(ctx, method, request, reply, conn, options...)
}

// wait returns when the step is released, with what to send instead if that was said, or when its context ends.
func (s *StepMode) wait(ctx context.Context, step Held) (*Edit, error) {
	step.released, step.Start, step.Why = make(chan *Edit, 1), time.Now(), "step mode holds it until it is released on the timeline's page"
	s.mu.Lock()
	s.last++
	step.ID, s.held[s.last] = s.last, &step
	s.mu.Unlock()
	logger := s.logger.WithValues("id", step.ID, "step", step.Name, "pod", step.PodName)
	logger.Info("STEP MODE: a step is held", "containerName", step.Container)
	select {
	case edit := <-step.released:
		logger.Info("STEP MODE: the step is released", "changed", edit != nil)
		return edit, nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.held, step.ID)
		return nil, ctx.Err()
	}
}

// Held returns the steps that wait, the first first.
func (s *StepMode) Held() []Held {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Held
	for _, id := range slices.Sorted(maps.Keys(s.held)) {
		all = append(all, *s.held[id])
	}
	return all
}

// Release lets a held step go on; edit replaces what its container is created with, nil for nothing.
func (s *StepMode) Release(id int, edit *Edit) error {
	if s == nil {
		return errors.New("no steps are held: the kubelet was started without --step")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	step := s.held[id]
	switch {
	case step == nil:
		return fmt.Errorf("no step %d is held", id)
	case edit != nil && step.Edit == nil:
		return fmt.Errorf("step %d is no CreateContainer: nothing of it can be changed", id)
	case edit != nil:
		if err := edit.apply(&runtimeapi.ContainerConfig{}); err != nil {
			return err
		}
	}
	delete(s.held, id)
	step.released <- edit
	return nil
}

// Terminal releases steps as the lines of a terminal say: an empty one the first, a number that one, all those that are held. In
// the background a read would stop the kubelet. It is an error while this thread blocks the signal, which containers do not inherit.
func (s *StepMode) Terminal(in io.Reader, out io.Writer) {
	runtime.LockOSThread() // and not unlocked: the thread ends with the goroutine
	_ = unix.PthreadSigmask(unix.SIG_BLOCK, &unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGTTIN - 1)}}, nil)
	for lines := bufio.NewScanner(in); lines.Scan(); {
		held, line := s.Held(), strings.TrimSpace(lines.Text())
		id, err := strconv.Atoi(line)
		switch {
		case err == nil:
			held = []Held{{ID: id}}
		case line == "":
			held = held[:min(len(held), 1)]
		case line != "all":
			fmt.Fprintln(out, "Enter releases the first step, a number that one, all those that are held")
			continue
		}
		for _, step := range held {
			if err := s.Release(step.ID, nil); err != nil {
				fmt.Fprintln(out, err)
			}
		}
	}
}

func editable(c *runtimeapi.ContainerConfig) *Edit {
	e := &Edit{Command: append([]string{}, c.GetCommand()...), Args: append([]string{}, c.GetArgs()...), Env: []string{}}
	for _, kv := range c.GetEnvs() {
		e.Env = append(e.Env, kv.GetKey()+"="+string(kv.GetValue()))
	}
	return e
}

// apply changes a container. It refuses a variable without a name.
func (e *Edit) apply(c *runtimeapi.ContainerConfig) error {
	if e.Command != nil {
		c.Command = e.Command
	}
	if e.Args != nil {
		c.Args = e.Args
	}
	if e.Env != nil {
		c.Envs = nil
	}
	for _, kv := range e.Env {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "" || strings.ContainsFunc(name, unicode.IsSpace) {
			return fmt.Errorf("env: %q: want NAME=VALUE", kv)
		}
		c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: name, Value: []byte(value)})
	}
	return nil
}

// show is a request as JSON, without the credentials of a registry.
func show(request any) string {
	message, _ := request.(proto.Message) // gRPC sends nothing else
	if pull, is := message.(*runtimeapi.PullImageRequest); is {
		pull = proto.CloneOf(pull)
		pull.Auth, message = nil, pull
	}
	text := protojson.MarshalOptions{Multiline: true, Indent: "  "}.Format(message)
	return text[:min(len(text), maxBody)]
}

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

var chaosParts = regexp.MustCompile(`^([^=]*)=(?:(error|hang)|delay\((.+)\)):(.*)$`)

func parseChaos(word string) (rule chaosRule, err error) {
	parts := chaosParts.FindStringSubmatch(word)
	if parts == nil {
		return rule, errors.New(chaosForm)
	}
	rule = chaosRule{method: parts[1], kind: cmp.Or(parts[2], "delay")}
	if rule.probability, err = strconv.ParseFloat(parts[4], 64); err != nil || !(rule.probability > 0 && rule.probability <= 1) {
		return rule, fmt.Errorf("the probability is %q: %s", parts[4], chaosForm)
	}
	if rule.method != "*" && !isMethod(rule.method) {
		return rule, fmt.Errorf("%q is no CRI method: %s", rule.method, chaosForm)
	}
	if rule.delay, err = time.ParseDuration(cmp.Or(parts[3], "0")); err != nil || rule.delay < 0 {
		return rule, fmt.Errorf("the delay is %q: want a duration, as in delay(2s)", parts[3])
	}
	return rule, nil
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
