package client

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

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
