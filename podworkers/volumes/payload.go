package volumes

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers/env"
)

// file is one file of a volume.
type file struct {
	data []byte
	mode int32
	uid  *int64 // the owner, where it is not root
}

// payload is what a volume should hold, by relative path.
func (m *Manager) payload(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (map[string]file, error) {
	files := map[string]file{}
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		return files, m.addConfigMap(ctx, files, pod, s.Name, s.Items, optional(s.Optional), *s.DefaultMode)
	case v.Secret != nil:
		s := v.Secret
		return files, m.addSecret(ctx, files, pod, s.SecretName, s.Items, optional(s.Optional), *s.DefaultMode)
	case v.DownwardAPI != nil:
		return files, m.addDownward(files, pod, v.DownwardAPI.Items, *v.DownwardAPI.DefaultMode)
	}
	var errs []error
	for i := range v.Projected.Sources {
		errs = append(errs, m.addProjection(ctx, files, pod, v, i))
	}
	return files, utilerrors.NewAggregate(errs)
}

func optional(b *bool) bool { return b != nil && *b }

// Upstream: pkg/volume/projected/projected.go collectData.
func (m *Manager) addProjection(ctx context.Context, files map[string]file, pod *corev1.Pod, v *corev1.Volume, index int) error {
	switch s, mode := &v.Projected.Sources[index], *v.Projected.DefaultMode; {
	case s.ConfigMap != nil:
		return m.addConfigMap(ctx, files, pod, s.ConfigMap.Name, s.ConfigMap.Items, optional(s.ConfigMap.Optional), mode)
	case s.Secret != nil:
		return m.addSecret(ctx, files, pod, s.Secret.Name, s.Secret.Items, optional(s.Secret.Optional), mode)
	case s.DownwardAPI != nil:
		return m.addDownward(files, pod, s.DownwardAPI.Items, mode)
	case s.ServiceAccountToken != nil:
		return m.addToken(ctx, files, pod, s.ServiceAccountToken, mode)
	case s.ClusterTrustBundle != nil:
		return m.addTrustAnchors(ctx, files, pod, s.ClusterTrustBundle, mode)
	case s.PodCertificate != nil:
		return m.addCertificate(ctx, files, pod, v, index)
	}
	return fmt.Errorf("sources[%d] of the projected volume: this kubelet does not know %s", index, memberName(v.Projected.Sources[index]))
}

