package node

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestPressure: a shortage is told at once, once, and so is its end.
func TestPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		w.wait(2 * time.Second)
		w.told()
		kinds := []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}
		w.node.SetPressure(kinds)
		w.wait(time.Second)
		for kind, reason := range map[corev1.NodeConditionType]string{
			corev1.NodeMemoryPressure: "KubeletHasInsufficientMemory", corev1.NodeDiskPressure: "KubeletHasDiskPressure",
			corev1.NodePIDPressure: "KubeletHasInsufficientPID",
		} {
			if c := conditionOf(w.get().Status, kind); c.Status != corev1.ConditionTrue || c.Reason != reason {
				t.Errorf("%s is %s: %s", kind, c.Status, c.Reason)
			}
		}
		if got := reasons(w.told()); got != "NodeHasInsufficientMemory NodeHasDiskPressure NodeHasInsufficientPID" {
			t.Errorf("events %q", got)
		}
		w.node.SetPressure(kinds[1:2])
		w.node.SetPressure(kinds[1:2])
		w.wait(time.Second)
		for _, kind := range kinds {
			want := corev1.ConditionFalse
			if kind == corev1.NodeDiskPressure {
				want = corev1.ConditionTrue
			}
			if c := conditionOf(w.get().Status, kind); c.Status != want {
				t.Errorf("%s is %s: %s", kind, c.Status, c.Reason)
			}
		}
		if got := reasons(w.told()); got != "NodeHasSufficientMemory NodeHasSufficientPID" {
			t.Errorf("events %q", got)
		}
	})
}

// TestShuttingDown: a node that goes down is not ready, at once.
func TestShuttingDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		for _, down := range []bool{true, false} {
			w.node.SetShuttingDown(down)
			w.wait(time.Second)
			if c := w.ready(); (c.Status == corev1.ConditionFalse) != down || (c.Message == "node is shutting down") != down {
				t.Errorf("going down %v: Ready is %s, %q", down, c.Status, c.Message)
			}
		}
	})
}

func reasons(events []string) string {
	var out []string
	for _, e := range events {
		out = append(out, strings.Fields(e)[1])
	}
	return strings.Join(out, " ")
}
