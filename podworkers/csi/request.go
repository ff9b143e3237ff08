package csi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	podinfo "minikubelet/config/pod"
)

// Request is one volume of one pod. Persistent and Inline make it.
type Request struct {
	Pod            *corev1.Pod
	Volume         string // the pod's name of it
	Driver, Handle string
	// Name is the PersistentVolume's, or that of an ephemeral volume in the pod.
	Name          string
	Lifecycle     storagev1.VolumeLifecycleMode
	ReadOnly      bool
	FSType        string
	MountOptions  []string
	Attributes    map[string]string
	AccessMode    corev1.PersistentVolumeAccessMode
	AccessModes   []corev1.PersistentVolumeAccessMode
	StageSecret   *corev1.SecretReference
	PublishSecret *corev1.SecretReference
	ExpandSecret  *corev1.SecretReference
	FSGroup       *int64
	// Block asks for the device itself instead of a file system.
	Block bool
	// Remount has a volume that stands published again.
	Remount bool
}

// Persistent is the request for a PersistentVolume of a CSI driver.
func Persistent(pod *corev1.Pod, pv *corev1.PersistentVolume, readOnly bool) *Request {
	source := pv.Spec.CSI
	r := &Request{
		Pod: pod, Driver: source.Driver, Handle: source.VolumeHandle, Name: pv.Name, Lifecycle: storagev1.VolumeLifecyclePersistent,
		ReadOnly: readOnly, FSType: source.FSType, MountOptions: pv.Spec.MountOptions, Attributes: source.VolumeAttributes,
		AccessMode: corev1.ReadWriteOnce, AccessModes: pv.Spec.AccessModes,
		StageSecret: source.NodeStageSecretRef, PublishSecret: source.NodePublishSecretRef, ExpandSecret: source.NodeExpandSecretRef, FSGroup: podinfo.FSGroup(pod),
	}
	r.Block = pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock
	if len(pv.Spec.AccessModes) > 0 {
		r.AccessMode = pv.Spec.AccessModes[0]
	}
	return r
}

// Inline is the request for a volume that a driver makes for the pod alone.
func Inline(pod *corev1.Pod, name string, source *corev1.CSIVolumeSource) *Request {
	r := &Request{
		Pod: pod, Volume: name, Driver: source.Driver, Handle: inlineHandle(pod, name), Name: name, Lifecycle: storagev1.VolumeLifecycleEphemeral,
		ReadOnly: isTrue(source.ReadOnly), Attributes: source.VolumeAttributes, AccessMode: corev1.ReadWriteOnce,
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, FSGroup: podinfo.FSGroup(pod),
	}
	if source.FSType != nil {
		r.FSType = *source.FSType
	}
	if source.NodePublishSecretRef != nil {
		r.PublishSecret = &corev1.SecretReference{Namespace: pod.Namespace, Name: source.NodePublishSecretRef.Name}
	}
	return r
}

// inlineHandle is what the driver of an inline volume knows it by.
//
// Upstream: pkg/volume/csi/csi_mounter.go makeVolumeHandle.
func inlineHandle(pod *corev1.Pod, name string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(string(pod.UID)+name)))
}

// attachmentName is the name of the volume's VolumeAttachment to the node.
//
// Upstream: pkg/volume/csi/csi_attacher.go getAttachmentName.
func (m *Manager) attachmentName(v volumeID) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(v.handle+v.driver+m.opts.NodeName)))
}

func (r *Request) id() volumeID { return volumeID{r.Driver, r.Handle} }

func (r *Request) ephemeral() bool { return r.Lifecycle == storagev1.VolumeLifecycleEphemeral }

// target is where the volume is published.
//
// Upstream: pkg/volume/csi/csi_mounter.go getTargetPath.
func (m *Manager) target(r *Request) string {
	if r.Block {
		return m.blockDir("publish", r.Name, string(r.Pod.UID))
	}
	return filepath.Join(m.podsDir(), string(r.Pod.UID), "volumes", "kubernetes.io~csi", strings.ReplaceAll(r.Name, "/", "~"), "mount")
}

// staging is where a volume is staged.
//
// Upstream: pkg/volume/csi/csi_attacher.go makeDeviceMountPath.
func (m *Manager) staging(v volumeID) string {
	return filepath.Join(m.pluginDir(), v.driver, fmt.Sprintf("%x", sha256.Sum256([]byte(v.handle))), "globalmount")
}

// check tells why the volume cannot be had of the driver.
//
// Upstream: pkg/volume/csi/csi_mounter.go supportsVolumeLifecycleMode.
func (r *Request) check(object *storagev1.CSIDriver) error {
	switch {
	case r.Driver == "" || r.Handle == "" || strings.ContainsAny(r.Driver, "/\x00") || r.Driver == "..":
		return fmt.Errorf("the volume's driver %q or handle %q is not valid", r.Driver, r.Handle)
	case object == nil && !r.ephemeral():
		return nil // what is not told is no obstacle for these
	case object == nil:
		return fmt.Errorf("%s: mounter.SetupAt failed to check volume lifecycle mode: volume mode %q not supported by driver %s (no CSIDriver object)", pluginName, r.Lifecycle, r.Driver)
	case !slices.Contains(object.Spec.VolumeLifecycleModes, r.Lifecycle):
		return fmt.Errorf("%s: mounter.SetupAt failed to check volume lifecycle mode: volume mode %q not supported by driver %s (only supports %q)",
			pluginName, r.Lifecycle, r.Driver, object.Spec.VolumeLifecycleModes)
	}
	return nil
}

