package identity

import (
	"fmt"

	"k8s.io/client-go/kubernetes"
	certificatesv1 "k8s.io/client-go/kubernetes/typed/certificates/v1"
	certificatesv1beta1 "k8s.io/client-go/kubernetes/typed/certificates/v1beta1"
	"k8s.io/client-go/rest"
)

// clientset is the part of client-go's clientset that its certificate manager uses. The whole of it would double the
// binary.
type clientset struct {
	kubernetes.Interface // nil: whatever else is asked for is a bug
	v1                   certificatesv1.CertificatesV1Interface
	v1beta1              certificatesv1beta1.CertificatesV1beta1Interface
}

// NewClientset makes a client that can ask for certificates, and do nothing else.
func NewClientset(config *rest.Config) (kubernetes.Interface, error) {
	v1, err := certificatesv1.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client for certificates: %w", err)
	}
	v1beta1, err := certificatesv1beta1.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client for certificates: %w", err)
	}
	return clientset{v1: v1, v1beta1: v1beta1}, nil
}

func (c clientset) CertificatesV1() certificatesv1.CertificatesV1Interface { return c.v1 }

func (c clientset) CertificatesV1beta1() certificatesv1beta1.CertificatesV1beta1Interface {
	return c.v1beta1
}
