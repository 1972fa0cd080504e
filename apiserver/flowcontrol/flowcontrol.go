// SPDX-License-Identifier: Apache-2.0

// Package flowcontrol keeps the FlowSchemas and PriorityLevelConfigurations that every cluster has. The
// queues themselves, which share out the server's time among clients, are k8s.io/apiserver's.
//
// Mandatory objects always are as they must be, but for the shares of the level exempt. Suggested ones are
// what a person makes of them once that person has changed their spec, or said so in the annotation
// apf.kubernetes.io/autoupdate-spec. What is deleted comes back. Upstream looks once a minute; here a change
// is what makes it look.
// Reference: https://kubernetes.io/docs/concepts/cluster-administration/flow-control/
package flowcontrol

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// HookName is upstream's, which a person sees in /readyz?verbose.
const HookName = "priority-and-fairness-config-producer"

// fieldManager is upstream's, for managedFields.
const fieldManager = "api-priority-and-fairness-config-producer-v1"

// pause is the shortest time between two looks, so that two servers of different releases do not fight all
// day, and the time after which an error is tried again.
const pause = time.Second

// Keeper keeps the objects.
type Keeper struct {
	levels  kind[*flowcontrolv1.PriorityLevelConfiguration]
	schemas kind[*flowcontrolv1.FlowSchema]
	synced  []cache.DoneChecker
	changed chan struct{} // has room for one: that there was a change
	ready   chan struct{} // closed when all objects have been in place for the first time
}

// New watches the informers, and must be called before they start. setDefaults is the scheme's.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, setDefaults func(runtime.Object)) (*Keeper, error) {
	api, watched := client.FlowcontrolV1(), factory.Flowcontrol().V1()
	k := &Keeper{
		levels: kind[*flowcontrolv1.PriorityLevelConfiguration]{
			writer: api.PriorityLevelConfigurations(), reader: watched.PriorityLevelConfigurations().Lister(),
			suggested: bootstrap.SuggestedPriorityLevelConfigurations, mandatory: bootstrap.MandatoryPriorityLevelConfigurations,
			copy: (*flowcontrolv1.PriorityLevelConfiguration).DeepCopy, setDefaults: setDefaults,
			setSpec: func(of, as *flowcontrolv1.PriorityLevelConfiguration) { of.Spec = as.Spec },
			same:    sameLevel,
		},
		schemas: kind[*flowcontrolv1.FlowSchema]{
			writer: api.FlowSchemas(), reader: watched.FlowSchemas().Lister(),
			suggested: bootstrap.SuggestedFlowSchemas, mandatory: bootstrap.MandatoryFlowSchemas,
			copy: (*flowcontrolv1.FlowSchema).DeepCopy, setDefaults: setDefaults,
			setSpec: func(of, as *flowcontrolv1.FlowSchema) { of.Spec = as.Spec },
			same:    func(a, b *flowcontrolv1.FlowSchema) bool { return equality.Semantic.DeepEqual(a.Spec, b.Spec) },
		},
		changed: make(chan struct{}, 1),
		ready:   make(chan struct{}),
	}
	look := func(any) { k.lookAgain() }
	handler := cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, obj any) { look(obj) }, DeleteFunc: look}
	for _, informer := range []cache.SharedIndexInformer{watched.PriorityLevelConfigurations().Informer(), watched.FlowSchemas().Informer()} {
		registration, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, fmt.Errorf("watch the objects of flow control: %w", err)
		}
		k.synced = append(k.synced, registration.HasSyncedChecker())
	}
	return k, nil
}

// sameLevel leaves the shares of the level exempt to the administrator.
func sameLevel(want, got *flowcontrolv1.PriorityLevelConfiguration) bool {
	if want.Name != flowcontrolv1.PriorityLevelConfigurationNameExempt {
		return equality.Semantic.DeepEqual(want.Spec, got.Spec)
	}
	if got.Spec.Exempt == nil {
		return false
	}
	want = want.DeepCopy()
	want.Spec.Exempt = got.Spec.Exempt
	return equality.Semantic.DeepEqual(want.Spec, got.Spec)
}

// Ready is closed when all objects have been in place for the first time.
func (k *Keeper) Ready() <-chan struct{} { return k.ready }

