package client

import (
	"context"
	"sync/atomic"

	certificatesv1 "k8s.io/api/certificates/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// betaCertificates is where apiservers before 1.37 have ClusterTrustBundles.
var betaCertificates = schema.GroupVersion{Group: certificatesv1.GroupName, Version: "v1beta1"}

// addBetaCertificates has ClusterTrustBundles of the beta version read as those of v1, whose fields are the same.
func addBetaCertificates(s *runtime.Scheme) error {
	s.AddKnownTypes(betaCertificates, &certificatesv1.ClusterTrustBundle{}, &certificatesv1.ClusterTrustBundleList{})
	metav1.AddToGroupVersion(s, betaCertificates)
	return nil
}

func (c *Client) storage() rest.Interface { return c.groups[storagev1.SchemeGroupVersion] }

// CSINodes writes and reads what CSI drivers there are on nodes.
func (c *Client) CSINodes() *Kind[storagev1.CSINode, *storagev1.CSINode] {
	return kind[storagev1.CSINode](c.storage(), "csinodes", "")
}

// VolumeAttachments reads attachments of volumes to nodes.
func (c *Client) VolumeAttachments() *Kind[storagev1.VolumeAttachment, *storagev1.VolumeAttachment] {
	return kind[storagev1.VolumeAttachment](c.storage(), "volumeattachments", "")
}

// CSIDrivers lists and watches what the cluster knows of CSI drivers.
func (c *Client) CSIDrivers() cache.ListerWatcher {
	return listWatch(c.storage(), "csidrivers", "", fields.Everything())
}

// ClusterTrustBundles lists and watches the cluster's ClusterTrustBundles, of v1 or else of v1beta1.
func (c *Client) ClusterTrustBundles() cache.ListerWatcher {
	newer := cache.ToListerWatcherWithContext(listWatch(c.groups[certificatesv1.SchemeGroupVersion], "clustertrustbundles", "", fields.Everything()))
	older := cache.ToListerWatcherWithContext(listWatch(c.groups[betaCertificates], "clustertrustbundles", "", fields.Everything()))
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
