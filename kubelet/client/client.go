// Package client talks to the apiserver about the few kinds of objects that a kubelet knows.
//
// client-go's clientset would do as well, but it links every type of every API group, which is half of a binary.
package client

import (
	"context"
	"fmt"
	"net/http"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Scheme knows the kinds that the client does.
var Scheme = newScheme()

// groups are the API groups that a Client has a connection for.
var groups = []schema.GroupVersion{
	corev1.SchemeGroupVersion, coordinationv1.SchemeGroupVersion, nodev1.SchemeGroupVersion, storagev1.SchemeGroupVersion,
	authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion, certificatesv1.SchemeGroupVersion, betaCertificates,
}

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, coordinationv1.AddToScheme, nodev1.AddToScheme, authenticationv1.AddToScheme, authorizationv1.AddToScheme, storagev1.AddToScheme,
		certificatesv1.AddToScheme, addBetaCertificates,
	} {
		utilruntime.Must(add(s))
	}
	return s
}

var parameters = runtime.NewParameterCodec(Scheme)

// Client is a set of REST clients over one pool of connections. Its typed clients have the methods of client-go's.
type Client struct {
	groups  map[schema.GroupVersion]rest.Interface
	limiter limiter
}

// New makes a client from a kubeconfig's content; it does not connect.
func New(config *rest.Config) (*Client, error) {
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make an HTTP client for the apiserver: %w", err)
	}
	c := &Client{groups: map[schema.GroupVersion]rest.Interface{}, limiter: newLimiter(config.QPS, config.Burst)}
	config = rest.CopyConfig(config)
	config.RateLimiter = c.limiter // one for all groups, not one each
	for _, group := range groups {
		if c.groups[group], err = restClient(config, group, transport); err != nil {
			return nil, fmt.Errorf("make a client for %s: %w", group, err)
		}
	}
	return c, nil
}

func restClient(config *rest.Config, group schema.GroupVersion, transport *http.Client) (rest.Interface, error) {
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &group, "/apis"
	if group.Group == "" {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = serializer.NewCodecFactory(Scheme).WithoutConversion()
	return rest.RESTClientForConfigAndClient(config, transport)
}

func (c *Client) core() rest.Interface { return c.groups[corev1.SchemeGroupVersion] }

// Pods writes and reads the pods of a namespace.
func (c *Client) Pods(namespace string) *Kind[corev1.Pod, *corev1.Pod] {
	return kind[corev1.Pod](c.core(), "pods", namespace)
}

// Nodes writes and reads nodes.
func (c *Client) Nodes() *Kind[corev1.Node, *corev1.Node] {
	return kind[corev1.Node](c.core(), "nodes", "")
}

// Claims writes and reads the persistent volume claims of a namespace.
func (c *Client) Claims(namespace string) *Kind[corev1.PersistentVolumeClaim, *corev1.PersistentVolumeClaim] {
	return kind[corev1.PersistentVolumeClaim](c.core(), "persistentvolumeclaims", namespace)
}

// Leases writes and reads the leases of a namespace.
func (c *Client) Leases(namespace string) *Kind[coordinationv1.Lease, *coordinationv1.Lease] {
	return kind[coordinationv1.Lease](c.groups[coordinationv1.SchemeGroupVersion], "leases", namespace)
}

// TokenReviews asks whose tokens are.
func (c *Client) TokenReviews() *Kind[authenticationv1.TokenReview, *authenticationv1.TokenReview] {
	return kind[authenticationv1.TokenReview](c.groups[authenticationv1.SchemeGroupVersion], "tokenreviews", "")
}

// SubjectAccessReviews asks what users may do.
func (c *Client) SubjectAccessReviews() *Kind[authorizationv1.SubjectAccessReview, *authorizationv1.SubjectAccessReview] {
	return kind[authorizationv1.SubjectAccessReview](c.groups[authorizationv1.SchemeGroupVersion], "subjectaccessreviews", "")
}

// CertificateSigningRequests asks for certificates.
func (c *Client) CertificateSigningRequests() SigningRequests {
	return SigningRequests{kind[certificatesv1.CertificateSigningRequest](c.groups[certificatesv1.SchemeGroupVersion], "certificatesigningrequests", "")}
}

// Healthz asks the apiserver how it is. An error that is an answer has a status.
func (c *Client) Healthz(ctx context.Context, timeout time.Duration) error {
	return c.core().Get().AbsPath("/healthz").Timeout(timeout).Do(ctx).Error()
}

// CreateToken asks for a token of a service account.
func (c *Client) CreateToken(ctx context.Context, namespace, serviceAccount string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	answer := &authenticationv1.TokenRequest{}
	err := c.core().Post().Namespace(namespace).Resource("serviceaccounts").Name(serviceAccount).SubResource("token").
		Body(request).Do(ctx).Into(answer)
	return answer, err
}

// ListWatch lists and watches the objects of a core resource that the field selector chooses. No namespace means all.
func (c *Client) ListWatch(resource, namespace string, selector fields.Selector) cache.ListerWatcher {
	return listWatch(c.core(), resource, namespace, selector)
}

// RuntimeClasses lists and watches the cluster's RuntimeClasses.
func (c *Client) RuntimeClasses() cache.ListerWatcher {
	return listWatch(c.groups[nodev1.SchemeGroupVersion], "runtimeclasses", "", fields.Everything())
}

// Get reads one object of a core resource into an object of its kind. No namespace is for resources that have none.
func (c *Client) Get(ctx context.Context, resource, namespace, name string, into runtime.Object) error {
	return c.core().Get().NamespaceIfScoped(namespace, namespace != "").Resource(resource).Name(name).Do(ctx).Into(into)
}

func listWatch(c rest.Interface, resource, namespace string, selector fields.Selector) cache.ListerWatcher {
	request := func(o *metav1.ListOptions) *rest.Request {
		o.FieldSelector = selector.String()
		return c.Get().Namespace(namespace).Resource(resource).VersionedParams(o, parameters)
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return request(&o).Do(ctx).Get()
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return request(&o).Watch(ctx)
		},
	}
}
