package client

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// Kind reads and writes objects of one kind, in one namespace if the kind has them. Its methods are those of client-go's
// typed clients, whose package links server-side apply and a fake apiserver besides.
type Kind[O any, P object[O]] struct {
	rest                rest.Interface
	resource, namespace string
}

// object is a pointer to an API object, as methods take and return it.
type object[O any] interface {
	*O
	runtime.Object
	metav1.Object
}

func kind[O any, P object[O]](c rest.Interface, resource, namespace string) *Kind[O, P] {
	return &Kind[O, P]{rest: c, resource: resource, namespace: namespace}
}

// request fills in what all requests have; a name is for those about one object.
func (k *Kind[O, P]) request(r *rest.Request, name string) *rest.Request {
	r = r.UseProtobufAsDefaultIfPreferred(true).NamespaceIfScoped(k.namespace, k.namespace != "").Resource(k.resource)
	if name != "" {
		r = r.Name(name)
	}
	return r
}

func (k *Kind[O, P]) do(ctx context.Context, r *rest.Request) (P, error) {
	answer := P(new(O))
	err := r.Do(ctx).Into(answer)
	return answer, err
}

// Get reads one object.
func (k *Kind[O, P]) Get(ctx context.Context, name string, o metav1.GetOptions) (P, error) {
	return k.do(ctx, k.request(k.rest.Get(), name).VersionedParams(&o, parameters))
}

// Create makes an object, and returns it as it became.
func (k *Kind[O, P]) Create(ctx context.Context, object P, o metav1.CreateOptions) (P, error) {
	return k.do(ctx, k.request(k.rest.Post(), "").VersionedParams(&o, parameters).Body(object))
}

// Update replaces an object, and returns it as it became.
func (k *Kind[O, P]) Update(ctx context.Context, object P, o metav1.UpdateOptions) (P, error) {
	return k.do(ctx, k.request(k.rest.Put(), object.GetName()).VersionedParams(&o, parameters).Body(object))
}

// Patch changes an object or a subresource of it, and returns the object as it became.
func (k *Kind[O, P]) Patch(ctx context.Context, name string, kind types.PatchType, body []byte, o metav1.PatchOptions, subresources ...string) (P, error) {
	return k.do(ctx, k.request(k.rest.Patch(kind), name).SubResource(subresources...).VersionedParams(&o, parameters).Body(body))
}

// Delete removes an object.
func (k *Kind[O, P]) Delete(ctx context.Context, name string, o metav1.DeleteOptions) error {
	return k.request(k.rest.Delete(), name).Body(&o).Do(ctx).Error()
}

// SigningRequests are CertificateSigningRequests, which can be listed and watched too.
type SigningRequests struct {
	*Kind[certificatesv1.CertificateSigningRequest, *certificatesv1.CertificateSigningRequest]
}

// List reads the requests that the options choose.
func (s SigningRequests) List(ctx context.Context, o metav1.ListOptions) (*certificatesv1.CertificateSigningRequestList, error) {
	list := &certificatesv1.CertificateSigningRequestList{}
	err := s.request(s.rest.Get(), "").VersionedParams(&o, parameters).Do(ctx).Into(list)
	return list, err
}

// Watch tells of the requests that the options choose.
func (s SigningRequests) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return s.request(s.rest.Get(), "").VersionedParams(&o, parameters).Watch(ctx)
}
