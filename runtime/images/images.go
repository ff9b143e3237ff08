// Package images makes sure that the images of containers and image volumes are on the node: pull policies, pull secrets, limits on
// pulls, back-off after failures, and which pods may use an image that was pulled with another pod's secret.
package images

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// Reasons of Error, and so of a container's waiting state.
const (
	ErrImagePull              = "ErrImagePull"
	ImagePullBackOff          = "ImagePullBackOff"
	ImageInspectError         = "ImageInspectError"
	ErrImageNeverPull         = "ErrImageNeverPull"
	InvalidImageName          = "InvalidImageName"
	RegistryUnavailable       = "RegistryUnavailable"
	SignatureValidationFailed = "SignatureValidationFailed"
)

// Reasons of events.
const (
	eventPulling       = "Pulling"
	eventPulled        = "Pulled"
	eventFailed        = "Failed"
	eventInspectFailed = "InspectFailed"
	eventNeverPull     = "ErrImageNeverPull"
	eventBackOff       = "BackOff"
)

// maxNames is how many names of an image the node's status has.
const maxNames = 5

// Error says why an image is not there. The event for it is sent already.
type Error struct {
	Reason, Message string
	RetryAt         time.Time // with ImagePullBackOff: when the back-off ends
	Err             error
}

func (e *Error) Error() string { return e.Reason + ": " + e.Message }

func (e *Error) Unwrap() error { return e.Err }

// Options is everything a Manager needs. CRI is required.
type Options struct {
	CRI         *cri.Client
	Events      record.EventRecorder  // may be nil
	Serialize   bool                  // serializeImagePulls: one at a time
	MaxParallel int                   // maxParallelImagePulls; 0 for no limit
	QPS         float32               // registryPullQPS; 0 for no limit. Pulls above it wait.
	Burst       int                   // registryBurst
	Registerer  prometheus.Registerer // may be nil
	// Pulled, if there is one, is told of every pull for a pod.
	Pulled func(pod types.UID, began, ended time.Time)
	// OnPulled, if there is one, is called after an image was pulled. It must not block.
	OnPulled func()
	// Node, if there are any, are the node's own credentials, which come after those of the pods' secrets. Part: node.go.
	Node *NodeCredentials
	// Plugins, if there are any, have credentials besides, and come last. Part: credential provider plugins, plugins.go.
	Plugins *Plugins

	// RecordsDir, image_manager below the kubelet's root directory, has the records of pulls with secrets, by which an image
	// stays with the pods that may pull it. "" turns that off. Part: records.go, access.go.
	RecordsDir   string
	Verification kubeletconfig.ImagePullCredentialsVerificationPolicy // which images are checked; those that a kubelet pulled by default
	Preloaded    []string                                             // preloadedImagesVerificationAllowlist
}

// Manager pulls images. It is safe for concurrent use.
//
// Upstream: pkg/kubelet/images/image_manager.go
type Manager struct {
	Options
	pullDuration *prometheus.HistogramVec
	backoff      backoff
	records      *records // nil: every pod may use every image
	limiter      *rate.Limiter
	slots        chan struct{} // one per pull that may run; nil for any number

	mu    sync.Mutex
	pulls map[string]*pull // in flight, by image and credentials
}

// New returns a Manager. It asks the runtime nothing yet.
func New(options Options) *Manager {
	m := &Manager{
		Options:      options,
		pullDuration: newPullDuration(options.Registerer),
		backoff:      backoff{failures: map[string]failure{}},
		limiter:      rate.NewLimiter(pullRate(options.QPS, options.Burst)),
		pulls:        map[string]*pull{},
	}
	if options.Serialize {
		m.slots = make(chan struct{}, 1)
	} else if options.MaxParallel > 0 {
		m.slots = make(chan struct{}, options.MaxParallel)
	}
	if options.RecordsDir != "" {
		m.records = newRecords(options.RecordsDir)
	}
	return m
}

// SetRate changes how many pulls may begin in a second, 0 for any number, and how many at once.
func (m *Manager) SetRate(qps float32, burst int) {
	limit, burst := pullRate(qps, burst)
	m.limiter.SetLimit(limit)
	m.limiter.SetBurst(burst)
}

func pullRate(qps float32, burst int) (rate.Limit, int) {
	if qps <= 0 {
		return rate.Inf, 1
	}
	return rate.Limit(qps), max(burst, 1)
}

// Request names an image and the pod that needs it. Pod and Image are required.
type Request struct {
	Pod         *corev1.Pod
	Container   *corev1.Container
	Image       string            // the container's, or that of an image volume
	PullPolicy  corev1.PullPolicy // by default Always for the tag latest, else IfNotPresent
	PullSecrets []corev1.Secret
	Sandbox     *runtimeapi.PodSandboxConfig
	// Pulling, if there is one, is told when the image is not there and a pull begins, which may take long.
	Pulling func()
}

