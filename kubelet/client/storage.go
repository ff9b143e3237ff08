package client

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

func (c *Client) storage() rest.Interface { return c.groups[storagev1.SchemeGroupVersion] }

// CSINodes writes and reads what CSI drivers there are on nodes.
func (c *Client) CSINodes() *gentype.Client[*storagev1.CSINode] {
	return gentype.NewClient("csinodes", c.storage(), parameters, "", func() *storagev1.CSINode { return &storagev1.CSINode{} }, gentype.PrefersProtobuf[*storagev1.CSINode]())
}

// VolumeAttachments reads attachments of volumes to nodes.
func (c *Client) VolumeAttachments() *gentype.Client[*storagev1.VolumeAttachment] {
	return gentype.NewClient("volumeattachments", c.storage(), parameters, "", func() *storagev1.VolumeAttachment { return &storagev1.VolumeAttachment{} }, gentype.PrefersProtobuf[*storagev1.VolumeAttachment]())
}

// CSIDrivers lists and watches what the cluster knows of CSI drivers.
func (c *Client) CSIDrivers() cache.ListerWatcher {
	return listWatch(c.storage(), "csidrivers", "", fields.Everything())
}
