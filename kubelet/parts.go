package kubelet

import (
	"context"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/clock"

	"minikubelet/kubelet/settings"
	"minikubelet/runtime"
	"minikubelet/runtime/images"
	"minikubelet/runtime/pleg"
	"minikubelet/runtime/runtimeclass"
	"minikubelet/runtime/userns"
)

// newImages makes the puller of images from the settings.
func newImages(k *Kubelet, events record.EventRecorder, pulled chan<- struct{}) (*images.Manager, error) {
	s := k.settings
	plugins, err := newCredentialPlugins(k)
	if err != nil {
		return nil, err
	}
	nodes, err := images.NewNodeCredentials(s.RootDir, clock.RealClock{})
	if err != nil {
		return nil, err
	}
	parallel := 0
	if s.MaxParallelImagePulls != nil {
		parallel = int(*s.MaxParallelImagePulls)
	}
	return images.New(images.Options{
		CRI: k.cri, Events: events, Serialize: *s.SerializeImagePulls, MaxParallel: parallel,
		QPS: float32(*s.RegistryPullQPS), Burst: int(s.RegistryBurst),
		Registerer: k.metrics.main, RecordsDir: filepath.Join(s.RootDir, "image_manager"), Node: nodes, Plugins: plugins,
		Verification: s.ImagePullCredentialsVerificationPolicy, Preloaded: s.PreloadedImagesVerificationAllowlist,
		// Statuses are made after the runtime, which needs images.
		Pulled: func(pod types.UID, began, ended time.Time) { k.status.Pulled(pod, began, ended) },
		OnPulled: func() {
			select {
			case pulled <- struct{}{}:
			default:
			}
		},
	}), nil
}

// newCredentialPlugins makes what asks programs for the credentials of images; nil if there are none.
func newCredentialPlugins(k *Kubelet) (*images.Plugins, error) {
	s := k.settings
	if s.CredentialProviderConfig == "" {
		return nil, nil
	}
	o := images.PluginOptions{ConfigPath: s.CredentialProviderConfig, BinDir: s.CredentialProviderBinDir, Registerer: k.metrics.main}
	if k.api.pods != nil {
		o.ServiceAccount, o.Token = k.api.serviceAccount, k.api.pods.CreateToken
	}
	return images.NewPlugins(o)
}

// newRuntime makes what turns pods into CRI calls.
func newRuntime(ctx context.Context, k *Kubelet, puller *images.Manager, cache *pleg.Cache, events record.EventRecorder) (*runtime.Runtime, error) {
	s := k.settings
	users, err := newUserNamespaces(ctx, s)
	if err != nil {
		return nil, err
	}
	classes := runtimeclass.New(k.api.runtimeClasses())
	k.runs = append(k.runs, classes.Run)
	o := runtime.Options{
		CRI: k.cri, Images: puller, Classes: classes, Cgroups: k.cgroups, Events: events, Cache: cache,
		RootDir: s.RootDir, PodLogsDir: s.PodLogsDir, NodeName: s.NodeName,
		ClusterDNS: s.ClusterDNS, ClusterDomain: s.ClusterDomain, ResolvConf: *s.ResolverConfig,
		SeccompDefault: *s.SeccompDefault, AllowedUnsafeSysctls: s.AllowedUnsafeSysctls,
		CPUCFSQuota: *s.CPUCFSQuota, CPUCFSQuotaPeriod: s.CPUCFSQuotaPeriod.Duration,
		SingleProcessOOMKill: s.SingleProcessOOMKill, Registerer: k.metrics.main,
		UserNamespaces: users, Handler: k.node.HandlerFeatures,
	}
	if s.MemorySwap.SwapBehavior == settings.LimitedSwap {
		o.Swap = k.node.Swap()
	}
	if s.FeatureGates["MemoryQoS"] {
		q := &runtime.MemoryQoS{Factor: 0.9, Tiered: s.MemoryReservationPolicy == kubeletconfig.TieredReservationMemoryReservationPolicy}
		if s.MemoryThrottlingFactor != nil {
			q.Factor = *s.MemoryThrottlingFactor
		}
		allocatable := k.node.Allocatable()
		q.Allocatable = allocatable.Memory().Value()
		o.MemoryQoS = q
	}
	if p := s.CrashLoopBackOff.MaxContainerRestartPeriod; p != nil {
		o.CrashLoopMax = p.Duration
	}
	return runtime.New(o), nil
}

// newUserNamespaces makes what gives pods user and group IDs of their own.
func newUserNamespaces(ctx context.Context, s *settings.Settings) (*userns.Manager, error) {
	ids, err := userns.SubIDs(ctx)
	if err != nil {
		return nil, err
	}
	o := userns.Options{PodsDir: filepath.Join(s.RootDir, "pods"), IDs: ids, MaxPods: int(s.MaxPods)}
	if of := s.UserNamespaces; of != nil && of.IDsPerPod != nil {
		o.IDsPerPod = *of.IDsPerPod
	}
	return userns.New(o)
}
