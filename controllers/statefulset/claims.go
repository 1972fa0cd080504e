// SPDX-License-Identifier: Apache-2.0

package statefulset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

// claimName is the name of a pod's claim.
func claimName(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) string {
	return fmt.Sprintf("%s-%s-%d", template.Name, set.Name, ordinal)
}

// isClaimOf tells whether a claim of that name is one of the set's pods'.
func isClaimOf(set *appsv1.StatefulSet, name string) bool {
	return slices.ContainsFunc(set.Spec.VolumeClaimTemplates, func(template corev1.PersistentVolumeClaim) bool {
		pod, ok := strings.CutPrefix(name, template.Name+"-")
		of, _ := parseName(pod)
		return ok && of == set.Name
	})
}

// newClaim makes the claim of a pod.
func newClaim(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) *corev1.PersistentVolumeClaim {
	claim := template.DeepCopy()
	claim.Name = claimName(set, template, ordinal)
	claim.Namespace = set.Namespace
	if claim.Labels == nil {
		claim.Labels = map[string]string{}
	}
	maps.Copy(claim.Labels, set.Spec.Selector.MatchLabels)
	return claim
}

// existingClaims returns those claims of a pod that the cache has.
func (r *rollout) existingClaims(pod *corev1.Pod) ([]*corev1.PersistentVolumeClaim, error) {
	var found []*corev1.PersistentVolumeClaim
	for i := range r.set.Spec.VolumeClaimTemplates {
		name := claimName(r.set, &r.set.Spec.VolumeClaimTemplates[i], ordinalOf(pod))
		claim, err := r.claims.PersistentVolumeClaims(r.set.Namespace).Get(name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, claim)
	}
	return found, nil
}

// createClaims creates the claims of a pod that are missing. One that is being deleted is in the way.
func (r *rollout) createClaims(ctx context.Context, pod *corev1.Pod) error {
	var errs []error
	for i := range r.set.Spec.VolumeClaimTemplates {
		claim := newClaim(r.set, &r.set.Spec.VolumeClaimTemplates[i], ordinalOf(pod))
		existing, err := r.claims.PersistentVolumeClaims(claim.Namespace).Get(claim.Name)
		switch {
		case apierrors.IsNotFound(err):
			_, err := r.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Create(ctx, claim, metav1.CreateOptions{})
			if err != nil {
				errs = append(errs, fmt.Errorf("create PVC %s: %w", claim.Name, err))
			}
			if !apierrors.IsAlreadyExists(err) {
				r.tellOfClaim(pod, claim, err)
			}
		case err != nil:
			errs = append(errs, err)
		case existing.DeletionTimestamp != nil:
			errs = append(errs, fmt.Errorf("pvc %s is being deleted", claim.Name))
		}
	}
	return errors.Join(errs...)
}

func (r *rollout) tellOfClaim(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim, err error) {
	if err != nil {
		r.events.Eventf(r.set, corev1.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %v", claim.Name, pod.Name, r.set.Name, err)
		return
	}
	r.events.Eventf(r.set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", claim.Name, pod.Name, r.set.Name)
}

// ownClaims makes set and pod the owners of the pod's claims as the retention policy says: a claim is deleted with its owners.
func (r *rollout) ownClaims(ctx context.Context, pod *corev1.Pod) error {
	claims, err := r.existingClaims(pod)
	if err != nil {
		return err
	}
	for _, claim := range claims {
		if foreign(claim, r.set, pod) {
			r.events.Eventf(r.set, corev1.EventTypeWarning, "ConflictingController",
				"PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim", claim.Name)
		}
		refs, changed := claimOwners(claim, r.set, pod)
		if !changed {
			continue
		}
		claim = claim.DeepCopy()
		claim.OwnerReferences = refs
		if _, err := r.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update owners of PVC %s: %w", claim.Name, err)
		}
	}
	return nil
}

// claimsOwned tells whether there is nothing for ownClaims to do.
func (r *rollout) claimsOwned(pod *corev1.Pod) (bool, error) {
	claims, err := r.existingClaims(pod)
	if err != nil {
		return false, err
	}
	for _, claim := range claims {
		if _, changed := claimOwners(claim, r.set, pod); changed {
			return false, nil
		}
	}
	return true, nil
}

// claimsOutlive tells whether a claim is still owned by an earlier pod of the same name. It goes soon, and the new pod must
// not use it.
func (r *rollout) claimsOutlive(pod *corev1.Pod) (bool, error) {
	if scaled, _ := retention(r.set); scaled == appsv1.RetainPersistentVolumeClaimRetentionPolicyType {
		return false, nil
	}
	claims, err := r.existingClaims(pod)
	return slices.ContainsFunc(claims, func(claim *corev1.PersistentVolumeClaim) bool { return ownedByPredecessor(claim, pod, podKind) }), err
}

// retention is what becomes of claims when their pod is scaled away, and when the set is deleted.
func retention(set *appsv1.StatefulSet) (whenScaled, whenDeleted appsv1.PersistentVolumeClaimRetentionPolicyType) {
	if p := set.Spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		return p.WhenScaled, p.WhenDeleted
	}
	return appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.RetainPersistentVolumeClaimRetentionPolicyType
}

