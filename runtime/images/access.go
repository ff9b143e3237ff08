package images

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// maxSecrets is how many secrets a record may have before secrets that only match one of them are no longer added.
const maxSecrets = 100

// mustPull reports whether an image that is there must be pulled all the same, since no record shows that the pod may use it. The
// registry then decides.
//
// Upstream: pkg/kubelet/images/pullmanager/image_pull_manager.go MustAttemptImagePull
func (m *Manager) mustPull(ctx context.Context, image, imageRef string, credentials func() []Credential) bool {
	r := m.records
	if r == nil {
		return false
	}
	r.mu.Lock()
	record, err := r.read(imageRef)
	pulled := record != nil || r.beingPulled(image)
	r.mu.Unlock()
	name, nameErr := trim(image)
	if err = errors.Join(err, nameErr); err != nil {
		klog.FromContext(ctx).Error(err, "Image pull records cannot be used, pulling the image again", "image", image)
		return true
	}
	switch {
	case !m.verifies(name, pulled):
		return false
	case record == nil:
		return true
	case record.CredentialMapping[name].NodePodsAccessible:
		return false
	}
	return !r.allows(record.CredentialMapping[name], imageRef, name, credentials())
}

// verifies tells whether the policy asks for proof that a pod may use the image of this name, which has no tag and no digest. An
// unknown policy counts as the strictest one.
func (m *Manager) verifies(name string, pulledByKubelet bool) bool {
	switch m.Verification {
	case kubeletconfig.NeverVerify:
		return false
	case "", kubeletconfig.NeverVerifyPreloadedImages:
		return pulledByKubelet
	case kubeletconfig.NeverVerifyAllowlistedImages:
		return !slices.ContainsFunc(m.Preloaded, func(pattern string) bool {
			if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasSuffix(prefix, "/") {
				return strings.HasPrefix(name, prefix)
			}
			return name == pattern
		})
	}
	return true
}

// beingPulled tells whether the image is being pulled, or was when an earlier kubelet was killed. Callers hold mu.
func (r *records) beingPulled(image string) bool {
	_, err := os.Stat(r.file("pulling", image))
	return r.pulling[image] > 0 || !errors.Is(err, fs.ErrNotExist)
}

// allows tells whether a record says that the image was pulled with a credential that the pod has.
func (r *records) allows(known kubeletconfig.ImagePullCredentials, imageRef, name string, credentials []Credential) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, credential := range credentials {
		for _, account := range credential.Source.KubernetesServiceAccounts {
			if slices.Contains(known.KubernetesServiceAccounts, account) {
				return true
			}
		}
		for _, secret := range credential.Source.KubernetesSecrets {
			if r.knownSecret(imageRef, name, known, secret) {
				return true
			}
		}
	}
	return false
}

// knownSecret reports whether the image was pulled with the secret, or with one of the same content. Then the record gets the
// secret as it is now. Callers hold mu.
func (r *records) knownSecret(imageRef, name string, known kubeletconfig.ImagePullCredentials, secret kubeletconfig.ImagePullSecret) bool {
	for _, k := range known.KubernetesSecrets {
		sameHash := k.CredentialHash != "" && k.CredentialHash == secret.CredentialHash
		if !sameHash && !sameSecret(k, secret) {
			continue
		}
		if (!sameHash || !sameSecret(k, secret)) && len(known.KubernetesSecrets) < maxSecrets {
			// If it cannot be written the image is pulled once more than needed.
			_ = r.add(imageRef, name, &kubeletconfig.ImagePullCredentials{KubernetesSecrets: []kubeletconfig.ImagePullSecret{secret}})
		}
		return true
	}
	return false
}

func sameSecret(a, b kubeletconfig.ImagePullSecret) bool {
	return a.UID == b.UID && a.Namespace == b.Namespace && a.Name == b.Name
}
