package status

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
)

// MirrorOptions are the apiserver's pods and the node, which owns the mirrors.
type MirrorOptions struct {
	Pods func(namespace string) PodClient
	// Node returns the node's current object; its UID is empty until it is registered.
	Node func() *corev1.Node
	// Existing returns the mirror that the apiserver source has for a static pod, nil if none.
	Existing func(static *corev1.Pod) *corev1.Pod
}

// Mirror keeps an API object for each static pod, by which the apiserver's clients see the pod.
//
// Upstream: pkg/kubelet/pod/mirror_client.go basicMirrorClient.
type Mirror struct{ opts MirrorOptions }

// NewMirror returns a Mirror.
func NewMirror(opts MirrorOptions) *Mirror { return &Mirror{opts: opts} }

// Ensure makes the mirror of a static pod that runs if there is none, and replaces one that stands for another version
// of it, shows the end that it came to in an earlier life, or belongs to an earlier node. The mirror is seen again through the apiserver source.
func (m *Mirror) Ensure(ctx context.Context, static *corev1.Pod) error {
	node := m.opts.Node()
	if have := m.opts.Existing(static); have != nil {
		if have.DeletionTimestamp == nil && !ended(have.Status.Phase) && stands(have, static.Annotations[podinfo.HashAnnotation], node.UID) {
			return nil
		}
		if err := m.Delete(ctx, have); err != nil {
			return err
		}
	}
	if node.UID == "" {
		return fmt.Errorf("create the mirror of %s/%s: the node is not registered yet", static.Namespace, static.Name)
	}
	mirror := mirrorOf(static, node)
	err := retry.OnError(cacheLag, isUnknownNode, func() error {
		_, err := m.opts.Pods(mirror.Namespace).Create(ctx, mirror, metav1.CreateOptions{})
		return err
	})
	if apierrors.IsAlreadyExists(err) {
		return m.checkExisting(ctx, mirror)
	}
	if err != nil {
		return fmt.Errorf("create the mirror of %s/%s: %w", static.Namespace, static.Name, err)
	}
	klog.FromContext(ctx).V(2).Info("Created the mirror pod")
	return nil
}

// cacheLag is how long an apiserver may refuse the mirrors of a node that was registered this moment, since its admission asks a
// cache that follows by some milliseconds. Nothing tells when it has the node.
var cacheLag = wait.Backoff{Steps: 7, Duration: 10 * time.Millisecond, Factor: 2}

func isUnknownNode(err error) bool {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	return ok && apierrors.IsNotFound(err) && status.ErrStatus.Details != nil && strings.HasPrefix(status.ErrStatus.Details.Kind, "node")
}

// stands tells whether a mirror is of this version of its static pod and belongs to this node. The cluster's garbage collector
// deletes a mirror that belongs to an earlier node of the same name, and a node may not change the owner, so such a mirror is
// replaced; but not before the node is registered.
func stands(mirror *corev1.Pod, hash string, node types.UID) bool {
	owner := metav1.GetControllerOf(mirror)
	return mirror.Annotations[podinfo.MirrorAnnotation] == hash && (node == "" || owner == nil || owner.UID == node)
}

// checkExisting looks at the pod that has the mirror's name: it is this mirror, of which the watch has not told yet, or an
// outdated one, which is deleted.
func (m *Mirror) checkExisting(ctx context.Context, mirror *corev1.Pod) error {
	have, err := m.opts.Pods(mirror.Namespace).Get(ctx, mirror.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("look at the pod that has the mirror's name: %w", err)
	}
	switch {
	case stands(have, mirror.Annotations[podinfo.MirrorAnnotation], metav1.GetControllerOf(mirror).UID):
		return nil
	case have.Annotations[podinfo.MirrorAnnotation] == "":
		return fmt.Errorf("create the mirror: pod %s/%s exists and is not a mirror", have.Namespace, have.Name)
	}
	if err := m.Delete(ctx, have); err != nil {
		return err
	}
	if _, err := m.opts.Pods(mirror.Namespace).Create(ctx, mirror, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create the mirror in place of an outdated one: %w", err)
	}
	return nil
}

// mirrorOf is the API object for a static pod.
func mirrorOf(static *corev1.Pod, node *corev1.Node) *corev1.Pod {
	mirror := static.DeepCopy()
	mirror.UID, mirror.ResourceVersion = "", ""
	mirror.Status = corev1.PodStatus{}
	mirror.Annotations[podinfo.MirrorAnnotation] = static.Annotations[podinfo.HashAnnotation]
	mirror.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: new(true)}}
	return mirror
}

// Delete removes a mirror from the apiserver; one that is gone already is no error.
func (m *Mirror) Delete(ctx context.Context, mirror *corev1.Pod) error {
	err := m.opts.Pods(mirror.Namespace).Delete(ctx, mirror.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(mirror.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete mirror pod %s/%s: %w", mirror.Namespace, mirror.Name, err)
	}
	return nil
}
