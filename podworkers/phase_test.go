package podworkers

import "testing"

func TestPhaseTransitions(t *testing.T) {
	type step struct {
		from Phase
		on   signal
	}
	want := map[step]Phase{
		{Syncing, synced}:      Syncing,
		{Syncing, ended}:       Terminating,
		{Syncing, killed}:      Terminating,
		{Terminating, killed}:  Terminating,
		{Terminating, stopped}: Terminated,
		{Terminated, killed}:   Terminated,
		{Terminated, cleaned}:  Finished,
		{Finished, killed}:     Finished,
	}
	for from := Syncing; from <= Finished; from++ {
		for on := synced; on <= cleaned; on++ {
			got, ok := from.next(on)
			to, listed := want[step{from, on}]
			if ok != listed {
				t.Errorf("%v on signal %d: meaningful = %v, want %v", from, on, ok, listed)
			}
			if !listed {
				to = from
			}
			if got != to {
				t.Errorf("%v on signal %d: next phase is %v, want %v", from, on, got, to)
			}
			if got < from {
				t.Errorf("%v on signal %d goes back to %v", from, on, got)
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
