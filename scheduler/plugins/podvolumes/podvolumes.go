// SPDX-License-Identifier: Apache-2.0

// Package podvolumes reads what the volume plugins need of a pod's PersistentVolumeClaims.
package podvolumes

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Listers reads claims and what they lead to.
type Listers struct {
	Claims  corelisters.PersistentVolumeClaimLister
	Volumes corelisters.PersistentVolumeLister
	Classes storagelisters.StorageClassLister
}

// NewListers starts the informers the first time.
func NewListers(ctx context.Context, h *framework.Handle) (*Listers, error) {
	if err := h.Need(ctx, framework.PersistentClaim, framework.PersistentVolume, framework.StorageClass); err != nil {
		return nil, err
	}
	core := h.Informers.Core().V1()
	return &Listers{
		core.PersistentVolumeClaims().Lister(), core.PersistentVolumes().Lister(),
		h.Informers.Storage().V1().StorageClasses().Lister(),
	}, nil
}

// ClaimName returns the name of the claim behind a volume; "" if there is none. An ephemeral volume's is made for the pod.
func ClaimName(pod *v1.Pod, volume *v1.Volume) (name string, ephemeral bool) {
	switch {
	case volume.PersistentVolumeClaim != nil:
		return volume.PersistentVolumeClaim.ClaimName, false
	case volume.Ephemeral != nil:
		return pod.Name + "-" + volume.Name, true
	}
	return "", false
}

// HasClaims says whether any volume of the pod is backed by a claim.
func HasClaims(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if name, _ := ClaimName(pod, &pod.Spec.Volumes[i]); name != "" {
			return true
		}
	}
	return false
}

// Missing is a claim that is not there or not usable, which only a change of the claim can mend.
type Missing struct{ reason string }

func (m *Missing) Error() string { return m.reason }

// Of returns the pod's claims, each once. The error is a *Missing if one is not there.
func (l *Listers) Of(pod *v1.Pod) ([]*v1.PersistentVolumeClaim, error) {
	var claims []*v1.PersistentVolumeClaim
	seen := make(map[string]bool)
	for i := range pod.Spec.Volumes {
		name, ephemeral := ClaimName(pod, &pod.Spec.Volumes[i])
		if name == "" || seen[name] {
			continue
		}
		seen[name] = true
		claim, err := l.get(pod, name, ephemeral)
		if err != nil {
			return nil, err
		}
		claims = append(claims, claim)
	}
	return claims, nil
}

func (l *Listers) get(pod *v1.Pod, name string, ephemeral bool) (*v1.PersistentVolumeClaim, error) {
	claim, err := l.Claims.PersistentVolumeClaims(pod.Namespace).Get(name)
	switch {
	case apierrors.IsNotFound(err) && ephemeral:
		return nil, &Missing{fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)}
	case apierrors.IsNotFound(err):
		return nil, &Missing{fmt.Sprintf("persistentvolumeclaim %q not found", name)}
	case err != nil:
		return nil, err
	case ephemeral && !metav1.IsControlledBy(claim, pod):
		return nil, &Missing{fmt.Sprintf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, claim.Name, pod.Namespace, pod.Name)}
	}
	return claim, nil
}

// ClaimHint is for pods that wait for a claim of theirs.
func ClaimHint(action framework.Action) framework.Hint {
	return framework.Hint{Kind: framework.PersistentClaim, Action: action, Helps: claimOfPod}
}

// claimOfPod says whether the claim is in the pod's namespace and one that it uses.
func claimOfPod(pod *framework.PodInfo, event *framework.Event) bool {
	claim, ok := event.New.(*v1.PersistentVolumeClaim)
	if !ok || claim.Namespace != pod.Pod.Namespace {
		return false
	}
	for i := range pod.Pod.Spec.Volumes {
		if name, _ := ClaimName(pod.Pod, &pod.Pod.Spec.Volumes[i]); name == claim.Name {
			return true
		}
	}
	return false
}
