package kubelet

import (
	"context"
	"crypto/tls"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/kubelet/client"
	"minikubelet/kubelet/identity"
)

// servingCertificate has the cluster sign the certificate of the kubelet's port, if it is to. Otherwise the server
// takes tlsCertFile, or one that it signs itself.
func (k *Kubelet) servingCertificate(ctx context.Context) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if !k.settings.ServerTLSBootstrap || k.api.base == nil {
		return nil, nil
	}
	api, err := client.New(k.api.base)
	if err != nil {
		return nil, err
	}
	get, run, err := identity.Serving(ctx, identity.ServingOptions{
		NodeName: k.settings.NodeName, CertDir: k.settings.CertDir, Kubeconfig: k.settings.Kubeconfig, Bootstrap: true, Requests: api.CertificateSigningRequests(),
		Addresses: func() []corev1.NodeAddress { return k.node.Node().Status.Addresses },
		CertFile:  k.settings.TLSCertFile, KeyFile: k.settings.TLSPrivateKeyFile, Registerer: k.metrics.main,
	})
	if err != nil {
		return nil, err
	}
	k.runs = append(k.runs, run)
	return get, nil
}
