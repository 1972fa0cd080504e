// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// bindingREST serves pods/binding, by which a scheduler gives a pod its node.
type bindingREST struct{ store *rest.Store }

var (
	_ genericrest.NamedCreater                   = &bindingREST{}
	_ genericrest.SubresourceObjectMetaPreserver = &bindingREST{}
)

func (b *bindingREST) New() runtime.Object { return &corev1.Binding{} }

// Destroy does nothing: the pods' store is destroyed with the pods.
func (b *bindingREST) Destroy() {}

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps UID and resourceVersion: they are preconditions.
func (b *bindingREST) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

func (b *bindingREST) Create(ctx context.Context, name string, obj runtime.Object, validate genericrest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %#v", obj))
	}
	if name != binding.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if errs := validateBinding(binding); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	if validate != nil {
		if err := validate(ctx, binding.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := b.bind(ctx, binding, dryrun.IsDryRun(options.DryRun)); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func (b *bindingREST) bind(ctx context.Context, binding *corev1.Binding, dryRun bool) error {
	key, err := b.store.KeyFunc(ctx, binding.Name)
	if err != nil {
		return err
	}
	err = b.store.Storage.GuaranteedUpdate(ctx, key, &corev1.Pod{}, false, bindingPreconditions(binding),
		storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
			pod := o.(*corev1.Pod)
			return pod, bindPod(pod, binding)
		}), dryRun, nil)
	pods := b.store.DefaultQualifiedResource
	err = storeerr.InterpretUpdateError(storeerr.InterpretGetError(err, pods, binding.Name), pods, binding.Name)
	if _, ok := err.(apierrors.APIStatus); err != nil && !ok {
		return apierrors.NewConflict(corev1.Resource("pods/binding"), binding.Name, err)
	}
	return err
}

func bindingPreconditions(binding *corev1.Binding) *storage.Preconditions {
	if binding.UID == "" && binding.ResourceVersion == "" {
		return nil
	}
	p := &storage.Preconditions{}
	if binding.UID != "" {
		p.UID = &binding.UID
	}
	if binding.ResourceVersion != "" {
		p.ResourceVersion = &binding.ResourceVersion
	}
	return p
}

// bindPod puts a binding's node, annotations and labels on the pod, unless the pod cannot be bound.
func bindPod(pod *corev1.Pod, binding *corev1.Binding) error {
	switch {
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return fmt.Errorf("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) != 0:
		return fmt.Errorf("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = binding.Target.Name
	pod.Status.NominatedNodeName = ""
	pod.Annotations = merged(pod.Annotations, binding.Annotations)
	pod.Labels = merged(pod.Labels, binding.Labels)
	setPodScheduled(pod)
	return nil
}

func merged(into, more map[string]string) map[string]string {
	if into == nil && len(more) > 0 {
		into = make(map[string]string, len(more))
	}
	maps.Copy(into, more)
	return into
}

func setPodScheduled(pod *corev1.Pod) {
	setPodCondition(pod, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation})
}

// setPodCondition sets the condition of want's type. Its transition time is now if its status changes.
func setPodCondition(pod *corev1.Pod, want corev1.PodCondition) {
	want.LastTransitionTime = metav1.Now()
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if c.Type != want.Type {
			continue
		}
		if c.Status == want.Status {
			want.LastTransitionTime = c.LastTransitionTime
		}
		*c = want
		return
	}
	pod.Status.Conditions = append(pod.Status.Conditions, want)
}

// legacyBindingREST serves bindings, the resource that does the same for the pod of the binding's name.
type legacyBindingREST struct{ *bindingREST }

var _ genericrest.Creater = &legacyBindingREST{}

// Bindings serves the resource bindings on top of the pods' store.
func Bindings(pods *rest.Store) genericrest.Storage { return &legacyBindingREST{&bindingREST{pods}} }

func (*legacyBindingREST) NamespaceScoped() bool { return true }

// GetSingularName implements rest.SingularNameProvider.
func (*legacyBindingREST) GetSingularName() string { return "binding" }

func (b *legacyBindingREST) Create(ctx context.Context, obj runtime.Object, validate genericrest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %T", obj))
	}
	return b.bindingREST.Create(ctx, binding.Name, binding, validate, options)
}