// EnsureImageExists returns what the runtime calls the image, having pulled it if the policy says so. Other errors
// than *Error only come from ctx.
func (m *Manager) EnsureImageExists(ctx context.Context, r Request) (imageRef string, err error) {
	name, err := parse(r.Image)
	if err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: %v", r.Image, err)
		return "", m.fail(r, eventInspectFailed, message, &Error{Reason: InvalidImageName, Message: message, Err: err})
	}
	credentials := sync.OnceValue(func() []Credential {
		found, err := Lookup(r.PullSecrets, name.repository)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Ignoring pull secrets that cannot be read", "pod", klog.KObj(r.Pod), "podUID", r.Pod.UID)
		}
		if m.Node != nil { // part: the node's own credentials, node.go
			found = append(found, m.Node.Lookup(ctx, name.repository)...)
		}
		if m.Plugins != nil { // part: credential provider plugins, plugins.go
			found = append(found, m.Plugins.Lookup(ctx, r.Pod, name.repository)...)
		}
		return found
	})
	policy := cmp.Or(r.PullPolicy, name.policy)
	if policy == corev1.PullAlways {
		return m.pullImage(ctx, r, name.image, credentials())
	}
	if imageRef, err = m.present(ctx, r, name.image); err != nil {
		return "", err
	}
	if imageRef != "" && !m.mustPull(ctx, r.Image, imageRef, credentials) {
		message := fmt.Sprintf("Container image %q already present on machine", r.Image)
		if m.records != nil {
			message += " and can be accessed by the pod"
		}
		m.event(r, corev1.EventTypeNormal, eventPulled, message)
		return imageRef, nil
	}
	if policy == corev1.PullNever {
		// The same where the pod may not use the image: it is not told that the image is here.
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", r.Image)
		return "", m.fail(r, eventNeverPull, message, &Error{Reason: ErrImageNeverPull, Message: message})
	}
	return m.pullImage(ctx, r, name.image, credentials())
}

// present returns the image's ID, "" if it is not there.
func (m *Manager) present(ctx context.Context, r Request, image string) (id string, err error) {
	answer, err := m.CRI.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: imageSpec(r.Pod, image)})
	if err == nil {
		return answer.GetImage().GetId(), nil
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	message := fmt.Sprintf("Failed to inspect image %q: %v", image, err)
	return "", m.fail(r, eventInspectFailed, message, &Error{Reason: ImageInspectError, Message: message, Err: err})
}

// pullImage pulls, or says that it is too early for that.
func (m *Manager) pullImage(ctx context.Context, r Request, image string, credentials []Credential) (string, error) {
	key := string(r.Pod.UID) + "_" + r.Image
	start := time.Now()
	if until, last := m.backoff.check(key); !until.IsZero() {
		message := fmt.Sprintf("Back-off pulling image %q", r.Image)
		m.event(r, corev1.EventTypeNormal, eventBackOff, message)
		return "", &Error{Reason: ImagePullBackOff, Message: message + ": " + last.Error(), RetryAt: until, Err: last}
	}
	if r.Pulling != nil {
		r.Pulling()
	}
	m.event(r, corev1.EventTypeNormal, eventPulling, fmt.Sprintf("Pulling image %q", r.Image))
	result := m.join(ctx, r, image, credentials)
	if m.Pulled != nil {
		m.Pulled(r.Pod.UID, start, time.Now())
	}
	if result.err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err() // interrupted, not failed
		}
		failure := pullError(r.Image, result.err)
		m.backoff.next(key, failure)
		return "", m.fail(r, eventFailed, fmt.Sprintf("Failed to pull image %q: %v", r.Image, result.err), failure)
	}
	m.pullDuration.WithLabelValues(sizeLabel(result.size)).Observe(time.Since(start).Seconds())
	m.event(r, corev1.EventTypeNormal, eventPulled, fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		r.Image, result.took.Truncate(time.Millisecond), time.Since(start).Truncate(time.Millisecond), result.size))
	return result.ref, nil
}

// pullError tells the failures that have a name of their own from the rest.
func pullError(image string, err error) *Error {
	for reason, why := range map[string]string{
		RegistryUnavailable:       "the registry is unavailable",
		SignatureValidationFailed: "the signature validation failed",
	} {
		if detail, ok := strings.CutPrefix(err.Error(), reason); ok {
			return &Error{Reason: reason, Message: fmt.Sprintf("image pull failed for %s because %s%s", image, why, detail), Err: err}
		}
	}
	return &Error{Reason: ErrImagePull, Message: err.Error(), Err: err}
}

// List returns the images on the node as its status has them, largest first.
func (m *Manager) List(ctx context.Context) ([]corev1.ContainerImage, error) {
	start := time.Now()
	answer, err := m.CRI.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	list := slices.DeleteFunc(answer.Images, func(i *runtimeapi.Image) bool { return i == nil })
	slices.SortFunc(list, func(a, b *runtimeapi.Image) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(b.Id, a.Id))
	})
	out := make([]corev1.ContainerImage, 0, len(list))
	for _, image := range list {
		names := slices.Concat(image.RepoDigests, image.RepoTags)
		out = append(out, corev1.ContainerImage{Names: names[:min(len(names), maxNames)], SizeBytes: int64(min(image.Size, 1<<62))})
	}
	if m.records != nil {
		m.records.prune(ctx, list, start)
	}
	return out, nil
}

// fail sends the event of a failure and returns it.
func (m *Manager) fail(r Request, reason, message string, err *Error) *Error {
	m.event(r, corev1.EventTypeWarning, reason, message)
	return err
}

// event names the container in the reference, unless the image is a volume's.
func (m *Manager) event(r Request, kind, reason, message string) {
	if m.Events == nil {
		return
	}
	container := ""
	if r.Container != nil && r.Container.Image == r.Image {
		container = r.Container.Name
	}
	m.Events.Event(podinfo.Reference(r.Pod, container), kind, reason, message)
}

func imageSpec(pod *corev1.Pod, image string) *runtimeapi.ImageSpec {
	return &runtimeapi.ImageSpec{Image: image, Annotations: pod.Annotations}
}