// claimOwners returns the owners that a claim should have, and whether that changes anything. What an earlier set or pod of
// the same name owns is left alone.
func claimOwners(claim *corev1.PersistentVolumeClaim, set *appsv1.StatefulSet, pod *corev1.Pod) (refs []metav1.OwnerReference, changed bool) {
	if ownedByPredecessor(claim, set, kind) || ownedByPredecessor(claim, pod, podKind) {
		return claim.OwnerReferences, false
	}
	const remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	whenScaled, whenDeleted := retention(set)
	goesWithPod := whenScaled == remove && !wanted(set, ordinalOf(pod))
	goesWithSet := whenDeleted == remove && !goesWithPod
	if foreign(claim, set, pod) {
		goesWithPod, goesWithSet = false, false
	}
	if owns(claim, set) == goesWithSet && owns(claim, pod) == goesWithPod && !owns(claim, set, notAsController) && !owns(claim, pod, notAsController) {
		return claim.OwnerReferences, false
	}
	for _, ref := range claim.OwnerReferences {
		if !refersTo(&ref, set, kind) && !refersTo(&ref, pod, podKind) {
			refs = append(refs, ref)
		}
	}
	if goesWithPod {
		refs = append(refs, *metav1.NewControllerRef(pod, podKind))
	}
	if goesWithSet {
		refs = append(refs, *metav1.NewControllerRef(set, kind))
	}
	return refs, true
}

// refersTo tells whether a reference names the object, whatever its UID.
func refersTo(ref *metav1.OwnerReference, obj metav1.Object, kind schema.GroupVersionKind) bool {
	return ref.APIVersion == kind.GroupVersion().String() && ref.Kind == kind.Kind && ref.Name == obj.GetName()
}

// ownedByPredecessor tells whether an object of the same name, but not the same, owns the claim.
func ownedByPredecessor(claim *corev1.PersistentVolumeClaim, obj metav1.Object, kind schema.GroupVersionKind) bool {
	i := slices.IndexFunc(claim.OwnerReferences, func(ref metav1.OwnerReference) bool { return refersTo(&ref, obj, kind) })
	return i >= 0 && claim.OwnerReferences[i].UID != obj.GetUID()
}

func notAsController(ref metav1.OwnerReference) bool { return !ptr.Deref(ref.Controller, false) }

// owns tells whether the object is an owner of the claim, by a reference for which all of the given conditions hold.
func owns(claim *corev1.PersistentVolumeClaim, obj metav1.Object, conditions ...func(metav1.OwnerReference) bool) bool {
	return slices.ContainsFunc(claim.OwnerReferences, func(ref metav1.OwnerReference) bool {
		for _, holds := range conditions {
			if !holds(ref) {
				return false
			}
		}
		return ref.UID == obj.GetUID()
	})
}

// foreign tells whether somebody else controls a claim that the retention policy would be for.
func foreign(claim *corev1.PersistentVolumeClaim, set *appsv1.StatefulSet, pod *corev1.Pod) bool {
	const retain = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	if scaled, deleted := retention(set); scaled == retain && deleted == retain {
		return false
	}
	for _, ref := range claim.OwnerReferences {
		switch {
		case refersTo(&ref, set, kind):
			if ref.UID != set.UID {
				return true
			}
		case refersTo(&ref, pod, podKind):
			if ref.UID != pod.UID {
				return true
			}
		case !notAsController(ref):
			return true
		}
	}
	return false
}
