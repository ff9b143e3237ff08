package images

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
)

// imageName is a parsed reference.
type imageName struct {
	image      string // as asked for, with the tag latest if it had neither tag nor digest
	repository string // in full: docker.io/library/busybox
	policy     corev1.PullPolicy
}

// parse leaves open which registry a short name means: the runtime decides that.
func parse(image string) (imageName, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return imageName{}, fmt.Errorf("couldn't parse image name %q: %w", image, err)
	}
	if reference.IsNameOnly(named) {
		image += ":latest"
	}
	return imageName{image: image, repository: named.Name(), policy: podinfo.PullPolicy(image)}, nil
}

// trim takes tag and digest off a reference and leaves the rest as written.
func trim(image string) (string, error) {
	parsed, err := reference.Parse(image)
	if err != nil {
		return "", fmt.Errorf("parse image name %q: %w", image, err)
	}
	if d, ok := parsed.(reference.Digested); ok {
		image = strings.TrimSuffix(image, "@"+d.Digest().String())
	}
	if t, ok := parsed.(reference.Tagged); ok {
		image = strings.TrimSuffix(image, ":"+t.Tag())
	}
	return image, nil
}
