// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/wait"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	policyclient "k8s.io/client-go/kubernetes/typed/policy/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// evictionREST serves pods/eviction: a delete that PodDisruptionBudgets have a say in.
//
// A budget is spent by writing its status, so of two evictions at the same time one sees what the other took.
type evictionREST struct {
	pods    *rest.Store // that of pods/status: an eviction leaves a condition
	budgets policyclient.PodDisruptionBudgetsGetter
}

var (
	_ genericrest.NamedCreater             = &evictionREST{}
	_ genericrest.GroupVersionKindProvider = &evictionREST{}
)

// maxDisruptedPods is how many evictions a budget may have in flight that its controller has not seen.
const maxDisruptedPods = 2000

const evictionRefused = "Cannot evict pod as it would violate the pod's disruption budget."

// evictionRetry is how conflicts with other writers of a pod or a budget are waited out.
var evictionRetry = wait.Backoff{Steps: 20, Duration: 500 * time.Millisecond, Factor: 1, Jitter: 0.1}

func (e *evictionREST) New() runtime.Object { return &policyv1.Eviction{} }

// Destroy does nothing: the pods' store is destroyed with the pods.
func (e *evictionREST) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider: the kind is of another group than pods.
func (e *evictionREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

func (e *evictionREST) Create(ctx context.Context, name string, obj runtime.Object, validate genericrest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	eviction, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", obj))
	}
	if name != eviction.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	deleteOptions, err := evictionOptions(eviction, options)
	if err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, eviction.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	pod, evicted, err := e.evictUnguarded(ctx, name, deleteOptions)
	if err != nil {
		return nil, err
	}
	if !evicted {
		if err := e.evictGuarded(ctx, pod, deleteOptions); err != nil {
			return nil, err
		}
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// evictionOptions are the options of the delete. A dry run may be asked for in either place.
func evictionOptions(eviction *policyv1.Eviction, options *metav1.CreateOptions) (*metav1.DeleteOptions, error) {
	asked := eviction.DeleteOptions
	switch {
	case asked == nil:
		return &metav1.DeleteOptions{DryRun: options.DryRun}, nil
	case ptr.Deref(asked.IgnoreStoreReadErrorWithClusterBreakingPotential, false):
		path := field.NewPath("deleteOptions", "ignoreStoreReadErrorWithClusterBreakingPotential")
		return nil, apierrors.NewInvalid(policyv1.SchemeGroupVersion.WithKind("Eviction").GroupKind(), eviction.Name, field.ErrorList{
			field.Invalid(path, true, "can not be set for pod eviction, try after removing the option"),
		})
	case len(asked.DryRun) == 0:
		asked.DryRun = options.DryRun
	case len(options.DryRun) > 0 && !reflect.DeepEqual(options.DryRun, asked.DryRun):
		return nil, fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", options.DryRun, asked.DryRun) //nolint:staticcheck // upstream's text
	}
	return asked, nil
}

// evictUnguarded deletes the pod if no budget protects it: one that does not run yet or any more.
func (e *evictionREST) evictUnguarded(ctx context.Context, name string, options *metav1.DeleteOptions) (pod *corev1.Pod, evicted bool, err error) {
	again := apierrors.IsConflict
	if !anyVersion(options) {
		again = func(error) bool { return false } // the client decides on what it saw
	}
	err = retry.OnError(evictionRetry, again, func() error {
		obj, err := e.pods.Get(ctx, name, &metav1.GetOptions{})
		if err != nil {
			return err
		}
		pod = obj.(*corev1.Pod)
		over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil
		if !over && pod.Status.Phase != corev1.PodPending {
			return nil
		}
		evicted = true
		o := options
		if !over && anyVersion(options) {
			o = atVersion(options, pod.ResourceVersion) // it may start to run, and count, at this moment
		}
		return e.delete(ctx, name, o)
	})
	return pod, evicted, err
}

// evictGuarded spends the budget of the pod, if it has one, and deletes the pod.
func (e *evictionREST) evictGuarded(ctx context.Context, pod *corev1.Pod, options *metav1.DeleteOptions) error {
	budgets, err := e.budgetsOf(ctx, pod)
	if err != nil {
		return err
	}
	name, unhealthy := "", false
	switch {
	case len(budgets) > 1:
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: 500,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}}
	case len(budgets) == 1:
		name = budgets[0].Name
		if unhealthy = mayGoUnhealthy(pod, &budgets[0]); !unhealthy {
			if err := e.spend(ctx, &budgets[0], pod, dryrun.IsDryRun(options.DryRun)); err != nil {
				return err
			}
		}
	}
	if !unhealthy {
		return e.delete(ctx, pod.Name, options)
	}
	err = e.delete(ctx, pod.Name, atVersion(options, pod.ResourceVersion)) // as long as it has not become ready
	if apierrors.IsConflict(err) && anyVersion(options) {
		return stillProcessed(name)
	}
	return err
}

func (e *evictionREST) budgetsOf(ctx context.Context, pod *corev1.Pod) ([]policyv1.PodDisruptionBudget, error) {
	list, err := e.budgets.PodDisruptionBudgets(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []policyv1.PodDisruptionBudget
	for _, b := range list.Items {
		if selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && selector.Matches(labels.Set(pod.Labels)) {
			out = append(out, b)
		}
	}
	return out, nil
}

// mayGoUnhealthy is true for a pod that is not ready, so does not count, and may go without being counted.
func mayGoUnhealthy(pod *corev1.Pod, b *policyv1.PodDisruptionBudget) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	return ptr.Deref(b.Spec.UnhealthyPodEvictionPolicy, "") == policyv1.AlwaysAllow ||
		b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
}

