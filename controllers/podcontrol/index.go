// SPDX-License-Identifier: Apache-2.0

package podcontrol

import (
	"fmt"
	"iter"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/skiff-k8s/skiff/controllers/owner"
)

// Names of the indexes on the shared pod informer.
const (
	nodeIndex  = "spec.nodeName"
	claimIndex = "podClaim"
)

// IndexByController lets ByController find pods. Call it before the informer starts.
func IndexByController(pods cache.SharedIndexInformer) error {
	return owner.Index(pods)
}

// IndexByNode lets ByNode find pods. Call it before the informer starts.
func IndexByNode(pods cache.SharedIndexInformer) error {
	return addIndex(pods, nodeIndex, func(obj any) ([]string, error) {
		pod, ok := obj.(*corev1.Pod)
		if !ok || pod.Spec.NodeName == "" {
			return nil, nil
		}
		return []string{pod.Spec.NodeName}, nil
	})
}

// IndexByClaim lets ByClaim find pods. Call it before the informer starts.
func IndexByClaim(pods cache.SharedIndexInformer) error {
	return addIndex(pods, claimIndex, func(obj any) ([]string, error) {
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

func addIndex(informer cache.SharedIndexInformer, name string, index cache.IndexFunc) error {
	if _, ok := informer.GetIndexer().GetIndexers()[name]; ok {
		return nil
	}
	if err := informer.AddIndexers(cache.Indexers{name: index}); err != nil {
		return fmt.Errorf("add index %q: %w", name, err)
	}
	return nil
}

// ByController returns the pods whose controller has this UID.
func ByController(pods cache.Indexer, uid types.UID) ([]*corev1.Pod, error) {
	return owner.Owned[*corev1.Pod](pods, uid)
}

// Orphans returns the pods of the namespace that have no controller.
func Orphans(pods cache.Indexer, namespace string) ([]*corev1.Pod, error) {
	return owner.Orphans[*corev1.Pod](pods, namespace)
}

// ByNode returns the pods bound to the node.
func ByNode(pods cache.Indexer, node string) ([]*corev1.Pod, error) {
	return byIndex(pods, nodeIndex, node)
}

// ByClaim returns the pods with a volume of this claim.
func ByClaim(pods cache.Indexer, claim types.NamespacedName) ([]*corev1.Pod, error) {
	return byIndex(pods, claimIndex, claim.String())
}

func byIndex(pods cache.Indexer, index, key string) ([]*corev1.Pod, error) {
	objs, err := pods.ByIndex(index, key)
	if err != nil {
		return nil, err
	}
	found := make([]*corev1.Pod, 0, len(objs))
	for _, obj := range objs {
		found = append(found, obj.(*corev1.Pod))
	}
	return found, nil
}
