package objects

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// bundles watches the cluster's ClusterTrustBundles once the first pod needs one.
//
// Upstream: pkg/kubelet/clustertrustbundle/clustertrustbundle_manager.go InformerManager.
type bundles struct {
	Informer
	told func(types.UID)

	mu    sync.Mutex
	users map[types.UID]bool
}

func newBundles(watch func() cache.ListerWatcher, told func(types.UID)) *bundles {
	b := &bundles{told: told, users: map[types.UID]bool{}}
	b.Informer = Informer{What: "ClusterTrustBundles", Kind: &certificatesv1.ClusterTrustBundle{}, Watch: watch, Changed: b.tell}
	return b
}

// register remembers whether the pod is to be told of changes.
func (b *bundles) register(pod *corev1.Pod) {
	uses := slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ClusterTrustBundle != nil })
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	if !uses {
		delete(b.users, pod.UID)
		return
	}
	b.users[pod.UID] = true
}

func (b *bundles) forget(uid types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.users, uid)
}

func (b *bundles) tell(any) {
	b.mu.Lock()
	users := slices.Collect(maps.Keys(b.users))
	b.mu.Unlock()
	for _, uid := range users {
		b.told(uid)
	}
}

// TrustAnchors returns the certificates of the ClusterTrustBundles that a projection chooses, each once, as PEM. With
// nothing chosen that is an error, unless the projection is optional.
func (m *Manager) TrustAnchors(ctx context.Context, p *corev1.ClusterTrustBundleProjection) ([]byte, error) {
	b := m.bundles
	if b.Watch == nil {
		return nil, fmt.Errorf("read ClusterTrustBundles: %w", ErrStandalone)
	}
	store, err := b.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read ClusterTrustBundles: %w; it may not serve them", err)
	}
	chosen, err := choose(store, p)
	if err != nil || len(chosen) == 0 {
		return nil, err
	}
	return anchors(chosen), nil
}

// choose returns the bundles that a projection means.
func choose(store cache.Store, p *corev1.ClusterTrustBundleProjection) ([]*certificatesv1.ClusterTrustBundle, error) {
	optional := ptr.Deref(p.Optional, false)
	switch {
	case p.Name != nil:
		object, found, err := store.GetByKey(*p.Name)
		if err != nil {
			return nil, err
		}
		if !found && optional {
			return nil, nil
		}
		if !found {
			return nil, apierrors.NewNotFound(certificatesv1.Resource("clustertrustbundles"), *p.Name)
		}
		return []*certificatesv1.ClusterTrustBundle{object.(*certificatesv1.ClusterTrustBundle)}, nil
	case p.SignerName == nil:
		return nil, errors.New("clusterTrustBundle projection requires either name or signerName to be set")
	}
	selector, err := metav1.LabelSelectorAsSelector(p.LabelSelector)
	if err != nil {
		return nil, fmt.Errorf("clusterTrustBundle projection's labelSelector: %w", err)
	}
	var chosen []*certificatesv1.ClusterTrustBundle
	for _, object := range store.List() {
		if bundle := object.(*certificatesv1.ClusterTrustBundle); bundle.Spec.SignerName == *p.SignerName && selector.Matches(labels.Set(bundle.Labels)) {
			chosen = append(chosen, bundle)
		}
	}
	if len(chosen) == 0 && !optional {
		return nil, errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	}
	return chosen, nil
}

// anchors are the certificates of all bundles, each once, in an order that does not change, so that the volume is not written
// again without need. (Upstream's order changes with each start.)
func anchors(list []*certificatesv1.ClusterTrustBundle) []byte {
	var all [][]byte
	for _, bundle := range list {
		for block, rest := pem.Decode([]byte(bundle.Spec.TrustBundle)); block != nil; block, rest = pem.Decode(rest) {
			all = append(all, block.Bytes)
		}
	}
	slices.SortFunc(all, bytes.Compare)
	var out bytes.Buffer
	for _, certificate := range slices.CompactFunc(all, bytes.Equal) {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
	}
	return out.Bytes()
}
