package kubelet

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"

	"minikubelet/kubelet/client"
	"minikubelet/kubelet/identity"
	"minikubelet/kubelet/node"
	"minikubelet/kubelet/server/auth"
	"minikubelet/kubelet/settings"
	"minikubelet/kubelet/tracing"
	"minikubelet/podworkers/objects"
	"minikubelet/status"
)

// apiClients talk to the apiserver. Events and heartbeats have clients of their own: a
// flood of events delays neither pods nor the node's lease. All are nil without a kubeconfig.
type apiClients struct {
	pods       *client.Client
	events     *client.Client
	heartbeats *client.Client
	reviews    *client.Client

	// rotation renews the client certificate; nil if it is not to be renewed.
	rotation *identity.Client
	// base is what the clients are made from.
	base *rest.Config
}

const protobuf = "application/vnd.kubernetes.protobuf"

// newAPIClients reads the kubeconfig; it does not connect.
//
// Upstream: cmd/kubelet/app/server.go buildKubeletClientConfig, kubeClientConfigOverrides and setContentTypeForClient.
func newAPIClients(ctx context.Context, s *settings.Settings, r prometheus.Registerer, spans *tracing.Tracing) (*apiClients, error) {
	c := &apiClients{}
	if s.Kubeconfig == "" {
		return c, nil
	}
	base, err := c.credentials(ctx, s, r)
	if err != nil {
		return nil, err
	}
	base.UserAgent = "kubelet/" + s.Version
	if base.ContentType = s.ContentType; s.ContentType == protobuf {
		base.AcceptContentTypes = protobuf + ",application/json"
	}

	spans.Requests(base)
	c.base = base

	pods := rest.CopyConfig(base)
	pods.QPS, pods.Burst = float32(*s.KubeAPIQPS), int(s.KubeAPIBurst)
	if c.pods, err = client.New(pods); err != nil {
		return nil, fmt.Errorf("make a client from --kubeconfig %s: %w", s.Kubeconfig, err)
	}
	heartbeats := rest.CopyConfig(base)
	heartbeats.QPS = -1
	heartbeats.Timeout = min(s.NodeStatusUpdateFrequency.Duration, time.Duration(s.NodeLeaseDurationSeconds)*time.Second/4)
	if c.heartbeats, err = client.New(heartbeats); err != nil {
		return nil, fmt.Errorf("make a client for heartbeats from --kubeconfig %s: %w", s.Kubeconfig, err)
	}
	events := rest.CopyConfig(base)
	events.QPS, events.Burst = float32(*s.EventRecordQPS), int(s.EventBurst)
	if events.QPS == 0 {
		events.QPS = -1 // documented as unlimited; client-go's zero means its own default
	}
	if c.events, err = client.New(events); err != nil {
		return nil, fmt.Errorf("make a client for events from --kubeconfig %s: %w", s.Kubeconfig, err)
	}
	// What is asked for the server's sake neither delays the kubelet's own requests nor waits behind them.
	reviews := rest.CopyConfig(base)
	reviews.QPS, reviews.Burst, reviews.Timeout = 50, 100, 5*time.Second
	if c.reviews, err = client.New(reviews); err != nil {
		return nil, fmt.Errorf("make a client for reviews from --kubeconfig %s: %w", s.Kubeconfig, err)
	}
	return c, nil
}

// tokens and access ask who a client is and what it may do.
func (c *apiClients) tokens() auth.TokenReviewer {
	if c.reviews == nil {
		return nil
	}
	return c.reviews.TokenReviews()
}

func (c *apiClients) access() auth.AccessReviewer {
	if c.reviews == nil {
		return nil
	}
	return c.reviews.SubjectAccessReviews()
}

// credentials reads the kubeconfig. Without one, a bootstrap kubeconfig is a way to get it; with a client certificate in
// it, that is renewed in time.
func (c *apiClients) credentials(ctx context.Context, s *settings.Settings, r prometheus.Registerer) (*rest.Config, error) {
	o := identity.Options{
		NodeName: s.NodeName, Kubeconfig: s.Kubeconfig, CertDir: s.CertDir, BootstrapKubeconfig: s.BootstrapKubeconfig, Registerer: r,
	}
	if s.BootstrapKubeconfig != "" && !s.RotateCertificates {
		if err := identity.Bootstrap(ctx, o); err != nil {
			return nil, err
		}
	}
	if s.BootstrapKubeconfig == "" || !s.RotateCertificates {
		base, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read --kubeconfig %s: %w", s.Kubeconfig, err)
		}
		if !s.RotateCertificates || base.CertFile == "" && len(base.CertData) == 0 { // tokens are renewed by the program that issued them
			return base, nil
		}
	}
	var err error
	if c.rotation, err = identity.ClientCertificates(ctx, o); err != nil {
		return nil, err
	}
	return rest.CopyConfig(c.rotation.Config), nil
}

// nodePods lists and watches the pods of the node.
func (c *apiClients) nodePods(name string) cache.ListerWatcher {
	if c.pods == nil {
		return nil
	}
	return c.pods.ListWatch("pods", "", fields.OneTermEqualSelector("spec.nodeName", name))
}

// nodeObject lists and watches the node's own object.
func (c *apiClients) nodeObject(name string) cache.ListerWatcher {
	if c.pods == nil {
		return nil
	}
	return c.pods.ListWatch("nodes", "", fields.OneTermEqualSelector(metav1.ObjectNameField, name))
}

func (c *apiClients) nodes() node.Client {
	if c.heartbeats == nil {
		return nil
	}
	return c.heartbeats.Nodes()
}

func (c *apiClients) leases() node.LeaseClient {
	if c.heartbeats == nil {
		return nil
	}
	return c.heartbeats.Leases(corev1.NamespaceNodeLease)
}

// rotate renews the client certificate until ctx ends, and calls expired when none is valid any more.
func (c *apiClients) rotate(ctx context.Context, expired func(error)) {
	if c.rotation == nil {
		return
	}
	if err := c.rotation.Run(ctx); err != nil {
		expired(err)
	}
}

// known is closed when there is a client certificate, nil if none is waited for.
func (c *apiClients) known() <-chan struct{} {
	if c.rotation == nil {
		return nil
	}
	return c.rotation.Known()
}

// podClient writes pods.
func (c *apiClients) podClient() func(namespace string) status.PodClient {
	if c.pods == nil {
		return nil
	}
	return func(namespace string) status.PodClient { return c.pods.Pods(namespace) }
}

func (c *apiClients) runtimeClasses() cache.ListerWatcher {
	if c.pods == nil {
		return nil
	}
	return c.pods.RuntimeClasses()
}

// objects reads what the node's pods refer to, and tells of changes.
func (c *apiClients) objects(of *node.Node, name string, events record.EventRecorder, onChange func(types.UID)) objects.Options {
	if c.pods == nil {
		return objects.Options{}
	}
	return objects.Options{
		Watch: c.pods.ListWatch, CreateToken: c.pods.CreateToken, TrustBundles: c.pods.ClusterTrustBundles, OnChange: onChange,
		CertificateRequests: func() cache.ListerWatcher { return c.pods.PodCertificateRequests(name) },
		RequestCertificate:  c.pods.RequestPodCertificate, ServiceAccount: c.serviceAccount, Node: of.Node, Events: events,
	}
}

func (c *apiClients) serviceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	account := &corev1.ServiceAccount{}
	return account, c.pods.Get(ctx, "serviceaccounts", namespace, name, account)
}
