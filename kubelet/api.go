package kubelet

import (
	"context"
	"errors"
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
	"minikubelet/podworkers/volumes"
	"minikubelet/status"
)

// apiClients are connections to the apiserver, and what the kubelet's parts use of them. Events and heartbeats have clients
// of their own, so that a flood of events delays neither pods nor the node's lease. Without a kubeconfig all is nil.
type apiClients struct {
	pods, events *client.Client
	// base is what the clients are made from.
	base *rest.Config
	// rotation renews the client certificate; nil if it is not to be renewed.
	rotation *identity.Client

	nodePods, nodeObject, runtimeClasses cache.ListerWatcher // of the node, of the cluster
	nodes                                node.Client
	leases                               node.LeaseClient
	podClient                            func(namespace string) status.PodClient
	claims                               volumes.Claims
	tokens                               auth.TokenReviewer
	access                               auth.AccessReviewer
	known                                <-chan struct{} // closed when there is a client certificate; nil if none is waited for
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
	limited := func(qps float32, burst int32, timeout time.Duration) *client.Client {
		config := rest.CopyConfig(base)
		config.QPS, config.Burst, config.Timeout = qps, int(burst), timeout
		made, failed := client.New(config)
		err = errors.Join(err, failed)
		return made
	}
	c.pods = limited(float32(*s.KubeAPIQPS), s.KubeAPIBurst, 0)
	eventQPS, eventBurst := eventRate(s)
	c.events = limited(eventQPS, eventBurst, 0)
	heartbeats := limited(-1, 0, min(s.NodeStatusUpdateFrequency.Duration, time.Duration(s.NodeLeaseDurationSeconds)*time.Second/4))
	reviews := limited(50, 100, 5*time.Second) // those of the server's clients do not delay the kubelet's own requests
	if err != nil {
		return nil, fmt.Errorf("make clients from --kubeconfig %s: %w", s.Kubeconfig, err)
	}
	c.nodePods = c.pods.ListWatch("pods", "", fields.OneTermEqualSelector("spec.nodeName", s.NodeName))
	c.nodeObject = c.pods.ListWatch("nodes", "", fields.OneTermEqualSelector(metav1.ObjectNameField, s.NodeName))
	c.runtimeClasses = c.pods.RuntimeClasses()
	c.nodes, c.leases = heartbeats.Nodes(), heartbeats.Leases(corev1.NamespaceNodeLease)
	c.podClient = func(namespace string) status.PodClient { return c.pods.Pods(namespace) }
	c.claims = claims{c.pods}
	c.tokens, c.access = reviews.TokenReviews(), reviews.SubjectAccessReviews()
	if c.rotation != nil {
		c.known = c.rotation.Known()
	}
	return c, nil
}

// eventRate is how many events may be written in a second, and at once. A rate of 0 is documented as unlimited; client-go's
// zero means its own default.
func eventRate(s *settings.Settings) (qps float32, burst int32) {
	if *s.EventRecordQPS == 0 {
		return -1, s.EventBurst
	}
	return float32(*s.EventRecordQPS), s.EventBurst
}

// reconfigure gives the clients the rates that are in force now.
func (c *apiClients) reconfigure(s *settings.Settings) {
	if c.pods == nil {
		return
	}
	c.pods.SetRate(float32(*s.KubeAPIQPS), int(s.KubeAPIBurst))
	qps, burst := eventRate(s)
	c.events.SetRate(qps, int(burst))
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

// rotate renews the client certificate until ctx ends, and calls expired when none is valid any more.
func (c *apiClients) rotate(ctx context.Context, expired func(error)) {
	if c.rotation == nil {
		return
	}
	if err := c.rotation.Run(ctx); err != nil {
		expired(err)
	}
}

// objects reads what the node's pods refer to, and tells of changes.
func (c *apiClients) objects(n *node.Node, name string, events record.EventRecorder, onChange func(types.UID)) objects.Options {
	if c.pods == nil {
		return objects.Options{}
	}
	return objects.Options{
		Watch: c.pods.ListWatch, CreateToken: c.pods.CreateToken, TrustBundles: c.pods.ClusterTrustBundles, OnChange: onChange,
		CertificateRequests: func() cache.ListerWatcher { return c.pods.PodCertificateRequests(name) },
		RequestCertificate:  c.pods.RequestPodCertificate, ServiceAccount: c.serviceAccount, Node: n.Node, Events: events,
	}
}

func (c *apiClients) serviceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	account := &corev1.ServiceAccount{}
	return account, c.pods.Get(ctx, "serviceaccounts", namespace, name, account)
}
