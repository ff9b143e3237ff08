package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	schedulingcorev1 "k8s.io/component-helpers/scheduling/corev1"

	"minikubelet/podworkers/csi"
	"minikubelet/podworkers/objects"
)

// Claims reads PersistentVolumeClaims and what they refer to. A node may get these objects but not watch them, so they are
// read when a pod's volume is mounted, and from time to time where it may grow.
type Claims interface {
	Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	// PatchClaimStatus writes a claim's status by a strategic merge patch.
	PatchClaimStatus(ctx context.Context, namespace, name string, patch []byte) (*corev1.PersistentVolumeClaim, error)
}

// place is where a volume is mounted when that does not follow from the pod's spec, and how containers may use it.
type place struct {
	dir      string
	readOnly bool
	// device is the link to the device of a block volume, which has no dir. held keeps the device open.
	device string
	held   *os.File
	// relabel lets the runtime set SELinux labels.
	relabel bool
	// group is a supplemental group that the pod's containers get for it; nil for none.
	group *int64
	// provisional says that an earlier kubelet mounted the volume, and that this one has not yet.
	provisional bool
	// csi is the request to repeat from time to time, as the driver asks; nil if it does not.
	csi  *csi.Request
	next time.Time
	// asking is the last of these repetitions, nil before the first.
	asking *asking
	// request is that of a volume that a driver made; nil for others.
	request *csi.Request
	// growth follows the size of a claim's volume; nil for a volume that cannot grow on the node.
	growth *growth
}

func (m *Manager) placed(uid types.UID, name string) (place, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.places[uid][name]
	return p, ok
}

func (m *Manager) put(uid types.UID, name string, p place) {
	m.mu.Lock()
	if m.places[uid] == nil {
		m.places[uid] = map[string]place{}
	}
	held := m.places[uid][name].held
	m.places[uid][name] = p
	m.mu.Unlock()
	if held != p.held {
		held.Close() // without the lock: the last close of a device writes what is left to it, and one that is away lets wait
	}
}

// mountElsewhere mounts a volume for which the pod's spec is not enough: that of a claim, or of a CSI driver.
func (m *Manager) mountElsewhere(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	if p, ok := m.placed(pod.UID, v.Name); ok && !p.provisional {
		return nil
	}
	if v.CSI != nil {
		return m.mountCSI(ctx, pod, v, csi.Inline(pod, v.Name, v.CSI))
	}
	pv, readOnly, err := m.claimed(ctx, pod, v)
	if err != nil {
		return unprocessed{err}
	}
	if err := m.mountVolume(ctx, pod, v, pv, readOnly); err != nil {
		return failed(setUpFailed, pv.Name, err)
	}
	m.noteGroup(pod.UID, v.Name, pv)
	return nil
}

// mountVolume mounts a PersistentVolume.
func (m *Manager) mountVolume(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, pv *corev1.PersistentVolume, readOnly bool) error {
	if err := checkAffinity(pv, m.opts.Node()); err != nil {
		return err
	}
	if isBlock(pv) { // part: block volumes, podworkers/volumes/block.go
		return m.mapBlock(ctx, pod, v, pv, readOnly)
	}
	switch source := pv.Spec.PersistentVolumeSource; {
	case source.CSI != nil:
		return m.mountCSI(ctx, pod, v, csi.Persistent(pod, pv, readOnly))
	case source.HostPath != nil:
		if len(pv.Spec.MountOptions) > 0 {
			return failed(optionsFailed, pv.Name, errors.New("mount options are not supported for this volume type"))
		}
		if err := m.mountHostPath(ctx, source.HostPath); err != nil {
			return err
		}
		m.put(pod.UID, v.Name, place{dir: source.HostPath.Path, readOnly: readOnly})
		return nil
	case source.Local != nil:
		return m.mountLocal(ctx, pod, v, pv, readOnly)
	}
	return fmt.Errorf("PersistentVolume %s: volumes of kind %s are not supported by this kubelet (left out by decision: drivers are programs that speak CSI)", pv.Name, memberName(pv.Spec.PersistentVolumeSource))
}

// gidAnnotation is that of a PersistentVolume whose pods are to be in a group.
const gidAnnotation = "pv.beta.kubernetes.io/gid"

// noteGroup remembers the group that a PersistentVolume is for.
func (m *Manager) noteGroup(uid types.UID, name string, pv *corev1.PersistentVolume) {
	group, err := strconv.ParseInt(pv.Annotations[gidAnnotation], 10, 64)
	if err != nil {
		return // none, or none that can be understood
	}
	if p, ok := m.placed(uid, name); ok {
		p.group = &group
		m.put(uid, name, p)
	}
}

// WithGroups returns the pod with the groups of its PersistentVolumes among its supplemental groups; the pod itself if there are
// none but those that it has.
//
// Upstream: pkg/kubelet/volumemanager/volume_manager.go GetExtraSupplementalGroupsForPod.
func (m *Manager) WithGroups(pod *corev1.Pod) *corev1.Pod {
	security := &corev1.PodSecurityContext{}
	if pod.Spec.SecurityContext != nil {
		security = pod.Spec.SecurityContext.DeepCopy()
	}
	m.mu.Lock()
	var more []int64
	for _, p := range m.places[pod.UID] {
		if p.group != nil && !slices.Contains(security.SupplementalGroups, *p.group) {
			more = append(more, *p.group)
		}
	}
	m.mu.Unlock()
	if len(more) == 0 {
		return pod
	}
	slices.Sort(more)
	security.SupplementalGroups = append(security.SupplementalGroups, slices.Compact(more)...)
	with := *pod
	with.Spec.SecurityContext = security
	return &with
}

