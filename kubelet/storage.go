package kubelet

import (
	"context"
	"path/filepath"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"minikubelet/kubelet/client"
	"minikubelet/kubelet/plugins"
	"minikubelet/podworkers/csi"
	"minikubelet/podworkers/volumes"
)

// connectPlugins makes what finds plugins, and what CSI drivers are used with. Drivers serve pods of an apiserver only.
func (k *Kubelet) connectPlugins() {
	s := k.settings
	if k.api.pods == nil {
		return
	}
	k.csi = csi.New(csi.Options{
		RootDir: s.RootDir, NodeName: s.NodeName,
		Drivers: k.api.pods.CSIDrivers(), Nodes: k.api.pods.Nodes(), CSINodes: k.api.pods.CSINodes(), Attachments: k.api.pods.VolumeAttachments(),
		Secret:      k.api.secret,
		CachedToken: k.objects.Token,
		NewToken: func(ctx context.Context, pod *corev1.Pod, request *authv1.TokenRequest) (*authv1.TokenRequest, error) {
			return k.api.pods.CreateToken(ctx, pod.Namespace, pod.Spec.ServiceAccountName, request)
		},
		Node: k.node.Current, InUseChanged: k.node.CheckStatus,
	})
	watcher := plugins.New(filepath.Join(s.RootDir, "plugins_registry"), map[string]plugins.Handler{registerapi.CSIPlugin: k.csi})
	k.runs = append(k.runs, k.csi.Run, watcher.Run)
}

// volumesInUse is asked by the node, which is made first.
func (k *Kubelet) volumesInUse() []corev1.UniqueVolumeName {
	if k.csi == nil {
		return nil
	}
	return k.csi.VolumesInUse()
}

func (c *apiClients) secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	return secret, c.pods.Get(ctx, "secrets", namespace, name, secret)
}

// claims reads claims and their volumes; nil without an apiserver.
func (c *apiClients) claims() volumes.Claims {
	if c.pods == nil {
		return nil
	}
	return claims{c.pods}
}

type claims struct{ client *client.Client }

// Claim reads a PersistentVolumeClaim.
func (c claims) Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	claim := &corev1.PersistentVolumeClaim{}
	return claim, c.client.Get(ctx, "persistentvolumeclaims", namespace, name, claim)
}

// Volume reads a PersistentVolume.
func (c claims) Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	volume := &corev1.PersistentVolume{}
	return volume, c.client.Get(ctx, "persistentvolumes", "", name, volume)
}
