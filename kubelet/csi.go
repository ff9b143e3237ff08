package kubelet

import (
	"context"
	"path/filepath"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"minikubelet/kubelet/client"
	"minikubelet/kubelet/node"
	"minikubelet/kubelet/plugins"
	"minikubelet/podworkers/csi"
	"minikubelet/podworkers/objects"
)

// newCSI makes what uses CSI drivers; nil without an apiserver, since they serve its pods only.
func newCSI(b *base, n *node.Node, known *objects.Manager) *csi.Manager {
	if b.api.pods == nil {
		return nil
	}
	s := b.settings
	return csi.New(csi.Options{
		RootDir: s.RootDir, NodeName: s.NodeName,
		Drivers: b.api.pods.CSIDrivers(), Nodes: b.api.pods.Nodes(), CSINodes: b.api.pods.CSINodes(), Attachments: b.api.pods.VolumeAttachments(),
		Secret:      b.api.secret,
		CachedToken: known.Token,
		NewToken: func(ctx context.Context, pod *corev1.Pod, request *authv1.TokenRequest) (*authv1.TokenRequest, error) {
			return b.api.pods.CreateToken(ctx, pod.Namespace, pod.Spec.ServiceAccountName, request)
		},
		Node: n.Current, InUseChanged: n.CheckStatus,
	})
}

// newPluginWatcher makes what finds the sockets of plugins and tells the parts that use them.
func newPluginWatcher(b *base, c *core) *plugins.Watcher {
	handlers := map[string]plugins.Handler{registerapi.DevicePlugin: c.devices} // part: devices, kubelet/devices
	if c.csi != nil {
		handlers[registerapi.CSIPlugin] = c.csi // part: CSI volumes, podworkers/csi
	}
	return plugins.New(filepath.Join(b.settings.RootDir, "plugins_registry"), handlers)
}

func (c *apiClients) secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	return secret, c.pods.Get(ctx, "secrets", namespace, name, secret)
}

// claims reads claims and their volumes.
type claims struct{ client *client.Client }

// Claim reads a PersistentVolumeClaim.
func (c claims) Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	claim := &corev1.PersistentVolumeClaim{}
	return claim, c.client.Get(ctx, "persistentvolumeclaims", namespace, name, claim)
}

// PatchClaimStatus writes a claim's status.
func (c claims) PatchClaimStatus(ctx context.Context, namespace, name string, patch []byte) (*corev1.PersistentVolumeClaim, error) {
	return c.client.Claims(namespace).Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
}

// Volume reads a PersistentVolume.
func (c claims) Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	volume := &corev1.PersistentVolume{}
	return volume, c.client.Get(ctx, "persistentvolumes", "", name, volume)
}
