// SPDX-License-Identifier: Apache-2.0

// Package resourcequota keeps the status of ResourceQuotas: what a namespace has of what they limit.
//
// Admission charges a quota for what is created; this package counts anew when a quota is made or changed, when
// something goes or gets cheaper, when something comes to light that the last count may have missed (counts.go), and
// every few minutes. What objects cost is the business of package quota, which
// admission calls too. Pods, Services and claims, of devices too, come from the shared informers; of other resources only the names
// are watched, and only while some quota counts them (counters.go).
// Reference: https://kubernetes.io/docs/concepts/policy/resource-quotas/
package resourcequota

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/admission/quota"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/internal/deviceclass"
	"github.com/skiff-k8s/skiff/internal/restmapping"
)

// Name is the controller's identity.
const Name = "resourcequota-controller"

const (
	resync      = 5 * time.Minute // as upstream's resource-quota-sync-period
	notRunning  = 50 * time.Millisecond
	countPrefix = "count/"
)

type controller struct {
	client   kubernetes.Interface
	quotas   corelisters.ResourceQuotaLister
	shared   map[schema.GroupVersionResource]informers.GenericInformer
	known    []quotav1.Evaluator // of the resources that do not just count, or have names of their own
	counters *counters
	counts   counts
}

// New returns the controller.
func New(client kubernetes.Interface, meta metadata.Interface, disco discovery.DiscoveryInterface, factory informers.SharedInformerFactory) (reconcile.Controller, error) {
	quotas := factory.Core().V1().ResourceQuotas()
	c := &controller{client: client, quotas: quotas.Lister(), shared: map[schema.GroupVersionResource]informers.GenericInformer{}}
	services, claims := corev1.SchemeGroupVersion.WithResource("services"), corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims")
	for _, gvr := range []schema.GroupVersionResource{quota.Pods, services, claims, quota.ResourceClaims, quota.DeviceClasses} {
		informer, err := factory.ForResource(gvr)
		if err != nil {
			return reconcile.Controller{}, fmt.Errorf("informer of %s: %w", gvr.Resource, err)
		}
		c.shared[gvr] = informer
	}
	c.counters = &counters{
		metadata: meta, mapper: restmapping.New(disco),
		changed: c.replenish, running: map[schema.GroupResource]*counter{},
	}
	c.known = quota.Evaluators(c.lister)
	c.counts.started = map[types.NamespacedName]time.Time{}
	core := factory.Core().V1()
	return reconcile.Controller{
		Name:      "resourcequota_primary",
		Reconcile: c.Reconcile,
		Loop:      c.counters.run,
		Watches: []reconcile.Watch{
			reconcile.On(quotas.Informer(), func(q reconcile.Queue, old, new *corev1.ResourceQuota) {
				if new != nil && (old == nil || !equality.Semantic.DeepEqual(old.Spec, new.Spec)) {
					q.Add(reconcile.KeyOf(new)) // writes to the status are admission's and our own
				}
			}),
			reconcile.On(core.Pods().Informer(), cheaper[*corev1.Pod](c, quota.Pods)),
			reconcile.On(core.Services().Informer(), cheaper[*corev1.Service](c, services)),
			reconcile.On(core.PersistentVolumeClaims().Informer(), cheaper[*corev1.PersistentVolumeClaim](c, claims)),
			reconcile.On(factory.Resource().V1().ResourceClaims().Informer(), cheaper[*resourcev1.ResourceClaim](c, quota.ResourceClaims)),
			reconcile.On(factory.Resource().V1().DeviceClasses().Informer(), c.offered),
		},
	}, nil
}

// lister is where the objects of a resource are counted.
func (c *controller) lister(gvr schema.GroupVersionResource) (cache.GenericLister, error) {
	if informer, ok := c.shared[gvr]; ok {
		return informer.Lister(), nil
	}
	return c.counters.lister(gvr.GroupResource())
}

// object is what can be charged.
type object interface {
	comparable
	metav1.Object
	runtime.Object
}

// cheaper queues the quotas that may have more left, as an object is gone or is charged otherwise than before, and
// those that were counted without an object that has come.
func cheaper[T object](c *controller, resource schema.GroupVersionResource) func(q reconcile.Queue, old, new T) {
	return func(q reconcile.Queue, old, new T) {
		var none T
		switch e := c.evaluator(resource.GroupResource()); {
		case old == none:
			c.enqueue(q, new, e, true)
		case new == none || len(c.quotasOf(new)) > 0 && !sameCharge(e, old, new):
			c.enqueue(q, old, e, false)
		}
	}
}

func (c *controller) quotasOf(obj metav1.Object) []*corev1.ResourceQuota {
	quotas, err := c.quotas.ResourceQuotas(obj.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil // an indexer of the cache does not fail
	}
	return quotas
}

func sameCharge(e quotav1.Evaluator, old, new runtime.Object) bool {
	before, err := e.Usage(old)
	if err != nil {
		return false
	}
	after, err := e.Usage(new)
	return err == nil && quotav1.Equals(before, after)
}

// enqueue queues the quotas that charge the object; if it is new, those that were counted without it.
func (c *controller) enqueue(q reconcile.Queue, obj metav1.Object, e quotav1.Evaluator, isNew bool) {
	for _, rq := range c.quotasOf(obj) {
		if isNew && !c.counts.mayHaveMissed(reconcile.KeyOf(rq), obj) {
			continue // admission has charged it
		}
		if len(e.MatchingResources(quotav1.ResourceNames(rq.Spec.Hard))) > 0 {
			q.Add(reconcile.KeyOf(rq))
		}
	}
}

