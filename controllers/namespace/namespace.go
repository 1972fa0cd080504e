// SPDX-License-Identifier: Apache-2.0

// Package namespace empties namespaces that are being deleted and then lets them go.
//
// It deletes all that discovery says can be in a namespace: the pods first, and when they are gone, the rest. What
// is still there, and why, is in the namespace's conditions. When nothing is left it takes the finalizer
// "kubernetes" off the spec, and the API server removes the namespace.
// Reference: https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/
package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "namespace-controller"

// How long to wait before looking again at content that only somebody else can remove, by taking its finalizers off.
const finalizerWait = 8 * time.Second

// settle is how long a namespace stays after its deletion at least: an API server that has not heard of the
// deletion yet may still let something in, which must be found before the namespace goes.
const settle = time.Second

type controller struct {
	client     kubernetes.Interface
	metadata   metadata.Interface
	discovery  discovery.DiscoveryInterface
	namespaces corelisters.NamespaceLister
}

// New returns the controller.
func New(client kubernetes.Interface, meta metadata.Interface, disco discovery.DiscoveryInterface, factory informers.SharedInformerFactory) reconcile.Controller {
	namespaces := factory.Core().V1().Namespaces()
	pods := factory.Core().V1().Pods()
	c := &controller{client: client, metadata: meta, discovery: disco, namespaces: namespaces.Lister()}
	return reconcile.Controller{
		Name:       "namespace",
		Reconcile:  c.Reconcile,
		MaxBackoff: time.Minute,
		Watches: []reconcile.Watch{
			reconcile.On(namespaces.Informer(), func(q reconcile.Queue, _, new *corev1.Namespace) {
				if new != nil && new.DeletionTimestamp != nil {
					q.Add(reconcile.KeyOf(new))
				}
			}),
			reconcile.On(pods.Informer(), c.podChanged),
		},
	}
}

// podChanged looks again at a namespace that may have waited for this pod.
func (c *controller) podChanged(q reconcile.Queue, old, new *corev1.Pod) {
	if new != nil {
		return
	}
	namespace, err := c.namespaces.Get(old.Namespace)
	if err == nil && namespace.DeletionTimestamp != nil {
		q.Add(reconcile.KeyOf(namespace))
	}
}

// Reconcile takes the deletion of a namespace as far as it goes.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	cached, err := c.namespaces.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	namespace := cached.DeepCopy()
	if namespace.DeletionTimestamp == nil || len(namespace.Spec.Finalizers) == 0 {
		return reconcile.Result{}, nil
	}
	if namespace.Status.Phase != corev1.NamespaceTerminating {
		// From here on the API server refuses to create anything in it.
		namespace.Status.Phase = corev1.NamespaceTerminating
		if namespace, err = c.client.CoreV1().Namespaces().UpdateStatus(ctx, namespace, metav1.UpdateOptions{}); err != nil {
			return reconcile.Result{}, fmt.Errorf("mark as terminating: %w", err)
		}
	}

	var report report
	err = c.deleteContent(ctx, namespace, &report)
	if updateErr := c.writeConditions(ctx, namespace, &report); updateErr != nil {
		return reconcile.Result{}, errors.Join(err, updateErr)
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	if report.left() {
		return reconcile.Result{RequeueAfter: report.wait}, nil
	}
	if left := reconcile.Left(namespace.DeletionTimestamp.Time, settle); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	return reconcile.Result{}, c.finalize(ctx, namespace)
}

func (c *controller) writeConditions(ctx context.Context, namespace *corev1.Namespace, report *report) error {
	if !report.apply(&namespace.Status, time.Now()) {
		return nil
	}
	updated, err := c.client.CoreV1().Namespaces().UpdateStatus(ctx, namespace, metav1.UpdateOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("write conditions: %w", err)
	}
	updated.DeepCopyInto(namespace)
	return nil
}

