// SPDX-License-Identifier: Apache-2.0

package persistentvolume

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	storagehelper "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// step is what is to be done about a claim. Without bind and ask it is only about the claim's phase.
type step struct {
	bind  *corev1.PersistentVolume // bind the claim to this volume
	class string                   // or give it this class, the default one
	ask   string                   // or ask this provisioner for a volume

	phase corev1.PersistentVolumeClaimPhase // set this one; empty leaves it

	event *event
	err   error // what the caller shall be told in the end: the claim is looked at again
}

// event is for the object that the step is about. A warning about a loss is sent only when the phase changes.
type event struct {
	kind, reason, message string
	once                  bool
}

func warning(reason, format string, args ...any) *event {
	return &event{kind: corev1.EventTypeWarning, reason: reason, message: fmt.Sprintf(format, args...)}
}

func normal(reason, format string, args ...any) *event {
	return &event{kind: corev1.EventTypeNormal, reason: reason, message: fmt.Sprintf(format, args...)}
}

func lost(reason, message string) step {
	return step{phase: corev1.ClaimLost, event: &event{kind: corev1.EventTypeWarning, reason: reason, message: message, once: true}}
}

// reconcileClaim does the next step for a claim.
func (b *binder) reconcileClaim(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	claim, err := b.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		b.operations.forget(key.String())
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	s, err := b.decide(claim)
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, b.do(ctx, claim, s)
}

func (b *binder) decide(claim *corev1.PersistentVolumeClaim) (step, error) {
	var pv *corev1.PersistentVolume
	if name := claim.Spec.VolumeName; name != "" {
		var err error
		if pv, err = b.volumes.Get(name); err != nil && !apierrors.IsNotFound(err) {
			return step{}, err
		}
	}
	switch {
	case bindCompleted(claim):
		return boundStep(claim, pv), nil
	case claim.Spec.VolumeName != "":
		return wantedStep(claim, pv), nil
	}
	return b.freeStep(claim)
}

// boundStep is for a claim that was bound once: whatever happened to its volume, it never gets another one.
func boundStep(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) step {
	switch {
	case claim.Spec.VolumeName == "":
		return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	case pv == nil:
		return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID != claim.UID:
		return lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
	}
	return step{bind: pv}
}

// wantedStep is for a claim that names the volume that it wants.
func wantedStep(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) step {
	pending := step{phase: corev1.ClaimPending}
	switch {
	case pv == nil:
		return pending // until the volume is made
	case pv.Spec.ClaimRef == nil:
		if why := mismatch(claim, pv); why != "" {
			pending.event = warning("VolumeMismatch", "Cannot bind to requested volume %q: %s", pv.Name, why)
			return pending
		}
		return step{bind: pv}
	case storagehelper.IsVolumeBoundToClaim(pv, claim):
		return step{bind: pv}
	}
	taken := warning("FailedBinding", "volume %q already bound to a different claim.", pv.Name)
	if _, ours := claim.Annotations[storagehelper.AnnBoundByController]; ours { // somebody took our mark off the claim
		return step{event: taken, err: fmt.Errorf("invalid binding of claim %s/%s to volume %q: volume already claimed by %q",
			claim.Namespace, claim.Name, pv.Name, claimOf(pv))}
	}
	pending.event = taken
	return pending
}

// mismatch says why a volume cannot be what the claim asks for, or nothing.
func mismatch(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) string {
	size := pv.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case pv.DeletionTimestamp != nil:
		return fmt.Sprintf("the volume is marked for deletion %q", pv.Name)
	case size.Cmp(claim.Spec.Resources.Requests[corev1.ResourceStorage]) < 0:
		return "requested PV is too small"
	case storagehelper.GetPersistentVolumeClass(pv) != storagehelper.GetPersistentVolumeClaimClass(claim):
		return "storageClassName does not match"
	case ptr.Deref(pv.Spec.VolumeAttributesClassName, "") != ptr.Deref(claim.Spec.VolumeAttributesClassName, ""):
		return "volumeAttributesClassName does not match"
	case storagehelper.CheckVolumeModeMismatches(&claim.Spec, &pv.Spec):
		return "incompatible volumeMode"
	case !storagehelper.CheckAccessModes(claim, pv):
		return "incompatible accessMode"
	}
	return ""
}

