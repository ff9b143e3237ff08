package podworkers

import "testing"

func TestPhaseTransitions(t *testing.T) {
	type step struct {
		from Phase
		on   signal
	}
	want := map[step]Phase{
		{Syncing, ended}:       Terminating,
		{Syncing, killed}:      Terminating,
		{Terminating, stopped}: Terminated,
		{Terminated, cleaned}:  Finished,
		{Finished, forgotten}:  Gone,
	}
	for from := Syncing; from <= Gone; from++ {
		for _, on := range []signal{none, ended, killed, stopped, cleaned, forgotten} {
			to, listed := want[step{from, on}]
			if !listed {
				to = from
			}
			if got := from.next(on); got != to {
				t.Errorf("%v on signal %q: next phase is %v, want %v", from, on, got, to)
			}
		}
	}
}

func TestPhaseString(t *testing.T) {
	if s := Terminating.String(); s != "Terminating" {
		t.Errorf("Terminating prints as %q", s)
	}
	if s := Phase(9).String(); s != "invalid" {
		t.Errorf("an unknown phase prints as %q", s)
	}
}
