package matrix

import (
	"bytes"
	"context"
	"regexp"
	"slices"
	"sync"
	"time"
)

// Kind is what happens to a call or a request.
type Kind string

// Kinds of faults of calls to the runtime.
const (
	Failing     Kind = "error"       // at once, and nothing was done
	FailingLate Kind = "late error"  // after a while, and nothing was done
	AnswerLost  Kind = "answer lost" // it was done, and no answer comes
	Hanging     Kind = "hang"        // it was not done, and no answer comes
	Cut         Kind = "cut"         // the connection ends while the call runs
)

// callKinds are all of them.
var callKinds = []Kind{Failing, FailingLate, AnswerLost, Hanging, Cut}

// forever is longer than any call may take.
const forever = 24 * time.Hour

// Fault is a fault to inject. One that has a Subject is for this pod's calls alone; one that has Times ends after so
// many of them, every other one when it is healed.
type Fault struct {
	Kind    Kind
	Method  string // any if empty
	Subject *Subject
	Times   int
	Delay   time.Duration
	Message string // of the error of Failing, by default one that says that it was injected
}

// Injection is a fault in force.
type Injection struct {
	Fault
	healed chan struct{}
	heal   func()
	hits   int // guarded by faults.mu
	now    int // calls that are in it
	first  chan struct{}
	of     *faults
}

// Heal ends the fault, and lets go what hangs in it.
func (i *Injection) Heal() { i.heal() }

// Hits is how many calls met the fault.
func (i *Injection) Hits() int {
	i.of.mu.Lock()
	defer i.of.mu.Unlock()
	return i.hits
}

// First is closed when a call has met the fault.
func (i *Injection) First() <-chan struct{} { return i.first }

func (i *Injection) done() {
	i.of.mu.Lock()
	defer i.of.mu.Unlock()
	i.now--
}

// wait ends after d, when the fault is healed or when the caller has gone.
func (i *Injection) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-i.healed:
	case <-ctx.Done():
	}
}

// healAfter heals the fault d after the first call met it, if ended is not closed before.
func (i *Injection) healAfter(d time.Duration, ended <-chan struct{}) {
	select {
	case <-i.first:
	case <-ended:
		return
	}
	select {
	case <-time.After(d):
		i.Heal()
	case <-ended:
	}
}

// faults are those in force.
type faults struct {
	mu       sync.Mutex
	list     []*Injection
	subjects []*Subject
}

// inject puts a fault in force.
func (f *faults) inject(fault Fault) *Injection {
	i := &Injection{Fault: fault, healed: make(chan struct{}), first: make(chan struct{}), of: f}
	i.heal = sync.OnceFunc(func() {
		close(i.healed)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.list = slices.DeleteFunc(f.list, func(other *Injection) bool { return other == i })
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, i)
	if s := fault.Subject; s != nil && !slices.Contains(f.subjects, s) {
		f.subjects = append(f.subjects, s)
	}
	return i
}

func (f *faults) healAll() {
	f.mu.Lock()
	all := slices.Clone(f.list)
	f.mu.Unlock()
	for _, i := range all {
		i.Heal()
	}
}

// take finds the fault for a call and counts it.
func (f *faults) take(method string, subject *Subject) *Injection {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.list {
		if i.Method != "" && i.Method != method || i.Subject != nil && i.Subject != subject || i.Times > 0 && i.hits >= i.Times {
			continue
		}
		if i.hits++; i.hits == 1 {
			close(i.first)
		}
		i.now++
		return i
	}
	return nil
}

// Subject is a pod, known in calls by what they mention: its name at first, then every id that a call with one of them
// mentions or is answered with. So a call that starts a container belongs to the pod, though it names the container only.
type Subject struct {
	mu     sync.Mutex
	tokens [][]byte
}

// NewSubject is a pod with a name that is part of no other pod's.
func NewSubject(name string) *Subject { return &Subject{tokens: [][]byte{[]byte(name)}} }

// ids are those of pods, and of sandboxes and containers, but not of images, which pods share.
var ids = regexp.MustCompile(`(?:^|[^0-9a-f:])([0-9a-f]{64}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})`)

// learn adds the ids in what concerns the pod.
func (s *Subject) learn(message []byte) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, found := range ids.FindAllSubmatch(message, -1) {
		if !slices.ContainsFunc(s.tokens, func(t []byte) bool { return bytes.Equal(t, found[1]) }) {
			s.tokens = append(s.tokens, bytes.Clone(found[1]))
		}
	}
}

func (s *Subject) in(message []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.tokens, func(t []byte) bool { return bytes.Contains(message, t) })
}

// subjectOf is the pod that a request concerns, nil if it is none that a fault was ever meant for.
func (f *faults) subjectOf(request []byte) *Subject {
	f.mu.Lock()
	subjects := slices.Clone(f.subjects)
	f.mu.Unlock()
	for _, s := range subjects {
		if s.in(request) {
			s.learn(request)
			return s
		}
	}
	return nil
}