// freeStep is for a claim that takes any volume that fits.
func (b *binder) freeStep(claim *corev1.PersistentVolumeClaim) (step, error) {
	delayed, err := storagehelper.IsDelayBindingMode(claim, b.classes)
	if err != nil {
		return step{}, err
	}
	all, err := b.volumes.List(labels.Everything())
	if err != nil {
		return step{}, err
	}
	pv, err := bestMatch(claim, all, delayed)
	if err != nil {
		return step{}, fmt.Errorf("error finding PV for claim %q: %w", reconcile.KeyOf(claim), err)
	}
	if pv != nil {
		return step{bind: pv}, nil
	}
	if !storagehelper.PersistentVolumeClaimHasClass(claim) {
		classes, err := b.classes.List(labels.Everything())
		if err != nil {
			return step{}, err
		}
		if class := defaultClass(classes); class != "" {
			return step{class: class}, nil
		}
	}
	if delayed && !storagehelper.IsDelayBindingProvisioning(claim) {
		pods, err := b.waitingPods(reconcile.KeyOf(claim))
		return step{phase: corev1.ClaimPending, event: consumerEvent(pods)}, err
	}
	return b.provisionStep(claim), nil
}

// bestMatch returns the smallest volume that fits, with as few access modes more than asked for as possible;
// or the one that is promised to the claim already.
func bestMatch(claim *corev1.PersistentVolumeClaim, all []*corev1.PersistentVolume, delayed bool) (*corev1.PersistentVolume, error) {
	byModes := map[int][]*corev1.PersistentVolume{}
	for _, pv := range all {
		if storagehelper.CheckAccessModes(claim, pv) {
			n := len(pv.Spec.AccessModes)
			byModes[n] = append(byModes[n], pv)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(byModes)) {
		pv, err := storagehelper.FindMatchingVolume(claim, byModes[n], nil, nil, delayed, true)
		if pv != nil || err != nil {
			return pv, err
		}
	}
	return nil, nil
}

// defaultClass names the newest of the default classes.
func defaultClass(classes []*storagev1.StorageClass) string {
	var best *storagev1.StorageClass
	for _, c := range classes {
		isDefault := c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" ||
			c.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true"
		if isDefault && (best == nil || newer(c, best)) {
			best = c
		}
	}
	if best == nil {
		return ""
	}
	return best.Name
}

func newer(a, b *storagev1.StorageClass) bool {
	if a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.Name < b.Name
	}
	return b.CreationTimestamp.Before(&a.CreationTimestamp)
}

// consumerEvent says what a claim waits for that is bound only when a pod is scheduled.
func consumerEvent(pods []string) *event {
	switch len(pods) {
	case 0:
		return normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case 1:
		return normal("WaitForPodScheduled", "waiting for pod %s to be scheduled", pods[0])
	}
	return normal("WaitForPodScheduled", "waiting for pods %s to be scheduled", strings.Join(pods, ","))
}

// provisionStep is for a claim that no volume fits.
func (b *binder) provisionStep(claim *corev1.PersistentVolumeClaim) step {
	name := storagehelper.GetPersistentVolumeClaimClass(claim)
	if name == "" {
		return step{phase: corev1.ClaimPending, event: normal("FailedBinding", "no persistent volumes available for this claim and no storage class is set")}
	}
	class, err := b.classes.Get(name)
	switch {
	case err != nil:
		return step{event: warning("ProvisioningFailed", "%v", err)}
	case strings.HasPrefix(class.Provisioner, inTree):
		return step{event: warning("ProvisioningFailed", "no volume plugin matched name: %s", class.Provisioner)}
	}
	return step{ask: class.Provisioner, event: normal("ExternalProvisioning",
		"Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
			"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner)}
}

func (b *binder) do(ctx context.Context, claim *corev1.PersistentVolumeClaim, s step) error {
	switch {
	case s.bind != nil:
		return b.bind(ctx, s.bind, claim)
	case s.class != "":
		claim = claim.DeepCopy()
		claim.Spec.StorageClassName = &s.class
		_, err := b.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
		b.metrics.ClassesAssigned.Inc()
		if err != nil {
			b.metrics.ClassesNotSaved.Inc()
			return fmt.Errorf("can't update PersistentVolumeClaim[%q]: %w", reconcile.KeyOf(claim), err)
		}
		return nil // the update queues it again
	case s.ask != "":
		b.operations.begin(reconcile.KeyOf(claim).String(), s.ask, provisioning)
		if err := b.ask(ctx, claim, s.ask); err != nil {
			b.operations.result(reconcile.KeyOf(claim).String(), err)
			b.events.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "Error saving claim: %v", err)
			return err
		}
	}
	changes := s.phase != "" && claim.Status.Phase != s.phase
	if s.phase != "" {
		if err := b.setClaim(ctx, claim, s.phase, nil); err != nil {
			return err
		}
	}
	if e := s.event; e != nil && (changes || !e.once) {
		b.events.Event(claim, e.kind, e.reason, e.message)
	}
	return s.err
}

// ask tells a provisioner that the claim needs a volume.
func (b *binder) ask(ctx context.Context, claim *corev1.PersistentVolumeClaim, provisioner string) error {
	if claim.Annotations[storagehelper.AnnStorageProvisioner] == provisioner {
		return nil
	}
	claim = claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, storagehelper.AnnBetaStorageProvisioner, provisioner)
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, storagehelper.AnnStorageProvisioner, provisioner)
	_, err := b.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	return err
}

