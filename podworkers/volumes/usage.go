package volumes

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/podworkers/csi"
)

// Placed is a volume of a claim or a CSI driver that stands.
type Placed struct {
	Dir   string
	Claim string // the claim's name, "" for a volume without one
	// Usage asks its driver what it holds; nil for a volume without a driver.
	Usage func(context.Context) (*csi.Usage, error)
}

// Placed returns where a volume of a claim or a CSI driver stands. ok is false for others, and while it does not.
func (m *Manager) Placed(pod *corev1.Pod, v *corev1.Volume) (placed Placed, ok bool) {
	p, ok := m.placed(pod.UID, v.Name)
	if !ok || p.dir == "" {
		return Placed{}, false
	}
	placed.Dir = p.dir
	switch {
	case v.PersistentVolumeClaim != nil:
		placed.Claim = v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		placed.Claim = pod.Name + "-" + v.Name
	}
	if p.request != nil {
		placed.Usage = func(ctx context.Context) (*csi.Usage, error) { return m.opts.CSI.Usage(ctx, p.request) }
	}
	return placed, true
}
