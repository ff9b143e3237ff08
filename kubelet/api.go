package kubelet

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcoordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"

	"minikubelet/kubelet/settings"
)

// apiClients talk to the apiserver. Events and heartbeats have clients of their own: a
// flood of events delays neither pods nor the node's lease. All are nil without a kubeconfig.
type apiClients struct {
	pods       kubernetes.Interface
	heartbeats typedcorev1.NodesGetter
	leases     typedcoordinationv1.LeasesGetter
	events     typedcorev1.EventsGetter

	broadcaster record.EventBroadcaster
}

const protobuf = "application/vnd.kubernetes.protobuf"

// newAPIClients reads the kubeconfig; it does not connect.
//
// Upstream: cmd/kubelet/app/server.go buildKubeletClientConfig, kubeClientConfigOverrides and setContentTypeForClient.
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
	if base.ContentType = s.ContentType; s.ContentType == protobuf {
		base.AcceptContentTypes = protobuf + ",application/json"
	}

	pods := rest.CopyConfig(base)
	pods.QPS, pods.Burst = float32(*s.KubeAPIQPS), int(s.KubeAPIBurst)
	if c.pods, err = kubernetes.NewForConfig(pods); err != nil {
		return nil, fmt.Errorf("make a client from --kubeconfig %s: %w", s.Kubeconfig, err)
	}
	heartbeats := rest.CopyConfig(base)
	heartbeats.QPS = -1
	heartbeats.Timeout = min(s.NodeStatusUpdateFrequency.Duration, time.Duration(s.NodeLeaseDurationSeconds)*time.Second/4)
	if c.heartbeats, err = typedcorev1.NewForConfig(heartbeats); err != nil {
		return nil, fmt.Errorf("make a client for heartbeats from --kubeconfig %s: %w", s.Kubeconfig, err)
	}
	if c.leases, err = typedcoordinationv1.NewForConfig(heartbeats); err != nil {
		return nil, fmt.Errorf("make a client for leases from --kubeconfig %s: %w", s.Kubeconfig, err)
	}
	events := rest.CopyConfig(base)
	events.QPS, events.Burst = float32(*s.EventRecordQPS), int(s.EventBurst)
	if events.QPS == 0 {
		events.QPS = -1 // documented as unlimited; client-go's zero means its own default
	}
	if c.events, err = typedcorev1.NewForConfig(events); err != nil {
		return nil, fmt.Errorf("make a client for events from --kubeconfig %s: %w", s.Kubeconfig, err)
	}
	return c, nil
}

// nodes reads and watches nodes; nil without a kubeconfig.
func (c *apiClients) nodes() typedcorev1.NodesGetter {
	if c.pods == nil {
		return nil
	}
	return c.pods.CoreV1()
}

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
