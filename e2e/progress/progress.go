// Package progress tells how far a long run is: n of m, how many failed, how long it took and will take.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// every is how often a line is written at most, besides those for what failed.
const every = 15 * time.Second

// Meter counts the parts of a run that are done and writes lines about them. A nil Meter does nothing.
type Meter struct {
	w    io.Writer
	name string
	now  func() time.Time

	mu           sync.Mutex // guards what follows
	total        int
	work, worked float64 // of all parts, and of those done
	done, failed int
	began, said  time.Time
}

// New begins a run of that many parts.
func New(w io.Writer, name string, total int) *Meter { return start(w, name, total, time.Now) }

func start(w io.Writer, name string, total int, now func() time.Time) *Meter {
	m := &Meter{w: w, name: name, now: now, total: total, work: float64(total)}
	m.began = now()
	m.said = m.began
	fmt.Fprintf(w, "%s: 0 of %d\n", name, total)
	return m
}

// Work says how much work all parts are together if they differ: that of each is told to DoneOf.
func (m *Meter) Work(all float64) *Meter {
	m.work = all
	return m
}

// More adds parts that were not known of in the beginning.
func (m *Meter) More(parts int) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.work, m.total = m.work+float64(parts), m.total+parts
}

// Done counts a part. What failed is named at once.
func (m *Meter) Done(failed bool, what string) { m.DoneOf(1, failed, what) }

// DoneOf counts a part that was so much of all work.
func (m *Meter) DoneOf(work float64, failed bool, what string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done++
	m.worked += work
	if failed {
		m.failed++
		fmt.Fprintf(m.w, "%s: FAILED %s\n", m.name, what)
	}
	now := m.now()
	if !failed && now.Sub(m.said) < every && m.done < m.total {
		return
	}
	m.said = now
	fmt.Fprintln(m.w, m.line(now))
}

// line is how far the run is. The time left is an estimate: what is left takes as long as what is done took.
func (m *Meter) line(now time.Time) string {
	took := now.Sub(m.began)
	text := fmt.Sprintf("%s: %d of %d, %d failed, %v so far", m.name, m.done, m.total, m.failed, took.Round(time.Second))
	if left := m.work - m.worked; left > 0 && m.worked > 0 {
		text += fmt.Sprintf(", about %v left", roughly(time.Duration(float64(took)*left/m.worked)))
	}
	return text
}

// roughly rounds to what an estimate is worth.
func roughly(d time.Duration) time.Duration {
	if d < 2*time.Minute {
		return d.Round(5 * time.Second)
	}
	return d.Round(time.Minute)
}