// wantsOwnership tells whether the kubelet gives the volume's files to the pod's fsGroup.
//
// Upstream: pkg/volume/csi/csi_mounter.go supportsFSGroup and getFSGroupPolicy.
func (r *Request) wantsOwnership(object *storagev1.CSIDriver, can capabilities) bool {
	if r.FSGroup == nil || r.ReadOnly || r.Block || can.mountGroup() {
		return false
	}
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if object != nil && object.Spec.FSGroupPolicy != nil {
		policy = *object.Spec.FSGroupPolicy
	}
	switch policy {
	case storagev1.NoneFSGroupPolicy:
		return false
	case storagev1.FileFSGroupPolicy:
		return true
	}
	return r.FSType != "" && (slices.Contains(r.AccessModes, corev1.ReadWriteOnce) || slices.Contains(r.AccessModes, corev1.ReadWriteOncePod))
}

// context is what NodePublishVolume is told of the volume, the pod and its service account; secrets go with it.
//
// Upstream: pkg/volume/csi/csi_mounter.go SetUpAt, getPodInfoAttrs and podServiceAccountTokenAttrs.
func (m *Manager) context(ctx context.Context, r *Request, object *storagev1.CSIDriver) (attributes, secrets map[string]string, err error) {
	attributes = maps.Clone(r.Attributes)
	if attributes == nil {
		attributes = map[string]string{}
	}
	if secrets, err = m.secret(ctx, r.PublishSecret, "NodePublishSecretRef"); err != nil {
		return nil, nil, err
	}
	if object == nil {
		return attributes, secrets, nil
	}
	if isTrue(object.Spec.PodInfoOnMount) {
		maps.Copy(attributes, map[string]string{
			"csi.storage.k8s.io/pod.name": r.Pod.Name, "csi.storage.k8s.io/pod.namespace": r.Pod.Namespace, "csi.storage.k8s.io/pod.uid": string(r.Pod.UID),
			"csi.storage.k8s.io/serviceAccount.name": r.Pod.Spec.ServiceAccountName, "csi.storage.k8s.io/ephemeral": fmt.Sprint(r.ephemeral()),
		})
	}
	if len(object.Spec.TokenRequests) == 0 {
		return attributes, secrets, nil
	}
	tokens, err := m.tokens(ctx, r, object)
	if err != nil {
		return nil, nil, err
	}
	to := attributes
	if isTrue(object.Spec.ServiceAccountTokenInSecrets) {
		to = secrets
	}
	to["csi.storage.k8s.io/serviceAccount.tokens"] = tokens
	return attributes, secrets, nil
}

// tokens are the tokens of the pod's service account that the driver asks for, as JSON by audience.
func (m *Manager) tokens(ctx context.Context, r *Request, object *storagev1.CSIDriver) (string, error) {
	token := m.opts.NewToken // a driver that is told once gets one with its whole life before it
	if isTrue(object.Spec.RequiresRepublish) {
		token = m.opts.CachedToken
	}
	all := map[string]authv1.TokenRequestStatus{}
	for _, request := range object.Spec.TokenRequests {
		spec := authv1.TokenRequestSpec{
			ExpirationSeconds: request.ExpirationSeconds,
			BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: r.Pod.Name, UID: r.Pod.UID},
		}
		if request.Audience != "" {
			spec.Audiences = []string{request.Audience}
		}
		answer, err := token(ctx, r.Pod, &authv1.TokenRequest{Spec: spec})
		if err != nil {
			return "", fmt.Errorf("get a service account token for the CSI driver: %w", err)
		}
		all[request.Audience] = answer.Status
	}
	text, err := json.Marshal(all)
	return string(text), err
}

// secret reads what a reference means, nothing for none.
//
// Upstream: pkg/volume/csi/csi_util.go getCredentialsFromSecret.
func (m *Manager) secret(ctx context.Context, ref *corev1.SecretReference, field string) (map[string]string, error) {
	values := map[string]string{}
	if ref == nil {
		return values, nil
	}
	if m.opts.Secret == nil {
		return nil, errors.New("there is no apiserver to ask for secrets")
	}
	secret, err := m.opts.Secret(ctx, ref.Namespace, ref.Name)
	if err != nil {
		return nil, fmt.Errorf("fetching %s %s/%s failed: %s: failed to find the secret %s in the namespace %s with error: %w",
			field, ref.Namespace, ref.Name, pluginName, ref.Name, ref.Namespace, err)
	}
	for key, value := range secret.Data {
		values[key] = string(value)
	}
	return values, nil
}