// bind makes volume and claim each other's, in four writes that another call goes on with if one does not succeed.
func (b *binder) bind(ctx context.Context, pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	pv, err := b.bindVolume(ctx, pv, claim)
	if err == nil {
		pv, err = b.setPhase(ctx, pv, corev1.VolumeBound)
	}
	if err == nil {
		claim, err = b.bindClaim(ctx, claim, pv)
	}
	if err == nil {
		err = b.setClaim(ctx, claim, corev1.ClaimBound, pv)
	}
	b.operations.result(reconcile.KeyOf(claim).String(), err)
	if err != nil {
		return fmt.Errorf("bind volume %s to claim: %w", pv.Name, err)
	}
	return nil
}

func (b *binder) bindVolume(ctx context.Context, old *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) (*corev1.PersistentVolume, error) {
	pv, changed, err := storagehelper.GetBindVolumeToClaim(old, claim)
	if err != nil || !changed {
		return old, err
	}
	if err := b.checkFresh(ctx, claim); err != nil {
		return old, err
	}
	pv, err = b.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
	if err != nil {
		return old, err
	}
	return pv, nil
}

// checkFresh tells whether the claim is what the API has.
func (b *binder) checkFresh(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	now, err := b.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Get(ctx, claim.Name, metav1.GetOptions{})
	if err == nil && (now.UID != claim.UID || now.ResourceVersion != claim.ResourceVersion) {
		err = reconcile.ErrStale
	}
	return err
}

func (b *binder) bindClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	if claim.Spec.VolumeName == pv.Name && bindCompleted(claim) {
		return claim, nil
	}
	claim = claim.DeepCopy()
	if claim.Spec.VolumeName != pv.Name {
		claim.Spec.VolumeName = pv.Name
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, storagehelper.AnnBoundByController, "yes")
	}
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, storagehelper.AnnBindCompleted, "yes")
	return b.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
}

// setClaim writes a claim's status as its phase and its volume, if it has one, say.
func (b *binder) setClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, pv *corev1.PersistentVolume) error {
	status, err := claimStatus(claim, phase, pv)
	if err != nil || apiequality.Semantic.DeepEqual(*status, claim.Status) {
		return err
	}
	claim = claim.DeepCopy()
	claim.Status = *status
	if _, err := b.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update status of claim: %w", err)
	}
	return nil
}

// sizeBefore is the annotation of a volume whose file system is smaller than the volume.
const sizeBefore = "volume.alpha.kubernetes.io/pre-resize-capacity"

// claimStatus is the claim's status in a phase. The capacity is that of the volume at the time of binding: later,
// who grows the file system has the say, as with the attributes class.
func claimStatus(claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, pv *corev1.PersistentVolume) (*corev1.PersistentVolumeClaimStatus, error) {
	s, was := claim.Status.DeepCopy(), claim.Status.Phase
	s.Phase = phase
	if pv == nil {
		s.AccessModes, s.Capacity, s.CurrentVolumeAttributesClassName = nil, nil, nil
		return s, nil
	}
	s.AccessModes = pv.Spec.AccessModes
	if was == phase {
		return s, nil
	}
	size, ok := pv.Spec.Capacity[corev1.ResourceStorage]
	if !ok {
		return nil, fmt.Errorf("PersistentVolume %q is without a storage capacity", pv.Name)
	}
	s.Capacity = pv.Spec.Capacity.DeepCopy()
	if before, ok := pv.Annotations[sizeBefore]; ok {
		if q, err := resource.ParseQuantity(before); err == nil {
			size = q
		}
	}
	s.Capacity[corev1.ResourceStorage] = size
	if was == corev1.ClaimPending {
		s.CurrentVolumeAttributesClassName = pv.Spec.VolumeAttributesClassName
	}
	return s, nil
}
