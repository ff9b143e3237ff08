package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// result is what was measured of one contender with n pods.
type result struct {
	n                int
	ready            []time.Duration // from create to Ready, of each pod
	wall             time.Duration   // from the first create to the last Ready, all repeats
	deletion         time.Duration   // until the last one is gone, all repeats
	cpu              float64         // seconds of the kubelet's CPU meanwhile
	machine          float64         // of the whole stack's, runtime and pods included
	undoing          float64         // of the whole stack's while the pods end
	starting, ending tallies         // of the last repeat, until it has settled and until the last pod is gone
	binaryMB         float64
	idle             *idleResult // with the largest number of pods only, in the last round
}

// tallies counts what was asked of the runtime and of the apiserver.
type tallies struct{ calls, requests tally }

// idleResult is what it costs to keep pods running.
type idleResult struct{ cores, rssMiB, anonMiB, pssMiB, criPerSecond, apiPerMinute float64 }

func (r result) pods() float64 { return float64(len(r.ready)) }

// quantile is the q-quantile of the times to Ready, in seconds.
func (r result) quantile(q float64) float64 {
	if len(r.ready) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(r.ready))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Seconds()
}

// row is one figure of the report.
type row struct {
	name     string
	value    func(result) (float64, bool)
	hasFloor bool
}

func always(value func(result) float64) func(result) (float64, bool) {
	return func(r result) (float64, bool) { return value(r), true }
}

func ofIdle(value func(*idleResult) float64) func(result) (float64, bool) {
	return func(r result) (float64, bool) {
		if r.idle == nil {
			return 0, false
		}
		return value(r.idle), true
	}
}

var rows = []row{
	{"create to Ready, p50, s", always(func(r result) float64 { return r.quantile(0.5) }), true},
	{"create to Ready, p99, s", always(func(r result) float64 { return r.quantile(0.99) }), true},
	{"create to last Ready, s", always(func(r result) float64 { return r.wall.Seconds() / float64(repeats(r.n)) }), true},
	{"pods/s", always(func(r result) float64 { return r.pods() / r.wall.Seconds() }), true},
	{"deletions/s", always(func(r result) float64 { return r.pods() / r.deletion.Seconds() }), true},
	{"deletion, s", always(func(r result) float64 { return r.deletion.Seconds() / float64(repeats(r.n)) }), true},
	{"kubelet CPU per pod, ms", always(func(r result) float64 { return 1000 * r.cpu / r.pods() }), false},
	{"whole stack's CPU per pod, ms", always(func(r result) float64 { return 1000 * r.machine / r.pods() }), true},
	{"to delete it, ms", always(func(r result) float64 { return 1000 * r.undoing / r.pods() }), true},
	{"status writes per pod", always(func(r result) float64 { return r.starting.requests["patch pods/status"] / float64(r.n) }), false},
	{"apiserver requests per pod", always(func(r result) float64 { return r.starting.requests.sum() / float64(r.n) }), false},
	{"to delete it", always(func(r result) float64 { return r.ending.requests.sum() / float64(r.n) }), false},
	{"CRI calls per pod", always(func(r result) float64 { return r.starting.calls.sum() / float64(r.n) }), false},
	{"to delete it", always(func(r result) float64 { return r.ending.calls.sum() / float64(r.n) }), false},
	{"binary, MB", always(func(r result) float64 { return r.binaryMB }), false},
	{"idle CPU, cores", ofIdle(func(i *idleResult) float64 { return i.cores }), false},
	{"idle RSS, MiB", ofIdle(func(i *idleResult) float64 { return i.rssMiB }), false},
	{"idle RssAnon, MiB", ofIdle(func(i *idleResult) float64 { return i.anonMiB }), false},
	{"idle PSS, MiB", ofIdle(func(i *idleResult) float64 { return i.pssMiB }), false},
	{"idle CRI calls/s", ofIdle(func(i *idleResult) float64 { return i.criPerSecond }), false},
	{"idle apiserver requests/min", ofIdle(func(i *idleResult) float64 { return i.apiPerMinute }), false},
}

// results has each contender's rounds by number of pods.
type results map[int]map[string][]result

func (all results) add(n int, contender string, r result) {
	if all[n] == nil {
		all[n] = map[string][]result{}
	}
	all[n][contender] = append(all[n][contender], r)
}

// cells is a figure of one contender in each round that has it.
func (row row) cells(rounds []result) (cells []float64) {
	for _, r := range rounds {
		if v, ok := row.value(r); ok {
			cells = append(cells, v)
		}
	}
	return cells
}

// ratios compares round by round: what slows the machine for a while slows both.
func ratios(of, to []float64) (ratios []float64) {
	for i := range min(len(of), len(to)) {
		ratios = append(ratios, of[i]/to[i])
	}
	return ratios
}

// report prints a table for each number of pods, with ratios between what was
// measured: medians of all rounds.
func report(w io.Writer, f flags, all results) {
	for _, n := range f.counts {
		fmt.Fprintf(w, "\n%d pods on %s, medians of %d rounds (floor: %d at once)\n", n, f.runtime, f.rounds, f.concurrency)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		withOther := len(all[n][other]) > 0
		head := "\tfloor\tupstream\tminikubelet\tof floor\tof upstream\t"
		if withOther {
			head += "other\tof other\t"
		}
		fmt.Fprintln(t, head)
		for _, row := range rows {
			var a []float64
			if row.hasFloor {
				a = row.cells(all[n][floor])
			}
			b, c := row.cells(all[n][upstream]), row.cells(all[n][ours])
			d := row.cells(all[n][other])
			if len(a)+len(b)+len(c)+len(d) == 0 {
				continue
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t", row.name, figure(a), figure(b), figure(c), figure(ratios(c, a)), figure(ratios(c, b)))
			if withOther {
				fmt.Fprintf(t, "%s\t%s\t", figure(d), figure(ratios(c, d)))
			}
			fmt.Fprintln(t)
		}
		_ = t.Flush()
		for _, contender := range []string{upstream, other, ours} {
			if rounds := all[n][contender]; len(rounds) > 0 {
				r := rounds[len(rounds)-1]
				fmt.Fprintf(w, "%s asks per pod of the runtime: %s\n  to delete it: %s\n", contender, r.starting.calls.perPod(n), r.ending.calls.perPod(n))
				fmt.Fprintf(w, "%s asks per pod of the apiserver: %s\n  to delete it: %s\n", contender, r.starting.requests.perPod(n), r.ending.requests.perPod(n))
			}
		}
	}
}

func figure(values []float64) string { return number(median(values), len(values) > 0) }

// number prints with the digits that mean something.
func number(v float64, ok bool) string {
	switch {
	case !ok:
		return "-"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.4f", v)
}
