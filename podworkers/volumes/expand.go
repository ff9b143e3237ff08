package volumes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"minikubelet/podworkers/csi"
)

// Reasons of events.
//
// Upstream: pkg/kubelet/events/event.go
const (
	eventResized      = "FileSystemResizeSuccessful"
	eventResizeFailed = "FileSystemResizeFailed"
	eventVolumeFailed = "VolumeResizeFailed"
)

const (
	// growthPeriod is how often a claim is looked at whose volume may grow: a node may not watch claims.
	growthPeriod = time.Minute
	// growthLimit is how long one look may take, the driver's work included.
	growthLimit = 3 * time.Minute
	// notRequired is the annotation of a claim whose controller did everything.
	notRequired = "volume.kubernetes.io/node-expansion-not-required"
)

// growth follows one volume that its driver can grow on the node. The pod's worker and the call that asking is have it in turn.
type growth struct {
	request *csi.Request
	next    time.Time
	asking  *asking           // the last look; nil before the first
	size    resource.Quantity // what the volume has on this node; zero before the first look
	refused resource.Quantity // the size that the driver does not give while the volume is mounted
}

// Grow looks again, when it is time, at the claims of the pod's volumes, and has those grow whose storage has grown. It does not
// wait for that. ctx is that of the pod's worker, which outlives a step.
//
// Upstream: pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go checkVolumeFSResize.
func (m *Manager) Grow(ctx context.Context, pod *corev1.Pod) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		p, ok := m.placed(pod.UID, v.Name)
		if !ok || p.growth == nil || time.Now().Before(p.growth.next) {
			continue
		}
		m.mu.Lock()
		p.growth.next = time.Now().Add(growthPeriod)
		if p.growth.asking == nil || p.growth.asking.ended() {
			p.growth.asking = m.growLater(ctx, pod, v, p.growth)
		}
		m.mu.Unlock()
	}
}

func (m *Manager) growLater(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, g *growth) *asking {
	return beside(ctx, growthLimit, func(limited context.Context) {
		if err := m.grow(limited, pod, v, g); err != nil && limited.Err() != context.Canceled && m.opts.Events != nil {
			m.opts.Events.Eventf(pod, corev1.EventTypeWarning, eventVolumeFailed,
				"NodeExpandVolume.NodeExpandVolume failed for volume %q : %v", g.request.Name, err)
		}
	})
}

// grow has the driver give the volume the size that its claim waits for, and writes to the claim how that went. An error means
// that it is to be tried again.
//
// Upstream: pkg/volume/util/operationexecutor/node_expander.go expandOnPlugin.
func (m *Manager) grow(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, g *growth) error {
	claimName := pod.Name + "-" + v.Name
	if v.PersistentVolumeClaim != nil {
		claimName = v.PersistentVolumeClaim.ClaimName
	}
	claim, err := m.opts.Claims.Claim(ctx, pod.Namespace, claimName)
	if err != nil {
		return fmt.Errorf("get PVC failed: %w", err)
	}
	pv, err := m.opts.Claims.Volume(ctx, claim.Spec.VolumeName)
	if err != nil {
		return fmt.Errorf("get PV failed: %w", err)
	}
	todo := expansionOf(claim, pv, g.size)
	if !todo.needed || todo.size.Cmp(g.refused) == 0 {
		if g.size.IsZero() { // what it was mounted with
			g.size = *claim.Status.Capacity.Storage()
		}
		return nil
	}
	if g.request.ReadOnly {
		g.refused = todo.size
		m.growthEvent(pod, claim, corev1.EventTypeWarning, eventResizeFailed, "MountVolume.NodeExpandVolume failed for volume %q requested read-only file system", pv.Name)
		return nil
	}
	if todo.tracked {
		if claim, err = m.setResize(ctx, claim, corev1.PersistentVolumeClaimNodeResizeInProgress, nil, true); err != nil {
			return err
		}
	}
	if err := m.opts.CSI.Expand(ctx, g.request, todo.size.Value()); err != nil {
		return m.expansionFailed(ctx, claim, todo, g, err)
	}
	g.size = todo.size
	m.stuck.Delete(g.request.Name)
	m.growthEvent(pod, claim, corev1.EventTypeNormal, eventResized, "MountVolume.NodeExpandVolume succeeded for volume %q %s", pv.Name, pod.Spec.NodeName)
	if todo.written {
		return nil
	}
	return m.setResized(ctx, claim, todo.size)
}

// expansion is what is to be done to a volume.
type expansion struct {
	needed  bool
	size    resource.Quantity
	tracked bool // the claim's status says how far the expansion is
	written bool // the claim's status has the size already: another node did its part
}

