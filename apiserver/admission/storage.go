// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/utils/ptr"
)

const (
	defaultStorageClassAnnotation     = "storageclass.kubernetes.io/is-default-class"
	betaDefaultStorageClassAnnotation = "storageclass.beta.kubernetes.io/is-default-class"
	ingressClassAnnotation            = "kubernetes.io/ingress.class"
)

// defaultStorageClass gives claims that name no class the default one.
type defaultStorageClass struct {
	*admission.Handler
	classes storagelisters.StorageClassLister
	synced  synced
}

var _ admission.MutationInterface = (*defaultStorageClass)(nil)

func newDefaultStorageClass(d *Deps) admission.Interface {
	informer := d.Informers.Storage().V1().StorageClasses()
	return &defaultStorageClass{admission.NewHandler(admission.Create), informer.Lister(), waitFor(informer.Informer())}
}

func (p *defaultStorageClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok || a.GetSubresource() != "" || hasStorageClass(claim) {
		return nil
	}
	if err := p.synced.wait(ctx, a); err != nil {
		return err
	}
	classes, err := p.classes.List(labels.Everything())
	if err != nil {
		return forbid(a, err)
	}
	classes = slices.DeleteFunc(classes, func(c *storagev1.StorageClass) bool {
		return c.Annotations[defaultStorageClassAnnotation] != "true" && c.Annotations[betaDefaultStorageClassAnnotation] != "true"
	})
	if len(classes) > 0 {
		claim.Spec.StorageClassName = ptr.To(slices.MinFunc(classes, newestFirst).Name)
	}
	return nil
}

// newestFirst orders by age, and by name what is of the same age.
func newestFirst[T metav1.Object](a, b T) int {
	at, bt := a.GetCreationTimestamp(), b.GetCreationTimestamp()
	if at.Equal(&bt) {
		return strings.Compare(a.GetName(), b.GetName())
	}
	return bt.Compare(at.Time)
}

func hasStorageClass(claim *corev1.PersistentVolumeClaim) bool {
	_, annotated := claim.Annotations[corev1.BetaStorageClassAnnotation]
	return annotated || claim.Spec.StorageClassName != nil
}

func storageClassOf(claim *corev1.PersistentVolumeClaim) string {
	if class, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return ptr.Deref(claim.Spec.StorageClassName, "")
}

// storageObjectInUseProtection keeps volumes and claims until nobody uses them any more.
type storageObjectInUseProtection struct{ *admission.Handler }

var _ admission.MutationInterface = storageObjectInUseProtection{}

func newStorageObjectInUseProtection(*Deps) admission.Interface {
	return storageObjectInUseProtection{admission.NewHandler(admission.Create)}
}

func (storageObjectInUseProtection) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" {
		return nil
	}
	finalizer := ""
	switch a.GetObject().(type) {
	case *corev1.PersistentVolume:
		finalizer = "kubernetes.io/pv-protection"
	case *corev1.PersistentVolumeClaim:
		finalizer = "kubernetes.io/pvc-protection"
	case *storagev1.VolumeAttributesClass:
		finalizer = "kubernetes.io/vac-protection"
	default:
		return nil
	}
	object, err := meta.Accessor(a.GetObject())
	if err != nil {
		return err
	}
	if all := object.GetFinalizers(); !slices.Contains(all, finalizer) {
		object.SetFinalizers(append(all, finalizer))
	}
	return nil
}

// claimResize allows claims to grow if their class can do that.
type claimResize struct {
	*admission.Handler
	classes storagelisters.StorageClassLister
}

var _ admission.ValidationInterface = (*claimResize)(nil)

func newClaimResize(d *Deps) admission.Interface {
	return &claimResize{admission.NewHandler(admission.Update), d.Informers.Storage().V1().StorageClasses().Lister()}
}

func (p *claimResize) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	old, okOld := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok || !okOld || a.GetSubresource() != "" {
		return nil
	}
	before, after := old.Spec.Resources.Requests[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if after.Cmp(before) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return forbid(a, errors.New("Only bound persistent volume claims can be expanded"))
	}
	class, err := p.classes.Get(storageClassOf(claim))
	if err != nil || storageClassOf(old) != class.Name || !ptr.Deref(class.AllowVolumeExpansion, false) {
		return forbid(a, errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
	}
	return nil
}

// defaultIngressClass gives Ingresses that name no class the default one.
type defaultIngressClass struct {
	*admission.Handler
	classes networkinglisters.IngressClassLister
	synced  synced
}

var _ admission.MutationInterface = (*defaultIngressClass)(nil)

func newDefaultIngressClass(d *Deps) admission.Interface {
	informer := d.Informers.Networking().V1().IngressClasses()
	return &defaultIngressClass{admission.NewHandler(admission.Create), informer.Lister(), waitFor(informer.Informer())}
}

func (p *defaultIngressClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	ingress, ok := a.GetObject().(*networkingv1.Ingress)
	if !ok || a.GetSubresource() != "" || ingress.Spec.IngressClassName != nil {
		return nil
	}
	if _, annotated := ingress.Annotations[ingressClassAnnotation]; annotated {
		return nil
	}
	if err := p.synced.wait(ctx, a); err != nil {
		return err
	}
	classes, err := p.classes.List(labels.Everything())
	if err != nil {
		return forbid(a, err)
	}
	classes = slices.DeleteFunc(classes, func(c *networkingv1.IngressClass) bool {
		return c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true"
	})
	if len(classes) > 0 {
		ingress.Spec.IngressClassName = ptr.To(slices.MinFunc(classes, newestFirst).Name)
	}
	return nil
}