// spend takes one disruption from the budget, or says why there is none.
func (e *evictionREST) spend(ctx context.Context, b *policyv1.PodDisruptionBudget, pod *corev1.Pod, dryRun bool) error {
	client := e.budgets.PodDisruptionBudgets(pod.Namespace)
	stale := false
	return retry.RetryOnConflict(evictionRetry, func() error {
		if stale {
			var err error
			if b, err = client.Get(ctx, b.Name, metav1.GetOptions{}); err != nil {
				return err
			}
		}
		stale = true
		if err := disruptionRefused(b); err != nil || dryRun {
			return err
		}
		b = b.DeepCopy()
		b.Status.DisruptionsAllowed--
		if b.Status.DisruptionsAllowed == 0 {
			meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{
				Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason, ObservedGeneration: b.Status.ObservedGeneration,
			})
		}
		if b.Status.DisruptedPods == nil {
			b.Status.DisruptedPods = map[string]metav1.Time{}
		}
		b.Status.DisruptedPods[pod.Name] = metav1.Now() // the controller does not count it as available from now on
		_, err := client.UpdateStatus(ctx, b, metav1.UpdateOptions{})
		return err
	})
}

// disruptionRefused is nil if the budget allows one more disruption.
func disruptionRefused(b *policyv1.PodDisruptionBudget) error {
	const notNow = "The disruption budget %s does not allow evicting pods currently"
	forbidden := func(reason, text string) error {
		err := apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New(reason))
		return withCause(err, fmt.Sprintf(notNow, b.Name)+": "+text)
	}
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		return stillProcessed(b.Name)
	case b.Status.DisruptionsAllowed < 0:
		return forbidden("pdb disruptions allowed is negative", "pdb disruptions allowed is negative")
	case len(b.Status.DisruptedPods) > maxDisruptedPods:
		return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller", "too many pending evictions not confirmed by PDB controller")
	case b.Status.DisruptionsAllowed > 0:
		return nil
	}
	text := fmt.Sprintf(notNow, b.Name)
	c := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	explained := c != nil && c.Status == metav1.ConditionFalse && c.Message != ""
	switch {
	case explained && c.Reason == policyv1.SyncFailedReason:
		text += " because it failed sync: " + c.Message
	case b.Status.CurrentHealthy <= b.Status.DesiredHealthy:
		text = fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy)
	case explained:
		text += fmt.Sprintf(" (%s): %s", c.Reason, c.Message)
	}
	return withCause(apierrors.NewTooManyRequests(evictionRefused, 0), text)
}

// stillProcessed tells the client to try again in a while.
func stillProcessed(budget string) error {
	return withCause(apierrors.NewTooManyRequests(evictionRefused, 10), fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget))
}

func withCause(err *apierrors.StatusError, message string) error {
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: message})
	return err
}

// delete notes on the pod why it goes, for the Job that it may belong to, and deletes it.
func (e *evictionREST) delete(ctx context.Context, name string, options *metav1.DeleteOptions) error {
	if !dryrun.IsDryRun(options.DryRun) {
		info := genericrest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
			pod := old.(*corev1.Pod).DeepCopy()
			if err := checkPreconditions(pod, options.Preconditions); err != nil {
				return nil, err
			}
			setPodCondition(pod, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			})
			return pod, nil
		})
		updated, _, err := e.pods.Update(ctx, name, info, genericrest.ValidateAllObjectFunc, genericrest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		if !anyVersion(options) {
			options = atVersion(options, updated.(*corev1.Pod).ResourceVersion) // this very update made it newer
		}
	}
	_, _, err := e.pods.Delete(ctx, name, genericrest.ValidateAllObjectFunc, options)
	return err
}

func checkPreconditions(pod *corev1.Pod, p *metav1.Preconditions) error {
	conflict := func(what, text, wanted, got, happened string) error {
		return apierrors.NewConflict(schema.GroupResource{Resource: "Pod"}, pod.Name,
			fmt.Errorf("the %s in the precondition (%s) does not match the %s in record (%s). The object might have been %s", what, wanted, text, got, happened))
	}
	switch {
	case p == nil:
		return nil
	case p.UID != nil && *p.UID != "" && *p.UID != pod.UID:
		return conflict("UID", "UID", string(*p.UID), string(pod.UID), "deleted and then recreated")
	case p.ResourceVersion != nil && *p.ResourceVersion != "" && *p.ResourceVersion != pod.ResourceVersion:
		return conflict("ResourceVersion", "ResourceVersion", *p.ResourceVersion, pod.ResourceVersion, "modified")
	}
	return nil
}

func anyVersion(options *metav1.DeleteOptions) bool {
	return options.Preconditions == nil || options.Preconditions.ResourceVersion == nil
}

func atVersion(options *metav1.DeleteOptions, version string) *metav1.DeleteOptions {
	out := options.DeepCopy()
	if out.Preconditions == nil {
		out.Preconditions = &metav1.Preconditions{}
	}
	out.Preconditions.ResourceVersion = &version
	return out
}
