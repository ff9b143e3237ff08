package matrix

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// shortCalls are the calls of the short form; the long one has all.
var shortCalls = map[string]bool{
	"RunPodSandbox": true, "CreateContainer": true, "StartContainer": true, "ContainerStatus": true, "StopContainer": true,
	"StopPodSandbox": true, "RemovePodSandbox": true, "RemoveContainer": true, "PullImage": true, "ExecSync": true,
}

// podCalls runs the cells of calls for one pod, all of a kind at once, and in the short form those of several kinds. A
// connection that is cut takes other pods' calls along, so those cells are kept from the others.
func (r *run) podCalls(ctx context.Context) error {
	waves := [][]Kind{{Failing, FailingLate}} // the others are those of kills
	if r.Long {
		waves = [][]Kind{{Failing}, {FailingLate}, {AnswerLost}, {Hanging}, {Cut}}
	}
	for _, kinds := range waves {
		if err := r.podCellsAtOnce(ctx, "", kinds, func(string, *Injection) {}); err != nil {
			return err
		}
	}
	return nil
}

// podCellsAtOnce runs those that were asked for and waits until all is well.
func (r *run) podCellsAtOnce(ctx context.Context, suffix string, kinds []Kind, armed func(step string, i *Injection)) error {
	var cells sync.WaitGroup
	n, start := 0, time.Now()
	for _, call := range podCalls {
		for _, kind := range kinds {
			fault := fmt.Sprintf("%s: %s%s", call.method, kind, suffix)
			if !r.wanted(fault) || !r.Long && !shortCalls[call.method] {
				continue
			}
			n++
			if r.counted() {
				continue
			}
			name := fmt.Sprintf("cell-%04d", r.next())
			cells.Go(func() {
				start := time.Now()
				var problems []string
				if err := r.podCell(ctx, call, kind, name, armed); err != nil {
					problems = append(problems, err.Error())
				}
				if ctx.Err() != nil {
					return // the run was ended
				}
				r.report(fault, start, problems...)
			})
		}
	}
	cells.Wait()
	if n == 0 {
		return nil
	}
	names := make([]string, len(kinds))
	for i, kind := range kinds {
		names[i] = string(kind)
	}
	return r.judge(ctx, fmt.Sprintf("other pods during: %s%s", strings.Join(names, ", "), suffix), start)
}

// next numbers what must have a name of its own.
func (r *run) next() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.number++
	return r.number
}

// nodeCalls runs the cells of calls that concern the node.
func (r *run) nodeCalls(ctx context.Context) error {
	kinds, methods := callKinds, nodeCalls
	if !r.Long {
		kinds, methods = []Kind{Failing, AnswerLost, Cut}, []string{""} // all of them at once
	}
	for _, kind := range kinds {
		for _, method := range methods {
			name := method
			if method == "" {
				name = "all calls"
			}
			err := r.during(ctx, fmt.Sprintf("%s: %s", name, kind), 3*time.Second, func() (func(), error) {
				return r.cri.Inject(Fault{Kind: kind, Method: method, Delay: faultDelay}).Heal, nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// requests runs the cells of requests to the apiserver.
func (r *run) requests(ctx context.Context) error {
	hold := 3 * time.Second
	if r.Long {
		hold = 90 * time.Second
	}
	for _, cell := range []struct {
		name   string
		short  bool // it is in the short form
		inject func() func()
	}{
		{"away", true, func() func() { r.api.Away(); return r.api.Back }},
		{"slow", false, r.meet(Fault{Kind: Slow, Delay: 2 * time.Second})},
		{"answers nothing", true, r.meet(Fault{Kind: Hanging})},
		{"cut", false, r.meet(Fault{Kind: Cut})},
		{"answers 500", false, r.meet(Fault{Kind: Failing})},
		{"answers 500, late", false, r.meet(Fault{Kind: FailingLate, Delay: faultDelay})},
		{"answers 429", true, r.meet(Fault{Kind: TooMany})},
		{"conflict at each write", false, r.meet(Fault{Kind: Clash, Method: Writes})},
		{"answers of writes are lost", true, r.meet(Fault{Kind: AnswerLost, Method: Writes})},
		{"410 for watches and lists", true, func() func() {
			lists, watches := r.meet(Fault{Kind: Gone, Method: Lists})(), r.meet(Fault{Kind: Gone, Method: Watches})()
			r.api.ExpireWatches()
			return func() { lists(); watches() }
		}},
		{"silent watches", true, func() func() { r.api.Silence(true); return func() { r.api.Silence(false) } }},
	} {
		if !r.Long && !cell.short {
			continue
		}
		err := r.during(ctx, "apiserver: "+cell.name, hold, func() (func(), error) { return cell.inject(), nil })
		if err != nil {
			return err
		}
	}
	return nil
}

// meet injects a fault of requests.
func (r *run) meet(f Fault) func() func() {
	return func() func() { return r.api.Inject(f).Heal }
}