// Run keeps the objects until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	if !cache.WaitFor(ctx, "", k.synced...) {
		return
	}
	for ready := false; ; {
		switch err := k.ensure(ctx); {
		case err == nil && !ready:
			ready = true
			close(k.ready)
		case err != nil && ctx.Err() == nil:
			klog.FromContext(ctx).Error(err, "Keep the default objects of flow control")
			k.lookAgain()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		select {
		case <-k.changed:
		case <-ctx.Done():
			return
		}
	}
}

// lookAgain makes Run look, once for all calls until it does.
func (k *Keeper) lookAgain() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// ensure makes the objects as they should be. Levels come before the schemas that name them, and go after.
func (k *Keeper) ensure(ctx context.Context) error {
	return errors.Join(
		k.levels.ensure(ctx, k.levels.suggested, false), k.schemas.ensure(ctx, k.schemas.suggested, false),
		k.levels.ensure(ctx, k.levels.mandatory, true), k.schemas.ensure(ctx, k.schemas.mandatory, true),
		k.schemas.prune(ctx), k.levels.prune(ctx),
	)
}

type object interface {
	runtime.Object
	metav1.Object
}

// kind is one of the two resources.
type kind[T object] struct {
	writer interface {
		Create(context.Context, T, metav1.CreateOptions) (T, error)
		Update(context.Context, T, metav1.UpdateOptions) (T, error)
		Delete(context.Context, string, metav1.DeleteOptions) error
	}
	reader interface {
		List(labels.Selector) ([]T, error)
		Get(string) (T, error)
	}
	suggested, mandatory []T // shared with the whole process

	copy        func(T) T
	setDefaults func(runtime.Object)
	setSpec     func(of, as T)
	same        func(want, got T) bool // in spec
}

func (k *kind[T]) ensure(ctx context.Context, all []T, mandatory bool) error {
	var errs []error
	for _, o := range all {
		want := k.copy(o)
		k.setDefaults(want)
		if err := k.ensureOne(ctx, want, mandatory); err != nil {
			errs = append(errs, fmt.Errorf("keep %T %s: %w", want, want.GetName(), err))
		}
	}
	return errors.Join(errs...)
}

// ensureOne leaves what somebody else is just writing alone: the change will make it look again.
func (k *kind[T]) ensureOne(ctx context.Context, want T, mandatory bool) error {
	got, err := k.reader.Get(want.GetName())
	if apierrors.IsNotFound(err) {
		if _, err = k.writer.Create(ctx, want, metav1.CreateOptions{FieldManager: fieldManager}); apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
	if err != nil {
		return err
	}
	revised, changed := k.revise(want, got, mandatory)
	if !changed {
		return nil
	}
	if _, err = k.writer.Update(ctx, revised, metav1.UpdateOptions{FieldManager: fieldManager}); apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// revise returns what got should become. Its annotation says whether the spec is ours.
func (k *kind[T]) revise(want, got T, mandatory bool) (T, bool) {
	annotation, annotated := annotationOf(got)
	ours := mandatory || annotation || !annotated && got.GetGeneration() == 1
	replace := ours && !k.same(want, got)
	if !replace && annotated && annotation == ours {
		return got, false
	}
	revised := k.copy(got)
	if replace {
		k.setSpec(revised, want)
	}
	annotations := revised.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	if !annotated || annotation != ours {
		annotations[flowcontrolv1.AutoUpdateAnnotationKey] = strconv.FormatBool(ours)
	}
	revised.SetAnnotations(annotations)
	return revised, true
}

// annotationOf tells what the annotation says, and whether it says anything.
func annotationOf(o metav1.Object) (auto, ok bool) {
	auto, err := strconv.ParseBool(o.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey])
	return auto, err == nil
}

// prune deletes what an older release has put there and this one does not know.
func (k *kind[T]) prune(ctx context.Context) error {
	known := map[string]bool{}
	for _, all := range [][]T{k.suggested, k.mandatory} {
		for _, o := range all {
			known[o.GetName()] = true
		}
	}
	there, err := k.reader.List(labels.Everything())
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range there {
		if auto, _ := annotationOf(o); known[o.GetName()] || !auto {
			continue
		}
		if err := k.writer.Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete %T %s of another release: %w", o, o.GetName(), err))
		}
	}
	return errors.Join(errs...)
}
