package guest

import (
	"errors"
	"fmt"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const memoryQoS = `featureGates: {MemoryQoS: true}
memoryThrottlingFactor: 0.5
memoryReservationPolicy: TieredReservation
`

// restart starts the kubelet again with these settings.
func restart(t *testing.T, config string) {
	t.Helper()
	if err := end(kubelet); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/run/kubelet.yaml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := startKubelet(); err != nil {
		t.Fatal(err)
	}
}

// TestMemoryQoS: with the feature gate the kernel keeps what pods request, at every level, and slows down a container that
// nears its limit.
func TestMemoryQoS(t *testing.T) {
	restart(t, kubeletConfig+memoryQoS)
	static(t, "kept", shell("c", forever, corev1.ResourceRequirements{Limits: amounts("600m", "32Mi")}))
	kept := running(t, "kept") // before the other takes its time
	static(t, "slowed", shell("c", "head -c 40000000 /dev/zero | tail >/dev/null; "+forever, corev1.ResourceRequirements{
		Requests: amounts("", "16Mi"), Limits: amounts("", "48Mi"),
	}))
	slowed := running(t, "slowed")
	mebibytes := func(n int) string { return fmt.Sprint(n << 20) }
	expect(t, containerGroup(kept, "c"), map[string]string{"memory.min": mebibytes(32), "memory.low": "0", "memory.high": "max", "memory.max": mebibytes(32)})
	expect(t, groupOf(kept), map[string]string{"memory.min": mebibytes(32)})
	expect(t, containerGroup(slowed, "c"), map[string]string{"memory.min": "0", "memory.low": mebibytes(16), "memory.high": mebibytes(32), "memory.max": mebibytes(48)})
	expect(t, groupOf(slowed), map[string]string{"memory.low": mebibytes(16)})
	eventually(t, "the tiers keep what their pods request", func() error {
		if all, burstable := value(t, "kubepods", "memory.min"), value(t, "kubepods/burstable", "memory.low"); all != mebibytes(48) || burstable != mebibytes(16) {
			return fmt.Errorf("memory.min of all pods is %s, memory.low of the burstable ones %s", all, burstable)
		}
		return nil
	})
	eventually(t, "the container is slowed down", func() error {
		if keyed(t, containerGroup(slowed, "c"), "memory.events", "high") == 0 {
			return errors.New(value(t, containerGroup(slowed, "c"), "memory.events"))
		}
		return nil
	})
	for _, name := range []string{"kept", "slowed"} {
		if err := os.Remove(manifest(name)); err != nil {
			t.Fatal(err)
		}
	}
	gone(t, kept)
	gone(t, slowed)
	eventually(t, "nothing is kept for pods that are gone", func() error {
		if all, burstable := value(t, "kubepods", "memory.min"), value(t, "kubepods/burstable", "memory.low"); all != "0" || burstable != "0" {
			return fmt.Errorf("memory.min of all pods is %s, memory.low of the burstable ones %s", all, burstable)
		}
		return nil
	})
	restart(t, kubeletConfig)
}
