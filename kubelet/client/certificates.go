package client

import (
	"context"
	"sync/atomic"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// betaCertificates is where apiservers before 1.37 have ClusterTrustBundles and PodCertificateRequests.
var betaCertificates = schema.GroupVersion{Group: certificatesv1.GroupName, Version: "v1beta1"}

// addBetaCertificates has objects of the beta version read and written as those of v1: what fields these have are the
// same.
func addBetaCertificates(s *runtime.Scheme) error {
	s.AddKnownTypes(betaCertificates, &certificatesv1.ClusterTrustBundle{}, &certificatesv1.ClusterTrustBundleList{},
		&certificatesv1.PodCertificateRequest{}, &certificatesv1.PodCertificateRequestList{})
	metav1.AddToGroupVersion(s, betaCertificates)
	return nil
}

// ClusterTrustBundles lists and watches the cluster's ClusterTrustBundles, of v1 or else of v1beta1.
func (c *Client) ClusterTrustBundles() cache.ListerWatcher {
	return c.listCertificates("clustertrustbundles", fields.Everything())
}

// PodCertificateRequests lists and watches those of a node, of v1 or else of v1beta1.
func (c *Client) PodCertificateRequests(node string) cache.ListerWatcher {
	return c.listCertificates("podcertificaterequests", fields.OneTermEqualSelector("spec.nodeName", node))
}

// RequestPodCertificate makes a PodCertificateRequest, of v1 or else of v1beta1.
func (c *Client) RequestPodCertificate(ctx context.Context, request *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
	made := &certificatesv1.PodCertificateRequest{}
	post := func(to rest.Interface) error {
		return to.Post().Namespace(request.Namespace).Resource("podcertificaterequests").Body(request).Do(ctx).Into(made)
	}
	err := post(c.groups[certificatesv1.SchemeGroupVersion])
	if apierrors.IsNotFound(err) {
		err = post(c.groups[betaCertificates])
	}
	return made, err
}

func (c *Client) listCertificates(resource string, selector fields.Selector) cache.ListerWatcher {
	newer := cache.ToListerWatcherWithContext(listWatch(c.groups[certificatesv1.SchemeGroupVersion], resource, "", selector))
	older := cache.ToListerWatcherWithContext(listWatch(c.groups[betaCertificates], resource, "", selector))
	var beta atomic.Bool
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := newer.ListWithContext(ctx, o)
			if beta.Store(apierrors.IsNotFound(err)); beta.Load() {
				return older.ListWithContext(ctx, o)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			if beta.Load() {
				return older.WatchWithContext(ctx, o)
			}
			w, err := newer.WatchWithContext(ctx, o)
			if apierrors.IsNotFound(err) {
				beta.Store(true)
				return older.WatchWithContext(ctx, o)
			}
			return w, err
		},
	}
}
