package kubelet

import (
	"context"
	"path/filepath"
	"time"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/clock"

	"minikubelet/kubelet/node"
	"minikubelet/kubelet/settings"
	"minikubelet/runtime"
	"minikubelet/runtime/cgroups"
	"minikubelet/runtime/images"
	"minikubelet/runtime/memoryqos"
	"minikubelet/runtime/pleg"
	"minikubelet/runtime/runtimeclass"
	"minikubelet/runtime/spec"
	"minikubelet/runtime/userns"
	"minikubelet/status"
)

// newImages makes the puller of images from the settings.
func newImages(b *base, statuses *status.Manager, pulled chan<- struct{}) (*images.Manager, error) {
	s := b.settings
	plugins, err := newCredentialPlugins(b)
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
		CRI: b.cri, Events: b.events, Serialize: *s.SerializeImagePulls, MaxParallel: parallel,
		QPS: float32(*s.RegistryPullQPS), Burst: int(s.RegistryBurst),
		Registerer: b.metrics.main, RecordsDir: filepath.Join(s.RootDir, "image_manager"), Node: nodes, Plugins: plugins,
		Verification: s.ImagePullCredentialsVerificationPolicy, Preloaded: s.PreloadedImagesVerificationAllowlist,
		Pulled: statuses.Pulled,
		OnPulled: func() {
			select {
			case pulled <- struct{}{}:
			default:
			}
		},
	}), nil
}

// newCredentialPlugins makes what asks programs for the credentials of images; nil if there are none.
func newCredentialPlugins(b *base) (*images.Plugins, error) {
	s := b.settings
	if s.CredentialProviderConfig == "" {
		return nil, nil
	}
	o := images.PluginOptions{ConfigPath: s.CredentialProviderConfig, BinDir: s.CredentialProviderBinDir, Registerer: b.metrics.main}
	if b.api.pods != nil {
		o.ServiceAccount, o.Token = b.api.serviceAccount, b.api.pods.CreateToken
	}
	return images.NewPlugins(o)
}

// newRuntime makes what turns pods into CRI calls.
func newRuntime(ctx context.Context, b *base, n *node.Node, puller *images.Manager, classes *runtimeclass.Lookup, groups *cgroups.Manager, cache *pleg.Cache) (*runtime.Runtime, error) {
	s := b.settings
	users, err := newUserNamespaces(ctx, s) // part: user namespaces, runtime/userns
	if err != nil {
		return nil, err
	}
	o := runtime.Options{
		CRI: b.cri, Images: puller, Classes: classes, Cgroups: groups, Events: b.events, Cache: cache,
		RootDir: s.RootDir, ResolvConf: *s.ResolverConfig, Registerer: b.metrics.main, UserNamespaces: users, Handler: n.HandlerFeatures,
		Node: spec.Node{
			PodLogsDir: s.PodLogsDir, ClusterDNS: s.ClusterDNS, ClusterDomain: s.ClusterDomain,
			SeccompDefault: *s.SeccompDefault, AllowedUnsafeSysctls: s.AllowedUnsafeSysctls,
			CPUCFSQuota: *s.CPUCFSQuota, CPUCFSQuotaPeriod: s.CPUCFSQuotaPeriod.Duration, SingleProcessOOMKill: s.SingleProcessOOMKill,
		},
	}
	if s.MemorySwap.SwapBehavior == settings.LimitedSwap {
		o.Node.Swap = n.Swap()
	}
	if s.FeatureGates["MemoryQoS"] { // part: memory QoS, runtime/memoryqos
		q := &memoryqos.Settings{Tiered: s.MemoryReservationPolicy == kubeletconfig.TieredReservationMemoryReservationPolicy}
		if s.MemoryThrottlingFactor != nil {
			q.Factor = *s.MemoryThrottlingFactor
		}
		allocatable := n.Allocatable()
		q.Allocatable = allocatable.Memory().Value()
		o.Node.MemoryQoS = q
	}
	o.CrashLoopMax = crashLoopMax(s)
	return runtime.New(o), nil
}

// crashLoopMax is the longest back-off of a crashing container, 0 for the runtime's default.
func crashLoopMax(s *settings.Settings) time.Duration {
	if p := s.CrashLoopBackOff.MaxContainerRestartPeriod; p != nil {
		return p.Duration
	}
	return 0
}

// newUserNamespaces makes what gives pods user and group IDs of their own.
func newUserNamespaces(ctx context.Context, s *settings.Settings) (*userns.Manager, error) {
	ids, err := userns.SubIDs(ctx)
	if err != nil {
		return nil, err
	}
	o := userns.Options{PodsDir: filepath.Join(s.RootDir, "pods"), IDs: ids, MaxPods: int(s.MaxPods)}
	if users := s.UserNamespaces; users != nil && users.IDsPerPod != nil {
		o.IDsPerPod = *users.IDsPerPod
	}
	return userns.New(o)
}
