// SPDX-License-Identifier: Apache-2.0

// Package deployment rolls pod templates out: each template of a Deployment gets a ReplicaSet, and
// this controller moves replicas from the old ReplicaSets to the new one within the bounds of the strategy.
//
// It creates, scales and deletes ReplicaSets and writes the Deployment's status and revision annotation. It
// never touches pods. One call of Reconcile works on a rollout value, which holds the Deployment, its new
// and its old ReplicaSets; the files of this package are its chapters:
//
//	deployment.go   what is watched, and which chapter is for which Deployment
//	replicasets.go  finding and making the ReplicaSet of the current template
//	rolling.go      the strategies RollingUpdate and Recreate
//	scale.go        changing sizes: scaling ReplicaSets in proportion, cleaning old ones up
//	status.go       counting, conditions and the progress deadline
//	revision.go     the annotations that `kubectl rollout history` and `undo` read
//
// Reference: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/
package deployment

import (
	"context"
	"fmt"
	"maps"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/owner"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "deployment-controller"
	Component = "deployment-controller"
)

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

type controller struct {
	client      kubernetes.Interface
	deployments appslisters.DeploymentLister
	sets        appslisters.ReplicaSetLister
	setsByOwner cache.Indexer
	pods        cache.Indexer
	events      record.EventRecorder
}

// New returns the controller of Deployments.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder) (reconcile.Controller, error) {
	deployments := factory.Apps().V1().Deployments()
	sets := factory.Apps().V1().ReplicaSets()
	pods := factory.Core().V1().Pods().Informer()
	for _, informer := range []cache.SharedIndexInformer{pods, sets.Informer()} {
		if err := owner.Index(informer); err != nil {
			return reconcile.Controller{}, err
		}
	}
	c := &controller{
		client:      client,
		deployments: deployments.Lister(),
		sets:        sets.Lister(),
		setsByOwner: sets.Informer().GetIndexer(),
		pods:        pods.GetIndexer(),
		events:      events,
	}
	return reconcile.Controller{
		Name:      "deployment",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.OnSelf[*appsv1.Deployment](deployments.Informer()),
			reconcile.OnOwned[*appsv1.ReplicaSet](sets.Informer(), kind),
			owner.OnOrphans[*appsv1.ReplicaSet](sets.Informer(), owner.Adopters[*appsv1.Deployment]{
				In: func(namespace string) ([]*appsv1.Deployment, error) {
					return c.deployments.Deployments(namespace).List(labels.Everything())
				},
				Selector: func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector },
			}),
			reconcile.On(pods, c.podChanged),
		},
	}, nil
}

// podChanged queues a Deployment that may be waiting for its last old pod to go.
func (c *controller) podChanged(q reconcile.Queue, old, new *corev1.Pod) {
	if new != nil {
		return
	}
	key, ok := reconcile.OwnerKey(old, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))
	if !ok {
		return
	}
	set, err := c.sets.ReplicaSets(key.Namespace).Get(key.Name)
	if err != nil {
		return
	}
	owner, ok := reconcile.OwnerKey(set, kind)
	if !ok {
		return
	}
	d, err := c.deployments.Deployments(owner.Namespace).Get(owner.Name)
	if err == nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		q.Add(owner)
	}
}

// Reconcile takes one step of the rollout; the change it makes to a ReplicaSet brings the next call.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	cached, err := c.deployments.Deployments(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	d := cached.DeepCopy()
	if apiequality.Semantic.DeepEqual(d.Spec.Selector, &metav1.LabelSelector{}) {
		c.events.Event(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		d.Status.ObservedGeneration = d.Generation
		return reconcile.Result{}, c.write(ctx, cached, d)
	}
	sets, err := c.claim(ctx, d)
	if err != nil {
		return reconcile.Result{}, err
	}

	r := &rollout{controller: c, Deployment: d, now: time.Now()}
	r.sort(sets)
	if err := r.step(ctx); err != nil {
		if failed, ok := err.(*createError); ok {
			// The Deployment tells why: that much of the status is written all the same.
			if statusErr := c.write(ctx, cached, d); statusErr != nil && !apierrors.IsConflict(statusErr) {
				return reconcile.Result{}, statusErr
			}
			return reconcile.Result{}, failed.error
		}
		return reconcile.Result{}, err
	}
	if r.replaced { // by a rollback, which is a new generation
		return reconcile.Result{}, nil
	}
	return reconcile.Result{RequeueAfter: r.progressCheck()}, c.write(ctx, cached, d)
}

