package kubelet

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	authenticationv1 "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationv1 "k8s.io/client-go/kubernetes/typed/authorization/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"

	"minikubelet/kubelet/server/auth"
	"minikubelet/kubelet/settings"
)

// apiClients talk to the apiserver. Events and heartbeats have clients of their own: a
// flood of events delays neither pods nor the node's lease. All are nil without a kubeconfig.
type apiClients struct {
	pods       kubernetes.Interface
	heartbeats kubernetes.Interface
	events     typedcorev1.EventsGetter
	tokens     auth.TokenReviewer
	access     auth.AccessReviewer

	broadcaster record.EventBroadcaster
}

const protobuf = "application/vnd.kubernetes.protobuf"

// newAPIClients reads the kubeconfig; it does not connect.
//
// Upstream: cmd/kubelet/app/server.go buildKubeletClientConfig and kubeClientConfigOverrides.
func newAPIClients(s *settings.Settings) (*apiClients, error) {
	c := &apiClients{}
	if s.Kubeconfig == "" {
		return c, nil
	}
	base, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read --kubeconfig %s: %w", s.Kubeconfig, err)
	}
	base.UserAgent = "kubelet/" + s.Version
	base.ContentType = protobuf
	base.AcceptContentTypes = protobuf + ",application/json"

	pods := rest.CopyConfig(base)
	pods.QPS, pods.Burst = float32(*s.KubeAPIQPS), int(s.KubeAPIBurst)
	if c.pods, err = kubernetes.NewForConfig(pods); err != nil {
		return nil, fmt.Errorf("make a client from --kubeconfig %s: %w", s.Kubeconfig, err)
	}
	heartbeats := rest.CopyConfig(base)
	heartbeats.QPS = -1
	heartbeats.Timeout = min(s.NodeStatusUpdateFrequency.Duration, time.Duration(s.NodeLeaseDurationSeconds)*time.Second/4)
	if c.heartbeats, err = kubernetes.NewForConfig(heartbeats); err != nil {
		return nil, fmt.Errorf("make a client for heartbeats from --kubeconfig %s: %w", s.Kubeconfig, err)
	}
	events := rest.CopyConfig(base)
	events.QPS, events.Burst = float32(*s.EventRecordQPS), int(s.EventBurst)
	if events.QPS == 0 {
		events.QPS = -1 // documented as unlimited; client-go's zero means its own default
	}
	if c.events, err = typedcorev1.NewForConfig(events); err != nil {
		return nil, fmt.Errorf("make a client for events from --kubeconfig %s: %w", s.Kubeconfig, err)
	}
	return c, c.addReviews(base)
}

// addReviews makes the clients that ask who somebody is and what they may do. Requests to the node's server must not
// keep the kubelet from its own, nor wait behind them.
func (c *apiClients) addReviews(base *rest.Config) error {
	reviews := rest.CopyConfig(base)
	reviews.QPS, reviews.Burst, reviews.Timeout = 50, 100, reviewTimeout
	authentication, err := authenticationv1.NewForConfig(reviews)
	if err != nil {
		return fmt.Errorf("make a client for token reviews: %w", err)
	}
	authorization, err := authorizationv1.NewForConfig(reviews)
	if err != nil {
		return fmt.Errorf("make a client for access reviews: %w", err)
	}
	c.tokens, c.access = authentication.TokenReviews(), authorization.SubjectAccessReviews()
	return nil
}

// reviewTimeout is how long one question to the apiserver may take.
const reviewTimeout = 5 * time.Second

// recorder returns the recorder of all events: logged always, sent once startEvents ran.
func (c *apiClients) recorder(nodeName string) record.EventRecorder {
	c.broadcaster = record.NewBroadcaster()
	return c.broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: nodeName})
}

// startEvents sends events until ctx ends.
func (c *apiClients) startEvents(ctx context.Context) {
	c.broadcaster.StartStructuredLogging(3)
	if c.events != nil {
		c.broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.events.Events("")})
	}
	context.AfterFunc(ctx, c.broadcaster.Shutdown)
}