func (m *Manager) addConfigMap(ctx context.Context, files map[string]file, pod *corev1.Pod, name string, items []corev1.KeyToPath, optional bool, mode int32) error {
	object, err := m.opts.Objects.ConfigMap(ctx, pod.Namespace, name)
	if err != nil {
		if optional && apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	data := map[string][]byte{}
	for key, value := range object.Data {
		data[key] = []byte(value)
	}
	maps.Copy(data, object.BinaryData)
	return pick(files, data, items, optional, mode, "configmap references non-existent config key")
}

func (m *Manager) addSecret(ctx context.Context, files map[string]file, pod *corev1.Pod, name string, items []corev1.KeyToPath, optional bool, mode int32) error {
	object, err := m.opts.Objects.Secret(ctx, pod.Namespace, name)
	if err != nil {
		if optional && apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	return pick(files, object.Data, items, optional, mode, "references non-existent secret key")
}

// pick adds all keys, or those that items name under the paths that they give. missing is upstream's message of a key that is not there.
func pick(files map[string]file, data map[string][]byte, items []corev1.KeyToPath, optional bool, mode int32, missing string) error {
	if len(items) == 0 {
		for key, value := range data {
			files[key] = file{data: value, mode: mode}
		}
		return nil
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("%s: %s", missing, item.Key)
		}
		at, err := clean(item.Path)
		if err != nil {
			return err
		}
		f := file{data: value, mode: mode}
		if item.Mode != nil {
			f.mode = *item.Mode
		}
		files[at] = f
	}
	return nil
}

// clean refuses paths that leave the volume, or that are the writer's own.
func clean(p string) (string, error) {
	c := path.Clean(p)
	if p == "" || path.IsAbs(p) || c == ".." || c == "." || strings.HasPrefix(c, "../") || strings.HasPrefix(c, "..") {
		return "", fmt.Errorf("invalid path %q: must be relative and must not begin with '..'", p)
	}
	return c, nil
}

func (m *Manager) addDownward(files map[string]file, pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode int32) error {
	var errs []error
	for i := range items {
		item := &items[i]
		at, err := clean(item.Path)
		if err != nil {
			return err
		}
		var value string
		switch {
		case item.FieldRef != nil:
			value, err = env.FieldRef(pod, item.FieldRef.FieldPath, nil, nil)
		case item.ResourceFieldRef != nil:
			value, err = env.ResourceFieldRef(item.ResourceFieldRef, pod, nil, m.opts.Allocatable())
		default:
			err = fmt.Errorf("downwardAPI item %q names no source", item.Path)
		}
		errs = append(errs, err)
		f := file{data: []byte(value), mode: mode}
		if item.Mode != nil {
			f.mode = *item.Mode
		}
		files[at] = f
	}
	return utilerrors.NewAggregate(errs)
}

// addToken adds a service account token that is bound to the pod: it is invalid when the pod is gone. When all containers run
// as one user, only that user can read the file.
func (m *Manager) addToken(ctx context.Context, files map[string]file, pod *corev1.Pod, s *corev1.ServiceAccountTokenProjection, mode int32) error {
	at, err := clean(s.Path)
	if err != nil {
		return err
	}
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if s.Audience != "" {
		request.Spec.Audiences = []string{s.Audience}
	}
	answer, err := m.opts.Objects.Token(ctx, pod, request)
	if err != nil {
		return err
	}
	files[at] = private(pod, file{data: []byte(answer.Status.Token), mode: mode})
	return nil
}

// addTrustAnchors adds the certificates of ClusterTrustBundles.
func (m *Manager) addTrustAnchors(ctx context.Context, files map[string]file, pod *corev1.Pod, s *corev1.ClusterTrustBundleProjection, mode int32) error {
	at, err := clean(s.Path)
	if err != nil {
		return err
	}
	anchors, err := m.opts.Objects.TrustAnchors(ctx, s)
	if err != nil {
		return err
	}
	files[at] = private(pod, file{data: anchors, mode: mode})
	return nil
}

// addCertificate adds a private key and its certificates, in one file or in two.
func (m *Manager) addCertificate(ctx context.Context, files map[string]file, pod *corev1.Pod, v *corev1.Volume, index int) error {
	key, chain, err := m.opts.Objects.Certificate(ctx, pod, v.Name, index)
	if err != nil {
		return err
	}
	s := v.Projected.Sources[index].PodCertificate
	for _, f := range []struct {
		path string
		data []byte
	}{{s.CredentialBundlePath, slices.Concat(key, chain)}, {s.KeyPath, key}, {s.CertificateChainPath, chain}} {
		if f.path == "" {
			continue
		}
		at, err := clean(f.path)
		if err != nil {
			return err
		}
		files[at] = private(pod, file{data: f.data, mode: *v.Projected.DefaultMode})
	}
	return nil
}

// private gives a file to the user that all containers run as, if there is one, and to the pod's fsGroup, if it has one (mode
// adds the group's right to read). Without either the file keeps the volume's mode.
func private(pod *corev1.Pod, f file) file {
	f.uid = commonUser(pod)
	if f.uid != nil || podinfo.FSGroup(pod) != nil {
		f.mode = 0o600
	}
	return f
}

// commonUser is the user that all containers run as, nil if they differ or do not say.
func commonUser(pod *corev1.Pod) *int64 {
	var common *int64
	for container := range podinfo.Containers(pod) {
		var user *int64
		if pod.Spec.SecurityContext != nil {
			user = pod.Spec.SecurityContext.RunAsUser
		}
		if c := container.SecurityContext; c != nil && c.RunAsUser != nil {
			user = c.RunAsUser
		}
		if user == nil || common != nil && *common != *user {
			return nil
		}
		common = user
	}
	return common
}