// claimed returns the PersistentVolume that a volume's claim is bound to.
//
// Upstream: pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go createVolumeSpec.
func (m *Manager) claimed(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (*corev1.PersistentVolume, bool, error) {
	name, readOnly := pod.Name+"-"+v.Name, false
	if v.PersistentVolumeClaim != nil {
		name, readOnly = v.PersistentVolumeClaim.ClaimName, v.PersistentVolumeClaim.ReadOnly
	}
	pv, err := m.volumeOf(ctx, pod, name, v.Ephemeral != nil)
	if err != nil {
		return nil, false, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, name, err)
	}
	if err := checkMode(pod, v.Name, pv); err != nil {
		return nil, false, err
	}
	return pv, readOnly, nil
}

func (m *Manager) volumeOf(ctx context.Context, pod *corev1.Pod, claim string, ephemeral bool) (*corev1.PersistentVolume, error) {
	if m.opts.Claims == nil {
		return nil, objects.ErrStandalone
	}
	pvc, err := objects.Patiently(ctx, func() (*corev1.PersistentVolumeClaim, error) { return m.opts.Claims.Claim(ctx, pod.Namespace, claim) })
	if err != nil {
		return nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	}
	if err := checkClaim(pod, pvc, ephemeral); err != nil {
		return nil, err
	}
	pv, err := objects.Patiently(ctx, func() (*corev1.PersistentVolume, error) { return m.opts.Claims.Volume(ctx, pvc.Spec.VolumeName) })
	if err != nil {
		return nil, fmt.Errorf("failed to fetch PV %s from API server: %w", pvc.Spec.VolumeName, err)
	}
	return pv, checkVolume(pvc, pv)
}

// checkClaim tells why a claim cannot be used.
func checkClaim(pod *corev1.Pod, pvc *corev1.PersistentVolumeClaim, ephemeral bool) error {
	switch {
	case ephemeral && !metav1.IsControlledBy(pvc, pod):
		return fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", pvc.Namespace, pvc.Name, pod.Namespace, pod.Name)
	case pvc.DeletionTimestamp != nil && !slices.Contains(pvc.Finalizers, "kubernetes.io/pvc-protection"):
		return errors.New("PVC is being deleted")
	case pvc.Status.Phase != corev1.ClaimBound:
		return errors.New("PVC is not bound")
	case pvc.Spec.VolumeName == "":
		return errors.New("PVC has empty pvc.Spec.VolumeName")
	}
	return nil
}

// checkVolume tells why a volume is not the claim's.
func checkVolume(pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) error {
	ref := pv.Spec.ClaimRef
	switch {
	case ref == nil:
		return fmt.Errorf("found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", pv.Name)
	case ref.UID != pvc.UID:
		return fmt.Errorf("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", pv.Name, ref.UID, pvc.UID)
	}
	return nil
}

// checkAffinity tells why a volume cannot be used on the node. Of the node its labels alone count, as upstream.
func checkAffinity(pv *corev1.PersistentVolume, node *corev1.Node) error {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return nil
	}
	matches, err := schedulingcorev1.MatchNodeSelectorTerms(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: node.Labels}}, pv.Spec.NodeAffinity.Required)
	if err == nil && !matches {
		err = errors.New("no matching NodeSelectorTerms")
	}
	what := affinityFailed
	if isBlock(pv) {
		what = deviceAffinityFailed
	}
	return failed(what, pv.Name, err)
}

// mountCSI has the volume's driver mount it.
func (m *Manager) mountCSI(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, r *csi.Request) error {
	if m.opts.CSI == nil {
		return fmt.Errorf("CSI volumes: %w", objects.ErrStandalone)
	}
	r.Volume = v.Name
	stands := m.stands(ctx, pod, v) // which an earlier kubelet gave to the group
	mounted, err := m.opts.CSI.Mount(ctx, r)
	if err != nil {
		return err
	}
	if mounted.Ownership && !stands {
		if err := m.own(ctx, pod, mounted.Dir); err != nil {
			return fmt.Errorf("applyFSGroup failed for vol %s: %w", r.Handle, err)
		}
	}
	p := place{dir: mounted.Dir, device: mounted.Device, readOnly: r.ReadOnly, relabel: !r.ReadOnly, request: r}
	if mounted.Republish {
		p.csi, p.next = r, time.Now().Add(republishPeriod)
	}
	if mounted.Expands && v.CSI == nil { // part: volume expansion, podworkers/volumes/expand.go
		p.growth = &growth{request: r, next: time.Now().Add(growthPeriod)}
		if err := m.grow(ctx, pod, v, p.growth); err != nil {
			what := expansionFailed
			if r.Block {
				what = mapExpansionFailed
			}
			return failed(what, r.Name, err)
		}
	}
	return m.hold(pod.UID, v.Name, p)
}