func (c *controller) finalize(ctx context.Context, namespace *corev1.Namespace) error {
	namespace.Spec.Finalizers = slices.DeleteFunc(namespace.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err := c.client.CoreV1().Namespaces().Finalize(ctx, namespace, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize: %w", err)
	}
	return nil
}

// deleteContent deletes everything in the namespace and reports what is left.
func (c *controller) deleteContent(ctx context.Context, namespace *corev1.Namespace, report *report) error {
	lists, err := c.discovery.ServerPreferredNamespacedResources()
	if err != nil {
		report.discovery = err // what was discovered is deleted all the same
	}
	found, parseErr := discovery.GroupVersionResources(discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"delete"}}, lists))
	if parseErr != nil {
		report.parsing = parseErr
	}
	errs := []error{err, parseErr}

	pods := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	if _, ok := found[pods]; ok {
		delete(found, pods)
		if err := c.deletePods(ctx, namespace, pods, report); err != nil {
			errs = append(errs, fmt.Errorf("delete pods: %w", err))
			report.content = append(report.content, err)
		}
		if report.left() {
			return errors.Join(errs...) // what the pods may still need stays until they are gone
		}
	}
	for resource := range found {
		verbs := verbsOf(lists, resource)
		if err := c.deleteAll(ctx, namespace.Name, resource, verbs, report, 0); err != nil {
			errs = append(errs, err)
			report.content = append(report.content, err)
		}
	}
	return errors.Join(errs...)
}

// deletePods is deleteAll for pods, which take their time.
func (c *controller) deletePods(ctx context.Context, namespace *corev1.Namespace, pods schema.GroupVersionResource, report *report) error {
	list, err := c.client.CoreV1().Pods(namespace.Name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	grace := gracePeriod(list.Items)
	if time.Since(namespace.DeletionTimestamp.Time) >= grace {
		grace = 0
	}
	return c.deleteAll(ctx, namespace.Name, pods, []string{"deletecollection", "list"}, report, grace)
}

// gracePeriod is the longest that any of the pods that still run may take to end.
func gracePeriod(pods []corev1.Pod) time.Duration {
	longest := int64(0)
	for _, pod := range pods {
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && pod.Spec.TerminationGracePeriodSeconds != nil {
			longest = max(longest, *pod.Spec.TerminationGracePeriodSeconds)
		}
	}
	return time.Duration(longest) * time.Second
}

// deleteAll deletes all objects of a resource and reports those that are still there. That some are is an error
// unless there is a reason: finalizers, or a grace period that is not over.
func (c *controller) deleteAll(ctx context.Context, namespace string, resource schema.GroupVersionResource, verbs []string, report *report, grace time.Duration) error {
	client := c.metadata.Resource(resource).Namespace(namespace)
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if slices.Contains(verbs, "deletecollection") {
		if err := client.DeleteCollection(ctx, options, metav1.ListOptions{}); err != nil && !gone(err) {
			return fmt.Errorf("delete all %s: %w", resource.GroupResource(), err)
		}
	}
	if !slices.Contains(verbs, "list") {
		return nil
	}
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		if gone(err) {
			return nil
		}
		return fmt.Errorf("list %s: %w", resource.GroupResource(), err)
	}
	if !slices.Contains(verbs, "deletecollection") && len(list.Items) > 0 {
		for _, item := range list.Items {
			if err := client.Delete(ctx, item.Name, options); err != nil && !gone(err) {
				return fmt.Errorf("delete %s %s: %w", resource.GroupResource(), item.Name, err)
			}
		}
		if list, err = client.List(ctx, metav1.ListOptions{}); err != nil {
			return fmt.Errorf("list %s: %w", resource.GroupResource(), err)
		}
	}
	if len(list.Items) == 0 {
		return nil
	}
	held := report.remain(resource, list.Items)
	switch {
	case grace > 0:
		report.waitFor(grace/2 + time.Second)
	case held:
		report.waitFor(finalizerWait)
	default:
		return fmt.Errorf("unexpected items still remain in namespace: %s for gvr: %v", namespace, resource)
	}
	return nil
}

// gone tells whether there is nothing to delete, or no such thing as deleting it.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) }

func verbsOf(lists []*metav1.APIResourceList, resource schema.GroupVersionResource) []string {
	for _, list := range lists {
		if list.GroupVersion != resource.GroupVersion().String() {
			continue
		}
		for _, r := range list.APIResources {
			if r.Name == resource.Resource {
				return r.Verbs
			}
		}
	}
	return nil
}