// claim returns copies of the ReplicaSets that belong to the Deployment.
func (c *controller) claim(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	candidates, err := owner.Candidates[*appsv1.ReplicaSet](c.setsByOwner, d)
	if err != nil {
		return nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("deployment %s/%s has invalid label selector: %w", d.Namespace, d.Name, err)
	}
	claimer := owner.Claimer[*appsv1.ReplicaSet]{
		Owner:    d,
		Kind:     kind,
		Selector: selector,
		Live: func(ctx context.Context) (metav1.Object, error) {
			return c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, set *appsv1.ReplicaSet, patch []byte) error {
			_, err := c.client.AppsV1().ReplicaSets(set.Namespace).Patch(ctx, set.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
	claimed, err := claimer.Claim(ctx, candidates)
	for i, set := range claimed {
		claimed[i] = set.DeepCopy()
	}
	return claimed, err
}

// write updates status and annotations if they differ from the cached ones.
func (c *controller) write(ctx context.Context, cached, d *appsv1.Deployment) error {
	if apiequality.Semantic.DeepEqual(cached.Status, d.Status) && maps.Equal(cached.Annotations, d.Annotations) {
		return nil
	}
	if _, err := c.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update status of Deployment: %w", err)
	}
	return nil
}

// rollout is a Deployment and its ReplicaSets while one step is taken. All objects are copies, and are
// kept as the API server last returned them.
type rollout struct {
	*controller
	*appsv1.Deployment
	new *appsv1.ReplicaSet   // of the current template; nil if there is none yet
	old []*appsv1.ReplicaSet // the others, oldest first
	now time.Time

	replaced bool // the Deployment itself was updated: the rest is for the next call
}

// all returns the old ReplicaSets and the new one, if there is one.
func (r *rollout) all() []*appsv1.ReplicaSet {
	all := append([]*appsv1.ReplicaSet{}, r.old...)
	if r.new != nil {
		all = append(all, r.new)
	}
	return all
}

// step decides what a Deployment needs most, does it, and leaves the new status in r.Status.
func (r *rollout) step(ctx context.Context) error {
	if r.DeletionTimestamp == nil {
		r.notePause()
	}
	if _, ok := rollbackTo(r.Deployment); ok && r.DeletionTimestamp == nil && !r.Spec.Paused {
		return r.rollback(ctx)
	}
	if err := r.refreshNew(ctx); err != nil {
		return err
	}
	switch {
	case r.DeletionTimestamp != nil:
		r.count()
		return nil
	case r.Spec.Paused:
		if err := r.scale(ctx); err != nil {
			return err
		}
		if _, ok := rollbackTo(r.Deployment); !ok { // else an old ReplicaSet may be wanted again
			if err := r.cleanUp(ctx); err != nil {
				return err
			}
		}
		r.count()
		return nil
	case r.wasScaled():
		if err := r.scale(ctx); err != nil {
			return err
		}
		r.count()
		return nil
	}
	switch r.Spec.Strategy.Type {
	case appsv1.RecreateDeploymentStrategyType:
		return r.recreate(ctx)
	case appsv1.RollingUpdateDeploymentStrategyType:
		return r.rollingUpdate(ctx)
	}
	return fmt.Errorf("unexpected deployment strategy type: %s", r.Spec.Strategy.Type)
}