// offered queues the quotas of extended resources that a class begins or ceases to offer: its claims are charged to them, too.
func (c *controller) offered(q reconcile.Queue, old, new *resourcev1.DeviceClass) {
	if old != nil && new != nil && ptr.Equal(old.Spec.ExtendedResourceName, new.Spec.ExtendedResourceName) {
		return
	}
	quotas, err := c.quotas.List(labels.Everything())
	if err != nil {
		return // an indexer of the cache does not fail
	}
	for _, class := range []*resourcev1.DeviceClass{old, new} {
		if class == nil {
			continue
		}
		for _, rq := range quotas {
			if slices.ContainsFunc(deviceclass.Resources(class), func(name corev1.ResourceName) bool {
				_, limited := rq.Spec.Hard[corev1.DefaultResourceRequestsPrefix+name]
				return limited
			}) {
				q.Add(reconcile.KeyOf(rq))
			}
		}
	}
}

// replenish queues the quotas that count a resource of which an object has come or gone.
func (c *controller) replenish(q reconcile.Queue, resource schema.GroupResource, obj metav1.Object, isNew bool) {
	c.enqueue(q, obj, c.evaluator(resource), isNew)
}

// evaluator knows what an object of the resource is charged.
func (c *controller) evaluator(resource schema.GroupResource) quotav1.Evaluator {
	for _, e := range c.known {
		if e.GroupResource() == resource {
			return e
		}
	}
	list := generic.ListResourceUsingListerFunc(func(gvr schema.GroupVersionResource) (cache.GenericLister, error) {
		return c.counters.lister(gvr.GroupResource())
	}, resource.WithVersion(""))
	return generic.NewObjectCountEvaluator(resource, list, "")
}

// evaluatorsFor are those that charge to one of the quota's limits.
func (c *controller) evaluatorsFor(hard corev1.ResourceList) []quotav1.Evaluator {
	names := quotav1.ResourceNames(hard)
	seen := map[schema.GroupResource]bool{}
	var out []quotav1.Evaluator
	for _, e := range c.known {
		if len(e.MatchingResources(names)) > 0 {
			seen[e.GroupResource()] = true
			out = append(out, e)
		}
	}
	for _, name := range names {
		text, counts := strings.CutPrefix(string(name), countPrefix)
		if resource := schema.ParseGroupResource(text); counts && !seen[resource] {
			seen[resource] = true
			out = append(out, c.evaluator(resource))
		}
	}
	return out
}

// counted are the resources that have to be watched for these quotas.
func (c *controller) counted(quotas []*corev1.ResourceQuota) map[schema.GroupResource]bool {
	out := map[schema.GroupResource]bool{}
	for _, rq := range quotas {
		for _, e := range c.evaluatorsFor(rq.Spec.Hard) {
			if _, shared := c.shared[e.GroupResource().WithVersion("v1")]; !shared {
				out[e.GroupResource()] = true
			}
		}
	}
	return out
}

// Reconcile counts what the quota limits.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	all, err := c.quotas.List(labels.Everything())
	if err != nil {
		return reconcile.Result{}, err
	}
	c.counters.keepOnly(c.counted(all))
	rq, err := c.quotas.ResourceQuotas(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.counts.forget(key)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	c.counts.start(key, time.Now())
	if !c.counters.isRunning() {
		return reconcile.Result{RequeueAfter: notRunning}, nil
	}
	evaluators := c.evaluatorsFor(rq.Spec.Hard)
	absent := map[schema.GroupResource]bool{}
	for resource := range c.counted([]*corev1.ResourceQuota{rq}) {
		err := c.counters.start(ctx, resource)
		if meta.IsNoMatchError(err) {
			absent[resource] = true // a custom resource that is yet to be defined; looked for again with the resync
		} else if err != nil {
			return reconcile.Result{}, fmt.Errorf("count for ResourceQuota %s: %w", key, err)
		}
	}
	evaluators = slices.DeleteFunc(evaluators, func(e quotav1.Evaluator) bool { return absent[e.GroupResource()] })
	if err := c.write(ctx, rq, evaluators); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: resync}, nil
}

// write brings the status up to date.
func (c *controller) write(ctx context.Context, rq *corev1.ResourceQuota, evaluators []quotav1.Evaluator) error {
	usage, countErr := quotav1.CalculateUsage(rq.Namespace, rq.Spec.Scopes, rq.Spec.Hard, generic.NewRegistry(evaluators), rq.Spec.ScopeSelector)
	if countErr != nil {
		countErr = fmt.Errorf("count for ResourceQuota %s/%s: %w", rq.Namespace, rq.Name, countErr)
	}
	used := quotav1.Add(corev1.ResourceList{}, rq.Status.Used) // what could not be counted stays as it was
	for name, quantity := range usage {
		used[name] = quantity
	}
	status := corev1.ResourceQuotaStatus{
		Hard: quotav1.Add(corev1.ResourceList{}, rq.Spec.Hard),
		Used: quotav1.Mask(used, quotav1.ResourceNames(rq.Spec.Hard)),
	}
	if rq.Status.Hard != nil && rq.Status.Used != nil && equality.Semantic.DeepEqual(status.Hard, rq.Status.Hard) && quotav1.Equals(status.Used, rq.Status.Used) {
		return countErr
	}
	rq = rq.DeepCopy()
	rq.Status = status
	if _, err := c.client.CoreV1().ResourceQuotas(rq.Namespace).UpdateStatus(ctx, rq, metav1.UpdateOptions{}); err != nil {
		return errors.Join(countErr, err)
	}
	return countErr
}