// expansionOf tells what a claim and its volume say about a volume that has a size on this node, zero if that is not known. It
// is pure.
//
// Upstream: pkg/volume/util/operationexecutor/node_expander.go runPreCheck, operation_generator.go checkForRecoveryFromExpansion.
func expansionOf(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, size resource.Quantity) expansion {
	stage, staged := claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage]
	has, wants := claim.Status.Capacity.Storage(), pv.Spec.Capacity.Storage()
	if has.Cmp(*wants) >= 0 {
		_, nothing := claim.Annotations[notRequired]
		shared := slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteMany)
		return expansion{needed: !staged && shared && !nothing && !size.IsZero() && size.Cmp(*wants) < 0, size: *wants, written: true}
	}
	if !staged && claim.Status.AllocatedResources == nil {
		return expansion{needed: true, size: *wants} // of a controller that says nothing of stages
	}
	pending := stage == corev1.PersistentVolumeClaimNodeResizePending || stage == corev1.PersistentVolumeClaimNodeResizeInProgress
	return expansion{needed: pending, size: *claim.Status.AllocatedResources.Storage(), tracked: true}
}

// expansionFailed writes to the claim what the driver's answer means for it. It returns the error unless another try is useless.
//
// Upstream: pkg/volume/util/operationexecutor/node_expander.go expandOnPlugin.
func (m *Manager) expansionFailed(ctx context.Context, claim *corev1.PersistentVolumeClaim, todo expansion, g *growth, err error) error {
	if errors.Is(err, csi.ErrCannotExpand) && !todo.tracked {
		g.size = todo.size
		return nil
	}
	final, infeasible, inUse := csi.ExpansionError(err)
	if final && todo.tracked {
		stage := corev1.PersistentVolumeClaimNodeResizeInProgress
		// A user who asks for another size after it had failed means to recover from that. The controller sees to it once this size is given up.
		_, before := m.stuck.LoadOrStore(g.request.Name, true)
		if infeasible || before && claim.Spec.Resources.Requests.Storage().Cmp(todo.size) != 0 {
			stage = corev1.PersistentVolumeClaimNodeResizeInfeasible
		}
		if _, markErr := m.setResize(ctx, claim, stage, err, false); markErr != nil {
			return errors.Join(err, markErr)
		}
	}
	if inUse {
		g.refused = todo.size
		return nil
	}
	return err
}

// setResize writes the stage of the expansion, and the driver's last answer if it is an error. checked makes the apiserver refuse
// that when the claim has changed since it was read.
func (m *Manager) setResize(ctx context.Context, claim *corev1.PersistentVolumeClaim, stage corev1.ClaimResourceStatus, failure error, checked bool) (*corev1.PersistentVolumeClaim, error) {
	changed := claim.DeepCopy()
	if changed.Status.AllocatedResourceStatuses == nil {
		changed.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{}
	}
	changed.Status.AllocatedResourceStatuses[corev1.ResourceStorage] = stage
	if failure != nil {
		condition := corev1.PersistentVolumeClaimCondition{
			Type: corev1.PersistentVolumeClaimNodeResizeError, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
			Message: fmt.Sprintf("failed to expand pvc with %v", failure),
		}
		changed.Status.Conditions = slices.DeleteFunc(changed.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool { return c.Type == condition.Type })
		changed.Status.Conditions = append(changed.Status.Conditions, condition)
	}
	return m.patchClaim(ctx, claim, changed, checked)
}

// setResized writes that the claim has the size now and waits for nothing more.
func (m *Manager) setResized(ctx context.Context, claim *corev1.PersistentVolumeClaim, size resource.Quantity) error {
	changed := claim.DeepCopy()
	changed.Status.Capacity = maps.Clone(changed.Status.Capacity)
	if changed.Status.Capacity == nil {
		changed.Status.Capacity = corev1.ResourceList{}
	}
	changed.Status.Capacity[corev1.ResourceStorage] = size
	delete(changed.Status.AllocatedResourceStatuses, corev1.ResourceStorage)
	ofResize := []corev1.PersistentVolumeClaimConditionType{
		corev1.PersistentVolumeClaimFileSystemResizePending, corev1.PersistentVolumeClaimResizing,
		corev1.PersistentVolumeClaimControllerResizeError, corev1.PersistentVolumeClaimNodeResizeError,
	}
	changed.Status.Conditions = slices.DeleteFunc(changed.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool { return slices.Contains(ofResize, c.Type) })
	_, err := m.patchClaim(ctx, claim, changed, true)
	return err
}

// Upstream: pkg/volume/util/resize_util.go PatchPVCStatus.
func (m *Manager) patchClaim(ctx context.Context, claim, changed *corev1.PersistentVolumeClaim, checked bool) (*corev1.PersistentVolumeClaim, error) {
	old := claim.DeepCopy()
	if checked {
		old.ResourceVersion = "" // so that the patch names the version
	}
	before, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(changed)
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, claim)
	if err != nil {
		return nil, err
	}
	written, err := m.opts.Claims.PatchClaimStatus(ctx, claim.Namespace, claim.Name, patch)
	if err != nil {
		return nil, fmt.Errorf("update pvc status failed: %w", err)
	}
	return written, nil
}

// growthEvent tells of the volume on the pod and on the claim.
func (m *Manager) growthEvent(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim, kind, reason, format string, args ...any) {
	if m.opts.Events == nil {
		return
	}
	m.opts.Events.Eventf(pod, kind, reason, format, args...)
	m.opts.Events.Eventf(&corev1.ObjectReference{
		Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
	}, kind, reason, format, args...)
}
