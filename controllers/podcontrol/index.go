// SPDX-License-Identifier: Apache-2.0

package podcontrol

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Names of the indexes on the shared pod informer.
const (
	nodeIndex  = "spec.nodeName"
	claimIndex = "podClaim"
)

// IndexByNode lets ByNode find pods. Call it before the informer starts.
func IndexByNode(pods cache.SharedIndexInformer) error {
	return reconcile.AddIndex(pods, nodeIndex, func(obj any) ([]string, error) {
		pod, ok := obj.(*corev1.Pod)
		if !ok || pod.Spec.NodeName == "" {
			return nil, nil
		}
		return []string{pod.Spec.NodeName}, nil
	})
}

// IndexByClaim lets ByClaim find pods. Call it before the informer starts.
func IndexByClaim(pods cache.SharedIndexInformer) error {
	return reconcile.AddIndex(pods, claimIndex, func(obj any) ([]string, error) {
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			return nil, nil
		}
		var keys []string
		for claim := range Claims(pod) {
			keys = append(keys, claim.String())
		}
		return keys, nil
	})
}

// Claims iterates over the PersistentVolumeClaims behind a pod's volumes, those made for the pod included.
func Claims(pod *corev1.Pod) iter.Seq[types.NamespacedName] {
	return func(yield func(types.NamespacedName) bool) {
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			name := ""
			switch {
			case v.PersistentVolumeClaim != nil:
				name = v.PersistentVolumeClaim.ClaimName
			case v.Ephemeral != nil:
				name = ephemeral.VolumeClaimName(pod, v)
			default:
				continue
			}
			if !yield(types.NamespacedName{Namespace: pod.Namespace, Name: name}) {
				return
			}
		}
	}
}

// ByNode returns the pods bound to the node.
func ByNode(pods cache.Indexer, node string) ([]*corev1.Pod, error) {
	return reconcile.ByIndex[*corev1.Pod](pods, nodeIndex, node)
}

// ByClaim returns the pods with a volume of this claim.
func ByClaim(pods cache.Indexer, claim types.NamespacedName) ([]*corev1.Pod, error) {
	return reconcile.ByIndex[*corev1.Pod](pods, claimIndex, claim.String())
}
